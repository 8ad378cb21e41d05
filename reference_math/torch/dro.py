"""DRO on any device; autograd for the gradient.

Twin of   reference_math.dro     Proof   tests/parity/test_dro.py

Shapes    B completions, T tokens each.
"""

from typing import Any

from torch import Tensor

from reference_math.torch import _checks, ratios, reductions


def loss(
    per_token_logps: Tensor,
    old_per_token_logps: Tensor,
    advantages: Tensor,
    completion_mask: Tensor,
    *,
    beta: float,
    reduction: str,
    max_completion_length: int | None = None,
    tokens_per_micro_batch: Tensor | float | None = None,
    num_generations: int | None = None,
) -> Tensor:
    """Compute the loss of one micro-batch, a 0-d tensor; see the numpy twin for the arguments."""
    per_token_logps = _checks.lifted(per_token_logps)
    surrogate = -ratios.as_column(advantages, len(per_token_logps)) * per_token_logps
    counts: dict[str, Any] = {"reduction": reduction}
    counts |= {"max_completion_length": max_completion_length}
    counts |= {"tokens_per_micro_batch": tokens_per_micro_batch, "num_generations": num_generations}
    value = reductions.reduce(surrogate, completion_mask, **counts)
    tokens = per_token_logps, old_per_token_logps, completion_mask
    return value + penalty(*tokens, beta=beta, **counts)


def penalty(
    per_token_logps: Tensor,
    old_per_token_logps: Tensor,
    completion_mask: Tensor,
    *,
    beta: float,
    reduction: str,
    max_completion_length: int | None = None,
    tokens_per_micro_batch: Tensor | float | None = None,
    num_generations: int | None = None,
) -> Tensor:
    """Compute beta / 2 (log p - log p_old)^2, reduced, a 0-d tensor."""
    beta = _checks.number("beta", beta, at_least=0)
    tokens = _checks.lifted(per_token_logps), old_per_token_logps, completion_mask
    s = ratios.log_importance_weights(*tokens, "token")
    return (
        beta
        / 2.0
        * reductions.reduce(
            s**2,
            completion_mask,
            reduction=reduction,
            max_completion_length=max_completion_length,
            tokens_per_micro_batch=tokens_per_micro_batch,
            num_generations=num_generations,
        )
    )
