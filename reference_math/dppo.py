"""DPPO: a trust region in the token's probability, in place of the clip of its ratio.

    c = -sg[ min(w, truncation) keep ] A log p         w = p / p_old

    TV    keep = p - p_old <= delta_high  where A > 0,   p - p_old >= -delta_low  else
    KL    keep = KL <= delta_high or p <= p_old  where A > 0,   KL <= delta_low or p >= p_old  else
          KL = p_old log(p_old / p) + (1 - p_old) log((1 - p_old) / (1 - p))

Source    Qi et al., Rethinking the Trust Region in LLM Reinforcement Learning, arXiv 2602.04879 (the
          binary approximation: this token against all others); verl's dppo_tv and dppo_kl
Torch     none     Lesson   none
Proof     tests/laws/test_dppo.py, tests/parity/test_dppo.py

Shapes    B completions, T tokens each.    Natural logs.

A clip of the ratio stops a token of probability 0.001 at 0.0012 and lets one of 0.5 go to 0.6.  The
difference of probabilities, the total variation of the two binary distributions, treats both alike.
Only a token that has already moved too far in the direction of its advantage is left out.

Without a truncation the gradient is that of -w A, whose value SkyRL takes, with the sampler's
probabilities for p_old.  verl takes the value above.  Its truncation is clip_ratio_c, 3 by default in its
configuration; 20, which its code names, is only for a configuration without that field.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reference_math import _checks, ratios, reductions
from reference_math._stable import log1mexp
from reference_math._types import Array, ArrayLike

DIVERGENCES = ("tv", "kl")


def loss(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    advantages: ArrayLike,
    completion_mask: ArrayLike,
    *,
    divergence: str,
    delta_low: float,
    delta_high: float,
    truncation: float | None,
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
    divergence              "tv" or "kl"
    delta_low, delta_high   >= 0, bounds of the divergence where A <= 0 and where A > 0
    truncation              > 0, the largest weight; None for none
    reduction ... num_generations   as in `reductions.token_weights`

    >>> logps, old = np.log([[0.5, 0.5]]), np.log([[0.4, 0.5]])
    >>> options = dict(divergence="tv", delta_low=0.05, delta_high=0.05, truncation=None)
    >>> loss(logps, old, [2.0], [[1, 1]], reduction="grpo", **options)  # ln 2: the first is out
    0.6931471805599453
    """
    args = per_token_logps, old_per_token_logps, advantages, completion_mask
    options: dict[str, Any] = {
        "divergence": divergence,
        "delta_low": delta_low,
        "delta_high": delta_high,
    }
    options |= {"truncation": truncation, "reduction": reduction}
    options |= {"max_completion_length": max_completion_length}
    options |= {
        "tokens_per_micro_batch": tokens_per_micro_batch,
        "num_generations": num_generations,
    }
    grad = loss_grad(*args, **options)
    logps = _checks.counted("per_token_logps", per_token_logps, np.asarray(completion_mask))
    return float((grad * logps).sum())


def loss_grad(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    advantages: ArrayLike,
    completion_mask: ArrayLike,
    *,
    divergence: str,
    delta_low: float,
    delta_high: float,
    truncation: float | None,
    reduction: str,
    max_completion_length: int | None = None,
    tokens_per_micro_batch: float | None = None,
    num_generations: int | None = None,
) -> Array:
    """Compute d loss / d(per_token_logps) = -min(w, truncation) keep A, reduced: c is linear in log p.

    >>> logps, old = np.log([[0.5, 0.5]]), np.log([[0.4, 0.5]])
    >>> options = dict(divergence="tv", delta_low=0.05, truncation=1.2, reduction="grpo")
    >>> loss_grad(logps, old, [2.0], [[1, 1]], delta_high=0.05, **options)
    array([[-0., -1.]])
    >>> loss_grad(logps, old, [2.0], [[1, 1]], delta_high=0.2, **options)       # 1.25 is truncated
    array([[-1.2, -1. ]])
    """
    share = reductions.token_weights(
        completion_mask,
        reduction=reduction,
        max_completion_length=max_completion_length,
        tokens_per_micro_batch=tokens_per_micro_batch,
        num_generations=num_generations,
    )
    tokens = per_token_logps, old_per_token_logps
    bounds: dict[str, Any] = {
        "divergence": divergence,
        "delta_low": delta_low,
        "delta_high": delta_high,
    }
    keep = keep_mask(*tokens, advantages, completion_mask, **bounds)
    if truncation is not None:
        truncation = _checks.number("truncation", truncation, above=0)
    w = ratios.ratio(ratios.log_importance_weights(*tokens, completion_mask, "token"))
    w = np.minimum(w, np.inf if truncation is None else truncation)
    return -share * keep * w * ratios.as_column(advantages, len(share))


def keep_mask(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    advantages: ArrayLike,
    completion_mask: ArrayLike,
    *,
    divergence: str,
    delta_low: float,
    delta_high: float,
) -> Array:
    """Compute a mask: 1 where a token is inside the trust region or moves back towards it, and in the padding.

    >>> logps, old = np.log([[0.5, 0.3, 0.5]]), np.log([[0.4, 0.4, 0.5]])
    >>> bounds = dict(divergence="tv", delta_low=0.05, delta_high=0.05)
    >>> keep_mask(logps, old, [2.0], [[1, 1, 1]], **bounds)      # up is too far where A > 0
    array([[0., 1., 1.]])
    >>> keep_mask(logps, old, [-2.0], [[1, 1, 1]], **bounds)     # down is too far where A < 0
    array([[1., 0., 1.]])
    """
    _checks.one_of("divergence", divergence, DIVERGENCES)
    high = _checks.number("delta_high", delta_high, at_least=0)
    low = _checks.number("delta_low", delta_low, at_least=0)
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    a = ratios.as_column(advantages, len(mask))
    logps = _checks.counted("per_token_logps", per_token_logps, mask)
    old = _checks.counted("old_per_token_logps", old_per_token_logps, mask)
    far = np.abs(np.exp(logps) - np.exp(old)) if divergence == "tv" else binary_kl(logps, old)
    far = np.sign(logps - old) * far
    beyond = np.where(a > 0, far > high, -far > low)
    return np.where((mask == 1) & beyond, 0.0, 1.0)


def binary_kl(per_token_logps: ArrayLike, old_per_token_logps: ArrayLike) -> Array:
    """Compute KL(old || policy) of two binary distributions: this token against all others.

    per_token_logps, old_per_token_logps   (B, T)  at most 0
    returns                                (B, T)  inf where the policy is sure and the old one was not

    >>> binary_kl(np.log([[0.5]]), np.log([[0.25]])).round(4)     # ln(1/2) / 4 + 3/4 ln(3/2)
    array([[0.1308]])
    """
    logps = _at_most_0("per_token_logps", per_token_logps)
    old = _at_most_0("old_per_token_logps", old_per_token_logps)
    with np.errstate(divide="ignore"):  # log(1 - 1) = -inf
        rest, old_rest = log1mexp(logps), log1mexp(old)
    q = np.exp(old_rest)
    gap = np.subtract(old_rest, rest, out=np.zeros_like(q), where=q > 0)
    return np.exp(old) * (old - logps) + q * gap


def _at_most_0(name, logps):
    logps = _checks.finite(name, logps)
    if (logps > 0).any():
        raise ValueError(f"{name} must be <= 0, got {logps.max()}")
    return logps
