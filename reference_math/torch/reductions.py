"""Reduce per-token losses to one number, on any device.

Twin of   reference_math.reductions     Proof   tests/parity/test_grpo.py

Shapes    B completions of a micro-batch, T tokens each.
"""

import torch
from torch import Tensor

from reference_math.reductions import REDUCTIONS
from reference_math.torch import _checks, ratios


def token_weights(
    completion_mask: Tensor,
    *,
    reduction: str,
    max_completion_length: int | None = None,
    tokens_per_micro_batch: Tensor | float | None = None,
    num_generations: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Compute the weight of each token in the loss of one micro-batch, (B, T); see the numpy twin."""
    _checks.one_of("reduction", reduction, REDUCTIONS)
    mask = _checks.ndim("completion_mask", completion_mask, 2).to(dtype)
    rows = max(len(mask), 1)
    if reduction == "grpo":
        return mask / (rows * ratios.lengths(mask))
    if reduction == "bnpo":
        return mask / mask.sum().clamp(min=1)
    if reduction == "dr_grpo":
        return mask / (rows * _needed(mask, reduction, max_completion_length=max_completion_length))
    if reduction == "dapo":
        return mask / _needed(mask, reduction, tokens_per_micro_batch=tokens_per_micro_batch)
    if reduction == "prompt_mean":
        _needed(mask, reduction, num_generations=num_generations)
        group = _checks.groups("completion_mask", len(mask), num_generations or 0)
        n = mask.sum(dim=1).reshape(-1, group).sum(dim=1).clamp(min=1)
        return mask * group / (rows * n.repeat_interleave(group)[:, None])
    return mask / rows


def reduce(
    per_token_loss: Tensor,
    completion_mask: Tensor,
    *,
    reduction: str,
    max_completion_length: int | None = None,
    tokens_per_micro_batch: Tensor | float | None = None,
    num_generations: int | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Compute the weighted sum of the per-token losses, a 0-d tensor; padding is never read."""
    weights = token_weights(
        completion_mask,
        reduction=reduction,
        max_completion_length=max_completion_length,
        tokens_per_micro_batch=tokens_per_micro_batch,
        num_generations=num_generations,
        dtype=_checks.precision(per_token_loss) if dtype is None else dtype,
    )
    if per_token_loss.shape not in (weights.shape, (len(weights), 1)):
        raise ValueError(
            f"per_token_loss must have shape {tuple(weights.shape)} or ({len(weights)}, 1), "
            f"got {tuple(per_token_loss.shape)}"
        )
    return (weights * per_token_loss.masked_fill(weights == 0, 0.0)).sum()


def _needed(mask, reduction, **option):
    ((name, value),) = option.items()
    if value is None:
        raise ValueError(f"reduction {reduction!r} needs {name}, got None")
    value = torch.as_tensor(value, dtype=mask.dtype, device=mask.device)
    return value.masked_fill(value == 0, 1.0)  # 0 tokens: nothing to divide
