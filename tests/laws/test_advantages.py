"""Laws of advantages: what has to hold whatever library computes them."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_math import advantages

G = 4
SETTINGS = {"ddof": 1, "eps": 1e-4}
KINDS = {
    "group": lambda r: advantages.group(r, G, **SETTINGS),
    "batch": lambda r: advantages.batch(r, G, **SETTINGS),
    "dr_grpo": lambda r: advantages.dr_grpo(r, G),
    "leave_one_out": lambda r: advantages.leave_one_out(r, G),
    "leave_one_out_scaled": lambda r: advantages.leave_one_out_scaled(r, G, **SETTINGS),
    "whiten": lambda r: advantages.whiten(r, **SETTINGS),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
OF_GROUPS = ["group", "batch", "dr_grpo", "leave_one_out", "leave_one_out_scaled"]
WITH_STD = ("group", "batch", "leave_one_out_scaled")
per_group = pytest.mark.parametrize("kind", OF_GROUPS)


def some_rewards(seed=0, groups=3):
    return np.random.default_rng(seed).normal(size=groups * G)


@every_kind
def test_a_constant_added_to_every_reward_changes_nothing(kind):
    rewards = some_rewards()
    # rtol: adding 5 rounds the rewards' last digits, and eps / std keeps those digits
    np.testing.assert_allclose(KINDS[kind](rewards + 5.0), KINDS[kind](rewards), rtol=1e-12)


@pytest.mark.parametrize("kind", [kind for kind in OF_GROUPS if kind != "batch"])
def test_a_constant_added_to_one_group_changes_nothing(kind):
    rewards, moved = some_rewards(), some_rewards()
    moved[G : 2 * G] += 5.0
    np.testing.assert_allclose(KINDS[kind](moved), KINDS[kind](rewards), rtol=1e-12)


def test_batch_scaling_feels_a_constant_added_to_one_group_as_a_larger_std():
    rewards, moved = some_rewards(), some_rewards()
    moved[G : 2 * G] += 5.0
    assert np.all(np.abs(KINDS["batch"](moved)) < np.abs(KINDS["batch"](rewards)))


@per_group
@given(order=st.permutations(range(G)), seed=st.integers(0, 99))
def test_a_permuted_group_has_permuted_advantages(kind, order, seed):
    rewards = some_rewards(seed)
    order = np.concatenate([order, np.arange(G, 3 * G)])
    # atol: sums taken in another order differ by a rounding of the rewards, here of order 1
    np.testing.assert_allclose(
        KINDS[kind](rewards[order]), KINDS[kind](rewards)[order], rtol=1e-9, atol=1e-14
    )


@per_group
def test_groups_do_not_mix_but_for_the_batch_std(kind):
    rewards = some_rewards()
    order = np.r_[2 * G : 3 * G, 0:G, G : 2 * G]  # whole groups change places
    np.testing.assert_allclose(KINDS[kind](rewards[order]), KINDS[kind](rewards)[order], rtol=1e-12)


@pytest.mark.parametrize("kind", OF_GROUPS[:-1])  # units of the last differ inside a group
def test_a_group_sums_to_zero(kind):
    sums = KINDS[kind](some_rewards()).reshape(-1, G).sum(axis=1)
    np.testing.assert_allclose(sums, 0.0, atol=1e-14)  # terms of order 1 cancel


@pytest.mark.parametrize("ddof", [0, 1])
def test_group_advantages_have_std_1_by_their_own_ddof(ddof):
    a = advantages.group(some_rewards(), G, ddof=ddof, eps=0.0).reshape(-1, G)
    np.testing.assert_allclose(a.std(axis=1, ddof=ddof), 1.0, rtol=1e-12)


@pytest.mark.parametrize("ddof", [0, 1])
def test_whitened_values_have_mean_0_and_std_1_over_the_batch(ddof):
    a = advantages.whiten(some_rewards() + 3.0, ddof=ddof, eps=0.0)
    np.testing.assert_allclose(a.std(ddof=ddof), 1.0, rtol=1e-12)
    np.testing.assert_allclose(a.mean(), 0.0, atol=1e-15)


def test_eps_is_added_to_the_std_and_not_to_the_variance():
    for scaled in (advantages.group, advantages.batch):  # std 1, so a half of each deviation
        np.testing.assert_array_equal(scaled([0.0, 2.0], 2, ddof=0, eps=1.0), [-0.5, 0.5])
    np.testing.assert_array_equal(advantages.whiten([0.0, 2.0], ddof=0, eps=3.0), [-0.25, 0.25])


def test_with_one_group_the_batch_std_is_the_groups():
    rewards = some_rewards(groups=1)
    np.testing.assert_allclose(KINDS["batch"](rewards), KINDS["group"](rewards), rtol=1e-15)


def test_the_batch_std_is_that_of_the_rewards_and_not_of_their_deviations():
    rewards = np.array([0.0, 0.0, 0.0, 4.0, 12.0, 12.0, 12.0, 16.0])
    scale = advantages.dr_grpo(rewards, G) / advantages.batch(rewards, G, ddof=0, eps=0.0)
    np.testing.assert_allclose(scale, rewards.std(), rtol=1e-14)


@pytest.mark.parametrize("kind", WITH_STD)
def test_without_eps_the_unit_of_the_reward_does_not_matter(kind):
    scaled, rewards = getattr(advantages, kind), some_rewards()
    a = scaled(1000.0 * rewards, G, ddof=1, eps=0.0)
    np.testing.assert_allclose(a, scaled(rewards, G, ddof=1, eps=0.0), rtol=1e-12)


@pytest.mark.parametrize("kind", ["dr_grpo", "leave_one_out"])
def test_without_a_std_the_advantage_is_linear_in_the_reward(kind):
    a = KINDS[kind](1000.0 * some_rewards())
    np.testing.assert_allclose(a, 1000.0 * KINDS[kind](some_rewards()), rtol=1e-12)


def test_the_leave_one_out_baseline_is_the_mean_of_the_others():
    rewards = some_rewards()
    for i, a in enumerate(advantages.leave_one_out(rewards, G)):
        start = i // G * G
        others = np.delete(rewards[start : start + G], i - start)
        np.testing.assert_allclose(rewards[i] - a, others.mean(), rtol=1e-12)


def test_the_leave_one_out_baseline_does_not_depend_on_the_completion_itself():
    rewards, better = some_rewards(), some_rewards()
    better[1] += 1.0
    gain = advantages.leave_one_out(better, G) - advantages.leave_one_out(rewards, G)
    expected = [-1 / 3, 1.0, -1 / 3, -1 / 3] + [0.0] * 2 * G
    np.testing.assert_allclose(gain, expected, rtol=1e-12, atol=1e-15)


@every_kind
@given(st.floats(-1e6, 1e6), st.integers(2, 9))
def test_equal_rewards_have_advantages_of_exactly_zero(kind, reward, groups):
    """No rounding of the mean shows, whatever the number: TRL's float32 gives up to 9.4e-3."""
    assert not KINDS[kind]([reward] * groups * G).any()


@per_group
def test_a_missing_reward_gets_0_and_its_group_is_as_if_it_had_one_less(kind):
    rewards = some_rewards()
    missing = rewards.copy()
    missing[[2, G + 2, 2 * G + 2]] = np.nan
    smaller = missing[~np.isnan(missing)]
    options = SETTINGS if kind in WITH_STD else {}
    expected = getattr(advantages, kind)(smaller, G - 1, **options)
    a = KINDS[kind](missing).reshape(-1, G)
    np.testing.assert_array_equal(a[:, 2], 0.0)
    np.testing.assert_allclose(np.delete(a, 2, axis=1).ravel(), expected, rtol=1e-12)


def test_whitening_leaves_missing_values_out():
    values = some_rewards()
    expected = advantages.whiten(values[1:], **SETTINGS)
    a = advantages.whiten([None, *values[1:]], **SETTINGS)
    np.testing.assert_allclose(a, [0.0, *expected], rtol=1e-12)


@every_kind
def test_none_and_nan_both_mean_missing(kind):
    rewards = [1.0, None, 0.0, 3.0] + [0.5, 2.0, 1.0, 7.0]
    np.testing.assert_array_equal(KINDS[kind](rewards), KINDS[kind](np.array(rewards, dtype=float)))


@per_group
@pytest.mark.parametrize("eps", [0.0, 1e-4])
def test_without_a_rival_the_advantage_is_0(kind, eps):
    alone = getattr(advantages, kind)
    options = {"ddof": 1, "eps": eps} if kind in WITH_STD else {}
    assert not alone([7.0], 1, **options).any()
    assert not alone([7.0, None, None, None], 4, **options).any()
    assert not alone([None] * 4, 4, **options).any()


def test_a_group_of_one_is_0_even_in_a_batch_of_many():
    for kind in ("group", "batch"):
        assert not getattr(advantages, kind)([1.0, 2.0, 9.0], 1, ddof=1, eps=0.0).any()


@every_kind
def test_no_completions_have_no_advantages(kind):
    assert KINDS[kind]([]).shape == (0,)


@every_kind
def test_rewards_must_be_one_finite_number_a_completion(kind):
    with pytest.raises(ValueError, match="1 axes, got shape"):
        KINDS[kind](np.ones((2, G)))
    with pytest.raises(ValueError, match="must be finite, got inf"):
        KINDS[kind]([np.inf] + [0.0] * (G - 1))


@per_group
def test_rewards_must_fill_their_groups(kind):
    with pytest.raises(ValueError, match="multiple of num_generations=4 rows, got 6"):
        KINDS[kind](np.ones(6))


@pytest.mark.parametrize("wrong", [{"ddof": 2}, {"ddof": -1}, {"eps": -1e-8}])
def test_ddof_is_0_or_1_and_eps_is_not_negative(wrong):
    for call in (
        lambda **o: advantages.group([1.0, 2.0], 2, **o),
        lambda **o: advantages.batch([1.0, 2.0], 2, **o),
        lambda **o: advantages.leave_one_out_scaled([1.0, 2.0], 2, **o),
        lambda **o: advantages.whiten([1.0, 2.0], **o),
    ):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            call(**SETTINGS | wrong)


@pytest.mark.parametrize("ddof", [0, 1])
def test_the_others_std_is_the_unit_and_does_not_hold_the_completion_itself(ddof):
    rewards = some_rewards()
    plain = advantages.leave_one_out(rewards, G)
    scaled = advantages.leave_one_out_scaled(rewards, G, ddof=ddof, eps=0.5)
    for i, unit in enumerate(plain / scaled):
        start = i // G * G
        others = np.delete(rewards[start : start + G], i - start)
        np.testing.assert_allclose(unit, others.std(ddof=ddof) + 0.5, rtol=1e-12)


@pytest.mark.parametrize("equal", [0.1, 1 / 3, 1e6 + 0.1])
def test_against_equal_others_nothing_is_divided(equal):
    """Not by a rounding of 0 either: a std made of sums of squares would leave one."""
    a = advantages.leave_one_out_scaled([2.0, equal, equal, equal], G, ddof=1, eps=1e-6)
    np.testing.assert_allclose(a[0], 2.0 - equal, rtol=1e-9)
    # the std of {2, e, e} is |2 - e| / sqrt(3), the deviation |2 - e| / 3; eps is 1e-6 of it
    np.testing.assert_allclose(a[1:], -np.sign(2.0 - equal) / np.sqrt(3), rtol=1e-5)


def test_of_two_rivals_the_only_other_has_no_std():
    a = advantages.leave_one_out_scaled([3.0, 1.0], 2, ddof=1, eps=0.5)
    np.testing.assert_array_equal(a, [2.0, -2.0])


@pytest.mark.parametrize(
    "rewards, kept",
    [
        ([1.0, 0.0, 0.5, 0.5], [1, 1, 0, 0]),
        ([0.1 + 0.2, 0.3, 0.3, 0.3], [1, 1, 0, 0]),  # a last bit is a difference
        ([1.0, None, None, 1.0], [0, 0, 0, 0]),  # one answer alone has nothing to differ from
        ([None, None, -1.0, 1.0], [0, 0, 1, 1]),
    ],
)
def test_groups_of_equal_rewards_are_not_informative(rewards, kept):
    np.testing.assert_array_equal(advantages.informative(rewards, 2), kept)


def test_what_is_informative_is_what_has_an_advantage_and_its_group():
    """DAPO's condition, some right and not all: on rewards of 0 and 1, by enumeration."""
    for right in itertools.product([0.0, 1.0], repeat=4):
        kept = advantages.informative(right, 4)
        assert (kept == (0 < sum(right) < 4)).all()
        assert (kept.any() == advantages.dr_grpo(right, 4).any()) and kept.dtype == float


def test_a_missing_reward_is_not_informative_itself():
    np.testing.assert_array_equal(advantages.informative([1.0, None, 0.0], 3), [1.0, 0.0, 1.0])


def test_of_two_rivals_each_is_the_others_baseline():
    np.testing.assert_array_equal(advantages.leave_one_out([3.0, 1.0], 2), [2.0, -2.0])


@pytest.mark.parametrize("ddof", [0, 1])
def test_the_std_of_one_value_is_0_by_either_count(ddof):
    alone = np.array([[0.0, np.nan]])
    np.testing.assert_array_equal(advantages.std(alone, axis=1, ddof=ddof), [[0.0]])
