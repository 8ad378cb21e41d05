"""Turn a surrogate of the GRPO family into a loss, on any device.

Twin of   reference_math.grpo_terms     Proof   tests/parity/test_grpo.py

Shapes    B completions, T tokens each; anything (B, 1) holds for its whole row.
"""

from torch import Tensor

from reference_math.torch import _checks, kl_term, reductions


def loss(
    surrogate: Tensor,
    log_weights: Tensor,
    per_token_logps: Tensor,
    completion_mask: Tensor,
    *,
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
    weights = reductions.token_weights(
        completion_mask,
        reduction=reduction,
        max_completion_length=max_completion_length,
        tokens_per_micro_batch=tokens_per_micro_batch,
        num_generations=num_generations,
        dtype=surrogate.dtype,
    )
    value = (weights * factor * surrogate).sum()
    if not _checks.number("beta", beta, at_least=0):
        return value
    if ref_per_token_logps is None or use_bias_correction_kl is None:
        raise ValueError("beta > 0 needs ref_per_token_logps and use_bias_correction_kl, got None")
    logps = _checks.counted("per_token_logps", per_token_logps, completion_mask)
    ref_logps = _checks.counted("ref_per_token_logps", ref_per_token_logps, completion_mask)
    s = log_weights if use_bias_correction_kl else 0.0
    return value + beta * (weights * kl_term.per_token_kl(logps, ref_logps, s)).sum()
