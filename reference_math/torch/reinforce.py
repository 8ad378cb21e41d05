"""REINFORCE with a baseline on any device; autograd for the gradient.

Twin of   reference_math.reinforce     Proof   tests/parity/test_rloo.py

Shapes    B completions, T tokens each.
"""

from torch import Tensor

from reference_math.torch import _checks, ratios


def loss(per_token_logps: Tensor, advantages: Tensor, completion_mask: Tensor) -> Tensor:
    """Compute -1/B sum_b A_b log p(completion_b), a 0-d tensor; its value has no meaning."""
    mask = _checks.ndim("completion_mask", completion_mask, 2)
    logps = _checks.counted("per_token_logps", per_token_logps, mask)
    return -(ratios.as_column(advantages, len(mask)) * logps).sum() / max(len(mask), 1)
