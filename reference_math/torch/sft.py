"""Supervised fine-tuning losses on any device; autograd for the gradient.

Twin of   reference_math.sft     Proof   tests/parity/test_sft.py

Shapes    B sequences, T positions.    Masks: 1 = counts.
Dtypes    float64 stays; float32 and below are summed and returned in float32.
"""

import torch
from torch import Tensor

from reference_math.sft import SAME
from reference_math.torch import _checks, reductions
from reference_math.torch.logprobs import precision


def loss_mask(completion_mask: Tensor, assistant_mask: Tensor | None = None) -> Tensor:
    """Mark the predictions that count: all masks AND-ed, shifted by one.  (B, T + 1) -> (B, T)."""
    mask = completion_mask if assistant_mask is None else completion_mask * assistant_mask
    return mask[:, 1:]


def token_weights(
    completion_mask: Tensor,
    *,
    reduction: str,
    num_items_in_batch: Tensor | float | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Compute the weight of each token in the loss, (B, T); see the numpy twin for the reductions."""
    if (reduction == "global_token") != (num_items_in_batch is not None):
        raise ValueError(
            "num_items_in_batch is the counted tokens of the optimizer step: needed for reduction="
            f"'global_token' and for no other, got {num_items_in_batch!r} with {reduction!r}"
        )
    return reductions.token_weights(
        completion_mask,
        reduction=SAME[_checks.one_of("reduction", reduction, SAME)],
        tokens_per_micro_batch=num_items_in_batch,
        dtype=dtype,
    )


def nll(
    per_token_logps: Tensor,
    completion_mask: Tensor,
    *,
    reduction: str,
    num_items_in_batch: Tensor | float | None = None,
) -> Tensor:
    """Compute the negative log-likelihood of the counted tokens, a 0-d tensor; 0 if nothing counts."""
    logps, weights = _inputs(per_token_logps, completion_mask, reduction, num_items_in_batch)
    return -(weights * logps).sum()


def dft(
    per_token_logps: Tensor,
    completion_mask: Tensor,
    *,
    reduction: str,
    num_items_in_batch: Tensor | float | None = None,
) -> Tensor:
    """Compute nll with each token weighted by its own probability, held constant."""
    logps, weights = _inputs(per_token_logps, completion_mask, reduction, num_items_in_batch)
    return -(weights * logps.detach().exp() * logps).sum()


def mean_entropy(entropy: Tensor, completion_mask: Tensor) -> Tensor:
    """Compute the mean entropy of the counted positions, a 0-d tensor; 0 if nothing counts."""
    return -nll(entropy, completion_mask, reduction="batch_token")


def mean_token_accuracy(logits: Tensor, tokens: Tensor, completion_mask: Tensor) -> Tensor:
    """Compute how often the likeliest token is the demonstrated one, a 0-d tensor.  (B, T, V), (B, T) x 2."""
    hits = (logits.argmax(dim=-1) == tokens).to(torch.float32)
    return -nll(hits, completion_mask, reduction="batch_token")


def _inputs(per_token_logps, completion_mask, reduction, num_items_in_batch):
    if per_token_logps.shape != completion_mask.shape:
        raise ValueError(
            f"completion_mask must have the shape of per_token_logps {tuple(per_token_logps.shape)}"
            f", got {tuple(completion_mask.shape)}"
        )
    dtype = precision(per_token_logps)
    weights = token_weights(
        completion_mask, reduction=reduction, num_items_in_batch=num_items_in_batch, dtype=dtype
    )
    # masked before it is multiplied: 0 times a NaN in the padding would still be NaN
    return per_token_logps.to(dtype).masked_fill(completion_mask == 0, 0.0), weights
