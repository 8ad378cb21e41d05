"""reference_math.dro against verl's own result and against the torch twin."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import dro
from reference_math.conformance import rosetta
from reference_math.torch import dro as twin

MASK = np.array([[1.0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
REDUCTIONS = {"grpo": {}, "luspo": {}, "dr_grpo": {"max_completion_length": 9}, "dapo": {"tokens_per_micro_batch": 5.0}, "prompt_mean": {"num_generations": 3}}  # fmt: skip


def test_the_loss_and_its_gradient_are_verls():
    arrays = rosetta.golden("verl")
    args = [arrays[f"batch/{letter}"] for letter in ("l", "o", "A", "m")]
    options = {"beta": 0.7, "reduction": "bnpo"}
    # float64 there, too: what is left is the order of the sums
    np.testing.assert_allclose(dro.loss(*args, **options), arrays["dro/value"], rtol=1e-12)
    np.testing.assert_allclose(dro.loss_grad(*args, **options), arrays["dro/grad"], rtol=1e-12)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_twin_agrees_in_value_and_gradient(place, reduction):
    rng = np.random.default_rng(0)
    raw = [-rng.exponential(size=MASK.shape) for _ in range(2)]
    x, old = (place.tensor(np.where(MASK == 1, y, np.nan)) for y in raw)
    a, m = place.tensor(np.array([1.25, -0.75, 0.5])), place.tensor(MASK)
    rounded = place.numpy(x), place.numpy(old)
    options = {"beta": 0.5, "reduction": reduction} | REDUCTIONS[reduction]
    eps = min(place.eps, torch.finfo(torch.float32).eps)  # computed in float32 at least
    given = (place.numpy(a), MASK)
    for f, f_grad, g, args in [
        (dro.loss, dro.loss_grad, twin.loss, ((a, m), given)),
        (dro.penalty, dro.penalty_grad, twin.penalty, ((m,), given[1:])),
    ]:
        leaf = x.clone().requires_grad_(True)
        got = g(leaf, old, *args[0], **options)
        got.backward()
        # terms of order 1 are added up, and their roundings too
        np.testing.assert_allclose(
            place.numpy(got), f(*rounded, *args[1], **options), rtol=0, atol=30 * eps
        )
        grad = f_grad(*rounded, *args[1], **options)
        np.testing.assert_allclose(
            place.numpy(leaf.grad), grad, rtol=max(30 * eps, place.eps), atol=30 * eps
        )
