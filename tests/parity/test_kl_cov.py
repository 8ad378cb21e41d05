"""reference_math.kl_cov against what verl computed."""

import numpy as np

from reference_math import kl_cov
from reference_math.conformance import rosetta


def test_the_loss_and_its_gradient_are_verls():
    arrays = rosetta.golden("verl")
    args = [arrays[f"batch/{letter}"] for letter in ("l", "o", "A", "m")]
    options = {"share": 0.2, "kl_coef": 0.5, "reduction": "bnpo"}
    # float64 there, too: what is left is the order of the sums
    np.testing.assert_allclose(kl_cov.loss(*args, **options), arrays["kl_cov/value"], rtol=1e-12)
    grad = kl_cov.loss_grad(*args, **options)
    np.testing.assert_allclose(grad, arrays["kl_cov/grad"], rtol=1e-12)
    plain = kl_cov.loss_grad(*args, **options | {"kl_coef": 0.0})
    assert np.count_nonzero(grad != plain) == int(0.2 * args[3].sum())
