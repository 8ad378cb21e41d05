"""NF4: a weight as 4-bit indices into 16 fixed values, with one float32 scale per block.

Source    Dettmers et al., "QLoRA", arXiv 2305.14314, section 3 and appendix E (the 16 values)
Torch     reference_math.torch.nf4     Lesson   notebooks/04_before_and_after.ipynb
Proof     tests/laws/test_nf4.py, tests/parity/test_nf4.py: every bit equals bitsandbytes'

Shapes    weight any shape, read row by row (C order) as n values; blocks of `blocksize` of them,
          the last one shorter; ceil(n/2) packed bytes; ceil(n/blocksize) scales `absmax`.
Floats    The format is defined in float32, so a weight is rounded to float32 first, and each
          step rounds as bitsandbytes' CPU kernel does. Gradients: qlora.py.
"""

from __future__ import annotations

import numpy as np

from reference_math._checks import array, finite, one_of
from reference_math._types import ArrayLike, ByteArray, Float32Array

CODEBOOK = np.array(
    # 7 quantiles of a normal below zero, 0, and 8 above, scaled to [-1, 1]; 0 has to be exact
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453]
    + [-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0]
    + [0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224]
    + [0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0],
    dtype=np.float32,
)
MIDPOINTS = (CODEBOOK[:-1] + CODEBOOK[1:]) / 2
BLOCKSIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
TINY = np.float32(1e-38)  # bitsandbytes' floor under a scale before it divides


def quantize(weight: ArrayLike, *, blocksize: int) -> tuple[ByteArray, Float32Array]:
    """Find the nearest codebook value of each weight divided by its block's largest magnitude.

    weight    any shape   rounded to float32
    returns   (packed (ceil(n/2),) uint8, absmax (ceil(n/blocksize),) float32)

    A tie between two values takes the lower one. A block of zeros stays exactly zero.
    In bitsandbytes a NaN or inf spoils its whole block without an error; here it is a ValueError.

    >>> packed, absmax = quantize([2.0, -2.0, 0.0], blocksize=64)
    >>> [f"{byte:02x}" for byte in packed], absmax      # 1 is index 15 = f, -1 is 0, 0 is 7
    (['f0', '77'], array([2.], dtype=float32))
    """
    one_of("blocksize", blocksize, BLOCKSIZES)
    with np.errstate(over="ignore"):  # beyond float32: the check below says so
        flat = finite("weight", weight, dtype=np.float32).ravel()
    unit, absmax = normalize(flat, blocksize)
    return pack(np.searchsorted(MIDPOINTS, unit, side="left")), absmax  # left: a tie goes down


def dequantize(
    packed: ArrayLike, absmax: ArrayLike, shape: tuple[int, int], *, blocksize: int
) -> Float32Array:
    """Compute codebook[index] * absmax of its block, in float32.

    packed    (ceil(n/2),) uint8        absmax    (ceil(n/blocksize),) float32
    shape     of the weight, with n entries
    returns   shape, float32

    >>> dequantize([0xF0, 0x77], [2.0], (3,), blocksize=64)
    array([ 2., -2.,  0.], dtype=float32)
    """
    one_of("blocksize", blocksize, BLOCKSIZES)
    n = int(np.prod(shape))
    values = CODEBOOK[unpack(packed, n)]
    absmax = finite("absmax", absmax, shape=(-(-n // blocksize),), dtype=np.float32)
    return (values * np.repeat(absmax, blocksize)[:n]).reshape(shape)


def pack(indices: ArrayLike) -> ByteArray:
    """Store two indices per byte, the first in the high half; an odd end is filled with 7, i.e. 0.0.

    indices   (n,) integers 0..15
    returns   (ceil(n/2),) uint8

    >>> [f"{byte:02x}" for byte in pack([1, 2, 3])]
    ['12', '37']
    """
    indices = array("indices", indices, ndim=1, dtype=None)
    if indices.size and not (0 <= indices.min() and indices.max() <= 15):
        raise ValueError(
            f"indices must lie in 0..15, got {indices.min()}..{indices.max()} in {indices.shape}"
        )
    even = np.append(indices, [7] * (indices.size % 2)).astype(np.uint8)
    return even[0::2] << 4 | even[1::2]


def unpack(packed: ArrayLike, n: int) -> ByteArray:
    """Return the first n indices that `pack` stored.

    packed    (ceil(n/2),) uint8
    returns   (n,) uint8

    >>> unpack([0x12, 0x37], 3)
    array([1, 2, 3], dtype=uint8)
    """
    packed = array("packed", packed, shape=(-(-n // 2),), dtype=None).astype(np.uint8)
    return np.stack([packed >> 4, packed & 15], axis=1).ravel()[:n]


def normalize(flat: Float32Array, blocksize: int) -> tuple[Float32Array, Float32Array]:
    """Divide each float32 by its block's largest magnitude, and return those magnitudes too.

    flat      (n,) float32
    returns   (unit (n,) in [-1, 1], absmax (ceil(n/blocksize),))

    bitsandbytes multiplies a full block by the reciprocal, rounded to float32, and divides the
    short last block truly. The two differ in the last bit, and a bit can decide an index.

    >>> normalize(np.float32([1, -4]), 64)
    (array([ 0.25, -1.  ], dtype=float32), array([4.], dtype=float32))
    """
    full = flat.size - flat.size % blocksize
    blocks, tail = flat[:full].reshape(-1, blocksize), flat[full:]
    absmax = np.abs(blocks).max(axis=1)  # a zero block keeps the scale 0
    unit = (blocks * (1 / np.maximum(absmax, TINY))[:, None]).ravel()
    if tail.size:
        scale = np.maximum(np.abs(tail).max(), TINY)  # here the floor is stored as well
        unit, absmax = np.append(unit, tail / scale), np.append(absmax, scale)
    return unit, absmax
