"""SAPO on any device; autograd for the gradient.

Twin of   reference_math.sapo     Proof   tests/parity/test_grpo.py, tests/parity/test_grpo_trainer.py

Shapes    as in `grpo`.
"""

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
    temperature_pos: float,
    temperature_neg: float,
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
    gate = {"temperature_pos": temperature_pos, "temperature_neg": temperature_neg}
    c = per_token_loss(s, advantages, **gate)
    terms: dict[str, Any] = {"reduction": reduction, "max_completion_length": max_completion_length}
    terms |= {"tokens_per_micro_batch": tokens_per_micro_batch, "factor": factor}
    terms |= {"num_generations": num_generations}
    terms |= {"beta": beta, "ref_per_token_logps": ref_per_token_logps}
    terms |= {"use_bias_correction_kl": use_bias_correction_kl}
    return grpo_terms.loss(c, s, per_token_logps, completion_mask, **terms)


def per_token_loss(
    log_weights: Tensor, advantages: Tensor, *, temperature_pos: float, temperature_neg: float
) -> Tensor:
    """Compute -(4 / tau) sigmoid( tau (w - 1) ) A, the shape of log_weights or (B, T)."""
    a = ratios.as_column(advantages, len(log_weights))
    positive = _checks.number("temperature_pos", temperature_pos, above=0)
    other = _checks.number("temperature_neg", temperature_neg, above=0)
    # full_like: torch.where of two Python numbers would round them to float32
    tau = torch.where(a > 0, torch.full_like(a, positive), torch.full_like(a, other))
    return -4.0 / tau * torch.sigmoid(tau * (ratios.ratio(log_weights) - 1.0)) * a
