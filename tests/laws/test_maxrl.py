"""Laws of MaxRL's advantage."""

import itertools

import numpy as np
import pytest

from reference_math import advantages, logprobs, maxrl


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_a_group_of_n_climbs_the_first_n_minus_1_terms_of_the_log_likelihood(n):
    """Every group of n tokens of a vocabulary of 3: log s = -sum (1 - s)^k / k, cut after n - 1 terms."""
    logits, right = np.array([0.3, -0.5, 0.1]), np.array([0.0, 1.0, 0.0])
    p = np.exp(logprobs.log_softmax(logits))
    scores = np.eye(3) - p  # d log p_token / d logits
    push = np.zeros(3)
    for group in itertools.product(range(3), repeat=n):
        a = maxrl.advantage(right[list(group)], n, eps=0.0)
        push += p[list(group)].prod() * (a @ scores[list(group)]) / n
    s, ds = p[1], p[1] * scores[1]
    expected = sum((1 - s) ** (k - 1) for k in range(1, n)) * ds
    np.testing.assert_allclose(push, expected, rtol=1e-12, atol=1e-15)


def test_it_is_dr_grpos_divided_by_the_groups_mean():
    rewards = np.random.default_rng(0).random(12)
    means = np.repeat(rewards.reshape(3, 4).mean(axis=1), 4)
    expected = advantages.dr_grpo(rewards, 4)
    np.testing.assert_allclose(maxrl.advantage(rewards, 4, eps=0.0), expected / means, rtol=1e-12)
    got = maxrl.advantage(rewards, 4, eps=0.5)
    np.testing.assert_allclose(got, expected / (means + 0.5), rtol=1e-12)


def test_rewards_times_a_constant_change_nothing_without_eps():
    rewards = np.random.default_rng(0).random(8)
    got = maxrl.advantage(7 * rewards, 4, eps=0.0)
    np.testing.assert_allclose(got, maxrl.advantage(rewards, 4, eps=0.0), rtol=1e-12)


def test_a_missing_reward_leaves_the_mean():
    got = maxrl.advantage([1.0, None, 0.0, 1.0, None, None, None, None, None], 3, eps=0.0)
    np.testing.assert_allclose(got, [1.0, 0.0, -1.0, *[0.0] * 6], atol=1e-15)


@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_where_no_answer_is_right_or_all_are_alike_nothing_is_pushed(eps):
    assert not maxrl.advantage(np.repeat([0.0, 0.1, 1.0], 3), 3, eps=eps).any()
    assert maxrl.advantage([], 3, eps=eps).shape == (0,)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: maxrl.advantage([1.0, -0.5], 2, eps=0.0), "rewards must be >= 0, got -0.5"),
        (lambda: maxrl.advantage([1.0, 0.5], 2, eps=-1.0), "eps must be >= 0"),
        (lambda: maxrl.advantage([1.0, 0.5, 1.0], 2, eps=0.0), "multiple of num_generations=2"),
        (lambda: maxrl.advantage([[1.0, 0.5]], 2, eps=0.0), "rewards must have 1 axes"),
    ],
)
def test_what_is_wrong_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
