"""Estimate KL(policy || reference) per token, on any device; autograd for the gradient.

Twin of   reference_math.kl     Proof   tests/parity/test_kl.py

Shapes    (B, T) in, (B, T) out; padding included: the caller masks.
Dtypes    float64 stays; float32 and below are computed and returned in float32.
"""

import torch
from torch import Tensor

from reference_math.torch.logprobs import precision


def k1(per_token_logps: Tensor, ref_per_token_logps: Tensor) -> Tensor:
    """Estimate without bias; the estimate may be negative:   k1 = -log r = log p_policy - log p_ref."""
    return -_log_r(per_token_logps, ref_per_token_logps)


def k2(per_token_logps: Tensor, ref_per_token_logps: Tensor) -> Tensor:
    """Estimate with a bias, but never below 0:   k2 = (log r)^2 / 2."""
    return _log_r(per_token_logps, ref_per_token_logps) ** 2 / 2


def k3(per_token_logps: Tensor, ref_per_token_logps: Tensor) -> Tensor:
    """Estimate without bias and never below 0:   k3 = r - 1 - log r.

    Near r = 1 the Taylor series, as in the numpy twin: in float32 exp(x) - 1 - x keeps no digit
    of a KL below 1e-7.
    """
    log_r = _log_r(per_token_logps, ref_per_token_logps)
    near = log_r.clamp(-0.1, 0.1)  # what `where` does not choose must still be finite
    series = torch.ones_like(near)
    for n in range(11, 2, -1):
        series = 1 + near / n * series
    return torch.where(log_r.abs() < 0.1, near**2 / 2 * series, torch.expm1(log_r) - log_r)


def exact(logits: Tensor, ref_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Compute KL(policy || reference) over the whole vocabulary: (..., V) twice -> (...)."""
    if logits.shape != ref_logits.shape:
        raise ValueError(
            f"ref_logits must have shape {tuple(logits.shape)}, got {tuple(ref_logits.shape)}"
        )
    dtype = precision(logits)
    log_p = torch.log_softmax(logits.to(dtype) / temperature, dim=-1)
    log_q = torch.log_softmax(ref_logits.to(dtype) / temperature, dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _log_r(per_token_logps, ref_per_token_logps):
    if per_token_logps.shape != ref_per_token_logps.shape:
        raise ValueError(
            f"ref_per_token_logps must have shape {tuple(per_token_logps.shape)}, "
            f"got {tuple(ref_per_token_logps.shape)}"
        )
    dtype = precision(per_token_logps)
    return ref_per_token_logps.to(dtype) - per_token_logps.to(dtype)
