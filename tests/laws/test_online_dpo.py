"""Laws of online DPO; XPO's stand in test_xpo.py."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_math import dpo, online_dpo

MASK = np.array([[1.0, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0]])
REWARDS = np.array([1.0, -2.0, 0.5, 0.0, 2.0, 0.5])
LOSSES = pytest.mark.parametrize("loss_type", online_dpo.LOSS_TYPES)


def two_policies(seed=0):
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(size=MASK.shape)
    return logps, logps + 0.5 * rng.normal(size=MASK.shape)


@LOSSES
def test_it_is_dpo_on_the_answers_sorted_by_hand(loss_type):
    logps, ref = two_policies()
    u = ((logps - ref) * MASK).sum(axis=1)
    better, worse = u[[0, 4, 2]], u[[3, 1, 5]]  # 1 > 0, -2 < 2, a tie
    expected = getattr(dpo, loss_type)(better, worse, beta=0.4).mean()
    got = online_dpo.loss(logps, ref, REWARDS, MASK, beta=0.4, loss_type=loss_type)
    np.testing.assert_allclose(got, expected, rtol=1e-14)


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=12).filter(lambda x: len(x) % 2 == 0))
def test_the_better_answer_stands_first_and_every_answer_once(rewards):
    order = online_dpo.better_first(rewards)
    n = len(rewards) // 2
    assert sorted(order) == list(range(2 * n))
    assert (order[:n] % n == order[n:] % n).all() and (order[:n] % n == np.arange(n)).all()
    better, worse = np.take(rewards, order[:n]), np.take(rewards, order[n:])
    assert (better >= worse).all()
    assert ((better > worse) | (order[:n] < n)).all()  # a tie: the first


@LOSSES
def test_swapping_the_two_answers_of_a_prompt_changes_nothing(loss_type):
    logps, ref = two_policies()
    rewards = REWARDS + [0, 0, 0.1, 0, 0, 0]  # no tie
    swap = [3, 4, 5, 0, 1, 2]
    options = {"beta": 0.4, "loss_type": loss_type}
    one = online_dpo.loss(logps, ref, rewards, MASK, **options)
    batch = [x[swap] for x in (logps, ref, rewards, MASK)]
    np.testing.assert_allclose(online_dpo.loss(*batch, **options), one, rtol=1e-15)
    grad = online_dpo.loss_grad(logps, ref, rewards, MASK, **options)
    np.testing.assert_allclose(online_dpo.loss_grad(*batch, **options), grad[swap], rtol=1e-15)


def test_at_the_reference_a_step_raises_the_better_answer_and_lowers_the_worse():
    logps, _ = two_policies()
    assert np.isclose(online_dpo.loss(logps, logps, REWARDS, MASK, beta=0.3), np.log(2))
    grad = online_dpo.loss_grad(logps, logps, REWARDS, MASK, beta=0.3)
    signs = np.array([-1, 1, -1, 1, -1, 1.0])[:, None]
    np.testing.assert_allclose(grad, signs * MASK * 0.3 / 2 / 3, rtol=1e-14)


def test_only_the_order_of_the_rewards_matters():
    logps, ref = two_policies()
    one = online_dpo.loss(logps, ref, REWARDS, MASK, beta=0.3)
    assert online_dpo.loss(logps, ref, 100 * REWARDS - 7, MASK, beta=0.3) == one


def test_answers_far_from_the_reference_leave_everything_finite():
    far = np.array([[-800.0], [0.0]])
    for rewards in ([1.0, 0.0], [0.0, 1.0]):
        batch = far, -far, rewards, [[1], [1]]
        for loss_type in online_dpo.LOSS_TYPES:
            assert np.isfinite(online_dpo.loss(*batch, beta=1.0, loss_type=loss_type))
            assert np.isfinite(online_dpo.loss_grad(*batch, beta=1.0, loss_type=loss_type)).all()


def test_a_cut_off_answer_pays_the_penalty_and_no_other_does():
    got = online_dpo.eos_penalized_rewards([1.0, 2.0, 3.0], [1, 0, 1], missing_eos_penalty=0.5)
    np.testing.assert_array_equal(got, [1.0, 1.5, 3.0])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: online_dpo.better_first([1.0]), "rewards must be 2B, .* got 1"),
        (lambda: online_dpo.better_first([[1.0, 2.0]]), "rewards must have 1 axes"),
        (
            lambda: online_dpo.eos_penalized_rewards([1.0], [1], missing_eos_penalty=-1.0),
            "missing_eos_penalty must be >= 0",
        ),
        (
            lambda: online_dpo.eos_penalized_rewards([1.0], [1, 1], missing_eos_penalty=1.0),
            r"ended must have shape \(1,\)",
        ),
        (
            lambda: online_dpo.eos_penalized_rewards(1.0, 1, missing_eos_penalty=1.0),
            "rewards must have 1 axes",
        ),
        (
            lambda: online_dpo.eos_penalized_rewards([1.0], [0.5], missing_eos_penalty=1.0),
            "ended must hold only 0 and 1",
        ),
    ],
)
def test_what_is_wrong_with_the_rewards_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
