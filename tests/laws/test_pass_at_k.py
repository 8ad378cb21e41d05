"""Laws of the advantage for the best of a group."""

import itertools

import numpy as np
import pytest

from reference_math import logprobs, pass_at_k


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("rewards", [[0.0, 1.0, 0.0], [0.2, -1.0, 0.7]])
def test_reinforce_with_it_climbs_the_expected_best(numeric_grad, k, rewards):
    """Every group of k tokens of a vocabulary of 3.  For rewards of 0 and 1 the best is pass@k."""
    logits, rewards = np.array([0.3, -0.5, 0.1]), np.array(rewards)
    groups = [list(group) for group in itertools.product(range(3), repeat=k)]

    def best(z):
        p = np.exp(logprobs.log_softmax(z))
        return sum(p[group].prod() * rewards[group].max() for group in groups)

    p = np.exp(logprobs.log_softmax(logits))
    scores = np.eye(3) - p  # d log p_token / d logits
    push = np.zeros(3)
    for group in groups:
        push += p[group].prod() * (pass_at_k.advantage(rewards[group], k) @ scores[group])
    np.testing.assert_allclose(push, numeric_grad(best, logits), rtol=1e-9, atol=1e-12)


def test_it_is_what_the_best_loses_without_the_answer():
    rewards = np.random.default_rng(0).normal(size=(5, 4))
    got = pass_at_k.advantage(rewards.reshape(-1), 4).reshape(5, 4)
    for i in range(4):
        without = np.delete(rewards, i, axis=1).max(axis=1)
        np.testing.assert_allclose(got[:, i], rewards.max(axis=1) - without, rtol=1e-14)
    assert ((got > 0).sum(axis=1) == 1).all()


def test_two_that_are_best_are_not_needed_either():
    assert not pass_at_k.advantage([1.0, 0.0, 1.0, 0.0, 0.0, 0.0], 3).any()


def test_the_best_may_be_below_0():
    np.testing.assert_array_equal(pass_at_k.advantage([-3.0, -1.0, -2.0], 3), [0.0, 1.0, 0.0])


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("k", [2, 4])
def test_scaled_it_is_in_units_of_the_groups_std(ddof, k):
    rewards = np.random.default_rng(0).normal(size=12)
    std = np.repeat(rewards.reshape(-1, k).std(axis=1, ddof=ddof), k)
    got = pass_at_k.scaled(rewards, k, ddof=ddof, eps=0.1)
    np.testing.assert_allclose(got, pass_at_k.advantage(rewards, k) / (std + 0.1), rtol=1e-13)


@pytest.mark.parametrize("ddof", [0, 1])
def test_a_missing_answer_is_as_if_it_had_not_been_sampled(ddof):
    some = [1.0, None, 0.25, 0.5]
    np.testing.assert_array_equal(pass_at_k.advantage(some, 4), [0.5, 0.0, 0.0, 0.0])
    got = pass_at_k.scaled(some, 4, ddof=ddof, eps=0.1)
    expected = pass_at_k.scaled([1.0, 0.25, 0.5], 3, ddof=ddof, eps=0.1)
    np.testing.assert_allclose(got[[0, 2, 3]], expected, rtol=1e-14)


@pytest.mark.parametrize("rewards", [[2.0, None], [None, None], [0.5, 0.5], []])
def test_without_a_rival_or_a_lead_it_is_0(rewards):
    for got in (
        pass_at_k.advantage(rewards, 2),
        pass_at_k.scaled(rewards, 2, ddof=1, eps=1e-6),
        pass_at_k.scaled(rewards, 2, ddof=0, eps=1e-6),
    ):
        np.testing.assert_array_equal(got, np.zeros(len(rewards)))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: pass_at_k.advantage([1.0], 1), "num_generations must be >= 2"),
        (lambda: pass_at_k.scaled([1.0, 2.0, 3.0], 2, ddof=1, eps=1.0), "multiple of num_generations=2"),
        (lambda: pass_at_k.scaled([1.0, 2.0], 2, ddof=2, eps=1.0), "ddof must be one of 0, 1"),
        (lambda: pass_at_k.scaled([1.0, 2.0], 2, ddof=1, eps=0.0), "eps must be > 0"),
        (lambda: pass_at_k.advantage([[1.0, 2.0]], 2), "rewards must have 1 axes"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
