"""SAPO: a sigmoid gate instead of the clip, so that no token loses its gradient abruptly.

    c = -(4 / tau) sigmoid( tau (w - 1) ) A        tau = temperature_pos if A > 0 else temperature_neg

Source    Soft Adaptive Policy Optimization, arXiv 2511.20347
Torch     reference_math.torch.sapo     Lesson   none
Proof     tests/laws/test_sapo.py, tests/parity/test_grpo.py

Shapes    as in `grpo`. At w = 1 the gradient is that of every other member of the family: -A.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reference_math import _checks, grpo_terms, ratios
from reference_math._stable import sigmoid
from reference_math._types import Array, ArrayLike


def loss(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    advantages: ArrayLike,
    completion_mask: ArrayLike,
    *,
    importance_sampling_level: str,
    temperature_pos: float,
    temperature_neg: float,
    reduction: str,
    max_completion_length: int | None = None,
    tokens_per_micro_batch: float | None = None,
    num_generations: int | None = None,
    factor: ArrayLike = 1.0,
    beta: float = 0.0,
    ref_per_token_logps: ArrayLike | None = None,
    use_bias_correction_kl: bool | None = None,
) -> float:
    """Compute the loss of one micro-batch, a float; the arguments of `grpo.loss`, with two
    temperatures instead of epsilon_low, epsilon_high and delta.

    >>> logps, options = np.log([[0.5, 0.5]]), dict(temperature_pos=1.0, temperature_neg=1.05)
    >>> options |= dict(importance_sampling_level="token", reduction="grpo")
    >>> loss(logps, logps, [2.0], [[1, 1]], **options)            # w = 1: 4 sigmoid(0) = 2, times A
    -4.0
    """
    tokens = per_token_logps, old_per_token_logps, completion_mask
    s = ratios.log_importance_weights(*tokens, importance_sampling_level)
    gate = {"temperature_pos": temperature_pos, "temperature_neg": temperature_neg}
    c = per_token_loss(s, advantages, **gate)
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
    temperature_pos: float,
    temperature_neg: float,
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

    >>> logps, options = np.log([[0.5, 0.5]]), dict(temperature_pos=1.0, temperature_neg=1.05)
    >>> options |= dict(importance_sampling_level="token", reduction="grpo")
    >>> loss_grad(logps, logps, [2.0], [[1, 1]], **options)
    array([[-1., -1.]])
    """
    tokens = per_token_logps, old_per_token_logps, completion_mask
    s = ratios.log_importance_weights(*tokens, importance_sampling_level)
    gate = {"temperature_pos": temperature_pos, "temperature_neg": temperature_neg}
    dc = per_token_loss_grad(s, advantages, **gate)
    terms: dict[str, Any] = {"reduction": reduction, "max_completion_length": max_completion_length}
    terms |= {"tokens_per_micro_batch": tokens_per_micro_batch, "factor": factor}
    terms |= {"num_generations": num_generations}
    terms |= {"beta": beta, "ref_per_token_logps": ref_per_token_logps}
    terms |= {"use_bias_correction_kl": use_bias_correction_kl}
    return grpo_terms.loss_grad(0.0, dc, s, per_token_logps, completion_mask, **terms)


def per_token_loss(
    log_weights: ArrayLike, advantages: ArrayLike, *, temperature_pos: float, temperature_neg: float
) -> Array:
    """Compute c, the loss of each token (or row).

    log_weights       (B, T) or (B, 1)
    advantages        (B,), or (B, T)
    temperature_pos   > 0, where A > 0; 1.0 in the paper and TRL
    temperature_neg   > 0, where A <= 0; 1.05: higher, so that the gradient fades faster

    >>> per_token_loss(np.log([[1.0, 3.0]]), [1.0], temperature_pos=1.0, temperature_neg=2.0).round(4)
    array([[-2.    , -3.5232]])
    """
    a, tau, gate = _gate(log_weights, advantages, temperature_pos, temperature_neg)
    return -4.0 / tau * sigmoid(gate) * a


def per_token_loss_grad(
    log_weights: ArrayLike, advantages: ArrayLike, *, temperature_pos: float, temperature_neg: float
) -> Array:
    """Compute d per_token_loss / d(log_weights) = -4 sigmoid(x) sigmoid(-x) w A,  x = tau (w - 1).

    sigmoid' = sigmoid(x) sigmoid(-x);  dx/dw = tau cancels 1/tau;  dw/ds = w.

    >>> temperatures = dict(temperature_pos=1.0, temperature_neg=2.0)
    >>> per_token_loss_grad(np.log([[1.0, 3.0]]), [1.0], **temperatures).round(4)  # 12 (.8808)(.1192)
    array([[-1.    , -1.2599]])
    """
    a, _, gate = _gate(log_weights, advantages, temperature_pos, temperature_neg)
    return -4.0 * sigmoid(gate) * sigmoid(-gate) * ratios.ratio_grad(log_weights) * a


def _gate(log_weights, advantages, temperature_pos, temperature_neg):
    a = ratios.as_column(advantages, len(log_weights))
    positive = _checks.number("temperature_pos", temperature_pos, above=0)
    other = _checks.number("temperature_neg", temperature_neg, above=0)
    tau = np.where(a > 0, positive, other)
    return a, tau, tau * (ratios.ratio(log_weights) - 1.0)
