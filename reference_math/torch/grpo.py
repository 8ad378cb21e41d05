"""GRPO's clipped surrogate on any device; autograd for the gradient.

Twin of   reference_math.grpo     Proof   tests/parity/test_grpo.py, tests/parity/test_trl_grpo.py

Shapes    B completions, T tokens each; log_weights (B, T), or (B, 1) at sequence level.
"""

import math

import torch

from reference_math.torch import _checks, objective, ratios


def loss(
    per_token_logps,
    old_per_token_logps,
    advantages,
    completion_mask,
    *,
    importance_sampling_level,
    epsilon_low,
    epsilon_high,
    delta=None,
    **terms,
):
    """The loss of one micro-batch, a 0-d tensor; see the numpy twin for the arguments."""
    tokens = per_token_logps, old_per_token_logps, completion_mask
    s = ratios.log_weights(*tokens, importance_sampling_level)
    clip = {"epsilon_low": epsilon_low, "epsilon_high": epsilon_high, "delta": delta}
    c = per_token_loss(s, advantages, **clip)
    return objective.total(c, s, per_token_logps, completion_mask, **terms)


def per_token_loss(log_weights, advantages, *, epsilon_low, epsilon_high, delta):
    """-min( min(w, delta) A, clip(w) A ), the shape of log_weights or (B, T)."""
    low, high, delta = _bounds(epsilon_low, epsilon_high, delta)
    w, a = ratios.ratio(log_weights), ratios.column(advantages, len(log_weights))
    return -torch.minimum(w.clamp(max=delta) * a, w.clamp(low, high) * a)


def clipped(log_weights, advantages, *, epsilon_low, epsilon_high, delta):
    """Where the clip bites: (low, high), two boolean tensors."""
    low, high, delta = _bounds(epsilon_low, epsilon_high, delta)
    w = ratios.ratio(log_weights).clamp(max=delta)
    a = ratios.column(advantages, len(log_weights))
    return (w < low) & (a < 0), (w > high) & (a > 0)


def _bounds(epsilon_low, epsilon_high, delta):
    for name, epsilon in (("epsilon_low", epsilon_low), ("epsilon_high", epsilon_high)):
        if not epsilon >= 0:
            raise ValueError(f"{name} must be >= 0 (inf for no clip), got {epsilon!r}")
    delta = math.inf if delta is None else _checks.number("delta", delta, above=0)
    return 1.0 - epsilon_low, 1.0 + epsilon_high, delta
