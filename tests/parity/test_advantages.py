"""reference_math.advantages and multi_reward against the torch twins and TRL's two trainers."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import advantages, multi_reward
from reference_math.conformance import trl_scoring
from reference_math.torch import advantages as twin
from reference_math.torch import multi_reward as multi_twin

G, WEIGHTS = 3, np.array([1.0, 0.5, 2.0])
SETTINGS = {"ddof": 1, "eps": 1e-4}
KINDS = {
    "group": SETTINGS,
    "batch": SETTINGS,
    "dr_grpo": {},
    "leave_one_out": {},
    "leave_one_out_scaled": SETTINGS,
    "informative": {},
}
# float64, the same operations in another order, on numbers of order one
EXACT = {"rtol": 1e-12, "atol": 1e-14}


def some_rewards(seed=0, groups=6):
    """18 rows. Row 4 has no reward at all, row 1 lacks one function, the last group another.

    TRL takes n / (n - 1) in float32 even of float64 rewards. Here n is 3, 2 or 17: no digit is lost.
    """
    rewards = np.random.default_rng(seed).normal(size=(groups * G, 3))
    rewards[1, 0] = rewards[4] = rewards[-G:, 1] = np.nan
    return rewards


# The twins -------------------------------------------------------------------------------------


def agree(place, got, expected):
    # a deviation of order 1 carries the rounding of its reward, and 1 / (std + eps) enlarges it
    eps = min(place.eps, torch.finfo(torch.float32).eps)
    np.testing.assert_allclose(place.numpy(got), expected, rtol=100 * eps, atol=100 * eps)


@pytest.mark.parametrize("kind", KINDS)
def test_the_twin_agrees_wherever_it_runs(place, kind):
    rewards = place.tensor(some_rewards()[:, 2])
    expected = getattr(advantages, kind)(place.numpy(rewards), G, **KINDS[kind])
    agree(place, getattr(twin, kind)(rewards, G, **KINDS[kind]), expected)


@pytest.mark.parametrize("ddof", [0, 1])
def test_the_twin_whitens_alike(place, ddof):
    values = place.tensor(some_rewards()[:, 1])
    options = {"ddof": ddof, "eps": 1e-8}
    expected = advantages.whiten(place.numpy(values), **options)
    agree(place, twin.whiten(values, **options), expected)


@pytest.mark.parametrize("missing", ["zero", "mean"])
@pytest.mark.parametrize("scale_rewards", multi_reward.SCALE_REWARDS)
def test_the_twin_sums_several_rewards_alike(place, scale_rewards, missing):
    rewards = place.tensor(some_rewards())
    options = SETTINGS | {"scale_rewards": scale_rewards, "missing": missing}
    got = multi_twin.sum_then_normalize(rewards, place.tensor(WEIGHTS), G, **options)
    expected = multi_reward.sum_then_normalize(place.numpy(rewards), WEIGHTS, G, **options)
    agree(place, got, expected)


def test_the_twin_normalizes_several_rewards_alike(place):
    rewards = place.tensor(some_rewards())
    got = multi_twin.normalize_then_sum(rewards, WEIGHTS.tolist(), G, **SETTINGS)
    agree(place, got, multi_reward.normalize_then_sum(place.numpy(rewards), WEIGHTS, G, **SETTINGS))


@pytest.mark.parametrize("kind", KINDS)
def test_the_twin_gives_equal_rewards_exact_zeros_in_any_dtype(place, kind):
    for reward in np.random.default_rng(0).uniform(-10, 10, 50):
        rewards = place.tensor(np.full(14, reward))
        assert not getattr(twin, kind)(rewards, 7, **KINDS[kind]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_twins_edge_cases(place, kind):
    alone = getattr(twin, kind)
    nan = float("nan")
    for rewards, size in [
        ([7.0], 1),
        ([7.0, nan, nan], 3),
        ([nan] * 3, 3),
        ([], 3),
        ([1.0, 9.0], 1),
    ]:
        got = alone(place.tensor(np.array(rewards)), size, **KINDS[kind])
        assert got.shape == (len(rewards),) and not got.any()


def test_the_twin_names_what_is_wrong():
    with pytest.raises(ValueError, match="multiple of num_generations=4 rows, got 6"):
        twin.dr_grpo(torch.zeros(6), 4)
    with pytest.raises(ValueError, match="rewards must have 1 axes"):
        twin.dr_grpo(torch.zeros(6, 2), 3)
    with pytest.raises(ValueError, match=r"reward_weights must have shape \(2,\), got \(3,\)"):
        multi_twin.weighted_sum(torch.zeros(6, 2), WEIGHTS, 3, missing="zero")


# TRL -------------------------------------------------------------------------------------------


def trls(rewards=None, num_generations=G, dtype=torch.float64, **options):
    rewards = some_rewards() if rewards is None else rewards
    rewards, weights = torch.tensor(rewards, dtype=dtype), torch.tensor(WEIGHTS, dtype=dtype)
    weights = weights[: rewards.shape[1]]
    return trl_scoring.grpo(rewards, weights, num_generations, **options)["advantages"].numpy()


def ours(rewards=None, num_generations=G, scale_rewards="group", missing="zero"):
    rewards = some_rewards() if rewards is None else np.asarray(rewards, dtype=float)
    options = SETTINGS | {"scale_rewards": scale_rewards, "missing": missing}
    weights = WEIGHTS[: rewards.shape[1]]
    return multi_reward.sum_then_normalize(rewards, weights, num_generations, **options)


@pytest.mark.parametrize("scale_rewards", multi_reward.SCALE_REWARDS)
def test_sum_then_normalize_is_trls(scale_rewards):
    got = trls(scale_rewards=scale_rewards)
    np.testing.assert_allclose(ours(scale_rewards=scale_rewards), got, **EXACT)


def test_normalize_then_sum_is_trls():
    got = trls(multi_objective_aggregation="normalize_then_sum")
    expected = multi_reward.normalize_then_sum(some_rewards(), WEIGHTS, G, **SETTINGS)
    np.testing.assert_allclose(expected, got, **EXACT)


@pytest.mark.parametrize("scale_rewards", multi_reward.SCALE_REWARDS)
@pytest.mark.parametrize(
    "rewards, size",
    [
        ([[1.0], [np.nan], [np.nan]], 3),  # one row with a reward
        ([[np.nan]] * 3, 3),  # none
        ([[0.0], [1.0], [0.0], [1.0], [1.0], [1.0]], 3),  # equal rewards, exact in float32
        ([[3.0]], 1),  # in evaluation
        ([[3.0], [5.0]], 1),
    ],
)
def test_the_edge_cases_are_trls(scale_rewards, rewards, size):
    got = trls(rewards, size, training=False, scale_rewards=scale_rewards)
    expected = ours(rewards, size, scale_rewards)
    # 6 / 5 of the batch of six in float32: 6e-8
    np.testing.assert_allclose(expected, got, rtol=1e-7, atol=1e-15)


def test_the_share_of_groups_without_variance_is_what_trl_logs():
    rewards, metrics = np.repeat([[1.0], [2.0], [3.0]], 3, axis=0), {}
    rewards[0] = 5.0
    trls(rewards, metrics=metrics)
    stds = advantages.std(advantages.centered(rewards.reshape(-1, 3), axis=1), axis=1, ddof=1)
    np.testing.assert_allclose(metrics["frac_reward_zero_std"], np.mean(stds == 0), rtol=1e-6)


def test_a_truncated_completion_counts_in_the_baseline_and_nowhere_else():
    """mask_truncated_completions empties its mask: here no completion ends with the token 1."""
    rewards = torch.tensor(some_rewards())
    mask = torch.ones(len(rewards), 4)
    batch = trl_scoring.grpo(
        rewards, torch.tensor(WEIGHTS), G, completion_mask=mask, mask_truncated_completions=True
    )
    np.testing.assert_allclose(batch["advantages"], ours(), **EXACT)
    assert batch["completion_mask"].all() and batch["num_items_in_batch"] == mask.sum()


# TRL's RLOOTrainer -------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("clip", [None, (-1.0, 0.5)])
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_rloos_rewards_and_advantages_are_trls(beta, clip, normalize):
    from reference_math import rloo

    rng, rewards = np.random.default_rng(1), some_rewards()
    mask = (np.arange(5) < rng.integers(1, 6, (len(rewards), 1))).astype(float)
    logps = -rng.exponential(size=mask.shape)
    ref_logps = logps + rng.normal(size=mask.shape)
    batch = trl_scoring.rloo(
        torch.tensor(rewards),
        torch.tensor(WEIGHTS),
        G,
        per_token_logps=torch.tensor(logps),
        ref_per_token_logps=torch.tensor(ref_logps),
        completion_mask=torch.tensor(mask),
        beta=beta,
        reward_clip_range=clip,
        normalize_advantages=normalize,
    )
    total = multi_reward.weighted_sum(rewards, WEIGHTS, G, missing="zero")
    options = {"beta": beta, "reward_clip_range": clip}
    total = rloo.kl_penalized_rewards(total, logps, ref_logps, mask, **options)
    expected = advantages.leave_one_out(total, G)
    if normalize:  # over those that have a reward
        expected = advantages.whiten(np.where(np.isnan(total), np.nan, expected), **SETTINGS)
    np.testing.assert_allclose(expected, batch["advantages"], **EXACT)
    np.testing.assert_allclose((logps * mask).sum(axis=1), batch["old_logps"], **EXACT)


# Where TRL is wrong, or not what its name says -------------------------------------------------


@pytest.mark.library_defect
def test_equal_rewards_get_a_push_from_trls_float32():
    """The mean of 7 equal numbers is one rounding off, the std nearly 0, and 1e-4 no shield."""
    pushes = []
    for reward in np.random.default_rng(0).uniform(-10, 10, 100).astype(np.float32):
        rewards = np.full((7, 1), reward)
        pushes.append(np.abs(trls(rewards, 7, torch.float32)).max())
        assert not ours(rewards, 7).any()
    assert 1e-3 < max(pushes) < 1e-2  # a constant sign for the whole group


@pytest.mark.library_defect
def test_trl_scores_a_missing_reward_as_0():
    """All rivals got 5 from a function that did not look at the first. Ours can call it a tie."""
    rewards = [[1.0, np.nan], [1.0, 5.0], [1.0, 5.0]]
    got = trls(rewards)
    assert got[0] < -1.0
    np.testing.assert_allclose(ours(rewards, missing="zero"), got, **EXACT)
    assert not ours(rewards, missing="mean").any()


@pytest.mark.library_defect
def test_trl_ignores_scale_rewards_when_it_normalizes_first():
    options = {"multi_objective_aggregation": "normalize_then_sum"}
    group, none = (trls(scale_rewards=scale, **options) for scale in ("group", "none"))
    np.testing.assert_array_equal(group, none)


@pytest.mark.library_defect
def test_trls_std_of_float64_rewards_has_float32_digits():
    """count / (count - 1) of integers is a float32 in torch: 4 / 3 for a group of four."""
    rewards = np.random.default_rng(0).normal(size=(4, 1))
    departure = np.abs(trls(rewards, 4) / ours(rewards, 4) - 1.0).max()
    assert 1e-9 < departure < 6e-8
