"""Names for the types of arguments and results. A list, nested lists or a number is `ArrayLike` too."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = [
    "Array",
    "ArrayLike",
    "BoolArray",
    "ByteArray",
    "DTypeLike",
    "Float32Array",
    "IntArray",
    "NDArray",
    "Rewards",
    "Shape",
]

Array = NDArray[np.float64]
Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]
ByteArray = NDArray[np.uint8]
BoolArray = NDArray[np.bool_]
Rewards = ArrayLike | Sequence[float | None]  # None or NaN: a missing reward
Shape = tuple[int | None, ...]  # None: any length
