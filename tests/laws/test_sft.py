"""Laws of the supervised losses: what counts, what it weighs, and where the minimum lies."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_math import logprobs, sft

CLOSE = {"rtol": 1e-12, "atol": 1e-14}  # sums of a dozen terms of order one
BY_DIFFERENCES = {"rtol": 1e-8, "atol": 1e-10}  # conftest: five points, errors of about 1e-12
REDUCTIONS = ["global_token", "batch_token", "sequence"]
LOSSES = [(sft.nll, sft.nll_grad), (sft.dft, sft.dft_grad)]


def a_batch(seed=0, B=3, T=5, V=6):
    """Logits, tokens, and a mask with rows of different lengths, one of them maybe empty."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(T) < rng.integers(0, T + 1, size=(B, 1))).astype(int)
    mask[0, 0] = 1
    return rng.normal(size=(B, T, V)), rng.integers(0, V, size=(B, T)), mask


def counted_over(reduction, mask):
    n = mask.sum() if reduction == "global_token" else None
    return {"reduction": reduction, "num_items_in_batch": n}


def test_a_prediction_counts_if_every_mask_says_so_and_the_first_token_never():
    rng = np.random.default_rng(0)
    completion, assistant = rng.integers(0, 2, size=(2, 4, 6))
    mask = sft.loss_mask(completion, assistant)
    assert mask.shape == (4, 5)
    for b, t in np.ndindex(mask.shape):
        assert mask[b, t] == (completion[b, t + 1] and assistant[b, t + 1])
    np.testing.assert_array_equal(sft.loss_mask(completion), completion[:, 1:])
    with pytest.raises(ValueError, match=r"assistant_mask must have shape \(4, 6\)"):
        sft.loss_mask(completion, assistant[:, 1:])
    with pytest.raises(ValueError, match="completion_mask must hold only 0 and 1"):
        sft.loss_mask(completion * 2, assistant)


@given(seed=st.integers(0, 99), reduction=st.sampled_from(REDUCTIONS))
def test_weights_are_a_mean(seed, reduction):
    """Non-negative, 0 where masked, and 1 in all, but for rows without a token."""
    _, _, mask = a_batch(seed)
    weights = sft.token_weights(mask, **counted_over(reduction, mask))
    assert ((weights > 0) == (mask == 1)).all()
    empty = np.mean(mask.sum(axis=1) == 0) if reduction == "sequence" else 0.0
    np.testing.assert_allclose(weights.sum(), 1.0 - empty, rtol=1e-12)


def test_each_reduction_treats_its_own_unit_alike():
    mask = np.array([[1, 1, 1, 1], [1, 0, 0, 0]])
    tokens = sft.token_weights(mask, reduction="batch_token")
    assert len(set(tokens[mask == 1])) == 1
    sequences = sft.token_weights(mask, reduction="sequence")
    np.testing.assert_allclose(sequences.sum(axis=1), 0.5, rtol=1e-15)
    assert (sequences[0] == sequences[0, 0]).all()
    given_ = sft.token_weights(mask, reduction="global_token", num_items_in_batch=10)
    np.testing.assert_array_equal(given_, mask / 10.0)


@given(seed=st.integers(0, 99), cut=st.integers(1, 3))
def test_accumulated_micro_batches_add_up_to_the_big_batch(seed, cut):
    """The accumulation window: whole = sum over micro-batches, for the value and the gradient."""
    logits, tokens, mask = a_batch(seed, B=4)
    logps = logprobs.per_token_logps(logits, tokens)
    for loss, grad in LOSSES:
        window = {"reduction": "global_token", "num_items_in_batch": mask.sum()}
        parts = [slice(0, cut), slice(cut, 4)]
        summed = sum(loss(logps[p], mask[p], **window) for p in parts)
        np.testing.assert_allclose(summed, loss(logps, mask, **window), **CLOSE)
        grads = np.concatenate([grad(logps[p], mask[p], **window) for p in parts])
        np.testing.assert_allclose(grads, grad(logps, mask, reduction="batch_token"), **CLOSE)


def test_averaging_micro_batches_instead_favours_the_short_one():
    logps = -np.array([[1.0, 1.0, 1.0, 1.0], [9.0, 0.0, 0.0, 0.0]])
    mask = np.array([[1, 1, 1, 1], [1, 0, 0, 0]])
    means = [sft.nll(logps[[b]], mask[[b]], reduction="batch_token") for b in (0, 1)]
    assert np.mean(means) == 5.0  # (1 + 9) / 2
    assert sft.nll(logps, mask, reduction="batch_token") == pytest.approx(13 / 5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("loss, grad", LOSSES)
def test_the_padding_is_never_read(loss, grad, reduction):
    logits, tokens, mask = a_batch()
    logps = logprobs.per_token_logps(logits, tokens)
    other = np.where(mask == 1, logps, np.nan)
    kwargs = counted_over(reduction, mask)
    assert loss(other, mask, **kwargs) == loss(logps, mask, **kwargs) > 0
    got = grad(other, mask, **kwargs)
    np.testing.assert_array_equal(got, grad(logps, mask, **kwargs))
    assert ((got != 0) == (mask == 1)).all()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nll_of_tokens_that_are_all_as_likely_is_their_surprise(reduction):
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    value = sft.nll(np.full((2, 3), -2.5), mask, **counted_over(reduction, mask))
    assert value == pytest.approx(2.5, rel=1e-15)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nll_grad_is_the_slope_of_nll(numeric_grad, reduction):
    logits, tokens, mask = a_batch()
    logps = logprobs.per_token_logps(logits, tokens)
    kwargs = counted_over(reduction, mask)
    slope = numeric_grad(lambda x: sft.nll(x, mask, **kwargs), logps)
    np.testing.assert_allclose(sft.nll_grad(logps, mask, **kwargs), slope, **BY_DIFFERENCES)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_dft_grad_is_the_slope_once_the_weight_is_frozen_and_that_of_the_probability(
    numeric_grad, reduction
):
    logits, tokens, mask = a_batch()
    logps = logprobs.per_token_logps(logits, tokens)
    kwargs = counted_over(reduction, mask)
    weights = sft.token_weights(mask, **kwargs)
    grad = sft.dft_grad(logps, mask, **kwargs)
    frozen = numeric_grad(lambda x: sft.nll(x * np.exp(logps), mask, **kwargs), logps)
    np.testing.assert_allclose(grad, frozen, **BY_DIFFERENCES)
    expected_count = numeric_grad(lambda x: -(weights * np.exp(x)).sum(), logps)
    np.testing.assert_allclose(grad, expected_count, **BY_DIFFERENCES)
    value = numeric_grad(lambda x: sft.dft(x, mask, **kwargs), logps)
    assert np.abs(grad - value).max() > 0.01  # the trap: the value's own slope is another


def test_dft_is_nll_weighted_by_the_probability_and_vanishes_at_both_ends():
    mask = [[1]]
    for p in (0.01, 0.3, 0.9):
        logps, kwargs = np.log([[p]]), {"reduction": "batch_token"}
        ratio = sft.dft(logps, mask, **kwargs) / sft.nll(logps, mask, **kwargs)
        np.testing.assert_allclose(ratio, p, rtol=1e-14)
    for logp in (0.0, -1e4):
        assert sft.dft([[logp]], mask, reduction="batch_token") == 0.0
    assert sft.dft_grad([[-1e4]], mask, reduction="batch_token") == 0.0
    assert sft.dft_grad([[0.0]], mask, reduction="batch_token") == -1.0


def test_metrics_are_means_over_what_counts():
    entropy = np.array([[1.0, 2.0, np.nan], [3.0, 100.0, 100.0]])
    assert sft.mean_entropy(entropy, [[1, 1, 0], [1, 0, 0]]) == 2.0
    logits = np.array([[[0.0, 3.0], [3.0, 0.0], [0.0, 3.0]]])
    tokens = np.array([[1, 1, 1]])
    assert sft.mean_token_accuracy(logits, tokens, [[1, 1, 0]]) == 0.5
    assert sft.mean_token_accuracy(logits, tokens, [[1, 0, 1]]) == 1.0
    tie = np.zeros((1, 2, 3))
    assert sft.mean_token_accuracy(tie, [[0, 1]], [[1, 1]]) == 0.5  # the smaller id is the choice


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: sft.nll([[-1.0]], [[1]], reduction="mean"), "one of 'global_token'"),
        (lambda: sft.nll([[-1.0]], [[1]], reduction="global_token"), "num_items_in_batch is"),
        (
            lambda: sft.nll([[-1.0]], [[1]], reduction="sequence", num_items_in_batch=3),
            "num_items_in_batch is the counted tokens",
        ),
        (
            lambda: sft.nll([[-1.0]], [[1]], reduction="global_token", num_items_in_batch=-1),
            "num_items_in_batch must be >= 0, got -1.0",
        ),
        (lambda: sft.nll([[-1.0]], [[2]], reduction="sequence"), "completion_mask must hold only"),
        (lambda: sft.nll([[-1.0, 0.0]], [[1]], reduction="sequence"), "per_token_logps must have"),
        (
            lambda: sft.nll([[np.nan]], [[1]], reduction="sequence"),
            "per_token_logps must be finite",
        ),
        (lambda: sft.token_weights([1, 0], reduction="sequence"), "completion_mask must have 2"),
        (lambda: sft.mean_entropy([1.0], [1]), "completion_mask must have 2 axes"),
        (
            lambda: sft.mean_token_accuracy(np.zeros((1, 2, 3)), [[0, 1]], [[1]]),
            "completion_mask must have the shape of tokens (1, 2), got (1, 1)",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value)


def test_an_empty_sequence_weighs_nothing_and_counts_as_one():
    weights = sft.token_weights([[1, 1], [0, 0]], reduction="sequence")
    np.testing.assert_array_equal(weights, [[0.25, 0.25], [0.0, 0.0]])


def test_a_token_id_may_exceed_the_length_of_the_text():
    logits = np.zeros((1, 1, 5))
    logits[..., 4] = 1.0
    assert sft.mean_token_accuracy(logits, [[4]], [[1]]) == 1.0


def test_the_entropy_of_nothing_is_zero():
    assert sft.mean_entropy([[1.0, 2.0]], [[0, 0]]) == 0.0
