"""Off-policy sequence masking on any device; the mask has no gradient.

Twin of   reference_math.off_policy     Proof   tests/parity/test_off_policy.py

Shapes    B completions, T tokens each.
"""

import torch
from torch import Tensor

from reference_math.torch import _checks, ratios


@torch.no_grad()
def keep_mask(
    advantages: Tensor,
    per_token_logps: Tensor,
    sampling_per_token_logps: Tensor,
    completion_mask: Tensor,
    *,
    threshold: float,
) -> Tensor:
    """Mark 1 where A >= 0, or where the mean of log p_sampling - log p is <= threshold.  (B, 1) or (B, T)"""
    threshold = _checks.number("threshold", threshold)
    mask = _checks.ndim("completion_mask", completion_mask, 2)
    scored = mask * ~sampling_per_token_logps.isnan()
    gap = _checks.counted("sampling_per_token_logps", sampling_per_token_logps, scored)
    gap = gap - _checks.counted("per_token_logps", per_token_logps, scored)
    gap = gap.sum(dim=1, keepdim=True) / ratios.lengths(mask)
    keep = (ratios.as_column(advantages, len(mask)) >= 0) | (gap <= threshold)
    return keep.to(gap.dtype)
