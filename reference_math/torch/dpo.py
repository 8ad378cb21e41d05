"""Preference losses of a from-scratch trainer, on any device; autograd for the gradient.

Twin of   reference_math.dpo     Proof   tests/parity/test_dpo.py

Shapes    B pairs, T positions.  In (2B, ...) the B chosen rows stand first, then the B rejected.
          A log-ratio is log p_policy - log p_ref of a whole answer, in nats.
Dtypes    float64 stays; float32 and below are summed in float32.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from reference_math.torch import _checks
from reference_math.torch.logprobs import precision


def sequence_weights(
    completion_mask: Tensor, *, ld_alpha: float | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Compute the weight of each token in its answer's log-probability: (2B, T) -> (2B, T)."""
    if completion_mask.ndim != 2 or len(completion_mask) % 2:
        raise ValueError(
            f"completion_mask must be (2B, T), B chosen first, got {tuple(completion_mask.shape)}"
        )
    weights = completion_mask.to(dtype)
    if ld_alpha is None:
        return weights
    length = _checks.count(completion_mask, dim=1, keepdim=True)
    shared = torch.minimum(*length.chunk(2)).repeat(2, 1)
    return weights.where(weights.cumsum(dim=1) <= shared, weights * ld_alpha)


def sequence_logps(
    per_token_logps: Tensor, completion_mask: Tensor, *, ld_alpha: float | None = None
) -> Tensor:
    """Compute the log-probability of each answer: (2B, T) -> (2B,).  Empty: log 1 = 0."""
    if per_token_logps.shape != completion_mask.shape:
        raise ValueError(
            f"completion_mask must have the shape of per_token_logps {tuple(per_token_logps.shape)}"
            f", got {tuple(completion_mask.shape)}"
        )
    dtype = precision(per_token_logps)
    weights = sequence_weights(completion_mask, ld_alpha=ld_alpha, dtype=dtype)
    # masked before it is multiplied: 0 times a NaN in the padding would still be NaN
    return (weights * per_token_logps.to(dtype).masked_fill(completion_mask == 0, 0.0)).sum(dim=1)


def sigmoid(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float) -> Tensor:
    """Compute -log sigmoid(beta (chosen - rejected)), (B,)."""
    return -logsigmoid(_margin(chosen_logratios, rejected_logratios, beta))


def hinge(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float) -> Tensor:
    """Compute max(0, 1 - beta (chosen - rejected)), (B,)."""
    return torch.relu(1 - _margin(chosen_logratios, rejected_logratios, beta))


def ipo(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: float) -> Tensor:
    """Compute (chosen - rejected - 1/(2 beta))^2, (B,); TRL passes it log-ratios per token."""
    if not beta > 0:
        raise ValueError(f"beta must be > 0, got {beta}")
    return (_margin(chosen_logratios, rejected_logratios, 1.0) - 0.5 / beta) ** 2


def _margin(chosen_logratios, rejected_logratios, beta):
    if chosen_logratios.shape != rejected_logratios.shape:
        raise ValueError(
            f"rejected_logratios must have shape {tuple(chosen_logratios.shape)}, "
            f"got {tuple(rejected_logratios.shape)}"
        )
    return beta * (chosen_logratios - rejected_logratios)
