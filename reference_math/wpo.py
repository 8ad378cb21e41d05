"""WPO: weighted preference optimisation; pairs that are likely under the policy count more.

    w(y) = exp( mean_t (log p_t - log sum_v p_v^2) )        weight of a pair = sg[w(chosen) w(rejected)]

Source    Zhou et al., arXiv 2406.11827, eq. 2
Lesson    none
Proof     tests/laws/test_wpo.py, tests/parity/test_dpo.py

Shapes    B pairs, T positions.  In (2B, T) the B chosen rows stand first, then the B rejected.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks
from reference_math._types import Array, ArrayLike


def pair_weights(
    per_token_logps: ArrayLike, log_sum_sq_probs: ArrayLike, completion_mask: ArrayLike
) -> Array:
    """Compute the weight of each pair's loss; a constant without gradient.

    Dividing by sum p^2 (the chance that two draws agree) keeps flat distributions from getting low
    weights; a uniform policy's own tokens weigh 1.

    per_token_logps    (2B, T)
    log_sum_sq_probs   (2B, T)  `logprobs.log_sum_sq_probs` at the same positions
    completion_mask    (2B, T)
    returns            (B,)     an empty answer's factor is 1

    >>> pair_weights(np.log([[0.5], [0.25]]), np.log([[0.5], [0.5]]), [[1], [1]])   # 1 x 1/2
    array([0.5])
    """
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    logps = _checks.counted("per_token_logps", per_token_logps, mask)
    normaliser = _checks.counted("log_sum_sq_probs", log_sum_sq_probs, mask)
    if len(mask) % 2:
        raise ValueError(f"completion_mask must have 2B rows, B chosen first, got {mask.shape}")
    mean = (logps - normaliser).sum(axis=1) / mask.sum(axis=1).clip(min=1.0)
    return np.exp(np.add(*np.split(mean, 2)))
