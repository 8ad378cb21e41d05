"""Off-policy sequence masking: drop completions of negative advantage that are too off-policy.

Too off-policy: their mean log-ratio of the sampler to the policy exceeds a threshold.

Source    DeepSeek-V3.2, arXiv 2512.02556, eq. 9
Torch     reference_math.torch.off_policy     Lesson   none
Proof     tests/laws/test_off_policy.py, tests/parity/test_off_policy.py

Shapes    B completions, T tokens each.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, ratios
from reference_math._types import Array, ArrayLike


def keep_mask(
    advantages: ArrayLike,
    per_token_logps: ArrayLike,
    sampling_per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    *,
    threshold: float,
) -> Array:
    """Compute a mask: 1 where A >= 0, or where the mean of log p_sampling - log p is <= threshold.

    That mean estimates KL(sampler || policy). As a `factor` of a loss it has no gradient.

    advantages                 (B,), or (B, T)
    per_token_logps            (B, T)  of the policy as it is now
    sampling_per_token_logps   (B, T)  of the sampler; NaN where it gave none: that token adds 0
    completion_mask            (B, T)  1 = counts
    threshold                  in nats per token
    returns                    (B, 1), or (B, T) like the advantages

    >>> now, then = np.log([[0.1, 0.1]] * 2), np.log([[0.5, 0.5]] * 2)     # ln 5 = 1.6 nats apart
    >>> keep_mask([1.0, -1.0], now, then, [[1, 1]] * 2, threshold=1.0)
    array([[1.],
           [0.]])
    """
    threshold = _checks.number("threshold", threshold)
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    logps = _checks.counted("per_token_logps", per_token_logps, mask)
    sampling = _checks.array("sampling_per_token_logps", sampling_per_token_logps, shape=mask.shape)
    scored = mask * ~np.isnan(sampling)
    sampling = _checks.counted("sampling_per_token_logps", sampling, scored)
    gap = np.sum(scored * (sampling - logps), axis=1, keepdims=True) / ratios.lengths(mask)
    keep = (ratios.as_column(advantages, len(mask)) >= 0) | (gap <= threshold)
    return keep.astype(float)
