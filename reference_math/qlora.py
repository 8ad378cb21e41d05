"""QLoRA: a LoRA layer whose frozen weight is stored in NF4.

Source    Dettmers et al., "QLoRA", arXiv 2305.14314, equations 5 and 6
Torch     reference_math.torch.nf4.linear, reference_math.torch.lora
Lesson    none
Proof     tests/laws/test_qlora.py, tests/parity/test_qlora.py

Shapes    as in lora.py and nf4.py; `shape` is the weight's (out, in). Where the scales are
          stored in 8 bits, `absmax` is double_quant.dequantize(...).

y = x dequantize(packed, absmax)^T + scaling * (x A^T) B^T
"""

from __future__ import annotations

from reference_math import lora, nf4
from reference_math._types import Array, ArrayLike, ByteArray, Float32Array


def forward(
    x: ArrayLike,
    packed: ArrayLike,
    absmax: ArrayLike,
    lora_A: ArrayLike,
    lora_B: ArrayLike,
    *,
    shape: tuple[int, int],
    blocksize: int,
    scaling: float,
    bias: ArrayLike | None = None,
) -> Array:
    """Dequantise the 4-bit weight, then compute LoRA's forward.

    x         (..., in)      returns   (..., out)

    >>> packed, absmax = nf4.quantize([[2.0, -2.0]], blocksize=64)
    >>> forward([1.0, 0.5], packed, absmax, [[1.0, 2.0]], [[3.0]],
    ...         shape=(1, 2), blocksize=64, scaling=1.0)        # (2 - 1) + 3 * (1 + 1)
    array([7.])
    """
    weight = _weight(packed, absmax, shape, blocksize)
    return lora.forward(x, weight, lora_A, lora_B, scaling=scaling, bias=bias)


def forward_grad(
    x: ArrayLike,
    packed: ArrayLike,
    absmax: ArrayLike,
    lora_A: ArrayLike,
    lora_B: ArrayLike,
    grad_y: ArrayLike,
    *,
    shape: tuple[int, int],
    blocksize: int,
    scaling: float,
) -> tuple[Array, Array, Array]:
    """Compute the gradients of `forward` to x, A and B. The 4-bit weight gets none, yet grad_x goes
    through its values: the layers below learn what the stored weight does, not the original.

    grad_y    (..., out)
    returns   (grad_x (..., in), grad_A (r, in), grad_B (out, r))

    >>> packed, absmax = nf4.quantize([[2.0, -2.0]], blocksize=64)
    >>> grad_x, *_ = forward_grad([1.0, 0.5], packed, absmax, [[1.0, 2.0]], [[3.0]], [1.0],
    ...                           shape=(1, 2), blocksize=64, scaling=1.0)
    >>> grad_x                                          # W + B A = (2 + 3, -2 + 6)
    array([5., 4.])
    """
    weight = _weight(packed, absmax, shape, blocksize)
    return lora.forward_grad(x, weight, lora_A, lora_B, grad_y, scaling=scaling)


def merge(
    packed: ArrayLike,
    absmax: ArrayLike,
    lora_A: ArrayLike,
    lora_B: ArrayLike,
    *,
    shape: tuple[int, int],
    blocksize: int,
    scaling: float,
) -> tuple[ByteArray, Float32Array]:
    """Add the update and quantise the sum again: the result is not the layer that was trained.

    The second rounding is as coarse as the first, so an update smaller than half a step of the
    codebook is lost; and `merge` with -scaling does not bring the first weight back. Merge into
    the unquantised weight (lora.merge) where you have it.

    returns   (packed, absmax) as nf4.quantize

    >>> packed, absmax = nf4.quantize([[2.0, -2.0]], blocksize=64)
    >>> packed, absmax = merge(packed, absmax, [[1.0, 2.0]], [[3.0]],
    ...                        shape=(1, 2), blocksize=64, scaling=1.0)
    >>> nf4.dequantize(packed, absmax, (1, 2), blocksize=64)        # (5, 4) went in
    array([[5.       , 3.6147842]], dtype=float32)
    """
    merged = lora.merge(_weight(packed, absmax, shape, blocksize), lora_A, lora_B, scaling=scaling)
    return nf4.quantize(merged, blocksize=blocksize)


def _weight(packed, absmax, shape, blocksize):
    if len(shape) != 2:
        raise ValueError(f"shape must be (out, in), got {shape}")
    return nf4.dequantize(packed, absmax, shape, blocksize=blocksize)
