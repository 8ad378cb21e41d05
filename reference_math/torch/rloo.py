"""RLOO on any device; autograd for the gradient.

Twin of   reference_math.rloo     Proof   tests/parity/test_rloo.py

Shapes    B completions, T tokens each.
"""

from typing import Any

import torch
from torch import Tensor

from reference_math import _renamed
from reference_math.torch import _checks, grpo


@torch.no_grad()
def kl_penalized_rewards(
    rewards: Tensor,
    old_per_token_logps: Tensor,
    ref_per_token_logps: Tensor,
    completion_mask: Tensor,
    *,
    beta: float,
    reward_clip_range: tuple[float, float] | None = None,
) -> Tensor:
    """Compute r - beta sum_t (log p_old - log p_ref), (B,); a missing reward stays NaN."""
    beta = _checks.number("beta", beta, at_least=0)
    mask = _checks.ndim("completion_mask", completion_mask, 2)
    if rewards.shape != mask.shape[:1]:
        raise ValueError(f"rewards must have shape ({len(mask)},), got {tuple(rewards.shape)}")
    rewards = _checks.lifted(rewards)
    if reward_clip_range is not None:
        rewards = rewards.clamp(*reward_clip_range)
    gap = _checks.counted("old_per_token_logps", old_per_token_logps, mask)
    gap = gap - _checks.counted("ref_per_token_logps", ref_per_token_logps, mask)
    return rewards - beta * gap.sum(dim=1)


def loss(
    per_token_logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    completion_mask: Tensor,
    *,
    epsilon_low: float,
    epsilon_high: float,
) -> Tensor:
    """Compute the loss of one batch, a 0-d tensor; old_logps (B,) are of whole completions."""
    mask = _checks.ndim("completion_mask", completion_mask, 2)
    logps = _checks.counted("per_token_logps", per_token_logps, mask).sum(dim=1)
    if old_logps.shape != logps.shape:
        raise ValueError(
            f"old_logps must have shape {tuple(logps.shape)}, got {tuple(old_logps.shape)}"
        )
    clip: dict[str, Any] = {"epsilon_low": epsilon_low, "epsilon_high": epsilon_high, "delta": None}
    c = grpo.per_token_loss((logps - old_logps)[:, None], advantages, **clip)
    return c.sum() / max(len(mask), 1)


penalized_rewards = _renamed.function("penalized_rewards", kl_penalized_rewards)
