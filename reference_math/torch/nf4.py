"""NF4 on any device, and a linear layer that reads the packed weight.

Twin of   reference_math.nf4     Proof   tests/parity/test_nf4.py: the same bits, float32 inside

Shapes    as there: packed (ceil(n/2),) uint8, absmax (ceil(n/blocksize),) float32.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from reference_math import nf4

CODEBOOK = torch.from_numpy(nf4.CODEBOOK)
MIDPOINTS = torch.from_numpy(nf4.MIDPOINTS)


def quantize(weight: Tensor, *, blocksize: int) -> tuple[Tensor, Tensor]:
    """Compute (packed, absmax) of a weight of any shape and floating dtype."""
    _known(blocksize)
    flat = weight.detach().reshape(-1).float()
    if not flat.isfinite().all():
        raise ValueError(f"weight must be finite in float32, got shape {tuple(weight.shape)}")
    unit, absmax = normalize(flat, blocksize)
    return pack(torch.bucketize(unit, MIDPOINTS.to(unit.device))), absmax


def dequantize(
    packed: Tensor,
    absmax: Tensor,
    shape: Sequence[int],
    *,
    blocksize: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Compute codebook[index] * absmax of its block: in float32, then rounded to dtype."""
    _known(blocksize)
    n = prod(shape)
    if absmax.shape != (-(-n // blocksize),):
        raise ValueError(f"absmax must have {-(-n // blocksize)} scales, got {tuple(absmax.shape)}")
    values = CODEBOOK.to(packed.device)[unpack(packed, n).long()]
    scales = absmax.float().repeat_interleave(blocksize)[:n]
    return (values * scales).to(dtype).reshape(shape)


def linear(
    x: Tensor,
    packed: Tensor,
    absmax: Tensor,
    shape: Sequence[int],
    *,
    blocksize: int,
    bias: Tensor | None = None,
) -> Tensor:
    """Compute x W^T + bias, W dequantised from its 4 bits, in x's dtype: (..., in) -> (..., out).

    Autograd would keep the whole dequantised W for the backward pass; this reads it again there,
    so that between the passes only the packed weight is held. W and its scales get no gradient.
    """
    y = _Linear.apply(x, packed, absmax, tuple(shape), blocksize)
    return y if bias is None else y + bias


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, packed, absmax, shape, blocksize):
        ctx.save_for_backward(packed, absmax)
        ctx.stored = {"shape": shape, "blocksize": blocksize, "dtype": x.dtype}
        return x @ dequantize(packed, absmax, **ctx.stored).T

    @staticmethod
    def backward(ctx, grad_y):
        return grad_y @ dequantize(*ctx.saved_tensors, **ctx.stored), None, None, None, None


def pack(indices: Tensor) -> Tensor:
    """Store two indices 0..15 per byte, the first in the high half; an odd end is filled with 7."""
    even = torch.nn.functional.pad(indices, (0, indices.numel() % 2), value=7).to(torch.uint8)
    return even[0::2] << 4 | even[1::2]


def unpack(packed: Tensor, n: int) -> Tensor:
    """Return the first n indices."""
    if packed.shape != (-(-n // 2),):
        raise ValueError(f"packed must have {-(-n // 2)} bytes, got {tuple(packed.shape)}")
    return torch.stack([packed >> 4, packed & 15], dim=1).reshape(-1)[:n]


def normalize(flat: Tensor, blocksize: int) -> tuple[Tensor, Tensor]:
    """Divide each float32 by its block's largest magnitude, rounded as bitsandbytes rounds."""
    full = flat.numel() - flat.numel() % blocksize
    blocks, tail = flat[:full].reshape(-1, blocksize), flat[full:]
    absmax = blocks.abs().amax(dim=1)
    unit = (blocks * (1 / absmax.clamp(min=float(nf4.TINY)))[:, None]).reshape(-1)
    if tail.numel():
        scale = tail.abs().amax().clamp(min=float(nf4.TINY))
        unit, absmax = torch.cat([unit, tail / scale]), torch.cat([absmax, scale[None]])
    return unit.clamp(-1, 1), absmax


def _known(blocksize):
    if blocksize not in nf4.BLOCKSIZES:
        raise ValueError(f"blocksize must be one of {nf4.BLOCKSIZES}, got {blocksize}")
