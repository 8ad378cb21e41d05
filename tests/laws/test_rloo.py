"""Laws of RLOO."""

import itertools

import numpy as np
import pytest

from reference_math import logprobs, reinforce, rloo

MASK = np.array([[1.0, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]])
ADVANTAGES = np.array([1.0, -2.0, 0.5, 3.0])
CLIP = {"epsilon_low": 0.2, "epsilon_high": 0.5}


def two_policies(seed=0):
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(size=MASK.shape)
    return logps, logps + 0.3 * rng.normal(size=MASK.shape)


def test_the_ratio_is_of_the_whole_completion():
    """Two tokens, each 1.25 times likelier: 1.5625 together, outside a clip of 1.5."""
    logps, mask = np.log([[0.5, 0.5]]), [[1, 1]]
    old_logps = np.log([0.4 * 0.4])
    assert not rloo.loss_grad(logps, old_logps, [1.0], mask, **CLIP).any()
    np.testing.assert_allclose(rloo.loss(logps, old_logps, [1.0], mask, **CLIP), -1.5)
    np.testing.assert_allclose(rloo.loss(logps, old_logps, [-1.0], mask, **CLIP), 1.5625)


def test_on_policy_the_gradient_is_reinforces():
    logps, _ = two_policies()
    old_logps = (logps * MASK).sum(axis=1)
    got = rloo.loss_grad(logps, old_logps, ADVANTAGES, MASK, **CLIP)
    np.testing.assert_array_equal(got, reinforce.loss_grad(logps, ADVANTAGES, MASK))
    value = rloo.loss(logps, old_logps, ADVANTAGES, MASK, **CLIP)
    np.testing.assert_allclose(value, -ADVANTAGES.mean(), rtol=1e-15)


@pytest.mark.parametrize("gap", [-1e4, -700.0, 700.0, 1e4])
@pytest.mark.parametrize("a", [-1.0, 0.0, 1.0])
def test_nothing_overflows_however_far_the_policy_has_gone(gap, a):
    tokens = [[-1.0]], [-1.0 - gap], [a], [[1]]
    assert np.isfinite(rloo.loss(*tokens, **CLIP))
    assert np.isfinite(rloo.loss_grad(*tokens, **CLIP)).all()


def penalized(rewards, **options):
    old, ref = two_policies()
    return rloo.kl_penalized_rewards(rewards, old, ref, MASK, **{"beta": 0.1} | options)


def test_a_penalty_by_hand():
    """k1 sums to 1 + 0 and to -2; the last token is padding. Half of it is taken off."""
    old, ref = [[-1.0, -2.0], [-3.0, -9.0]], [[-2.0, -2.0], [-1.0, -5.0]]
    got = rloo.kl_penalized_rewards([1.0, 2.0], old, ref, [[1, 1], [1, 0]], beta=0.5)
    np.testing.assert_array_equal(got, [0.5, 3.0])


def test_the_penalty_grows_with_beta_and_is_the_log_ratio_of_whole_completions():
    """exp(-penalty / beta) is p_ref / p: over all nine answers of two tokens its mean under p is 1."""
    rng = np.random.default_rng(0)
    policy, other = (logprobs.log_softmax(rng.normal(size=(2, 3))) for _ in range(2))
    answers = np.array(list(itertools.product(range(3), repeat=2)))
    logps, ref = (x[[0, 1], answers] for x in (policy, other))
    for beta in (0.1, 2.0):
        got = rloo.kl_penalized_rewards(np.zeros(9), logps, ref, np.ones((9, 2)), beta=beta)
        mean = (np.exp(logps.sum(axis=1)) * np.exp(got / beta)).sum()
        np.testing.assert_allclose(mean, 1.0, rtol=1e-13)


def test_without_beta_or_at_the_reference_the_reward_stays():
    old, _ = two_policies()
    np.testing.assert_array_equal(penalized(ADVANTAGES, beta=0.0), ADVANTAGES)
    stays = rloo.kl_penalized_rewards(ADVANTAGES, old, old, MASK, beta=7.0)
    np.testing.assert_array_equal(stays, ADVANTAGES)


def test_the_reward_is_clipped_before_the_penalty_and_not_after():
    penalty = ADVANTAGES - penalized(ADVANTAGES)
    clipped = penalized(ADVANTAGES, reward_clip_range=(-1.0, 0.25))
    np.testing.assert_allclose(clipped, [0.25, -1.0, 0.25, 0.25] - penalty, rtol=1e-14)


def test_a_missing_reward_stays_missing():
    got = penalized([None, 1.0, 1.0, 1.0], reward_clip_range=(-1.0, 1.0))
    assert np.isnan(got).tolist() == [True, False, False, False]


def test_penalized_rewards_do_not_read_the_padding():
    old, ref = two_policies()
    expected = penalized(ADVANTAGES)
    old[MASK == 0] = ref[MASK == 0] = np.nan
    got = rloo.kl_penalized_rewards(ADVANTAGES, old, ref, MASK, beta=0.1)
    np.testing.assert_array_equal(got, expected)


LOGPS = np.full(MASK.shape, -1.0)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"rewards": [1.0]}, r"rewards must have shape \(4,\)"),
        ({"rewards": ADVANTAGES + np.inf}, "rewards must be finite, got inf"),
        ({"old_per_token_logps": LOGPS * np.nan}, "old_per_token_logps must be finite"),
        ({"ref_per_token_logps": LOGPS * np.nan}, "ref_per_token_logps must be finite"),
        ({"completion_mask": MASK / 2}, "completion_mask must hold only 0 and 1"),
        ({"completion_mask": MASK[0]}, "completion_mask must have 2 axes"),
        ({"beta": -1.0}, "beta must be >= 0"),
    ],
)
def test_what_is_wrong_with_a_penalty_is_named(wrong, message):
    tokens = {"old_per_token_logps": LOGPS, "ref_per_token_logps": LOGPS, "completion_mask": MASK}
    with pytest.raises(ValueError, match=message):
        rloo.kl_penalized_rewards(**{"rewards": ADVANTAGES, "beta": 0.1} | tokens | wrong)


def test_a_lone_completion_is_its_own_mean():
    clip = {"epsilon_low": 0.2, "epsilon_high": 0.2}
    assert rloo.loss_grad([[-1.0]], [-1.0], [3.0], [[1]], **clip) == -3.0
