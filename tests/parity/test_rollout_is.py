"""reference_math.rollout_is against what SkyRL computed."""

import numpy as np

from reference_math import rollout_is
from reference_math.conformance import rosetta


def test_the_loss_and_its_gradient_are_skyrls():
    arrays = rosetta.golden("skyrl")
    args = [arrays[f"batch/{letter}"] for letter in ("l", "q", "A", "m")]
    options = {"clip_min": 0.8, "clip_max": 1.28, "reduction": "bnpo"}
    value, grad = (f(*args, **options) for f in (rollout_is.loss, rollout_is.loss_grad))
    np.testing.assert_allclose(value, arrays["rollout_is/value"], rtol=1e-6)  # its ratio is float32
    np.testing.assert_allclose(grad, arrays["rollout_is/grad"], rtol=1e-6, atol=1e-12)
    assert 0.1 < (grad[args[3] == 1] == 0).mean() < 0.9
