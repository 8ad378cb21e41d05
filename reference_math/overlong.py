"""DAPO's soft overlong punishment: 0 up to a length, then linear down to -1.

    R(y) = 0                                  |y| <= L_max - L_cache
           ((L_max - L_cache) - |y|) / L_cache      up to L_max
           -1                                 |y| > L_max

Source    Yu et al., DAPO, arXiv 2503.14476, eq. 13: L_max 20480, L_cache 4096 in its runs
Lesson    none
Proof     tests/laws/test_overlong.py, tests/parity/test_overlong.py

Shapes    B completions.
TRL       get_soft_overlong_punishment, from token ids; `rewards.overlong_reward_within` is the same
          with a penalty that `rewards.combine` can weigh.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks
from reference_math._types import Array, ArrayLike


def soft_punishment(lengths: ArrayLike, *, max_length: float, cache: float) -> Array:
    """Compute the penalty for each completion's length, (B,), between -1 and 0.

    lengths      (B,)  tokens of each completion
    max_length   L_max, > 0
    cache        L_cache, between 0 and max_length; 0: the penalty is -1 beyond max_length and 0 below

    >>> soft_punishment([80, 90, 100, 101], max_length=100, cache=20)
    array([ 0. , -0.5, -1. , -1. ])
    """
    lengths = _checks.finite("lengths", lengths, ndim=1)
    max_length = _checks.number("max_length", max_length, above=0)
    cache = _checks.number("cache", cache, at_least=0, at_most=max_length)
    if not cache:
        return np.where(lengths > max_length, -1.0, 0.0)
    return np.clip((max_length - cache - lengths) / cache, -1.0, 0.0)
