"""reference_math.xpo against the golden vectors of TRL 1.13.0, the last to have an XPOTrainer."""

import numpy as np
import pytest

pytest.importorskip("torch")  # conftest

from reference_math import xpo

# float64, the same operations in another order; atol: what cancels from terms of order one
EXACT = {"rtol": 1e-12, "atol": 1e-14}
OPTIONS = {  # of golden/drive_xpo.py
    "sigmoid": {"loss_type": "sigmoid", "alpha": 0.05},
    "ipo": {"loss_type": "ipo", "alpha": 0.05},
    "no_bonus": {"loss_type": "sigmoid", "alpha": 0.0},
}
INPUTS = ("per_token_logps", "ref_per_token_logps", "rewards", "completion_mask")


@pytest.mark.parametrize("case", OPTIONS)
def test_what_trl_backpropagates_and_its_gradient(golden, case):
    vectors = golden("xpo")
    batch = [vectors[f"{case}/{name}"] for name in INPUTS]
    options = OPTIONS[case] | {"beta": 0.3}
    np.testing.assert_allclose(vectors[f"{case}/backward"], xpo.loss(*batch, **options), **EXACT)
    grad = xpo.loss_grad(*batch, **options)
    np.testing.assert_allclose(vectors[f"{case}/grad"], grad, **EXACT)
    assert np.abs(grad).max() > 0.01


@pytest.mark.library_defect
def test_trls_gradient_grows_with_the_accumulation_steps_and_only_its_logged_loss_does_not(golden):
    vectors = golden("xpo")
    np.testing.assert_array_equal(vectors["accumulated/grad"], vectors["sigmoid/grad"])
    np.testing.assert_allclose(vectors["accumulated/logged"], vectors["sigmoid/logged"] / 4)
