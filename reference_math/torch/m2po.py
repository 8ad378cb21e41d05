"""M2PO's mask on any device; the mask has no gradient.

Twin of   reference_math.m2po     Proof   tests/parity/test_m2po.py

Shapes    B completions, T tokens each.
"""

import torch
from torch import Tensor

from reference_math.m2po import CONSTRAINED
from reference_math.torch import _checks, ratios


@torch.no_grad()
def keep_mask(
    per_token_logps: Tensor,
    old_per_token_logps: Tensor,
    advantages: Tensor,
    completion_mask: Tensor,
    *,
    threshold: float,
    constrained: str,
) -> Tensor:
    """Compute a mask (B, T): 0 where a token is left out; see the numpy twin for the arguments."""
    threshold = _checks.number("threshold", threshold, at_least=0)
    _checks.one_of("constrained", constrained, CONSTRAINED)
    s = ratios.log_importance_weights(
        per_token_logps, old_per_token_logps, completion_mask, "token"
    )
    within = completion_mask == 1
    if constrained == "trust_region":
        within = within & (ratios.as_column(advantages, len(s)) * s > 0)
    moved = torch.where(within, s.double() ** 2, -1.0).ravel()  # what is not in T comes last
    order = moved.argsort(descending=True, stable=True)
    candidates = within.sum()
    places = torch.arange(len(order), device=order.device)
    counted = torch.where(places < candidates, moved[order], 0.0)
    left = (candidates - places).clamp(min=1)  # how many remain, from each on
    mean = counted.flip(0).cumsum(0).flip(0) / left
    out = (places < candidates) & (mean > threshold)
    keep = torch.ones_like(s).ravel()
    keep[order] = torch.where(out, 0.0, 1.0).to(keep.dtype)
    return keep.view_as(s)
