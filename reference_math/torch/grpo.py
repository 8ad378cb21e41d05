"""GRPO's clipped surrogate on any device; autograd for the gradient.

Twin of   reference_math.grpo     Proof   tests/parity/test_grpo.py, tests/parity/test_grpo_trainer.py

Shapes    B completions, T tokens each; log_weights (B, T), or (B, 1) at sequence level.
"""

import math
from typing import Any

import torch
from torch import Tensor

from reference_math.torch import _checks, grpo_terms, ratios


def loss(
    per_token_logps: Tensor,
    old_per_token_logps: Tensor,
    advantages: Tensor,
    completion_mask: Tensor,
    *,
    importance_sampling_level: str,
    epsilon_low: float,
    epsilon_high: float,
    delta: float | None = None,
    reduction: str,
    max_completion_length: int | None = None,
    tokens_per_micro_batch: Tensor | float | None = None,
    num_generations: int | None = None,
    factor: Tensor | float = 1.0,
    beta: float = 0.0,
    ref_per_token_logps: Tensor | None = None,
    use_bias_correction_kl: bool | None = None,
) -> Tensor:
    """Compute the loss of one micro-batch, a 0-d tensor; see the numpy twin for the arguments."""
    per_token_logps = _checks.lifted(per_token_logps)
    tokens = per_token_logps, old_per_token_logps, completion_mask
    s = ratios.log_importance_weights(*tokens, importance_sampling_level)
    clip: dict[str, Any] = {
        "epsilon_low": epsilon_low,
        "epsilon_high": epsilon_high,
        "delta": delta,
    }
    c = per_token_loss(s, advantages, **clip)
    terms: dict[str, Any] = {"reduction": reduction, "max_completion_length": max_completion_length}
    terms |= {"tokens_per_micro_batch": tokens_per_micro_batch, "factor": factor}
    terms |= {"num_generations": num_generations}
    terms |= {"beta": beta, "ref_per_token_logps": ref_per_token_logps}
    terms |= {"use_bias_correction_kl": use_bias_correction_kl}
    return grpo_terms.loss(c, s, per_token_logps, completion_mask, **terms)


def per_token_loss(
    log_weights: Tensor,
    advantages: Tensor,
    *,
    epsilon_low: float,
    epsilon_high: float,
    delta: float | None,
) -> Tensor:
    """Compute -min( min(w, delta) A, clip(w) A ), the shape of log_weights or (B, T)."""
    low, high, delta = _bounds(epsilon_low, epsilon_high, delta)
    w, a = ratios.ratio(log_weights), ratios.as_column(advantages, len(log_weights))
    return -torch.minimum(w.clamp(max=delta) * a, w.clamp(low, high) * a)


def clipped(
    log_weights: Tensor,
    advantages: Tensor,
    *,
    epsilon_low: float,
    epsilon_high: float,
    delta: float | None,
) -> tuple[Tensor, Tensor]:
    """Find the clipped tokens: (low, high), two boolean tensors."""
    low, high, delta = _bounds(epsilon_low, epsilon_high, delta)
    w = ratios.ratio(log_weights).clamp(max=delta)
    a = ratios.as_column(advantages, len(log_weights))
    return (w < low) & (a < 0), (w > high) & (a > 0)


def _bounds(epsilon_low, epsilon_high, delta):
    for name, epsilon in (("epsilon_low", epsilon_low), ("epsilon_high", epsilon_high)):
        if not epsilon >= 0:
            raise ValueError(f"{name} must be >= 0 (inf for no clip), got {epsilon!r}")
    delta = math.inf if delta is None else _checks.number("delta", delta, above=0)
    return 1.0 - epsilon_low, 1.0 + epsilon_high, delta
