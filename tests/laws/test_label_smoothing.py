"""Laws of label smoothing."""

import numpy as np
import pytest

from reference_math import label_smoothing, logprobs, sft

CLOSE = {"rtol": 1e-12, "atol": 1e-14}  # sums of a dozen terms of order one
BY_DIFFERENCES = {"rtol": 1e-8, "atol": 1e-10}  # conftest: five points, errors of about 1e-12
REDUCTIONS = ["global_token", "batch_token", "sequence"]


def a_batch(seed=0, B=3, T=5, V=6):
    """Logits, tokens, and a mask with rows of different lengths, one of them maybe empty."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(T) < rng.integers(0, T + 1, size=(B, 1))).astype(int)
    mask[0, 0] = 1
    return rng.normal(size=(B, T, V)), rng.integers(0, V, size=(B, T)), mask


def counted_over(reduction, mask):
    n = mask.sum() if reduction == "global_token" else None
    return {"reduction": reduction, "num_items_in_batch": n}


@pytest.mark.parametrize("eps", [0.0, 0.1, 0.7, 1.0])
def test_label_smoothing_is_the_cross_entropy_to_the_smoothed_target(eps):
    """By enumeration: the mean nll of a token drawn from (1 - eps) 1[token] + eps / V."""
    logits, tokens, mask = a_batch(V=6)
    kwargs = {"reduction": "batch_token"}
    drawn = sum(
        sft.nll(logprobs.per_token_logps(logits, 0 * tokens + v), mask, **kwargs) for v in range(6)
    )
    kept = sft.nll(logprobs.per_token_logps(logits, tokens), mask, **kwargs)
    smoothed = label_smoothing.loss(logits, tokens, mask, label_smoothing_factor=eps, **kwargs)
    np.testing.assert_allclose(smoothed, (1 - eps) * kept + eps * drawn / 6, rtol=1e-12)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("eps", [0.0, 0.3, 1.0])
def test_label_smoothing_grad_is_the_slope(numeric_grad, eps, reduction):
    logits, tokens, mask = a_batch()
    kwargs = {"label_smoothing_factor": eps} | counted_over(reduction, mask)
    slope = numeric_grad(lambda z: label_smoothing.loss(z, tokens, mask, **kwargs), logits)
    grad = label_smoothing.loss_grad(logits, tokens, mask, **kwargs)
    np.testing.assert_allclose(grad, slope, **BY_DIFFERENCES)


def test_label_smoothing_of_huge_logits_stays_finite():
    logits = np.array([[[1e4, -1e4, 0.0]]])
    kwargs = {"label_smoothing_factor": 0.3, "reduction": "batch_token"}
    value = label_smoothing.loss(logits, [[0]], [[1]], **kwargs)
    np.testing.assert_allclose(value, 0.1 * (2e4 + 1e4), rtol=1e-14)  # eps / V on each of two
    assert np.isfinite(label_smoothing.loss_grad(logits, [[0]], [[1]], **kwargs)).all()


@pytest.mark.parametrize("of", [label_smoothing.loss, label_smoothing.loss_grad])
@pytest.mark.parametrize(("eps", "bound"), [(-0.5, ">= 0"), (1.5, "<= 1")])
def test_a_factor_outside_zero_to_one_is_named(of, eps, bound):
    logits, tokens, mask = a_batch()
    with pytest.raises(ValueError, match=f"label_smoothing_factor must be {bound}"):
        of(logits, tokens, mask, label_smoothing_factor=eps, reduction="batch_token")
