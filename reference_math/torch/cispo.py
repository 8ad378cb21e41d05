"""CISPO on any device; autograd for the gradient.

Twin of   reference_math.cispo     Proof   tests/parity/test_grpo.py, tests/parity/test_grpo_trainer.py

Shapes    as in `grpo`.
"""

from typing import Any

from torch import Tensor

from reference_math.torch import _checks, grpo_terms, ratios


def loss(
    per_token_logps: Tensor,
    old_per_token_logps: Tensor,
    advantages: Tensor,
    completion_mask: Tensor,
    *,
    importance_sampling_level: str,
    epsilon_max: float,
    reduction: str,
    epsilon_min: float = 0.0,
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
    c = per_token_loss(logps, s, advantages, epsilon_max=epsilon_max, epsilon_min=epsilon_min)
    terms: dict[str, Any] = {"reduction": reduction, "max_completion_length": max_completion_length}
    terms |= {"tokens_per_micro_batch": tokens_per_micro_batch, "factor": factor}
    terms |= {"num_generations": num_generations}
    terms |= {"beta": beta, "ref_per_token_logps": ref_per_token_logps}
    terms |= {"use_bias_correction_kl": use_bias_correction_kl}
    return grpo_terms.loss(c, s, per_token_logps, completion_mask, **terms)


def per_token_loss(
    per_token_logps: Tensor,
    log_weights: Tensor,
    advantages: Tensor,
    *,
    epsilon_max: float,
    epsilon_min: float = 0.0,
) -> Tensor:
    """Compute -sg[ min(max(w, epsilon_min), epsilon_max) ] A log p, (B, T)."""
    epsilon_max = _checks.number("epsilon_max", epsilon_max, above=0)
    epsilon_min = _checks.number("epsilon_min", epsilon_min, at_least=0, at_most=epsilon_max)
    a = ratios.as_column(advantages, len(log_weights))
    w = ratios.ratio(log_weights.detach()).clamp(epsilon_min, epsilon_max)
    return -w * a * per_token_logps
