"""VESPO: REINFORCE with a smooth weight, a function of the whole sequence's ratio, 1 on-policy.

    c = -sg[ phi(w) ] A log p       phi(w) = w^k e^(lambda (1 - w))       w = prod_t p / p_old

Source    VESPO, arXiv 2602.10693; bounds of its reference implementation, kept by TRL
Torch     reference_math.torch.vespo     Lesson   none
Proof     tests/laws/test_vespo.py, tests/parity/test_grpo.py

Shapes    as in `grpo`. Never overflows: log w is held in [log 1e-8, 20], as is each of its factors.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reference_math import _checks, grpo_terms, ratios
from reference_math._types import Array, ArrayLike

LOWEST, HIGHEST = np.log(1e-8), 20.0


def loss(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    advantages: ArrayLike,
    completion_mask: ArrayLike,
    *,
    importance_sampling_level: str,
    importance_sampling_ratio: ArrayLike | None = None,
    k_pos: float,
    lambda_pos: float,
    k_neg: float,
    lambda_neg: float,
    reduction: str,
    max_completion_length: int | None = None,
    tokens_per_micro_batch: float | None = None,
    num_generations: int | None = None,
    factor: ArrayLike = 1.0,
    beta: float = 0.0,
    ref_per_token_logps: ArrayLike | None = None,
    use_bias_correction_kl: bool | None = None,
) -> float:
    """Compute the loss of one micro-batch, a float; the arguments of `grpo.loss`, with k_pos ...
    lambda_neg instead of epsilon_low, epsilon_high and delta.

    importance_sampling_level   of the KL's correction only: phi always weighs the sequence
    importance_sampling_ratio   of a separate sampler: a factor of w, so not to be put in `factor`

    >>> logps, gamma = np.log([[0.5, 0.5]]), dict(k_pos=2.0, lambda_pos=3.0, k_neg=3.0, lambda_neg=2.0)
    >>> options = dict(importance_sampling_level="token", reduction="grpo", **gamma)
    >>> loss(logps, logps, [2.0], [[1, 1]], **options)            # phi = 1: -2 ln .5
    1.3862943611198906
    """
    tokens = per_token_logps, old_per_token_logps, completion_mask
    s = ratios.log_importance_weights(*tokens, importance_sampling_level)
    logps = _checks.counted("per_token_logps", per_token_logps, np.asarray(completion_mask))
    log_w = sequence_log_ratio(*tokens, importance_sampling_ratio)
    gamma = {"k_pos": k_pos, "lambda_pos": lambda_pos, "k_neg": k_neg, "lambda_neg": lambda_neg}
    c = per_token_loss(logps, log_w, advantages, **gamma)
    terms: dict[str, Any] = {"reduction": reduction, "max_completion_length": max_completion_length}
    terms |= {"tokens_per_micro_batch": tokens_per_micro_batch, "factor": factor}
    terms |= {"num_generations": num_generations}
    terms |= {"beta": beta, "ref_per_token_logps": ref_per_token_logps}
    terms |= {"use_bias_correction_kl": use_bias_correction_kl}
    return grpo_terms.loss(c, s, per_token_logps, completion_mask, **terms)


def loss_grad(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    advantages: ArrayLike,
    completion_mask: ArrayLike,
    *,
    importance_sampling_level: str,
    importance_sampling_ratio: ArrayLike | None = None,
    k_pos: float,
    lambda_pos: float,
    k_neg: float,
    lambda_neg: float,
    reduction: str,
    max_completion_length: int | None = None,
    tokens_per_micro_batch: float | None = None,
    num_generations: int | None = None,
    factor: ArrayLike = 1.0,
    beta: float = 0.0,
    ref_per_token_logps: ArrayLike | None = None,
    use_bias_correction_kl: bool | None = None,
) -> Array:
    """Compute d loss / d(per_token_logps), (B, T); the arguments of `loss`.

    >>> logps, gamma = np.log([[0.5, 0.5]]), dict(k_pos=2.0, lambda_pos=3.0, k_neg=3.0, lambda_neg=2.0)
    >>> options = dict(importance_sampling_level="token", reduction="grpo", **gamma)
    >>> loss_grad(logps, logps, [2.0], [[1, 1]], **options)
    array([[-1., -1.]])
    """
    tokens = per_token_logps, old_per_token_logps, completion_mask
    s = ratios.log_importance_weights(*tokens, importance_sampling_level)
    log_w = sequence_log_ratio(*tokens, importance_sampling_ratio)
    gamma = {"k_pos": k_pos, "lambda_pos": lambda_pos, "k_neg": k_neg, "lambda_neg": lambda_neg}
    dc = per_token_loss_grad(log_w, advantages, **gamma)
    terms: dict[str, Any] = {"reduction": reduction, "max_completion_length": max_completion_length}
    terms |= {"tokens_per_micro_batch": tokens_per_micro_batch, "factor": factor}
    terms |= {"num_generations": num_generations}
    terms |= {"beta": beta, "ref_per_token_logps": ref_per_token_logps}
    terms |= {"use_bias_correction_kl": use_bias_correction_kl}
    return grpo_terms.loss_grad(dc, 0.0, s, per_token_logps, completion_mask, **terms)


def per_token_loss(
    per_token_logps: Array,
    log_w: Array,
    advantages: ArrayLike,
    *,
    k_pos: float,
    lambda_pos: float,
    k_neg: float,
    lambda_neg: float,
) -> Array:
    """Compute c of each token: (B, T) log-probabilities times the (B, 1) of `per_token_loss_grad`.

    >>> gamma = dict(k_pos=2.0, lambda_pos=3.0, k_neg=3.0, lambda_neg=2.0)
    >>> per_token_loss([[-1.0, -2.0]], [[0.0]], [1.0], **gamma)
    array([[1., 2.]])
    """
    gamma = {"k_pos": k_pos, "lambda_pos": lambda_pos, "k_neg": k_neg, "lambda_neg": lambda_neg}
    return per_token_loss_grad(log_w, advantages, **gamma) * per_token_logps


def per_token_loss_grad(
    log_w: Array,
    advantages: ArrayLike,
    *,
    k_pos: float,
    lambda_pos: float,
    k_neg: float,
    lambda_neg: float,
) -> Array:
    """Compute dc / d(per_token_logps) = -phi A: c is linear in log p, and phi carries no gradient.

    log_w               (B, 1)  of `sequence_log_ratio`
    advantages          (B,), or (B, T)
    k_pos, lambda_pos   >= 0, > 0; where A >= 0: 2 and 3 in TRL
    k_neg, lambda_neg   >= 0, > 0; where A < 0: 3 and 2

    >>> gamma = dict(k_pos=2.0, lambda_pos=3.0, k_neg=3.0, lambda_neg=2.0)
    >>> per_token_loss_grad(np.log([[2.0], [2.0]]), [1.0, -1.0], **gamma).round(4)   # 4/e^3, 8/e^2
    array([[-0.1991],
           [ 1.0827]])
    """
    a = ratios.as_column(advantages, len(log_w))
    return -np.where(a >= 0, phi(log_w, k_pos, lambda_pos), phi(log_w, k_neg, lambda_neg)) * a


def phi(log_w: Array, k: float, lam: float) -> Array:
    """Compute the gamma weight: 1 at w = 1, largest at w = k / lambda.

    >>> phi(np.log([1.0, 2.0]), 2.0, 3.0).round(4)                    # 1, 2^2 e^-3
    array([1.    , 0.1991])
    """
    k, lam = _checks.number("k", k, at_least=0), _checks.number("lambda", lam, above=0)
    return np.exp(k * np.asarray(log_w) + lam * (1.0 - np.exp(log_w)))


def sequence_log_ratio(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    importance_sampling_ratio: ArrayLike | None = None,
) -> Array:
    """Compute log w, (B, 1): the sum of the token log-ratios and of the logs of the IS ratios, bounded.

    >>> logps, old = np.log([[0.5, 0.5]]), np.log([[0.25, 0.5]])
    >>> np.exp(sequence_log_ratio(logps, old, [[1, 1]], [[3.0]])).round(4)          # 2 times 3
    array([[6.]])
    """
    tokens = per_token_logps, old_per_token_logps, completion_mask
    s = ratios.log_importance_weights(*tokens, "token")
    log_w = np.clip(s, -HIGHEST, HIGHEST).sum(axis=1, keepdims=True)
    if importance_sampling_ratio is not None:
        rho = _checks.finite("importance_sampling_ratio", importance_sampling_ratio, ndim=2)
        if rho.shape not in (s.shape, (len(s), 1)):
            raise ValueError(
                f"importance_sampling_ratio must have shape {s.shape} or ({len(s)}, 1), "
                f"got {rho.shape}"
            )
        log_rho = np.minimum(np.log(np.maximum(rho, 1e-8)), HIGHEST)
        log_w = log_w + log_rho.sum(axis=1, keepdims=True)
    return np.clip(log_w, LOWEST, HIGHEST)
