"""Input validation for every public function: one clear ValueError, or a clean array.

Each check names the argument, says what it got and what it expected, and returns the argument as
an array, so that a function opens with one line per argument:

>>> logps = finite("per_token_logps", [[-0.5, -1.0]], ndim=2)
>>> mask01("completion_mask", [[1, 2]], shape=logps.shape)
Traceback (most recent call last):
    ...
ValueError: completion_mask must hold only 0 and 1 (1 = counts), got a value 2.0 in shape (1, 2)
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from reference_math._types import Array, ArrayLike, DTypeLike, IntArray, NDArray, Shape


def array(
    name: str,
    x: object,
    *,
    shape: Shape | None = None,
    ndim: int | None = None,
    dtype: DTypeLike = np.float64,
) -> NDArray[Any]:
    """Return `x` as an array of `dtype` (None keeps its own); NaN and inf pass.

    shape   an exact shape; None in it matches any length: (None, 3)
    ndim    or only the number of axes

    >>> array("rewards", [1, None]).shape
    (2,)
    """
    try:
        x = np.asarray(x, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a rectangular array of numbers: {error}") from None
    if ndim is not None and x.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes, got shape {x.shape}")
    if shape is not None and not _fits(x.shape, shape):
        raise ValueError(f"{name} must have shape {_show(shape)}, got {x.shape}")
    return x


def finite(
    name: str,
    x: object,
    *,
    shape: Shape | None = None,
    ndim: int | None = None,
    dtype: DTypeLike = np.float64,
) -> NDArray[Any]:
    """Return `array` of `x`; refuse NaN and infinity.

    >>> finite("advantages", [1.0, float("nan")])
    Traceback (most recent call last):
        ...
    ValueError: advantages must be finite, got nan at index (1,) of shape (2,)
    """
    x = array(name, x, shape=shape, ndim=ndim, dtype=dtype)
    return _nowhere(name, x, ~np.isfinite(x))


def maybe_missing(
    name: str, x: object, *, shape: Shape | None = None, ndim: int | None = None
) -> Array:
    """Return finite numbers as an array; None and NaN, which mean missing, become NaN.

    >>> maybe_missing("rewards", [1.0, None])
    array([ 1., nan])
    """
    x = array(name, x, shape=shape, ndim=ndim)
    return _nowhere(name, x, np.isinf(x))


def mask01(name: str, m: object, *, shape: Shape | None = None, ndim: int | None = None) -> Array:
    """Return a mask as float64; refuse any value but 0 and 1 (1 = counts)."""
    m = array(name, m, shape=shape, ndim=ndim)
    bad = m[(m != 0) & (m != 1)]
    if bad.size:
        raise ValueError(
            f"{name} must hold only 0 and 1 (1 = counts), got a value {bad[0]} in shape {m.shape}"
        )
    return m


def counted(name: str, x: object, mask: Array) -> Array:
    """Return `x` where the mask is 1 and 0 elsewhere; values in the padding are not read, NaN or not.

    >>> counted("per_token_logps", [[-1.0, float("nan")]], np.array([[1.0, 0.0]]))
    array([[-1.,  0.]])
    """
    x = array(name, x, shape=mask.shape)
    return finite(name, np.where(mask == 1, x, 0.0))


def counted_logits(name: str, logits: object, mask: Array) -> Array:
    """Return (B, T, V) logits, 0 where the mask (B, T) is 0; values there are not read.

    >>> mask = np.array([[1.0, 0.0]])
    >>> counted_logits("logits", [[[1.0, 2.0], [float("nan"), 0.0]]], mask).tolist()
    [[[1.0, 2.0], [0.0, 0.0]]]
    """
    logits = array(name, logits, ndim=3)
    array(name, logits, shape=(*mask.shape, None))
    return counted(name, logits, np.broadcast_to(mask[..., None], logits.shape))


def token_ids(
    name: str, ids: object, *, vocab_size: int, shape: Shape | None = None, ndim: int | None = None
) -> IntArray:
    """Return integers; refuse any outside 0 to vocab_size - 1.

    >>> token_ids("tokens", [[0, 7]], vocab_size=5)
    Traceback (most recent call last):
        ...
    ValueError: tokens must lie in 0..4 (the vocabulary has 5), got 0..7 in shape (1, 2)
    """
    ids = array(name, ids, shape=shape, ndim=ndim, dtype=None)
    if ids.dtype.kind not in "iu" and ids.size:
        raise ValueError(f"{name} must be integers, got dtype {ids.dtype} in shape {ids.shape}")
    if ids.size and (ids.min() < 0 or ids.max() >= vocab_size):
        raise ValueError(
            f"{name} must lie in 0..{vocab_size - 1} (the vocabulary has {vocab_size}), "
            f"got {ids.min()}..{ids.max()} in shape {ids.shape}"
        )
    return ids.astype(np.int64)


def same_shape(**arrays: ArrayLike) -> None:
    """Refuse arrays whose shape is not that of the first one.

    >>> same_shape(per_token_logps=np.zeros((2, 3)), ref_per_token_logps=np.zeros((2, 4)))
    Traceback (most recent call last):
        ...
    ValueError: ref_per_token_logps must have the shape of per_token_logps (2, 3), got (2, 4)
    """
    (first, x), *rest = arrays.items()
    for name, y in rest:
        if np.shape(y) != np.shape(x):
            raise ValueError(
                f"{name} must have the shape of {first} {np.shape(x)}, got {np.shape(y)}"
            )


def number(
    name: str,
    x: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> float:
    """Return one finite number as a float; refuse it outside the bounds.

    >>> number("beta", 0.0, above=0)
    Traceback (most recent call last):
        ...
    ValueError: beta must be > 0, got 0.0
    """
    value = float(finite(name, x, ndim=0))
    wants = [
        f"{sign} {bound:g}"
        for sign, bound, held in [
            (">", above, above is None or value > above),
            (">=", at_least, at_least is None or value >= at_least),
            ("<", below, below is None or value < below),
            ("<=", at_most, at_most is None or value <= at_most),
        ]
        if not held
    ]
    if wants:
        raise ValueError(f"{name} must be {wants[0]}, got {value}")
    return value


def one_of(name: str, value: Any, choices: Collection[Any]) -> Any:
    """Return `value`; refuse it if it is none of the choices.

    >>> one_of("reduction", "avg", ("mean", "sum"))
    Traceback (most recent call last):
        ...
    ValueError: reduction must be one of 'mean', 'sum', got 'avg'
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def groups(name: str, rows: int, num_generations: float) -> int:
    """Return `num_generations` as an int; refuse `rows` rows that are not whole groups of it.

    >>> groups("rewards", 6, 4)
    Traceback (most recent call last):
        ...
    ValueError: rewards must have a multiple of num_generations=4 rows, got 6
    """
    if num_generations != int(num_generations) or num_generations < 1:
        raise ValueError(f"num_generations must be an integer >= 1, got {num_generations!r}")
    if rows % num_generations:
        raise ValueError(
            f"{name} must have a multiple of num_generations={num_generations} rows, got {rows}"
        )
    return int(num_generations)


def _nowhere(name, x, bad):
    """`x`, if no entry of it is bad."""
    found = np.argwhere(bad)
    if len(found):
        at = tuple(int(i) for i in found[0])
        raise ValueError(f"{name} must be finite, got {x[at]} at index {at} of shape {x.shape}")
    return x


def _fits(shape, expected):
    return len(shape) == len(expected) and all(e in (None, n) for n, e in zip(shape, expected))


def _show(shape):
    return str(tuple(shape)).replace("None", "any")
