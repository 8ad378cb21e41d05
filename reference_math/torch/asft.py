"""ASFT on any device; autograd for the gradient.

Twin of   reference_math.asft     Proof   tests/parity/test_asft.py

Shapes    B sequences, T positions, V tokens of vocabulary.
"""

from typing import Any

from torch import Tensor

from reference_math.torch import _checks, kl, logprobs, sft


def loss(
    logits: Tensor,
    ref_logits: Tensor,
    tokens: Tensor,
    completion_mask: Tensor,
    *,
    kl_weight: float,
    reduction: str,
    num_items_in_batch: Tensor | float | None = None,
) -> Tensor:
    """Compute the loss of the counted tokens, a 0-d tensor; see the numpy twin for the arguments."""
    kl_weight = _checks.number("kl_weight", kl_weight, at_least=0)
    counts: dict[str, Any] = {"reduction": reduction}
    counts |= {"num_items_in_batch": num_items_in_batch}
    logps = logprobs.per_token_logps(logits, tokens)
    away = -kl.exact(ref_logits, logits)
    return sft.dft(logps, completion_mask, **counts) + kl_weight * sft.nll(
        away, completion_mask, **counts
    )
