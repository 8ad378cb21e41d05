"""Double quantisation: store NF4's float32 scales in 8 bits, 0.127 bits per weight instead of 0.5.

Source    Dettmers et al., "QLoRA", arXiv 2305.14314, section 3; the 8-bit values: Dettmers,
          "8-Bit Approximations for Parallelism in Deep Learning", arXiv 1511.04561
Lesson    notebooks/15_small_numbers.ipynb
Proof     tests/laws/test_double_quant.py, tests/parity/test_double_quant.py

Shapes    absmax (k,) float32, NF4's scales, one per block; they stand in groups of 256, each
          with a scale of its own, the last group shorter: g = ceil(k/256).

absmax ~ offset + DYNAMIC_MAP[code] * scale of its group      offset: the mean of all absmax
"""

from __future__ import annotations

import numpy as np

from reference_math import nf4
from reference_math._checks import finite, number, one_of, token_ids
from reference_math._types import ArrayLike, ByteArray, Float32Array

GROUP = 256


def dynamic_map() -> Float32Array:
    """Return the 256 values: more digits near ±1, more range near 0, and exactly 0 and 1.

    For i = 0..6, the midpoints of 2^i equal parts of [0.1, 1], times 10^(i-6), both signs.

    returns   (256,) float32, ascending

    >>> dynamic_map()[[0, 126, 127, 128, 255]]          # 0.55e-6 is the midpoint of i = 0
    array([-9.9296874e-01, -5.5000004e-07,  0.0000000e+00,  5.5000004e-07,
            1.0000000e+00], dtype=float32)
    """
    values = [0.0, 1.0]
    for i in range(7):
        edges = _edges(2**i)
        parts = np.float32(10.0 ** (i - 6)) * ((edges[:-1] + edges[1:]) / 2)
        values += [*parts, *-parts]
    return np.sort(np.float32(values))


def quantize(
    absmax: ArrayLike, *, rule: str, offset: float | None = None
) -> tuple[ByteArray, Float32Array, np.float32]:
    """Subtract the mean of the scales and quantise the rest to 8-bit codes.

    absmax    (k,)       rounded to float32
    rule      "nearest"  the nearest value, as the paper says and as bitsandbytes on a GPU
              "cpu"      bitsandbytes on a CPU: first onto a grid of 65536 points, then to the
                         nearest value; about one code in 700 differs
    offset    float32    None takes the mean, rounded once. torch's float32 mean depends on the
                         order of its sum: give its value to reproduce a file bit for bit.
    returns   (codes (k,) uint8, group_scale (g,) float32, offset float32)

    A group scale under 1e-38 counts as 1e-38; bitsandbytes' reciprocal overflows there.

    >>> codes, group_scale, offset = quantize([1.0, 2.0, 3.0], rule="nearest")
    >>> codes, group_scale, offset                      # -1, 0, +1 times 1 around the mean 2
    (array([  0, 127, 255], dtype=uint8), array([1.], dtype=float32), np.float32(2.0))
    """
    one_of("rule", rule, RULES)
    with np.errstate(over="ignore"):  # beyond float32: the check says so
        absmax = finite("absmax", absmax, ndim=1, dtype=np.float32)
    if not absmax.size:
        raise ValueError(f"absmax must hold at least one scale, got shape {absmax.shape}")
    offset = absmax.mean(dtype=np.float64) if offset is None else number("offset", offset)
    rest = absmax - np.float32(offset)
    group_scale = np.maximum.reduceat(np.abs(rest), np.arange(0, rest.size, GROUP))
    inverse = 1 / np.maximum(group_scale, nf4.TINY)
    unit = rest * np.repeat(inverse, GROUP)[: rest.size]
    if rule == "cpu":  # its kernel answers a group of zeros with code 0, which times 0 is 0 too
        unit[np.repeat(group_scale == 0, GROUP)[: rest.size]] = -1
    return RULES[rule](unit), group_scale, np.float32(offset)


def dequantize(codes: ArrayLike, group_scale: ArrayLike, offset: float) -> Float32Array:
    """Recover the scales: DYNAMIC_MAP[code] * group_scale + offset, in float32.

    codes     (k,) uint8        group_scale   (g,)      offset   a number
    returns   (k,) float32

    >>> dequantize([0, 127, 255], [1.0], 2.0)
    array([1.0070312, 2.       , 3.       ], dtype=float32)
    """
    codes = token_ids("codes", codes, vocab_size=256, ndim=1)
    groups = -(-codes.size // GROUP)
    group_scale = finite("group_scale", group_scale, shape=(groups,), dtype=np.float32)
    scale = np.repeat(group_scale, GROUP)[: codes.size]
    return DYNAMIC_MAP[codes] * scale + np.float32(number("offset", offset))


def nearest(unit: Float32Array) -> ByteArray:
    """Find the code of the nearest of the 256 values; a tie takes the lower one.

    unit      (k,) float32, in [-1, 1]
    returns   (k,) uint8

    >>> nearest(np.float32([-1.0, 0.0, 1.0]))
    array([  0, 127, 255], dtype=uint8)
    """
    midpoints = (DYNAMIC_MAP[:-1] + DYNAMIC_MAP[1:]) / 2
    return np.searchsorted(midpoints, unit, side="left").astype(np.uint8)


def cpu(unit: Float32Array) -> ByteArray:
    """Follow bitsandbytes' CPU kernel: `nearest` of the closest of 65536 grid points from -1 to 1.

    The grid's step is 3e-5, far wider than the 256 values are near zero.

    >>> cpu(np.float32([-1.0, 0.0, 1.0])), nearest(np.float32([0.0]))       # no grid point at 0
    (array([  0, 131, 255], dtype=uint8), array([127], dtype=uint8))
    """
    position = (unit + np.float32(1)) * np.float32(0.5) * np.float32(65535) + np.float32(0.5)
    return CPU_TABLE[position.astype(np.int64)]


def _edges(parts):
    """torch.linspace(0.1, 1, parts + 1) in float32: counted from the nearer end, rounded once."""
    low, high = np.float32(0.1), np.float32(1)
    step = np.float64((high - low) / np.float32(parts))
    i = np.arange(parts + 1)
    return np.where(i < (parts + 1) // 2, low + step * i, high - step * (parts - i)).astype("f4")


DYNAMIC_MAP = dynamic_map()
CPU_TABLE = nearest(np.arange(65536, dtype=np.float32) / np.float32(32767.5) - np.float32(1))
RULES = {"nearest": nearest, "cpu": cpu}
