"""Clip-Cov: a few tokens, drawn from those whose covariance is high, get no gradient.

    keep_t = 0 for a token drawn from {t: cov_low < cov_t < cov_high, not clipped}, else 1

Source    Cui et al., The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models,
          arXiv 2505.22617; verl's clip_cov, which the authors wrote
Torch     none     Lesson   none
Proof     tests/laws/test_clip_cov.py, tests/parity/test_clip_cov.py

Shapes    B completions, T tokens each.
Use       as `factor` of `grpo.loss` with the same bounds of the clip.  It has no gradient.

cov is that of `kl_cov`.  A token that the clip has already stopped is not drawn.  verl: share 2e-4 of
the tokens, one at least, between 1 and 5.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reference_math import _checks, grpo, kl_cov, ratios
from reference_math._types import Array, ArrayLike


def keep_mask(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    advantages: ArrayLike,
    completion_mask: ArrayLike,
    *,
    share: float,
    cov_low: float,
    cov_high: float,
    epsilon_low: float,
    epsilon_high: float,
    rng: np.random.Generator,
) -> Array:
    """Compute a mask: 0 where a token was drawn, 1 elsewhere, the padding included.

    per_token_logps             (B, T)  log-probability of each sampled token under the policy
    old_per_token_logps         (B, T)  the same when it was sampled
    advantages                  (B,), or (B, T) for one per token
    completion_mask             (B, T)  1 = counts
    share                       above 0, at most 1: of the tokens that count, how many are drawn; one
                                at least, and no more than there are between the bounds
    cov_low, cov_high           bounds of the covariance, both left out
    epsilon_low, epsilon_high   of the clip
    rng                         a numpy Generator, for the draws

    >>> logps, options = np.log([[0.9, 0.1, 0.5]]), dict(epsilon_low=0.2, epsilon_high=0.2)
    >>> options |= dict(share=1.0, cov_low=0.1, cov_high=5.0, rng=np.random.default_rng(0))
    >>> keep_mask(logps, logps, [[1.0, -1.0, 0.0]], [[1, 1, 1]], **options)   # the third: cov 0
    array([[0., 0., 1.]])
    """
    share = _checks.number("share", share, above=0, at_most=1)
    low = _checks.number("cov_low", cov_low)
    high = _checks.number("cov_high", cov_high, at_least=low)
    cov = kl_cov.covariances(per_token_logps, advantages, completion_mask)
    s = ratios.log_importance_weights(
        per_token_logps, old_per_token_logps, completion_mask, "token"
    )
    clip: dict[str, Any] = {"epsilon_low": epsilon_low, "epsilon_high": epsilon_high, "delta": None}
    too_low, too_high = grpo.clipped(s, advantages, **clip)
    counted = np.asarray(completion_mask) == 1
    found = np.flatnonzero((low < cov) & (cov < high) & counted & ~too_low & ~too_high)
    count = max(1, int(counted.sum() * share))
    keep = np.ones(counted.size)
    keep[rng.permutation(found)[:count]] = 0.0
    return keep.reshape(counted.shape)
