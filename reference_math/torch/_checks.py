"""Input validation for the twins. Only shapes are checked: reading values would synchronise with the
GPU; `reference_math` checks the values."""

from typing import Any

import torch
from torch import Tensor

from reference_math._checks import groups, number, one_of  # noqa: F401  numbers and names, no arrays
from reference_math.torch.logprobs import precision


def counted(name: str, x: Tensor, completion_mask: Tensor) -> Tensor:
    """Return x (B, T) where the mask is 1 and 0 elsewhere, in float32 at least.

    What stands in the padding is never read, NaN or not, and gets no gradient.
    """
    if x.shape != completion_mask.shape:
        expected, got = tuple(completion_mask.shape), tuple(x.shape)
        raise ValueError(f"{name} must have shape {expected}, got {got}")
    return torch.where(completion_mask == 1, lifted(x), 0.0)


def lifted(x: Tensor) -> Tensor:
    """Return x in float32 at least. Lift once: two casts would round a bfloat16 gradient twice."""
    return x.to(precision(x))


def count(completion_mask: Tensor, **dim: Any) -> Tensor:
    """Count the tokens that count. A sum in bfloat16 would be off from 257 tokens on."""
    return completion_mask.sum(dtype=precision(completion_mask), **dim)


def ndim(name: str, x: Tensor, axes: int) -> Tensor:
    """Return x; refuse it if it has another number of axes."""
    if x.ndim != axes:
        raise ValueError(f"{name} must have {axes} axes, got shape {tuple(x.shape)}")
    return x
