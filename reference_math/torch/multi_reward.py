"""Combine several reward functions into one advantage per completion, on any device.

Twin of   reference_math.multi_reward     Proof   tests/parity/test_advantages.py

Shapes    B completions in groups of num_generations, K reward functions; NaN = missing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from reference_math.multi_reward import SCALE_REWARDS
from reference_math.torch import _checks, advantages
from reference_math.torch.logprobs import precision


def weighted_sum(
    rewards_per_func: Tensor,
    reward_weights: Tensor | Sequence[float],
    num_generations: int,
    *,
    missing: str,
) -> Tensor:
    """Compute r_i = sum_k w_k R_ik, NaN where no function could score.  (B, K) -> (B,)"""
    _checks.one_of("missing", missing, ("zero", "mean"))
    grouped, weights = _grouped(rewards_per_func, reward_weights, num_generations)
    there = ~grouped.isnan()
    count = there.sum(dim=1, keepdim=True).clamp(min=1)
    mean = grouped.nansum(dim=1, keepdim=True) / count
    total = (weights * torch.where(there, grouped, mean * (missing == "mean"))).sum(dim=2)
    return torch.where(there.any(dim=2), total, torch.nan).reshape(-1)


def sum_then_normalize(
    rewards_per_func: Tensor,
    reward_weights: Tensor | Sequence[float],
    num_generations: int,
    *,
    scale_rewards: str | bool,
    missing: str,
    ddof: float,
    eps: float,
) -> Tensor:
    """Sum to one reward per completion, then take its advantage."""
    _checks.one_of("scale_rewards", scale_rewards, SCALE_REWARDS)
    rewards = weighted_sum(rewards_per_func, reward_weights, num_generations, missing=missing)
    if scale_rewards == "none":
        return advantages.dr_grpo(rewards, num_generations)
    scaled = advantages.group if scale_rewards == "group" else advantages.batch
    return scaled(rewards, num_generations, ddof=ddof, eps=eps)


def normalize_then_sum(
    rewards_per_func: Tensor,
    reward_weights: Tensor | Sequence[float],
    num_generations: int,
    *,
    ddof: float,
    eps: float,
) -> Tensor:
    """Take each function's group advantage, then sum and whiten (GDPO)."""
    grouped, weights = _grouped(rewards_per_func, reward_weights, num_generations)
    deviations = advantages.centered(grouped, axis=1)
    scale = advantages.std(deviations, axis=1, ddof=ddof)
    total = (weights * advantages.standardized(deviations, scale, eps=eps)).sum(dim=2)
    total = torch.where(grouped.isnan().all(dim=2), torch.nan, total)
    return advantages.whiten(total.reshape(-1), ddof=ddof, eps=eps)


def _grouped(rewards_per_func, reward_weights, num_generations):
    rewards = _checks.ndim("rewards_per_func", rewards_per_func, 2)
    rewards = rewards.to(precision(rewards))
    weights = torch.as_tensor(reward_weights, dtype=rewards.dtype, device=rewards.device)
    if weights.shape != rewards.shape[1:]:
        expected, got = tuple(rewards.shape[1:]), tuple(weights.shape)
        raise ValueError(f"reward_weights must have shape {expected}, got {got}")
    num_generations = _checks.groups("rewards_per_func", len(rewards), num_generations)
    return rewards.reshape(-1, num_generations, len(weights)), weights
