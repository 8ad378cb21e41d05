"""VESPO on any device; autograd for the gradient.

Twin of   reference_math.vespo     Proof   tests/parity/test_grpo.py, tests/parity/test_grpo_trainer.py

Shapes    as in `grpo`.
"""

from typing import Any

import torch
from torch import Tensor

from reference_math.torch import _checks, grpo_terms, ratios
from reference_math.vespo import HIGHEST, LOWEST


def loss(
    per_token_logps: Tensor,
    old_per_token_logps: Tensor,
    advantages: Tensor,
    completion_mask: Tensor,
    *,
    importance_sampling_level: str,
    importance_sampling_ratio: Tensor | None = None,
    k_pos: float,
    lambda_pos: float,
    k_neg: float,
    lambda_neg: float,
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
    logps = _checks.counted("per_token_logps", per_token_logps, completion_mask)
    log_w = sequence_log_ratio(*tokens, importance_sampling_ratio)
    gamma = {"k_pos": k_pos, "lambda_pos": lambda_pos, "k_neg": k_neg, "lambda_neg": lambda_neg}
    c = per_token_loss(logps, log_w, advantages, **gamma)
    terms: dict[str, Any] = {"reduction": reduction, "max_completion_length": max_completion_length}
    terms |= {"tokens_per_micro_batch": tokens_per_micro_batch, "factor": factor}
    terms |= {"num_generations": num_generations}
    terms |= {"beta": beta, "ref_per_token_logps": ref_per_token_logps}
    terms |= {"use_bias_correction_kl": use_bias_correction_kl}
    return grpo_terms.loss(c, s, per_token_logps, completion_mask, **terms)


def per_token_loss(
    per_token_logps: Tensor,
    log_w: Tensor,
    advantages: Tensor,
    *,
    k_pos: float,
    lambda_pos: float,
    k_neg: float,
    lambda_neg: float,
) -> Tensor:
    """Compute -sg[ phi(w) ] A log p, (B, T)."""
    log_w, a = log_w.detach(), ratios.as_column(advantages, len(log_w))
    weight = torch.where(a >= 0, phi(log_w, k_pos, lambda_pos), phi(log_w, k_neg, lambda_neg))
    return -weight * a * per_token_logps


def phi(log_w: Tensor, k: float, lam: float) -> Tensor:
    """Compute the gamma weight: 1 at w = 1, largest at w = k / lambda."""
    k, lam = _checks.number("k", k, at_least=0), _checks.number("lambda", lam, above=0)
    return (k * log_w + lam * (1.0 - log_w.exp())).exp()


def sequence_log_ratio(
    per_token_logps: Tensor,
    old_per_token_logps: Tensor,
    completion_mask: Tensor,
    importance_sampling_ratio: Tensor | None = None,
) -> Tensor:
    """Compute log w, (B, 1): the sum of the token log-ratios and of the logs of the IS ratios, bounded."""
    tokens = per_token_logps, old_per_token_logps, completion_mask
    s = ratios.log_importance_weights(*tokens, "token")
    log_w = s.clamp(-HIGHEST, HIGHEST).sum(dim=1, keepdim=True)
    if importance_sampling_ratio is not None:
        rho = _checks.ndim("importance_sampling_ratio", importance_sampling_ratio, 2)
        log_rho = rho.clamp(min=1e-8).log().clamp(max=HIGHEST)
        log_w = log_w + log_rho.sum(dim=1, keepdim=True)
    return log_w.clamp(LOWEST, HIGHEST)
