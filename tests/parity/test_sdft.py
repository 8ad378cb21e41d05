"""reference_math.sdft against TRL's SDFTTrainer."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import logprobs, sdft
from reference_math.conformance import trl_distillation

# float64, the same operations in another order; atol: what cancels from terms of order one
EXACT = {"rtol": 1e-11, "atol": 1e-14}
SUPPORTS = pytest.mark.parametrize(
    "support",
    [{}, {"topk": 3}, {"topk": 3, "add_tail": True}, {"topk": 6}],
    ids=["all", "top 3", "top 3 and the rest", "top 6 of 6"],
)


def a_batch(seed=0, B=3, T=4, V=6):
    rng = np.random.default_rng(seed)
    mask = (np.arange(T) < np.array([[4], [2], [0]])).astype(float)
    return *rng.normal(scale=1.5, size=(2, B, T, V)), mask, rng.integers(0, V, size=(B, T))


@SUPPORTS
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_loss_and_its_gradient_are_trls(support, alpha):
    student, teacher, mask, _ = a_batch()
    x = torch.tensor(student, requires_grad=True)
    args = torch.tensor(teacher), torch.tensor(mask)
    theirs = trl_distillation.sdft(x, *args, alpha=alpha, **support)
    theirs.backward()
    ours = sdft.loss(student, teacher, mask, alpha=alpha, **support)
    np.testing.assert_allclose(theirs.item(), ours, **EXACT)
    grad = sdft.loss_grad(student, teacher, mask, alpha=alpha, **support)
    np.testing.assert_allclose(x.grad, grad, **EXACT)


def test_the_clipped_importance_ratio_is_trls():
    student, teacher, mask, tokens = a_batch()
    logps = logprobs.per_token_logps(student, tokens)
    old = logps + np.random.default_rng(1).normal(size=logps.shape)
    w = sdft.clipped_ratio(logps, old, mask, clip=1.5)
    assert (w == 1.5).any() and (w < 1).any()
    x = torch.tensor(student, requires_grad=True)
    theirs = trl_distillation.sdft(
        x,
        *map(torch.tensor, (teacher, mask)),
        alpha=0.5,
        tokens=torch.tensor(tokens),
        old_per_token_logps=torch.tensor(old),
        clip=1.5,
    )
    theirs.backward()
    options = {"alpha": 0.5, "is_weights": w}
    np.testing.assert_allclose(theirs.item(), sdft.loss(student, teacher, mask, **options), **EXACT)
    np.testing.assert_allclose(x.grad, sdft.loss_grad(student, teacher, mask, **options), **EXACT)


def test_a_batch_in_which_nothing_counts_is_trls():
    student, teacher, mask, _ = a_batch()
    args = [torch.tensor(x) for x in (student, teacher, 0 * mask)]
    assert trl_distillation.sdft(*args, alpha=0.5) == 0.0


@pytest.mark.library_defect
def test_a_student_that_is_sure_has_a_made_up_rest_in_trl():
    """The k tokens hold all but e^-40; TRL takes the rest to be 1e-7, 10 billion times as much."""
    student, teacher = np.array([[[40.0, 0.0, 0.0]]]), np.array([[[0.0, 40.0, 0.0]]])
    options = {"alpha": 1.0, "topk": 1, "add_tail": True}
    args = torch.tensor(student), torch.tensor(teacher), torch.ones(1, 1)
    theirs = trl_distillation.sdft(*args, **options).item()
    ours = sdft.loss(student, teacher, np.ones((1, 1)), **options)
    np.testing.assert_allclose(
        ours, 40.0, rtol=1e-12
    )  # log of the student's own token: 0 against -40
    assert 1e-7 < abs(theirs - ours) < 1e-4
