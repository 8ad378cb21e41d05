"""Correct for a separate sampler, on any device; the ratio has no gradient.

Twin of   reference_math.importance_sampling     Proof   tests/parity/test_importance_sampling.py

Shapes    B completions, T tokens each.
"""

import math

import torch
from torch import Tensor

from reference_math.importance_sampling import GEOMETRIC, MODES
from reference_math.torch import _checks, ratios


@torch.no_grad()
def ratio(
    old_per_token_logps: Tensor,
    sampling_per_token_logps: Tensor,
    completion_mask: Tensor,
    *,
    mode: str,
    clip_min: float | None,
    clip_max: float | None,
) -> Tensor:
    """Compute p_old / p_sampling within bounds: (B, T) with 1 on padding, or (B, 1) per completion."""
    level, outside = _checks.one_of("mode", mode, MODES + GEOMETRIC).split("_")
    mask = _checks.ndim("completion_mask", completion_mask, 2)
    low = -math.inf if clip_min is None else _checks.number("clip_min", clip_min)
    high = math.inf if clip_max is None else _checks.number("clip_max", clip_max, at_least=low)
    scored = mask * ~sampling_per_token_logps.isnan()
    log_rho = _checks.counted("old_per_token_logps", old_per_token_logps, scored)
    log_rho = log_rho - _checks.counted(
        "sampling_per_token_logps", sampling_per_token_logps, scored
    )
    of_tokens = ratios.ratio(log_rho)
    if level != "token":
        log_rho = log_rho.sum(dim=1, keepdim=True)
    rho = ratios.ratio(log_rho / ratios.lengths(mask) if level == "geometric" else log_rho)
    inside = (low <= rho) & (rho <= high)
    if outside == "truncate":
        bounded = rho.clamp(low, high)
    else:
        bounded = torch.where(inside, of_tokens if outside == "gate" else rho, 0.0)
    whole = level != "token" and outside != "gate"
    return bounded if whole else bounded.masked_fill(mask == 0, 1.0)
