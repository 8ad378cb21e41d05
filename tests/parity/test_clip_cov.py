"""reference_math.clip_cov against what verl computed."""

import numpy as np

from reference_math import clip_cov, grpo
from reference_math.conformance import rosetta

CLIP = {"epsilon_low": 0.2, "epsilon_high": 0.28}


def test_the_loss_and_its_gradient_are_verls():
    """As many may be drawn as there are between the bounds, so that no chance is left."""
    arrays = rosetta.golden("verl")
    args = [arrays[f"batch/{letter}"] for letter in ("l", "o", "A", "m")]
    options = CLIP | {"share": 1.0, "cov_low": 0.3, "cov_high": 2.0}
    keep = clip_cov.keep_mask(*args, **options, rng=np.random.default_rng(0))
    assert 0 < (keep == 0).sum() < 0.5 * args[3].sum()
    options = CLIP | {"importance_sampling_level": "token", "reduction": "bnpo", "factor": keep}
    # float64 there, too: what is left is the order of the sums
    np.testing.assert_allclose(grpo.loss(*args, **options), arrays["clip_cov/value"], rtol=1e-12)
    grad = grpo.loss_grad(*args, **options)
    np.testing.assert_allclose(grad, arrays["clip_cov/grad"], rtol=1e-12, atol=1e-15)
