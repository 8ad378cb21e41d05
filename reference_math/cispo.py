"""CISPO: REINFORCE with a capped importance weight without gradient, so that no token is dropped.

    c = -sg[ min(max(w, epsilon_min), epsilon_max) ] A log p

Source    MiniMax-M1, arXiv 2506.13585, section 3.1; the single cap: ScaleRL, arXiv 2510.13786
          ScaleRL also averages per prompt: reduction "prompt_mean"; its advantages are `advantages.batch`
Torch     reference_math.torch.cispo     Lesson   none
Proof     tests/laws/test_cispo.py, tests/parity/test_grpo.py

Shapes    as in `grpo`.

epsilon_max caps the ratio itself: 5.0 is usual, and a cap below 1 shrinks even on-policy gradients.
epsilon_min is 0 in TRL and SkyRL: no lower bound. verl's cispo raises small weights to 1 - clip_ratio_low.
TRL reads it from epsilon_high, which elsewhere means 1 + epsilon_high and is 0.2 by default:
loss_type="cispo" with that default multiplies every on-policy gradient by 0.2.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reference_math import _checks, grpo_terms, ratios
from reference_math._types import Array, ArrayLike


def loss(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    advantages: ArrayLike,
    completion_mask: ArrayLike,
    *,
    importance_sampling_level: str,
    epsilon_max: float,
    reduction: str,
    epsilon_min: float = 0.0,
    max_completion_length: int | None = None,
    tokens_per_micro_batch: float | None = None,
    num_generations: int | None = None,
    factor: ArrayLike = 1.0,
    beta: float = 0.0,
    ref_per_token_logps: ArrayLike | None = None,
    use_bias_correction_kl: bool | None = None,
) -> float:
    """Compute the loss of one micro-batch, a float; the arguments of `grpo.loss`, with epsilon_min and
    epsilon_max instead of epsilon_low, epsilon_high and delta.

    >>> logps, options = np.log([[0.5, 0.5]]), dict(importance_sampling_level="token")
    >>> loss(logps, logps, [2.0], [[1, 1]], epsilon_max=5.0, reduction="grpo", **options)  # -2 ln .5
    1.3862943611198906
    """
    tokens = per_token_logps, old_per_token_logps, completion_mask
    s = ratios.log_importance_weights(*tokens, importance_sampling_level)
    logps = _checks.counted("per_token_logps", per_token_logps, np.asarray(completion_mask))
    c = per_token_loss(logps, s, advantages, epsilon_max=epsilon_max, epsilon_min=epsilon_min)
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
    epsilon_max: float,
    reduction: str,
    epsilon_min: float = 0.0,
    max_completion_length: int | None = None,
    tokens_per_micro_batch: float | None = None,
    num_generations: int | None = None,
    factor: ArrayLike = 1.0,
    beta: float = 0.0,
    ref_per_token_logps: ArrayLike | None = None,
    use_bias_correction_kl: bool | None = None,
) -> Array:
    """Compute d loss / d(per_token_logps), (B, T); the arguments of `loss`.

    >>> logps, options = np.log([[0.5, 0.5]]), dict(importance_sampling_level="token")
    >>> loss_grad(logps, logps, [2.0], [[1, 1]], epsilon_max=0.2, reduction="grpo", **options)
    array([[-0.2, -0.2]])
    """
    tokens = per_token_logps, old_per_token_logps, completion_mask
    s = ratios.log_importance_weights(*tokens, importance_sampling_level)
    dc = per_token_loss_grad(s, advantages, epsilon_max=epsilon_max, epsilon_min=epsilon_min)
    terms: dict[str, Any] = {"reduction": reduction, "max_completion_length": max_completion_length}
    terms |= {"tokens_per_micro_batch": tokens_per_micro_batch, "factor": factor}
    terms |= {"num_generations": num_generations}
    terms |= {"beta": beta, "ref_per_token_logps": ref_per_token_logps}
    terms |= {"use_bias_correction_kl": use_bias_correction_kl}
    return grpo_terms.loss_grad(dc, 0.0, s, per_token_logps, completion_mask, **terms)


def per_token_loss(
    per_token_logps: Array,
    log_weights: Array,
    advantages: ArrayLike,
    *,
    epsilon_max: float,
    epsilon_min: float = 0.0,
) -> Array:
    """Compute c, the loss of each token.

    per_token_logps   (B, T)
    log_weights       (B, T) or (B, 1)
    advantages        (B,), or (B, T)
    epsilon_max       > 0, the largest weight
    epsilon_min       >= 0 and at most epsilon_max, the smallest weight

    >>> logps = np.log([[0.5, 0.5]])
    >>> per_token_loss(logps, np.log([[1.0, 9.0]]), [1.0], epsilon_max=5.0).round(4)  # 1, 5 times ln 2
    array([[0.6931, 3.4657]])
    """
    dc = per_token_loss_grad(
        log_weights, advantages, epsilon_max=epsilon_max, epsilon_min=epsilon_min
    )
    return dc * per_token_logps


def per_token_loss_grad(
    log_weights: Array, advantages: ArrayLike, *, epsilon_max: float, epsilon_min: float = 0.0
) -> Array:
    """Compute d per_token_loss / d(per_token_logps) = -(w between its bounds) A: c is linear in log p.

    >>> per_token_loss_grad(np.log([[0.1, 1.0, 9.0]]), [1.0], epsilon_max=5.0)
    array([[-0.1, -1. , -5. ]])
    >>> per_token_loss_grad(np.log([[0.1, 1.0, 9.0]]), [1.0], epsilon_max=5.0, epsilon_min=0.5)
    array([[-0.5, -1. , -5. ]])
    """
    epsilon_max = _checks.number("epsilon_max", epsilon_max, above=0)
    epsilon_min = _checks.number("epsilon_min", epsilon_min, at_least=0, at_most=epsilon_max)
    a = ratios.as_column(advantages, len(log_weights))
    return -np.clip(ratios.ratio(log_weights), epsilon_min, epsilon_max) * a
