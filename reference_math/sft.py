"""Supervised fine-tuning: maximise the likelihood of the demonstrated tokens (SFT, DFT).

    L = sum_bt w_bt c_bt        c = -log p (nll)   or   -sg[p] log p (dft)

Source    DFT: Wu et al., arXiv 2508.05629; label smoothing: Szegedy et al., arXiv 1512.00567
Torch     reference_math.torch.sft     Lesson   notebooks/01_sft.ipynb
Proof     tests/laws/test_sft.py, tests/parity/test_sft.py

Shapes    B sequences, T positions, V tokens of vocabulary.    Losses in nats.
Masks     1 = counts.  completion_mask stands over the predicted tokens; `loss_mask` shifts it there.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, reductions
from reference_math._types import Array, ArrayLike

SAME = {"global_token": "dapo", "batch_token": "bnpo", "sequence": "grpo"}  # as GRPO calls them


def loss_mask(completion_mask: ArrayLike, assistant_mask: ArrayLike | None = None) -> Array:
    """Mark the predictions that count, from the masks over input_ids: all masks AND-ed, shifted by one.

    The first token of a sequence is never predicted, so its column goes.

    completion_mask   (B, T + 1)  over input_ids: 1 = an answer's token, 0 = prompt or padding
    assistant_mask    (B, T + 1)  1 = the assistant speaks; None = no such mask
    returns           (B, T)      over tokens = input_ids[:, 1:]

    >>> loss_mask([[0, 1, 1, 0]], [[0, 0, 1, 1]])
    array([[0., 1., 0.]])
    """
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    if assistant_mask is not None:
        mask = mask * _checks.mask01("assistant_mask", assistant_mask, shape=mask.shape)
    return mask[:, 1:]


def token_weights(
    completion_mask: ArrayLike, *, reduction: str, num_items_in_batch: float | None = None
) -> Array:
    """Compute the weight of each token in the loss, by the name of the reduction.

    global_token   1 / num_items_in_batch: every token of the optimizer step weighs the same, however
                   the step is cut into micro-batches, whose losses then add up (TRL, transformers)
    batch_token    1 / the micro-batch's tokens: averaging over micro-batches then gives a token of a
                   short micro-batch more weight
    sequence       1 / (B x the sequence's tokens): every sequence weighs the same

    They are arrays of `reductions.token_weights`, under the names of GRPO: batch_token is bnpo, sequence
    is grpo, and global_token is dapo with tokens_per_micro_batch = num_items_in_batch.

    completion_mask      (B, T)
    num_items_in_batch   counted tokens of the whole optimizer step; global_token only
    returns              (B, T)  0 where masked; nothing counts: all 0, never 0 / 0

    >>> token_weights([[1, 1, 1], [1, 0, 0]], reduction="sequence").round(3)   # 1/6, 1/2
    array([[0.167, 0.167, 0.167],
           [0.5  , 0.   , 0.   ]])
    """
    _checks.one_of("reduction", reduction, SAME)
    if (reduction == "global_token") != (num_items_in_batch is not None):
        raise ValueError(
            "num_items_in_batch is the counted tokens of the optimizer step: needed for reduction="
            f"'global_token' and for no other, got {num_items_in_batch!r} with {reduction!r}"
        )
    if num_items_in_batch is not None:
        _checks.number("num_items_in_batch", num_items_in_batch, at_least=0)
    return reductions.token_weights(
        completion_mask,
        reduction=SAME[reduction],
        tokens_per_micro_batch=num_items_in_batch,
    )


def nll(
    per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    *,
    reduction: str,
    num_items_in_batch: float | None = None,
) -> float:
    """Compute the negative log-likelihood of the counted tokens.

    per_token_logps   (B, T)
    completion_mask   (B, T)
    reduction         see `token_weights`; TRL: "global_token"
    returns           a float; 0 if nothing counts

    >>> round(nll(np.log([[0.5, 0.25]]), [[1, 1]], reduction="batch_token"), 4)   # 3/2 ln 2
    1.0397
    """
    logps, weights = _inputs(per_token_logps, completion_mask, reduction, num_items_in_batch)
    return -float((weights * logps).sum())


def nll_grad(
    per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    *,
    reduction: str,
    num_items_in_batch: float | None = None,
) -> Array:
    """Compute d nll / d(per_token_logps) = -w  (B, T): the same for every counted token.

    >>> nll_grad(np.log([[0.5, 0.25]]), [[1, 1]], reduction="batch_token")
    array([[-0.5, -0.5]])
    """
    return -_inputs(per_token_logps, completion_mask, reduction, num_items_in_batch)[1]


def dft(
    per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    *,
    reduction: str,
    num_items_in_batch: float | None = None,
) -> float:
    """Compute nll with each token weighted by its own probability, held constant (dynamic fine-tuning).

    Unlikely tokens, whose nll gradient on the logits is the largest, no longer dominate.
    Arguments and result as in `nll`.

    >>> round(dft(np.log([[0.5, 0.25]]), [[1, 1]], reduction="batch_token"), 4)   # ln 2 / 2
    0.3466
    """
    logps, weights = _inputs(per_token_logps, completion_mask, reduction, num_items_in_batch)
    return -float((weights * np.exp(logps) * logps).sum())


def dft_grad(
    per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    *,
    reduction: str,
    num_items_in_batch: float | None = None,
) -> Array:
    """Compute the gradient that trains, -w p  (B, T): that of -sum w p, not of the value shown.

    sg[p] is a constant, so d(-sg[p] log p) = -p d(log p); differencing `dft` would add -p log p.

    >>> dft_grad(np.log([[0.5, 0.25]]), [[1, 1]], reduction="batch_token")
    array([[-0.25 , -0.125]])
    """
    logps, weights = _inputs(per_token_logps, completion_mask, reduction, num_items_in_batch)
    return -weights * np.exp(logps)


def mean_entropy(entropy: ArrayLike, completion_mask: ArrayLike) -> float:
    """Compute the mean entropy of the counted positions, in nats; 0 if nothing counts.

    TRL logs the unweighted mean of this over micro-batches, not over tokens.

    entropy (B, T), completion_mask (B, T) -> a float

    >>> mean_entropy([[1.0, 3.0]], [[1, 0]])
    1.0
    """
    counts = _checks.mask01("completion_mask", completion_mask, ndim=2)
    return float(_checks.counted("entropy", entropy, counts).sum() / max(counts.sum(), 1.0))


def mean_token_accuracy(logits: ArrayLike, tokens: ArrayLike, completion_mask: ArrayLike) -> float:
    """Compute how often the likeliest token is the demonstrated one; of a tie the smaller id counts.

    logits (B, T, V), tokens (B, T), completion_mask (B, T) -> a float; 0 if nothing counts

    >>> mean_token_accuracy([[[0.0, 1.0], [2.0, 2.0]]], [[1, 1]], [[1, 1]])
    0.5
    """
    logits = _checks.finite("logits", logits, ndim=3)
    tokens = _checks.token_ids("tokens", tokens, vocab_size=logits.shape[2], shape=logits.shape[:2])
    weights = token_weights(completion_mask, reduction="batch_token")
    _checks.same_shape(tokens=tokens, completion_mask=weights)
    return float((weights * (logits.argmax(axis=-1) == tokens)).sum())


def _inputs(per_token_logps, completion_mask, reduction, num_items_in_batch):
    weights = token_weights(
        completion_mask, reduction=reduction, num_items_in_batch=num_items_in_batch
    )
    counts = _checks.mask01("completion_mask", completion_mask)
    return _checks.counted("per_token_logps", per_token_logps, counts), weights
