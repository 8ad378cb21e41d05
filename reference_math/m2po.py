"""M2PO: leave out the tokens that have moved furthest, until the others have moved little on average.

    keep = 0 for the tokens of the greatest (log w)^2, until the mean of it over the rest of T is <= threshold

    T    all tokens that count, or those that PPO's clip could stop: A > 0 and w > 1, or A < 0 and w < 1
    w    p / p_old

Source    Zheng et al., Prosperity before Collapse, arXiv 2510.01161, algorithm 1 (threshold 0.04)
Torch     reference_math.torch.m2po     Lesson   none
Proof     tests/laws/test_m2po.py, tests/parity/test_m2po.py

Shapes    B completions, T tokens each.    Natural logs.
Use       as `factor` of `grpo.loss` without a clip, epsilon_low and epsilon_high inf, and reduction "bnpo" or
          "dapo": a token that is left out stays in the count.  It has no gradient.

A clip judges each token alone.  The bound on the mean of (log w)^2 is one for the batch: on data that is
many updates old, a clip of 0.2 stops the unlikely tokens, which teach most; this stops a few outliers.

AReaL     m2_threshold takes all tokens, and the ratio of the old policy to the sampler.  It keeps one token
          whatever its distance, and goes on at a mean equal to the threshold.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, ratios
from reference_math._types import Array, ArrayLike

CONSTRAINED = ("trust_region", "all")


def keep_mask(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    advantages: ArrayLike,
    completion_mask: ArrayLike,
    *,
    threshold: float,
    constrained: str,
) -> Array:
    """Compute a mask: 0 where a token is left out, 1 elsewhere, the padding included.

    per_token_logps       (B, T)  log-probability of each sampled token under the policy
    old_per_token_logps   (B, T)  under the policy that sampled it
    advantages            (B,), or (B, T) for one per token
    completion_mask       (B, T)  1 = counts
    threshold             >= 0, of the mean of (log w)^2
    constrained           "trust_region" (the paper) or "all" (AReaL): which tokens are T
    returns               (B, T)  of equal tokens, the earlier is left out first

    >>> logps, old = np.array([[-1.0, -1.0, -1.0]]), np.array([[-1.5, -1.1, -0.1]])
    >>> args = logps, old, [1.0], [[1, 1, 1]]
    >>> keep_mask(*args, threshold=0.04, constrained="trust_region")   # 0.25 goes; down, A > 0: not in T
    array([[0., 1., 1.]])
    >>> keep_mask(*args, threshold=0.2, constrained="all")             # 0.81 goes; the mean of the rest 0.13
    array([[1., 1., 0.]])
    """
    threshold = _checks.number("threshold", threshold, at_least=0)
    _checks.one_of("constrained", constrained, CONSTRAINED)
    tokens = per_token_logps, old_per_token_logps, completion_mask
    s = ratios.log_importance_weights(*tokens, "token")
    within = _checks.mask01("completion_mask", completion_mask) == 1
    a = ratios.as_column(advantages, len(s))
    if constrained == "trust_region":
        within = within & (a * s > 0)
    candidates = np.flatnonzero(within)
    order = candidates[np.argsort(-np.abs(s.ravel()[candidates]), kind="stable")]
    moved = s.ravel()[order] ** 2
    left = np.arange(len(order), 0, -1)  # how many remain, from each on
    mean = np.cumsum(moved[::-1])[::-1] / left
    keep = np.ones(s.size)
    keep[order[: np.count_nonzero(mean > threshold)]] = 0.0
    return keep.reshape(s.shape)
