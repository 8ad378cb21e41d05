"""Compute advantages on any device.

Twin of   reference_math.advantages     Proof   tests/parity/test_advantages.py

Shapes    B completions in prompt-major groups of num_generations; NaN = a missing reward.
Dtypes    float64 stays; everything else is computed in float32. Equal rewards give exact zeros.
"""

import torch
from torch import Tensor

from reference_math.torch import _checks
from reference_math.torch.logprobs import precision


def group(rewards: Tensor, num_generations: int, *, ddof: float, eps: float) -> Tensor:
    """Compute GRPO's advantage: (reward - group's mean) / (group's std + eps).  (B,) -> (B,)"""
    deviations = centered(_grouped(rewards, num_generations), axis=1)
    return standardized(deviations, std(deviations, axis=1, ddof=ddof), eps=eps).reshape(-1)


def batch(rewards: Tensor, num_generations: int, *, ddof: float, eps: float) -> Tensor:
    """Compute the reward minus the group's mean, divided by the std of all rewards of the batch."""
    grouped = _grouped(rewards, num_generations)
    scale = std(centered(grouped, axis=None), axis=None, ddof=ddof)
    return standardized(centered(grouped, axis=1), scale, eps=eps).reshape(-1)


def dr_grpo(rewards: Tensor, num_generations: int) -> Tensor:
    """Compute Dr. GRPO's advantage: the reward minus the group's mean, without a std."""
    return centered(_grouped(rewards, num_generations), axis=1).nan_to_num().reshape(-1)


def leave_one_out(rewards: Tensor, num_generations: int) -> Tensor:
    """Compute RLOO's advantage: the reward minus the mean of the others."""
    deviations = centered(_grouped(rewards, num_generations), axis=1)
    n = (~deviations.isnan()).sum(dim=1, keepdim=True)
    return (deviations * n / (n - 1).clamp(min=1)).nan_to_num().reshape(-1)


def leave_one_out_scaled(
    rewards: Tensor, num_generations: int, *, ddof: float, eps: float
) -> Tensor:
    """Compute NeMo-RL's advantage: the reward minus the others' mean, divided by the others' std."""
    grouped, eps = _grouped(rewards, num_generations), _checks.number("eps", eps, at_least=0)
    own = torch.eye(num_generations, dtype=torch.bool, device=grouped.device)
    others = grouped[:, None].masked_fill(own, torch.nan)  # (P, G, G): row i holds all but i
    scale = std(centered(others, axis=2), axis=2, ddof=ddof).reshape(-1)
    baselined = leave_one_out(rewards, num_generations)
    return torch.where(scale > 0, baselined / (scale + eps), baselined)


def whiten(values: Tensor, *, ddof: float, eps: float) -> Tensor:
    """Compute REINFORCE++'s advantage: mean 0 and std 1 over the whole batch, all prompts together."""
    deviations = centered(_rewards("values", values), axis=None)
    return standardized(deviations, std(deviations, axis=None, ddof=ddof), eps=eps)


def informative(rewards: Tensor, num_generations: int) -> Tensor:
    """Mark with 1 the completions of the groups whose rewards differ: DAPO's dynamic sampling keeps these."""
    deviations = centered(_grouped(rewards, num_generations), axis=1)
    differ = (deviations.nan_to_num() != 0).any(dim=1, keepdim=True)
    return (differ & ~deviations.isnan()).to(deviations.dtype).reshape(-1)


def centered(x: Tensor, axis: int | None) -> Tensor:
    """Subtract the mean of the values that are not missing; NaN stays NaN; equal values give exact zeros."""
    if x.numel() == 0:
        return x
    dims = tuple(range(x.ndim)) if axis is None else axis
    x = x - x.masked_fill(x.isnan(), torch.inf).amin(dim=dims, keepdim=True)
    count = (~x.isnan()).sum(dim=dims, keepdim=True)
    return x - x.nansum(dim=dims, keepdim=True) / count.clamp(min=1)


def std(deviations: Tensor, axis: int | None, *, ddof: float) -> Tensor:
    """Compute the std of deviations that are not missing; 0 for one value alone, whatever ddof."""
    ddof = _checks.number("ddof", ddof, at_least=0, at_most=1)
    dims = tuple(range(deviations.ndim)) if axis is None else axis
    count = (~deviations.isnan()).sum(dim=dims, keepdim=True)
    squares = deviations.square().nansum(dim=dims, keepdim=True)
    return (squares / (count - ddof).clamp(min=1)).sqrt()


def standardized(deviations: Tensor, scale: Tensor, *, eps: float) -> Tensor:
    """Compute deviations / (scale + eps); 0 where the deviation is 0 or missing, even at 0 / 0."""
    scale = scale + _checks.number("eps", eps, at_least=0)
    deviations = deviations.nan_to_num()
    return torch.where(deviations == 0, deviations, deviations / scale)


def _rewards(name, rewards):
    return _checks.ndim(name, rewards, 1).to(precision(rewards))


def _grouped(rewards, num_generations):
    rewards = _rewards("rewards", rewards)
    return rewards.reshape(-1, _checks.groups("rewards", len(rewards), num_generations))
