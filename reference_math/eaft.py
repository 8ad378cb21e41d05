"""EAFT: supervised fine-tuning that learns less where the model is sure of something else.

    c = -sg[ (H_K / scale)^alpha ] log p        H_K = entropy of the K likeliest tokens, renormalised

Source    Diao et al., Entropy-Adaptive Fine-Tuning, arXiv 2601.02151, eqs. 2 and 3 (K 20, scale ln K,
          alpha 1; alpha 2 and 3 in its section 5.1)
Torch     reference_math.torch.eaft     Lesson   none
Proof     tests/laws/test_eaft.py, tests/parity/test_eaft.py

Shapes    B sequences, T positions, V tokens of vocabulary.    Losses in nats.

Where the demonstrated token is unlikely and the entropy low, the gradient of `sft.nll` is largest, and it
overwrites what the model knew.  With scale ln K the weight lies between 0 and 1.

The scale is 3.0 in LLaMA-Factory and 1.0 in axolotl, whose loss is three times as large.
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
    top_k: int,
    scale: float,
    alpha: float,
    reduction: str,
    num_items_in_batch: float | None = None,
) -> float:
    """Compute the weighted negative log-likelihood of the counted tokens, a float; 0 if nothing counts.

    logits               (B, T, V)  logits[b, t] predict tokens[b, t]
    tokens               (B, T)
    completion_mask      (B, T)  1 = counts
    top_k, scale, alpha  of `gate`
    reduction, num_items_in_batch   see `sft.token_weights`

    >>> options = dict(top_k=2, scale=np.log(2), alpha=1.0, reduction="batch_token")
    >>> round(loss([[[0.0, 0.0], [50.0, 0.0]]], [[0, 1]], [[1, 1]], **options), 4)  # ln 2 / 2, and 50 * 0
    0.3466
    """
    logits, weights = _inputs(logits, completion_mask, reduction, num_items_in_batch)
    weights = weights * gate(logits, top_k=top_k, scale=scale, alpha=alpha)
    return -float((weights * logprobs.per_token_logps(logits, tokens)).sum())


def loss_grad(
    logits: ArrayLike,
    tokens: ArrayLike,
    completion_mask: ArrayLike,
    *,
    top_k: int,
    scale: float,
    alpha: float,
    reduction: str,
    num_items_in_batch: float | None = None,
) -> Array:
    """Compute d loss / d(logits), (B, T, V), with the gate held constant: that of the nll, times the gate.

    >>> options = dict(top_k=2, scale=np.log(2), alpha=1.0, reduction="batch_token")
    >>> loss_grad([[[0.0, 0.0]]], [[0]], [[1]], **options)
    array([[[-0.5,  0.5]]])
    """
    logits, weights = _inputs(logits, completion_mask, reduction, num_items_in_batch)
    weights = weights * gate(logits, top_k=top_k, scale=scale, alpha=alpha)
    return logprobs.logits_grad(logits, tokens, -weights)


def gate(logits: ArrayLike, *, top_k: int, scale: float, alpha: float) -> Array:
    """Compute (H_K / scale)^alpha at each position.

    logits    (..., V)
    top_k     K, an integer >= 1; V or more: the whole vocabulary
    scale     > 0, what the entropy is divided by. The paper: ln K
    alpha     >= 0; 0: every weight is 1, which is SFT
    returns   (...)

    >>> gate([[0.0, 0.0, -9.0]], top_k=2, scale=2 * np.log(2), alpha=2.0)   # the third is not among the 2
    array([0.25])
    """
    logits = _checks.finite("logits", logits)
    if top_k != int(top_k) or top_k < 1:
        raise ValueError(f"top_k must be an integer >= 1, got {top_k!r}")
    top = -np.sort(-logits, axis=-1)[..., : int(top_k)]
    share = logprobs.entropy(top) / _checks.number("scale", scale, above=0)
    return share ** _checks.number("alpha", alpha, at_least=0)


def _inputs(logits, completion_mask, reduction, num_items_in_batch):
    weights = sft.token_weights(
        completion_mask, reduction=reduction, num_items_in_batch=num_items_in_batch
    )
    mask = _checks.mask01("completion_mask", completion_mask)
    return _checks.counted_logits("logits", logits, mask), weights
