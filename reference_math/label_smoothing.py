"""Label smoothing: give a small part of the target to every token of the vocabulary.

    c = (1 - eps) (-log p_token) + eps (-1/V sum_v log p_v)

Source    Szegedy et al., arXiv 1512.00567, section 7; transformers' LabelSmoother
Lesson    none
Proof     tests/laws/test_label_smoothing.py, tests/parity/test_sft.py

Shapes    B sequences, T positions, V tokens of vocabulary.    Losses in nats.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, logprobs, sft
from reference_math._types import Array, ArrayLike


def loss(
    logits: ArrayLike,
    tokens: ArrayLike,
    completion_mask: ArrayLike,
    *,
    label_smoothing_factor: float,
    reduction: str,
    num_items_in_batch: float | None = None,
) -> float:
    """Compute the cross-entropy against (1 - eps) 1[v = token] + eps / V.

    logits                   (B, T, V)
    tokens                   (B, T)
    completion_mask          (B, T)
    label_smoothing_factor   eps, 0 to 1
    reduction                see `sft.token_weights`; nothing counts: 0 (transformers: NaN)
    returns                  a float

    >>> z = [[[np.log(3.0), 0.0]]]
    >>> options = dict(label_smoothing_factor=0.5, reduction="batch_token")
    >>> round(loss(z, [[0]], [[1]], **options), 4)   # 3/4 ln 4/3 + 1/4 ln 4
    0.5623
    """
    eps = _checks.number("label_smoothing_factor", label_smoothing_factor, at_least=0, at_most=1)
    weights = _weights(completion_mask, reduction, num_items_in_batch)
    logits = _logits(logits, completion_mask)
    logps = logprobs.per_token_logps(logits, tokens)
    mean_logps = logprobs.log_softmax(logits).mean(axis=-1)
    return -float((weights * ((1.0 - eps) * logps + eps * mean_logps)).sum())


def loss_grad(
    logits: ArrayLike,
    tokens: ArrayLike,
    completion_mask: ArrayLike,
    *,
    label_smoothing_factor: float,
    reduction: str,
    num_items_in_batch: float | None = None,
) -> Array:
    """Compute dL/d(logits) = w (p - target)  (B, T, V): zero where p is the smoothed target.

    The cross-entropy's gradient, linear in the target: w (p - 1[token]) and w (p - 1/V) mixed.

    >>> z = [[[np.log(3.0), 0.0]]]     # p = 3/4, 1/4 = the target of eps = 1/2
    >>> options = dict(label_smoothing_factor=0.5, reduction="batch_token")
    >>> loss_grad(z, [[0]], [[1]], **options).round(4) + 0.0
    array([[[0., 0.]]])
    """
    eps = _checks.number("label_smoothing_factor", label_smoothing_factor, at_least=0, at_most=1)
    weights = _weights(completion_mask, reduction, num_items_in_batch)
    logits = _logits(logits, completion_mask)
    to_token = logprobs.logits_grad(logits, tokens, -(1.0 - eps) * weights)
    p = np.exp(logprobs.log_softmax(logits))
    return to_token + eps * weights[..., None] * (p - 1.0 / p.shape[-1])


def _logits(logits, completion_mask):
    return _checks.counted_logits(
        "logits", logits, _checks.mask01("completion_mask", completion_mask)
    )


def _weights(completion_mask, reduction, num_items_in_batch):
    return sft.token_weights(
        completion_mask, reduction=reduction, num_items_in_batch=num_items_in_batch
    )
