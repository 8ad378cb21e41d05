"""LoRA: a frozen linear layer plus a trained low-rank update, on any device; autograd for the gradient.

Twin of   reference_math.lora     Proof   tests/parity/test_lora.py

Shapes    x (..., in); weight (out, in); lora_A (r, in); lora_B (out, r); bias (out,) or None.
"""

import torch.nn.functional as F
from torch import Tensor

from reference_math.lora import scaling

__all__ = ["delta_weight", "forward", "merge", "scaling", "unmerge"]


def delta_weight(lora_A: Tensor, lora_B: Tensor, *, scaling: float) -> Tensor:
    """Compute scaling * B A, of W's shape (out, in)."""
    _same_rank(lora_A, lora_B)
    return scaling * (lora_B @ lora_A)


def forward(
    x: Tensor,
    weight: Tensor,
    lora_A: Tensor,
    lora_B: Tensor,
    *,
    scaling: float,
    bias: Tensor | None = None,
) -> Tensor:
    """Compute y = x W^T + bias + scaling * (x A^T) B^T, (..., out).

    The two thin products, never B A itself: r (in + out) numbers instead of in * out.
    """
    _same_rank(lora_A, lora_B)
    return F.linear(x, weight, bias) + scaling * F.linear(F.linear(x, lora_A), lora_B)


def merge(weight: Tensor, lora_A: Tensor, lora_B: Tensor, *, scaling: float) -> Tensor:
    """Compute W + scaling * B A. In bfloat16 most of a small update is rounded away: merge in float32."""
    return weight + delta_weight(lora_A, lora_B, scaling=scaling)


def unmerge(merged: Tensor, lora_A: Tensor, lora_B: Tensor, *, scaling: float) -> Tensor:
    """Recover W, up to one rounding of the dtype."""
    return merged - delta_weight(lora_A, lora_B, scaling=scaling)


def _same_rank(lora_A, lora_B):
    if lora_A.ndim != 2 or lora_B.ndim != 2 or lora_A.shape[0] != lora_B.shape[1]:
        raise ValueError(
            f"lora_A must have shape (r, in) and lora_B (out, r), "
            f"got {tuple(lora_A.shape)} and {tuple(lora_B.shape)}"
        )
