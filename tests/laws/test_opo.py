"""Laws of OPO's advantage: its baseline is the mean reward of a token, not of an answer."""

import numpy as np
import pytest

from reference_math import advantages, opo

G, T = 4, 5


def some_batch(seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, T + 1, size=(3 * G, 1))
    return rng.normal(size=3 * G), (np.arange(T) < lengths).astype(float)


def test_the_advantages_of_a_groups_tokens_sum_to_zero():
    rewards, mask = some_batch()
    a = opo.advantage(rewards, G, mask)
    sums = (a[:, None] * mask).reshape(3, -1).sum(axis=1)
    np.testing.assert_allclose(sums, 0.0, atol=1e-14)  # terms of order 1 cancel
    assert np.abs(a.reshape(3, G).sum(axis=1)).min() > 0.01  # those of its answers do not


def test_answers_of_one_length_have_dr_grpos_advantage():
    rewards, _ = some_batch()
    a = opo.advantage(rewards, G, np.ones((3 * G, T)))
    np.testing.assert_allclose(a, advantages.dr_grpo(rewards, G), rtol=1e-12)


def test_the_baseline_minimises_the_length_weighted_squares():
    """OPO's optimality: sum n (r - b)^2 is smallest at its b."""
    rewards, mask = some_batch()
    n, a = mask.sum(axis=1).reshape(3, G), opo.advantage(rewards, G, mask).reshape(3, G)
    for shift in (-1e-3, 1e-3):
        assert np.all((n * (a + shift) ** 2).sum(axis=1) > (n * a**2).sum(axis=1))


def test_groups_do_not_mix_and_a_constant_changes_nothing():
    rewards, mask = some_batch()
    moved = rewards.copy()
    moved[G : 2 * G] += 5.0
    a = opo.advantage(rewards, G, mask)
    np.testing.assert_allclose(opo.advantage(moved, G, mask), a, rtol=1e-11, atol=1e-14)
    last = opo.advantage(rewards[2 * G :], G, mask[2 * G :])
    np.testing.assert_array_equal(a[2 * G :], last)


def test_the_masks_holes_do_not_count():
    a = opo.advantage([1.0, 0.0], 2, [[1, 0, 1], [1, 0, 0]])
    np.testing.assert_allclose(a, [1 / 3, -2 / 3], rtol=1e-15)


def test_a_missing_reward_leaves_the_baseline():
    rewards, mask = some_batch()
    missing = rewards.copy()
    missing[[1, G, 3 * G - 1]] = np.nan
    kept = ~np.isnan(missing)
    a = opo.advantage(missing, G, mask)
    np.testing.assert_array_equal(a[~kept], 0.0)
    np.testing.assert_allclose(a[kept], opo.advantage(rewards[kept], G - 1, mask[kept]), rtol=1e-12)


@pytest.mark.parametrize("rewards", [[0.1, 0.1, 0.1], [7.0, None, None], [None] * 3])
def test_without_a_rival_or_a_difference_it_is_exactly_0(rewards):
    assert not opo.advantage(rewards, 3, [[1, 1, 1], [1, 0, 0], [1, 1, 0]]).any()


def test_where_no_token_counts_it_is_0():
    np.testing.assert_array_equal(opo.advantage([1.0, 3.0], 2, np.zeros((2, 3))), [0.0, 0.0])
    np.testing.assert_array_equal(opo.advantage([1.0, 3.0], 2, [[1, 0], [0, 0]]), [0.0, 2.0])
    assert opo.advantage([], 2, np.zeros((0, 3))).shape == (0,)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: opo.advantage([1.0, 2.0], 2, np.ones((3, 4))), "completion_mask must have shape"),
        (
            lambda: opo.advantage([1.0, 2.0], 2, np.full((2, 4), 0.5)),
            "completion_mask must hold only",
        ),
        (
            lambda: opo.advantage([1.0, 2.0, 3.0], 2, np.ones((3, 4))),
            "multiple of num_generations=2",
        ),
        (lambda: opo.advantage(np.ones((2, 2)), 2, np.ones((2, 4))), "rewards must have 1 axes"),
    ],
)
def test_what_is_wrong_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
