"""Laws of several reward functions."""

import numpy as np
import pytest

from reference_math import advantages, multi_reward

G, K = 4, 3
WEIGHTS = np.array([1.0, 0.5, 2.0])
SETTINGS = {"ddof": 1, "eps": 1e-4}
SUM = SETTINGS | {"scale_rewards": "group", "missing": "zero"}
both_missing = pytest.mark.parametrize("missing", ["zero", "mean"])


def some_rewards(seed=0, groups=3):
    return np.random.default_rng(seed).normal(size=(groups * G, K))


def with_holes():
    """One completion lacks one function, one lacks all, one group lacks a whole function."""
    rewards = some_rewards()
    rewards[1, 0] = rewards[2] = rewards[G : 2 * G, 1] = np.nan
    return rewards


@both_missing
def test_the_sum_is_the_weighted_sum_of_what_each_function_said(missing):
    rewards = some_rewards()
    total = multi_reward.weighted_sum(rewards, WEIGHTS, G, missing=missing)
    np.testing.assert_allclose(total, rewards @ WEIGHTS, rtol=1e-12)


@both_missing
def test_only_a_completion_that_no_function_scored_is_missing_in_the_sum(missing):
    total = multi_reward.weighted_sum(with_holes(), WEIGHTS, G, missing=missing)
    assert np.flatnonzero(np.isnan(total)).tolist() == [2]


def test_a_missing_reward_as_zero_is_a_zero():
    rewards = with_holes()
    zeros = np.delete(np.nan_to_num(rewards), 2, axis=0)
    total = multi_reward.weighted_sum(rewards, WEIGHTS, G, missing="zero")
    np.testing.assert_allclose(np.delete(total, 2), zeros @ WEIGHTS, rtol=1e-12)


def test_a_missing_reward_as_the_mean_takes_the_groups_mean_of_that_function():
    rewards = with_holes()
    filled = rewards.copy()
    filled[1, 0] = np.mean([rewards[0, 0], rewards[3, 0]])  # row 2 said nothing either
    filled[G : 2 * G, 1] = 0.0  # nobody said anything
    total = multi_reward.weighted_sum(rewards, WEIGHTS, G, missing="mean")
    expected = np.delete(filled, 2, axis=0) @ WEIGHTS
    np.testing.assert_allclose(np.delete(total, 2), expected, rtol=1e-12)


def test_only_the_mean_lets_a_function_shift_its_scale_unnoticed():
    """TRL's zero: a function that adds 5 to all it scores punishes whom it did not score."""
    rewards, moved = with_holes(), with_holes()
    moved[:G, 0] += 5.0

    def scored(rewards, missing):
        options = SUM | {"missing": missing}
        return multi_reward.sum_then_normalize(rewards, WEIGHTS, G, **options)

    np.testing.assert_allclose(scored(moved, "mean"), scored(rewards, "mean"), rtol=1e-9)
    assert scored(moved, "zero")[1] < scored(rewards, "zero")[1] - 0.5


@pytest.mark.parametrize(
    "scale_rewards, kind, options",
    [("group", "group", SETTINGS), ("batch", "batch", SETTINGS), ("none", "dr_grpo", {})],
)
def test_the_sum_is_then_one_reward_like_any_other(scale_rewards, kind, options):
    rewards = some_rewards()
    expected = getattr(advantages, kind)(rewards @ WEIGHTS, G, **options)
    got = multi_reward.sum_then_normalize(
        rewards, WEIGHTS, G, **SUM | {"scale_rewards": scale_rewards}
    )
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def normalized(rewards, weights=WEIGHTS, **options):
    return multi_reward.normalize_then_sum(rewards, weights, G, **SETTINGS | options)


def test_normalizing_first_makes_each_functions_unit_and_zero_irrelevant():
    rewards = some_rewards()
    moved = rewards * [1.0, 100.0, 1e-3] + [5.0, 0.0, -2.0]
    np.testing.assert_allclose(normalized(moved, eps=0.0), normalized(rewards, eps=0.0), rtol=1e-9)


def test_summing_first_lets_the_largest_function_rule():
    rewards = some_rewards()
    loud = rewards * [1.0, 1e6, 1.0]
    got = multi_reward.sum_then_normalize(loud, WEIGHTS, G, **SUM)
    np.testing.assert_allclose(got, advantages.group(loud[:, 1], G, **SETTINGS), rtol=1e-3)


def test_the_weights_act_after_normalizing():
    rewards = some_rewards()
    only_one = normalized(rewards, np.array([0.0, 7.0, 0.0]), eps=0.0)
    group = advantages.group(rewards[:, 1], G, ddof=1, eps=0.0)
    np.testing.assert_allclose(only_one, advantages.whiten(group, ddof=1, eps=0.0), rtol=1e-12)


def test_normalizing_first_uses_eps_twice():
    """Rewards 0 and 2, std 1: halves of each deviation; then std 1/2: a third of those."""
    got = multi_reward.normalize_then_sum([[0.0], [2.0]], [1.0], 2, ddof=0, eps=1.0)
    np.testing.assert_allclose(got, [-1 / 3, 1 / 3], rtol=1e-15)


def test_normalizing_first_takes_ddof_twice():
    """Deviations -1, 1: std by ddof 1 is sqrt 2, and that of the quotients is 1: no change."""
    got = multi_reward.normalize_then_sum([[0.0], [2.0]], [1.0], 2, ddof=1, eps=0.0)
    np.testing.assert_allclose(got, [-np.sqrt(0.5), np.sqrt(0.5)], rtol=1e-15)


def test_the_result_is_white_over_the_batch():
    a = normalized(some_rewards(), eps=0.0)
    np.testing.assert_allclose([a.mean(), a.std(ddof=1)], [0.0, 1.0], atol=1e-15, rtol=1e-12)


def test_a_missing_reward_says_nothing_when_normalizing_first():
    rewards, moved = with_holes(), with_holes()
    moved[:, 0] += 5.0
    np.testing.assert_allclose(normalized(moved), normalized(rewards), rtol=1e-9)
    assert normalized(rewards)[2] == 0.0  # nobody scored it


def test_what_nobody_scored_is_left_out_of_the_whitening():
    rewards = some_rewards()
    rewards[-G:] = np.nan
    expected = normalized(rewards[:-G])
    np.testing.assert_allclose(normalized(rewards), [*expected, 0.0, 0.0, 0.0, 0.0], rtol=1e-12)


@pytest.mark.parametrize("order", [(2, 0, 1), (1, 0, 2)])
def test_the_order_of_the_functions_does_not_matter(order):
    rewards, order = with_holes(), list(order)
    np.testing.assert_allclose(
        normalized(rewards[:, order], WEIGHTS[order]), normalized(rewards), rtol=1e-9
    )
    for missing in ("zero", "mean"):
        options = SUM | {"missing": missing}
        got = multi_reward.sum_then_normalize(rewards[:, order], WEIGHTS[order], G, **options)
        expected = multi_reward.sum_then_normalize(rewards, WEIGHTS, G, **options)
        np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_equal_rewards_have_advantages_of_exactly_zero():
    equal = np.full((2 * G, K), 0.1)
    assert not normalized(equal).any()
    assert not multi_reward.sum_then_normalize(equal, WEIGHTS, G, **SUM).any()


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"rewards": np.ones(G)}, "rewards_per_func must have 2 axes"),
        ({"rewards": np.full((G, K), np.inf)}, "rewards_per_func must be finite, got inf"),
        ({"rewards": np.ones((6, K))}, "multiple of num_generations=4 rows, got 6"),
        ({"weights": [1.0, 2.0]}, r"reward_weights must have shape \(3,\), got \(2,\)"),
        ({"weights": [1.0, 2.0, np.nan]}, "reward_weights must be finite"),
    ],
)
def test_what_is_wrong_is_named(wrong, message):
    arguments = {"rewards": np.ones((G, K)), "weights": WEIGHTS} | wrong
    arguments = (*arguments.values(), G)
    with pytest.raises(ValueError, match=message):
        multi_reward.weighted_sum(*arguments, missing="zero")
    with pytest.raises(ValueError, match=message):
        multi_reward.sum_then_normalize(*arguments, **SUM)
    with pytest.raises(ValueError, match=message):
        multi_reward.normalize_then_sum(*arguments, **SETTINGS)


@pytest.mark.parametrize("wrong", [{"missing": "drop"}, {"scale_rewards": True}])
def test_an_unknown_choice_is_named(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be one of"):
        multi_reward.sum_then_normalize(np.ones((G, K)), WEIGHTS, G, **SUM | wrong)


def test_what_one_completion_alone_was_given_is_the_mean_for_its_rivals():
    rewards = [[1.0, 5.0], [2.0, None], [3.0, None]]
    total = multi_reward.weighted_sum(rewards, [1.0, 1.0], 3, missing="mean")
    np.testing.assert_array_equal(total, [6.0, 7.0, 8.0])


def test_normalizing_first_sums_the_functions_and_does_not_average_them():
    """An eps beside the second std tells a sum from a mean: K equal functions weigh K times one."""
    one, options = some_rewards()[:, :1], {"ddof": 1, "eps": 0.5}
    thrice = multi_reward.normalize_then_sum(np.repeat(one, 3, axis=1), [1.0] * 3, G, **options)
    weighted = multi_reward.normalize_then_sum(one, [3.0], G, **options)
    np.testing.assert_allclose(thrice, weighted, rtol=1e-12)


def test_normalizing_first_a_completion_that_lacks_one_function_is_judged_by_the_others():
    rewards = some_rewards()
    rewards[0, 0] = np.nan
    assert multi_reward.normalize_then_sum(rewards, WEIGHTS, G, **SETTINGS)[0] != 0.0
