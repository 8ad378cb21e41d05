"""reference_math.dppo against what verl and SkyRL computed."""

import numpy as np
import pytest

from reference_math import dppo
from reference_math.conformance import rosetta

TV = {"divergence": "tv", "delta_low": 0.02, "delta_high": 0.02, "reduction": "bnpo"}


@pytest.mark.parametrize(
    "case, old, options",
    [
        ("dppo_tv", "o", TV),
        ("dppo_tv, far off-policy", "far", TV | {"delta_high": 0.05}),
        ("dppo_kl", "o", TV | {"divergence": "kl", "delta_low": 0.01}),
    ],
)
def test_the_loss_and_its_gradient_are_verls(case, old, options):
    arrays = rosetta.golden("verl")
    args = [arrays[f"batch/{letter}"] for letter in ("l", old, "A", "m")]
    options = options | {"truncation": 3.0}
    # float64 there, too; verl adds 1e-8 inside the logarithms of the divergence, which decides nothing here
    np.testing.assert_allclose(dppo.loss(*args, **options), arrays[f"{case}/value"], rtol=1e-12)
    grad = dppo.loss_grad(*args, **options)
    np.testing.assert_allclose(grad, arrays[f"{case}/grad"], rtol=1e-12)
    kept = dppo.keep_mask(
        *args, **{k: options[k] for k in ("divergence", "delta_low", "delta_high")}
    )
    assert 0.1 < kept[args[3] == 1].mean() < 0.9


def test_the_gradient_is_skyrls_with_the_samplers_probabilities_for_the_old_ones():
    """Its value is -w A, not -w A log p; what stands at a token is the same."""
    arrays = rosetta.golden("skyrl")
    args = [arrays[f"batch/{letter}"] for letter in ("l", "q", "A", "m")]
    grad = dppo.loss_grad(*args, **TV, truncation=None)
    np.testing.assert_allclose(grad, arrays["dppo/grad"], rtol=1e-6)  # its ratio is float32
