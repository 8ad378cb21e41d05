"""Distil from a teacher of which only a few tokens' log-probabilities are known, as from a server.

    D of `gkd`, between (q_1 ... q_k, 1 - sum q) of the student and (p_1 ... p_k, 1 - sum p) of the teacher

Source    the divergence: Agarwal et al., arXiv 2306.13649, eq. 1
          TRL: ServerDistillationTrainer, AsyncDistillationTrainer (1.16); IWOPDTrainer with
          distillation_objective "jsd" and a top-k
Torch     none     Lesson   none
Proof     tests/laws/test_server_distillation.py, tests/parity/test_server_distillation.py

Shapes    B completions of the student, T positions, V tokens of vocabulary, K candidates.    In nats.

The last entry is one bucket for all tokens that the teacher did not score.  Tokens put together can
only hide a difference: with the bucket D is at most the divergence over the whole vocabulary.
Without it both sides are normalised over the candidates, and D is 0 for a single one.

TRL    beta = 0 takes the teacher's k likeliest tokens; any other beta its likeliest and the sampled
       one, beta = 1 the sampled one alone: `narrow_support`.  Both trainers divide by the tokens of
       the micro-batch, whatever the accumulation.  A position that the teacher did not score is
       left out of the sum, not out of the count.  The async one is float32 throughout.
       The student's candidates hold at most 1 - 1e-7 there; here the rest is summed directly.  The
       teacher's rest is what is missing from 1, and at least 1e-7 here as there.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, gkd, sft
from reference_math._stable import log1mexp
from reference_math._types import Array, ArrayLike, IntArray

SMALLEST_REST = 1e-7  # a teacher's candidates sum to 1 but for float32's rounding
ABSENT = -1e300  # the logit of what is not there: its probability is 0, and its logarithm finite


def loss(
    student_logits: ArrayLike,
    support_ids: ArrayLike,
    teacher_support_logps: ArrayLike,
    completion_mask: ArrayLike,
    *,
    beta: float,
    add_tail: bool,
    temperature: float = 1.0,
    num_items_in_batch: float | None = None,
) -> float:
    """Compute the mean over the tokens that count, a float; 0 if no token counts.

    student_logits          (B, T, V)
    support_ids             (B, T, K)  tokens that the teacher scored, all different; -1 = none
    teacher_support_logps   (B, T, K)  the teacher's log-probabilities of them, out of its whole
                                       vocabulary and at this temperature; not read at -1
    completion_mask         (B, T)     1 = counts
    beta                    0: KL(teacher || student);  1: KL(student || teacher);  else see `gkd`
    add_tail                True: with the bucket of all others.  False: without
    temperature             > 0, divides the student's logits
    num_items_in_batch      tokens of the whole optimizer step; None: of this micro-batch

    >>> even, ids, half = [[[0.0, 0.0, 0.0, 0.0]]], [[[2]]], np.log([[[0.5]]])
    >>> round(loss(even, ids, half, [[1]], beta=1.0, add_tail=True), 4)     # KL(1/4, 3/4 || even)
    0.1308
    >>> loss(even, ids, half, [[1]], beta=1.0, add_tail=False)
    0.0
    """
    args = student_logits, support_ids, teacher_support_logps, completion_mask
    share, student, teacher, _ = _reduced(*args, add_tail, temperature, num_items_in_batch)
    return float((share * gkd.divergence(student, teacher, beta=beta)).sum())


def loss_grad(
    student_logits: ArrayLike,
    support_ids: ArrayLike,
    teacher_support_logps: ArrayLike,
    completion_mask: ArrayLike,
    *,
    beta: float,
    add_tail: bool,
    temperature: float = 1.0,
    num_items_in_batch: float | None = None,
) -> Array:
    """Compute d loss / d(student_logits), (B, T, V); the choice of the candidates is constant.

    The bucket's logit is the log-sum-exp of the others: its gradient is shared in proportion to e^z.

    >>> even, ids, half = [[[0.0, 0.0, 0.0, 0.0]]], [[[2]]], np.log([[[0.5]]])
    >>> loss_grad(even, ids, half, [[1]], beta=0.0, add_tail=True).round(4)     # q - p = 1/4 - 1/2
    array([[[ 0.0833,  0.0833, -0.25  ,  0.0833]]])
    """
    args = student_logits, support_ids, teacher_support_logps, completion_mask
    share, student, teacher, slope = _reduced(*args, add_tail, temperature, num_items_in_batch)
    grad = share[..., None] * gkd.divergence_grad(student, teacher, beta=beta)
    return np.einsum("btk,btkv->btv", grad, slope) / temperature


def narrow_support(
    topk_ids: ArrayLike, topk_logps: ArrayLike, tokens: ArrayLike, *, beta: float
) -> tuple[IntArray, Array]:
    """Select the candidates that TRL takes for this beta, and the teacher's log-probabilities of them.

    topk_ids     (B, T, K)  what the teacher scored, the likeliest first; -1 = none
    topk_logps   (B, T, K)
    tokens       (B, T)     that the student sampled
    beta         0: all K.  1: the sampled token.  Else the likeliest and the sampled token
    returns      ids and log-probabilities, (B, T, K), (B, T, 1) or (B, T, 2); id -1, log-probability 0
                 where the teacher did not score the token, or it stands there already

    >>> ids, logps = [[[4, 2]]], np.log([[[0.6, 0.3]]])
    >>> narrow_support(ids, logps, [[2]], beta=0.5)[0], narrow_support(ids, logps, [[4]], beta=0.5)[0]
    (array([[[4, 2]]]), array([[[ 4, -1]]]))
    >>> np.exp(narrow_support(ids, logps, [[2]], beta=1.0)[1])
    array([[[0.3]]])
    """
    beta = _checks.number("beta", beta, at_least=0, at_most=1)
    ids = _checks.array("topk_ids", topk_ids, ndim=3, dtype=None)
    logps = _checks.array("topk_logps", topk_logps, shape=ids.shape)
    tokens = _checks.array("tokens", tokens, shape=ids.shape[:2], dtype=None)
    if beta == 0:
        return ids, np.where(ids < 0, 0.0, logps)
    is_sampled = ids == tokens[..., None]
    sampled = np.where(is_sampled.any(axis=-1), tokens, -1)[..., None]
    sampled_logp = np.where(is_sampled, logps, 0.0).sum(axis=-1, keepdims=True)
    if beta == 1:
        return sampled, sampled_logp
    first, first_logp = ids[..., :1], np.where(ids < 0, 0.0, logps)[..., :1]
    twice = sampled == first
    ids = np.concatenate([first, np.where(twice, -1, sampled)], axis=-1)
    return ids, np.concatenate([first_logp, np.where(twice, 0.0, sampled_logp)], axis=-1)


def _reduced(
    student_logits,
    support_ids,
    teacher_support_logps,
    completion_mask,
    add_tail,
    temperature,
    num_items_in_batch,
):
    """Each token's share; both sides' logits over candidates (and bucket); their Jacobian.

    returns   (B, T);  (B, T, K or K + 1) twice;  (B, T, K or K + 1, V), d(student's) / d(logits)
    """
    reduction = "batch_token" if num_items_in_batch is None else "global_token"
    count = {"num_items_in_batch": num_items_in_batch}
    share = sft.token_weights(completion_mask, reduction=reduction, **count)
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    temperature = _checks.number("temperature", temperature, above=0)
    z = _checks.counted_logits("student_logits", student_logits, mask) / temperature
    one_hot = _one_hot(support_ids, mask, z.shape[-1])
    there = one_hot.any(axis=-1)
    shape = there.shape
    logps = _checks.array("teacher_support_logps", teacher_support_logps, shape=shape)
    logps = _checks.counted("teacher_support_logps", logps, there.astype(float))

    student = np.where(there, (one_hot * z[..., None, :]).sum(axis=-1), -np.inf)
    teacher = np.where(there, logps, -np.inf)
    known = np.logaddexp.reduce(teacher, axis=-1, keepdims=True)
    if (known > 1e-3).any():
        raise ValueError(
            "teacher_support_logps must be log-probabilities of one vocabulary, got candidates whose "
            f"probabilities sum to {np.exp(known.max()):.4f}"
        )
    slope = one_hot.astype(float)
    if add_tail:
        others = ~one_hot.any(axis=2)
        rest = np.logaddexp.reduce(np.where(others, z, -np.inf), axis=-1, keepdims=True)
        of_teacher = log1mexp(np.minimum(known, -SMALLEST_REST))
        of_teacher = np.where(np.isneginf(rest), -np.inf, of_teacher)  # no other token: no bucket
        student, teacher = (
            np.append(student, rest, axis=-1),
            np.append(teacher, of_teacher, axis=-1),
        )
        of_rest = np.exp(np.where(others, z - rest, -np.inf))
        slope = np.append(slope, of_rest[:, :, None], axis=2)
    return share, _without_inf(student), _without_inf(teacher), slope


def _without_inf(logits):
    """Both sides lack the same entries, so that these compare as equal, with probability 0."""
    return np.where(np.isneginf(logits), ABSENT, logits)


def _one_hot(support_ids, mask, vocab_size):
    """(B, T, K, V), True at each candidate's id; nowhere for an id of -1 and in the padding."""
    shape = (*mask.shape, None)
    ids = _checks.array("support_ids", support_ids, shape=shape, dtype=None)
    ids = np.where(mask[..., None] == 1, ids, -1)
    _checks.token_ids("support_ids", ids[ids != -1], vocab_size=vocab_size)
    one_hot = ids[..., None] == np.arange(vocab_size)
    if (one_hot.sum(axis=2) > 1).any():
        raise ValueError("support_ids must differ within a position, got one of them twice")
    return one_hot
