"""SAPO on any device; autograd for the gradient.

Twin of   reference_math.sapo     Proof   tests/parity/test_grpo.py, tests/parity/test_trl_grpo.py

Shapes    as in `grpo`.
"""

import torch

from reference_math.torch import _checks, objective, ratios


def loss(
    per_token_logps,
    old_per_token_logps,
    advantages,
    completion_mask,
    *,
    importance_sampling_level,
    temperature_pos,
    temperature_neg,
    **terms,
):
    """The loss of one micro-batch, a 0-d tensor; see the numpy twin for the arguments."""
    tokens = per_token_logps, old_per_token_logps, completion_mask
    s = ratios.log_weights(*tokens, importance_sampling_level)
    gate = {"temperature_pos": temperature_pos, "temperature_neg": temperature_neg}
    c = per_token_loss(s, advantages, **gate)
    return objective.total(c, s, per_token_logps, completion_mask, **terms)


def per_token_loss(log_weights, advantages, *, temperature_pos, temperature_neg):
    """-(4 / tau) sigmoid( tau (w - 1) ) A, the shape of log_weights or (B, T)."""
    a = ratios.column(advantages, len(log_weights))
    positive = _checks.number("temperature_pos", temperature_pos, above=0)
    other = _checks.number("temperature_neg", temperature_neg, above=0)
    # full_like: torch.where of two Python numbers would round them to float32
    tau = torch.where(a > 0, torch.full_like(a, positive), torch.full_like(a, other))
    return -4.0 / tau * torch.sigmoid(tau * (ratios.ratio(log_weights) - 1.0)) * a
