"""KL-Cov: penalise the few tokens whose log-probability covaries most with their advantage.

    cov_t = (A_t - mean A) (log p_t - mean log p)        means over all tokens that count
    c     = -w A + kl_coef |log w| 1[t in the top share by cov]        w = p / p_old

Source    Cui et al., The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models,
          arXiv 2505.22617; the penalty is that of verl's kl_cov, which the authors wrote
Torch     none     Lesson   none
Proof     tests/laws/test_kl_cov.py, tests/parity/test_kl_cov.py

Shapes    B completions, T tokens each.    Natural logs.

A likely token with a high advantage, or an unlikely one with a low advantage, lowers the entropy when
it is pushed.  The covariance finds those; a share of 2e-4 to 2e-3 is usual.  The ratio has no clip.

verl's default of kl_coef is 0.1 in its configuration and 1 in its code; its docstring is Clip-Cov's.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, ratios, reductions
from reference_math._types import Array, ArrayLike


def loss(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    advantages: ArrayLike,
    completion_mask: ArrayLike,
    *,
    share: float,
    kl_coef: float,
    reduction: str,
    max_completion_length: int | None = None,
    tokens_per_micro_batch: float | None = None,
    num_generations: int | None = None,
) -> float:
    """Compute the loss of one micro-batch, a float.

    per_token_logps         (B, T)  log-probability of each sampled token under the policy
    old_per_token_logps     (B, T)  the same when it was sampled
    advantages              (B,), or (B, T) for one per token
    completion_mask         (B, T)  1 = counts
    share                   above 0, at most 1: of the tokens that count, but always one at least
    kl_coef                 >= 0, weight of the penalty
    reduction ... num_generations   as in `reductions.token_weights`

    >>> logps, old, ones = np.log([[0.9, 0.1]]), np.log([[0.45, 0.1]]), [[1, 1]]
    >>> options = dict(share=0.5, kl_coef=1.0, reduction="luspo")
    >>> round(loss(logps, old, [[1.0, 0.0]], ones, **options), 4)     # -2, and ln 2 of the first
    -1.3069
    """
    tokens = per_token_logps, advantages, completion_mask
    counts = reduction, max_completion_length, tokens_per_micro_batch, num_generations
    weights, s, a, chosen = _inputs(*tokens, old_per_token_logps, share, *counts)
    kl_coef = _checks.number("kl_coef", kl_coef, at_least=0)
    return float((weights * (kl_coef * chosen * np.abs(s) - ratios.ratio(s) * a)).sum())


def loss_grad(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    advantages: ArrayLike,
    completion_mask: ArrayLike,
    *,
    share: float,
    kl_coef: float,
    reduction: str,
    max_completion_length: int | None = None,
    tokens_per_micro_batch: float | None = None,
    num_generations: int | None = None,
) -> Array:
    """Compute d loss / d(per_token_logps) = -w A + kl_coef sign(log w) of the chosen; the choice is constant.

    >>> logps, old, ones = np.log([[0.9, 0.1]]), np.log([[0.45, 0.1]]), [[1, 1]]
    >>> options = dict(share=0.5, kl_coef=1.0, reduction="luspo")
    >>> loss_grad(logps, old, [[1.0, 0.0]], ones, **options)           # -2 + 1
    array([[-1.,  0.]])
    """
    tokens = per_token_logps, advantages, completion_mask
    counts = reduction, max_completion_length, tokens_per_micro_batch, num_generations
    weights, s, a, chosen = _inputs(*tokens, old_per_token_logps, share, *counts)
    kl_coef = _checks.number("kl_coef", kl_coef, at_least=0)
    return weights * (kl_coef * chosen * np.sign(s) - ratios.ratio_grad(s) * a)


def covariances(
    per_token_logps: ArrayLike, advantages: ArrayLike, completion_mask: ArrayLike
) -> Array:
    """Compute cov of each token, 0 in the padding; their mean is the covariance of A and log p.

    >>> covariances([[-1.0, -3.0]], [[1.0, 0.0]], [[1, 1]])
    array([[0.5, 0.5]])
    """
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    logps = _checks.counted("per_token_logps", per_token_logps, mask)
    a = np.broadcast_to(ratios.as_column(advantages, len(mask)), mask.shape)
    n = max(mask.sum(), 1.0)
    return mask * (a - (mask * a).sum() / n) * (logps - logps.sum() / n)


def top_share(covariances: ArrayLike, completion_mask: ArrayLike, *, share: float) -> Array:
    """Mark with 1 the tokens of the greatest covariances, (B, T); of equal ones, the earlier.

    >>> top_share(np.array([[0.1, 0.9, 0.3, 7.0]]), [[1, 1, 1, 0]], share=0.7)      # 2 of 3
    array([[0., 1., 1., 0.]])
    """
    share = _checks.number("share", share, above=0, at_most=1)
    mask = _checks.mask01("completion_mask", completion_mask, shape=np.shape(covariances))
    counted = np.flatnonzero(mask)
    count = max(1, int(len(counted) * share))
    order = np.argsort(-np.ravel(covariances)[counted], kind="stable")
    chosen = np.zeros(mask.size)
    chosen[counted[order[:count]]] = 1.0
    return chosen.reshape(mask.shape)


def _inputs(
    per_token_logps,
    advantages,
    completion_mask,
    old_per_token_logps,
    share,
    reduction,
    length,
    tokens,
    num_generations,
):
    """Weights, log w, advantages beside the tokens, and which are chosen."""
    weights = reductions.token_weights(
        completion_mask,
        reduction=reduction,
        max_completion_length=length,
        tokens_per_micro_batch=tokens,
        num_generations=num_generations,
    )
    s = ratios.log_importance_weights(
        per_token_logps, old_per_token_logps, completion_mask, "token"
    )
    a = ratios.as_column(advantages, len(s))
    cov = covariances(per_token_logps, advantages, completion_mask)
    return weights, s, a, top_share(cov, completion_mask, share=share)
