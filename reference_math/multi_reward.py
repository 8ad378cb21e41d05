"""Combine several reward functions into one advantage per completion.

Source    weighted_sum, sum_then_normalize   TRL's GRPOTrainer
          normalize_then_sum                 Liu et al., GDPO, arXiv 2601.05242
Torch     reference_math.torch.multi_reward     Lesson   none
Proof     tests/laws/test_multi_reward.py, tests/parity/test_advantages.py

Shapes    B completions in groups of num_generations, K reward functions.
Missing   a function that returned None or NaN for a completion. A completion that no function
          could score is missing itself: NaN in the sum, 0 in the advantages.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reference_math import _checks, advantages
from reference_math._types import Array, ArrayLike

SCALE_REWARDS = ("group", "batch", "none")


def weighted_sum(
    rewards_per_func: ArrayLike | Sequence[Sequence[float | None]],
    reward_weights: ArrayLike,
    num_generations: int,
    *,
    missing: str,
) -> Array:
    """Compute r_i = sum_k w_k R_ik, NaN for a completion that no function could score.

    rewards_per_func  (B, K)  None or NaN = missing
    reward_weights    (K,)
    missing           what a missing reward counts as:
                      "zero"  a reward of 0, as in TRL: it is penalised next to scored rivals
                      "mean"  the mean of that function in the group, so it is neutral
    returns           (B,)

    >>> rewards = [[1.0, 5.0], [0.0, None], [None, None], [0.0, 5.0]]
    >>> weighted_sum(rewards, [1.0, 1.0], 4, missing="zero")
    array([ 6.,  0., nan,  5.])
    >>> weighted_sum(rewards, [1.0, 1.0], 4, missing="mean")
    array([ 6.,  5., nan,  5.])
    """
    _checks.one_of("missing", missing, ("zero", "mean"))
    grouped, weights = _grouped(rewards_per_func, reward_weights, num_generations)
    there = ~np.isnan(grouped)
    count = np.maximum(there.sum(axis=1, keepdims=True), 1)
    mean = np.nansum(grouped, axis=1, keepdims=True) / count
    total = np.sum(weights * np.where(there, grouped, mean * (missing == "mean")), axis=2)
    return np.where(there.any(axis=2), total, np.nan).reshape(-1)


def sum_then_normalize(
    rewards_per_func: ArrayLike | Sequence[Sequence[float | None]],
    reward_weights: ArrayLike,
    num_generations: int,
    *,
    scale_rewards: str | bool,
    missing: str,
    ddof: float,
    eps: float,
) -> Array:
    """Sum the rewards, then take the advantage: the function with the largest rewards dominates.

    scale_rewards   "group", "batch" or "none": `advantages.group`, `.batch` or `.dr_grpo`
    returns         (B,)

    >>> rewards = [[1.0, 0.0], [0.0, 10.0]]                          # sums 1 and 10
    >>> options = dict(scale_rewards="group", missing="zero", ddof=0, eps=0.0)
    >>> sum_then_normalize(rewards, [1.0, 1.0], 2, **options)
    array([-1.,  1.])
    """
    _checks.one_of("scale_rewards", scale_rewards, SCALE_REWARDS)
    rewards = weighted_sum(rewards_per_func, reward_weights, num_generations, missing=missing)
    if scale_rewards == "none":
        return advantages.dr_grpo(rewards, num_generations)
    scaled = advantages.group if scale_rewards == "group" else advantages.batch
    return scaled(rewards, num_generations, ddof=ddof, eps=eps)


def normalize_then_sum(
    rewards_per_func: ArrayLike | Sequence[Sequence[float | None]],
    reward_weights: ArrayLike,
    num_generations: int,
    *,
    ddof: float,
    eps: float,
) -> Array:
    """Take each function's group advantage, then sum and whiten (GDPO): no function dominates.

    A = whiten( sum_k w_k (R_ik - mean_group R_k) / (std_group R_k + eps) )

    A missing reward adds 0 to the sum. There is no scale_rewards here, and TRL reads none either:
    with multi_objective_aggregation="normalize_then_sum" it ignores that setting in silence.
    returns   (B,)

    >>> rewards = [[1.0, 0.0], [0.0, 10.0]]                          # each function: +1 against -1
    >>> normalize_then_sum(rewards, [1.0, 1.0], 2, ddof=0, eps=0.0)
    array([0., 0.])
    >>> normalize_then_sum(rewards, [3.0, 1.0], 2, ddof=0, eps=0.0)
    array([ 1., -1.])
    """
    grouped, weights = _grouped(rewards_per_func, reward_weights, num_generations)
    deviations = advantages.centered(grouped, axis=1)
    scale = advantages.std(deviations, axis=1, ddof=ddof)
    total = np.sum(weights * advantages.standardized(deviations, scale, eps=eps), axis=2)
    total = np.where(np.isnan(grouped).all(axis=2), np.nan, total)
    return advantages.whiten(total.reshape(-1), ddof=ddof, eps=eps)


def _grouped(rewards_per_func, reward_weights, num_generations):
    rewards = _checks.maybe_missing("rewards_per_func", rewards_per_func, ndim=2)
    weights = _checks.finite("reward_weights", reward_weights, shape=rewards.shape[1:])
    num_generations = _checks.groups("rewards_per_func", len(rewards), num_generations)
    return rewards.reshape(-1, num_generations, len(weights)), weights
