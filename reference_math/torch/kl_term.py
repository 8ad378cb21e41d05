"""The KL term of the GRPO family on any device; autograd for the gradient.

Twin of   reference_math.kl_term     Proof   tests/parity/test_grpo.py

Shapes    (B, T) log-probabilities in float32 or float64; log_weights (B, T), (B, 1) or 0.0.
"""

import math

import torch
from torch import Tensor

from reference_math.torch import kl, ratios


def per_token_kl(
    per_token_logps: Tensor, ref_per_token_logps: Tensor, log_weights: Tensor | float
) -> Tensor:
    """Compute w k3; the exponents are added first, e^(s + d) - w (1 + d), where d is large."""
    d = ref_per_token_logps - per_token_logps
    s = torch.as_tensor(log_weights, dtype=d.dtype, device=d.device)
    w, top = ratios.ratio(s), ratios.max_log_ratio(d.dtype)
    limit = math.exp(top)
    near = w * kl.k3(-d.clamp(max=1.0), torch.zeros_like(d))  # k3 of d, where d < 1
    far = torch.where(s + d < top, ratios.ratio(s + d) - w * (1 + d), limit)
    return torch.where(d < 1, near, far).clamp(max=limit)
