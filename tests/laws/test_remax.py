"""Laws of ReMax's advantage."""

import numpy as np
import pytest

from reference_math import logprobs, remax


def test_the_policy_gradient_stays_unbiased():
    """Every token of a vocabulary of 5, weighed by its probability."""
    rng = np.random.default_rng(0)
    logits, rewards = rng.normal(size=(2, 5))
    p = np.exp(logprobs.log_softmax(logits))
    a = remax.advantage(rewards, np.full(5, rewards[p.argmax()]), 1)
    push = (p * a) @ (np.eye(5) - p)
    np.testing.assert_allclose(push, p * (rewards - p @ rewards), rtol=1e-12, atol=1e-15)


def test_each_prompt_has_the_reward_of_its_own_greedy_answer():
    got = remax.advantage([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [10.0, 20.0], 3)
    np.testing.assert_array_equal(got, [-9.0, -8.0, -7.0, -16.0, -15.0, -14.0])


def test_an_answer_like_the_greedy_one_is_not_pushed():
    assert not remax.advantage([0.5, 0.5], [0.5], 2).any()


def test_a_missing_reward_of_either_gives_0():
    got = remax.advantage([1.0, None, 2.0, 3.0], [0.5, None], 2)
    np.testing.assert_array_equal(got, [0.5, 0.0, 0.0, 0.0])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: remax.advantage([1.0, 2.0], [0.5, 0.5], 2), r"greedy_rewards must have shape \(1,\)"),
        (lambda: remax.advantage([1.0, 2.0, 3.0], [0.5], 2), "multiple of num_generations=2"),
        (lambda: remax.advantage([1.0, np.inf], [0.5], 2), "rewards must be finite"),
        (lambda: remax.advantage([[1.0, 2.0]], [0.5], 2), "rewards must have 1 axes"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
