"""Laws of WPO's weights."""

import numpy as np
import pytest

from reference_math import logprobs, wpo


def answers(seed=0, B=3, T=5):
    """Log-probs of policy and reference (2B, T), and a mask; no answer is empty."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(T) < rng.integers(1, T + 1, size=(2 * B, 1))).astype(float)
    return -rng.exponential(size=(2 * B, T)), -rng.exponential(size=(2 * B, T)), mask


def test_a_flat_policys_own_words_weigh_one():
    """Uniform over V tokens: log p = log sum p^2 = -log V at each."""
    flat = np.zeros((4, 3, 7))
    logps = logprobs.per_token_logps(flat, np.zeros((4, 3), dtype=int))
    weights = wpo.pair_weights(logps, logprobs.log_sum_sq_probs(flat), np.ones((4, 3)))
    np.testing.assert_allclose(weights, 1.0, rtol=1e-14)


def test_a_pair_by_hand():
    """Chosen: ratios 2 and 1/8 to sum p^2, geometric mean 1/2. Rejected: 1/4; its padding is not read."""
    logps = np.log([[0.5, 0.03125], [0.125, 0.9]])
    normaliser = np.log([[0.25, 0.25], [0.5, 0.1]])
    weight = wpo.pair_weights(logps, normaliser, [[1, 1], [1, 0]])
    np.testing.assert_allclose(weight, [0.125], rtol=1e-14)


def test_an_empty_answer_leaves_the_weight_to_its_rival():
    """A pair's weight is a product of two: what it is with either answer empty."""
    logps, normaliser, mask = answers()
    both = wpo.pair_weights(logps, normaliser, mask)
    parts = []
    for empty in (slice(0, 3), slice(3, 6)):
        of_one = mask.copy()
        of_one[empty] = 0
        hidden = np.where(of_one == 1, logps, np.nan)
        parts.append(wpo.pair_weights(hidden, normaliser, of_one))
        assert np.abs(parts[-1] - 1).min() > 0.01
    np.testing.assert_allclose(parts[0] * parts[1], both, rtol=1e-12)


def test_wpo_refuses_what_does_not_fit():
    ones = np.ones((3, 2))
    with pytest.raises(ValueError, match="completion_mask must have 2B rows"):
        wpo.pair_weights(-ones, -ones, ones)
    with pytest.raises(ValueError, match="log_sum_sq_probs must have shape"):
        wpo.pair_weights(-ones[:2], -ones, ones[:2])
    with pytest.raises(ValueError, match="per_token_logps must have shape"):
        wpo.pair_weights(-ones, -ones[:2], ones[:2])
    with pytest.raises(ValueError, match="completion_mask must have 2 axes"):
        wpo.pair_weights([-1.0, -1.0], [-1.0, -1.0], [1, 1])
