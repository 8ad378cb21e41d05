"""EAFT on any device; autograd for the gradient.

Twin of   reference_math.eaft     Proof   tests/parity/test_eaft.py

Shapes    B sequences, T positions, V tokens of vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

from reference_math.torch import _checks, logprobs, sft


def loss(
    logits: Tensor,
    tokens: Tensor,
    completion_mask: Tensor,
    *,
    top_k: int,
    scale: float,
    alpha: float,
    reduction: str,
    num_items_in_batch: Tensor | float | None = None,
) -> Tensor:
    """Compute the weighted negative log-likelihood of the counted tokens, a 0-d tensor."""
    logps = logprobs.per_token_logps(logits, tokens)
    weighted = gate(logits, top_k=top_k, scale=scale, alpha=alpha).to(logps.dtype) * logps
    counts: dict[str, Any] = {"reduction": reduction}
    counts |= {"num_items_in_batch": num_items_in_batch}
    return sft.nll(weighted, completion_mask, **counts)


@torch.no_grad()
def gate(logits: Tensor, *, top_k: int, scale: float, alpha: float) -> Tensor:
    """Compute (H_K / scale)^alpha at each position, without a gradient: (..., V) -> (...)."""
    if top_k != int(top_k) or top_k < 1:
        raise ValueError(f"top_k must be an integer >= 1, got {top_k!r}")
    top = logits.topk(min(int(top_k), logits.shape[-1]), dim=-1).values
    log_p = top.to(logprobs.precision(top)).log_softmax(dim=-1)
    share = -(log_p.exp() * log_p).sum(dim=-1) / _checks.number("scale", scale, above=0)
    return share ** _checks.number("alpha", alpha, at_least=0)
