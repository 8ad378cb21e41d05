"""ASFT: dynamic fine-tuning with an anchor, the KL from the policy before to the policy now.

    L = sum_bt w_bt ( -sg[p] log p + kl_weight KL(p_ref || p) )        KL over the whole vocabulary

Source    Zhu et al., Anchored Supervised Fine-Tuning, arXiv 2509.23753, eq. 6
Torch     reference_math.torch.asft     Lesson   none
Proof     tests/laws/test_asft.py, tests/parity/test_asft.py

Shapes    B sequences, T positions, V tokens of vocabulary.    Losses in nats.

`sft.dft` does not push unlikely tokens, and nothing holds the policy where it was; the KL does.  Its
direction keeps p above 0 wherever p_ref is.  kl_weight is 0.05 in the authors' repository and 0.1 in
LLaMA-Factory (asft_alpha).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reference_math import _checks, kl, logprobs, sft
from reference_math._types import Array, ArrayLike


def loss(
    logits: ArrayLike,
    ref_logits: ArrayLike,
    tokens: ArrayLike,
    completion_mask: ArrayLike,
    *,
    kl_weight: float,
    reduction: str,
    num_items_in_batch: float | None = None,
) -> float:
    """Compute the loss of the counted tokens, a float; 0 if nothing counts.

    logits            (B, T, V)  logits[b, t] predict tokens[b, t]
    ref_logits        (B, T, V)  of the policy before training
    tokens            (B, T)
    completion_mask   (B, T)  1 = counts
    kl_weight         >= 0
    reduction, num_items_in_batch   see `sft.token_weights`

    >>> z, ref, options = [[[0.0, 0.0]]], [[[np.log(3.0), 0.0]]], {"reduction": "batch_token"}
    >>> round(loss(z, ref, [[0]], [[1]], kl_weight=0.0, **options), 4)    # ln 2 / 2
    0.3466
    >>> round(loss(z, ref, [[0]], [[1]], kl_weight=1.0, **options), 4)    # and 3/4 ln 3/2 + 1/4 ln 1/2
    0.4774
    """
    kl_weight = _checks.number("kl_weight", kl_weight, at_least=0)
    counts: dict[str, Any] = {"reduction": reduction}
    counts |= {"num_items_in_batch": num_items_in_batch}
    weights = sft.token_weights(completion_mask, **counts)
    logits, ref_logits = _both(logits, ref_logits, completion_mask)
    logps = logprobs.per_token_logps(logits, tokens)
    anchor = float((weights * kl.exact(ref_logits, logits)).sum())
    return sft.dft(logps, completion_mask, **counts) + kl_weight * anchor


def loss_grad(
    logits: ArrayLike,
    ref_logits: ArrayLike,
    tokens: ArrayLike,
    completion_mask: ArrayLike,
    *,
    kl_weight: float,
    reduction: str,
    num_items_in_batch: float | None = None,
) -> Array:
    """Compute d loss / d(logits), (B, T, V): w (p (p - 1[token]) + kl_weight (p - p_ref)).

    The first is DFT's, where p's weight is held constant.  KL(p_ref || p) is a cross-entropy to p_ref.

    >>> z, ref, options = [[[0.0, 0.0]]], [[[np.log(3.0), 0.0]]], {"reduction": "batch_token"}
    >>> loss_grad(z, ref, [[0]], [[1]], kl_weight=1.0, **options)         # -1/4 and 1/2 - 3/4
    array([[[-0.5,  0.5]]])
    """
    kl_weight = _checks.number("kl_weight", kl_weight, at_least=0)
    counts: dict[str, Any] = {"reduction": reduction}
    counts |= {"num_items_in_batch": num_items_in_batch}
    weights = sft.token_weights(completion_mask, **counts)
    logits, ref_logits = _both(logits, ref_logits, completion_mask)
    logps = logprobs.per_token_logps(logits, tokens)
    push = logprobs.logits_grad(logits, tokens, sft.dft_grad(logps, completion_mask, **counts))
    p, p_ref = (np.exp(logprobs.log_softmax(z)) for z in (logits, ref_logits))
    return push + kl_weight * weights[..., None] * (p - p_ref)


def _both(logits, ref_logits, completion_mask):
    mask = _checks.mask01("completion_mask", completion_mask)
    logits = _checks.counted_logits("logits", logits, mask)
    ref_logits = _checks.counted_logits("ref_logits", ref_logits, mask)
    _checks.same_shape(logits=logits, ref_logits=ref_logits)
    return logits, ref_logits
