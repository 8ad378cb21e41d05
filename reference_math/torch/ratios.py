"""Compute importance ratios, per token or per sequence, on any device; autograd for the gradient.

Twin of   reference_math.ratios     Proof   tests/parity/test_grpo.py

Shapes    B completions, T tokens each; (B, 1) at sequence level, (B, T) at the two others.
Dtypes    float64 stays; bfloat16 and float16 are lifted to float32, where a ratio saturates at e^80
          (float32 ends at e^88) instead of e^700.
"""

import torch
from torch import Tensor

from reference_math import _renamed
from reference_math.ratios import LEVELS
from reference_math.torch import _checks


def log_importance_weights(
    per_token_logps: Tensor,
    old_per_token_logps: Tensor,
    completion_mask: Tensor,
    importance_sampling_level: str,
) -> Tensor:
    """Compute the log of the importance ratio; at sequence level its mean over the tokens that count."""
    _checks.one_of("importance_sampling_level", importance_sampling_level, LEVELS)
    mask = _checks.ndim("completion_mask", completion_mask, 2)
    log_ratio = _checks.counted("per_token_logps", per_token_logps, mask)
    log_ratio = log_ratio - _checks.counted("old_per_token_logps", old_per_token_logps, mask)
    if importance_sampling_level == "token":
        return log_ratio
    s = log_ratio.sum(dim=1, keepdim=True) / lengths(mask)
    if importance_sampling_level == "sequence":
        return s
    return mask * s.detach() + (log_ratio - log_ratio.detach())


def ratio(log_weights: Tensor) -> Tensor:
    """Compute w = e^s, saturating far below the dtype's end, with no gradient beyond."""
    return log_weights.clamp(max=max_log_ratio(log_weights.dtype)).exp()


def max_log_ratio(dtype: torch.dtype) -> float:
    """Return 700 in float64, 80 in float32: a factor of thousands is left for the advantages."""
    return 700.0 if dtype == torch.float64 else 80.0


def lengths(completion_mask: Tensor) -> Tensor:
    """Count the tokens that count, (B, 1); 1 for an empty completion, where the numerator is 0."""
    return _checks.count(completion_mask, dim=1, keepdim=True).clamp(min=1)


def as_column(advantages: Tensor, rows: int) -> Tensor:
    """Reshape advantages for (B, T) tokens, in float32 at least: (B,) becomes (B, 1); (B, T) stays."""
    if advantages.ndim not in (1, 2) or len(advantages) != rows:
        raise ValueError(
            f"advantages must have shape ({rows},), one per completion, or ({rows}, T), "
            f"got {tuple(advantages.shape)}"
        )
    advantages = _checks.lifted(advantages)
    return advantages[:, None] if advantages.ndim == 1 else advantages


column = _renamed.function("column", as_column)
log_weights = _renamed.function("log_weights", log_importance_weights)
