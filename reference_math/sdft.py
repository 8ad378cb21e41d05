"""SDFT: self-distillation; the teacher is the same model with a demonstration in its context.

    L = 1/B sum_b 1/n_b sum_t min(w_t, clip) D_t        D_t of the k likeliest tokens and all the rest

Source    Shenfeld et al., Self-Distillation Enables Continual Learning, arXiv 2601.19897; D is `gkd`'s
          TRL: SDFTTrainer, loss_utils.py (1.16)
Lesson    notebooks/05_gallery.ipynb
Proof     tests/laws/test_sdft.py, tests/parity/test_sdft.py

Shapes    B completions of the student, T positions, V tokens of vocabulary.

w = p / p_old corrects for a student that has moved since it sampled; it is constant.  TRL: alpha
0.5, k 100, without the bucket of the rest, clip 2; it caps the mass of the k tokens at 1 - 1e-7
before it computes the rest from it; here the rest is summed directly.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, gkd, logprobs, ratios, reductions
from reference_math._types import Array, ArrayLike


def loss(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    completion_mask: ArrayLike,
    *,
    alpha: float,
    is_weights: ArrayLike = 1.0,
    topk: int | None = None,
    add_tail: bool = False,
) -> float:
    """Compute the mean over the completions of their mean over tokens, a float.

    student_logits    (B, T, V)  of the model without the demonstration
    teacher_logits    (B, T, V)  of the same tokens with it
    completion_mask   (B, T)     1 = counts
    alpha             beta of `gkd.divergence`; 1: KL(student || teacher)
    is_weights        (B, T)     `clipped_ratio`; 1: the student has not moved
    topk, add_tail    as in `on_topk`

    >>> student, even = [[[np.log(3.0), 0.0]]], [[[0.0, 0.0]]]
    >>> round(loss(student, even, [[1]], alpha=1.0), 4)                     # KL(3/4 || even)
    0.1308
    """
    alpha = _checks.number("alpha", alpha, at_least=0, at_most=1)
    student, teacher, weights = _batch(student_logits, teacher_logits, completion_mask, is_weights)
    top, _ = on_topk(student, student, topk=topk, add_tail=add_tail)
    of_teacher, _ = on_topk(teacher, student, topk=topk, add_tail=add_tail)
    d = gkd.divergence(top, of_teacher, beta=alpha)
    return float((weights * d).sum())


def loss_grad(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    completion_mask: ArrayLike,
    *,
    alpha: float,
    is_weights: ArrayLike = 1.0,
    topk: int | None = None,
    add_tail: bool = False,
) -> Array:
    """Compute d loss / d(student_logits), (B, T, V); the choice of the k tokens is constant.

    The logit of the bucket is the log-sum-exp of the rest: its gradient is shared in proportion to e^z.

    >>> student, even = [[[np.log(3.0), 0.0]]], [[[0.0, 0.0]]]
    >>> loss_grad(student, even, [[1]], alpha=0.0)                          # Q - P
    array([[[ 0.25, -0.25]]])
    """
    alpha = _checks.number("alpha", alpha, at_least=0, at_most=1)
    student, teacher, weights = _batch(student_logits, teacher_logits, completion_mask, is_weights)
    top, share = on_topk(student, student, topk=topk, add_tail=add_tail)
    of_teacher, _ = on_topk(teacher, student, topk=topk, add_tail=add_tail)
    grad = gkd.divergence_grad(top, of_teacher, beta=alpha)
    return weights[..., None] * np.einsum("btk,btkv->btv", grad, share)


def on_topk(
    logits: Array, student_logits: Array, *, topk: int | None = None, add_tail: bool = False
) -> tuple[Array, Array]:
    """Return the logits of the student's k likeliest tokens, and of one bucket for all others.

    logits           (B, T, V)  the student's own, or the teacher's
    student_logits   (B, T, V)  say which tokens; of equal ones the lower id
    topk             k, 1 to V; None: the whole vocabulary
    add_tail         True adds log sum e^z of the others; False drops them, and what is left is
                     normalised again
    returns          (B, T, k or k + 1), and its Jacobian d/d(logits), (B, T, k or k + 1, V)

    >>> z = np.log([[[1.0, 4.0, 2.0]]])
    >>> np.exp(on_topk(z, z, topk=1, add_tail=True)[0])                     # 4, and 1 + 2
    array([[[4., 3.]]])
    """
    vocab_size = np.shape(student_logits)[-1]
    k = (
        vocab_size
        if topk is None
        else int(_checks.number("topk", topk, at_least=1, at_most=vocab_size))
    )
    order = np.argsort(-student_logits, axis=-1, kind="stable")
    one_hot = np.eye(vocab_size)[order]  # (B, T, rank, V)
    top = np.take_along_axis(logits, order[..., :k], axis=-1)
    if not add_tail or k == vocab_size:
        return top, one_hot[..., :k, :]
    rest = np.take_along_axis(logits, order[..., k:], axis=-1)
    share = np.exp(logprobs.log_softmax(rest))[..., None] * one_hot[..., k:, :]
    tail = np.logaddexp.reduce(rest, axis=-1, keepdims=True)
    slope = np.concatenate([one_hot[..., :k, :], share.sum(axis=2, keepdims=True)], axis=2)
    return np.concatenate([top, tail], axis=-1), slope


def clipped_ratio(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    *,
    clip: float,
) -> Array:
    """Compute min(p / p_old, clip) of the sampled tokens, (B, T), a constant of the loss.

    TRL keeps the log-ratio within 20 first, so its smallest ratio is e^-20.

    >>> clipped_ratio(np.log([[0.9, 0.1]]), np.log([[0.1, 0.2]]), [[1, 1]], clip=2.0)
    array([[2. , 0.5]])
    """
    clip = _checks.number("clip", clip, above=0)
    tokens = per_token_logps, old_per_token_logps, completion_mask
    return np.minimum(ratios.ratio(ratios.log_importance_weights(*tokens, "token")), clip)


def _batch(student_logits, teacher_logits, completion_mask, is_weights):
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    student = _checks.counted_logits("student_logits", student_logits, mask)
    teacher = _checks.counted_logits("teacher_logits", teacher_logits, mask)
    weights = reductions.token_weights(completion_mask, reduction="grpo")
    is_weights = _checks.finite("is_weights", np.broadcast_to(is_weights, weights.shape))
    return student, teacher, weights * is_weights
