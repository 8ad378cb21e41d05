"""GKD: distil by the generalised Jensen-Shannon divergence of teacher and student, per token.

    D = beta KL(P || M) + (1 - beta) KL(Q || M)      M = beta P + (1 - beta) Q      0 < beta < 1
    beta = 0: KL(P || Q)        beta = 1: KL(Q || P)          P the teacher, Q the student

Source    Agarwal et al., On-Policy Distillation (GKD), arXiv 2306.13649, eq. 1
          TRL: GKDTrainer.generalized_jsd_loss; SDFT, GOLD and DistillationTrainer use the same
Lesson    notebooks/05_gallery.ipynb
Proof     tests/laws/test_gkd.py, tests/parity/test_gkd.py

Shapes    B sequences, T positions, V tokens of vocabulary.    In nats.
          logits[b, t] are already shifted: they predict the token that completion_mask[b, t] counts.

For 0 < beta < 1, D is at most H(beta), the entropy of a Bernoulli distribution.  As beta -> 0, D goes
to 0 and D / beta to KL(P || Q).  So the losses at beta = 0 and at 0.001 are far apart; the same holds
at beta = 1.

TRL's GKDTrainer never passes its `temperature` on: it samples at 0.9 and compares at 1.  On a batch
of the student's own answers it divides by num_items_in_batch, counted on the data set's answers.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, _renamed, kl, logprobs, sft
from reference_math._types import Array, ArrayLike


def divergence(
    student_logits: ArrayLike, teacher_logits: ArrayLike, *, beta: float, temperature: float = 1.0
) -> Array:
    """Compute the divergence D of each position.

    student_logits, teacher_logits   (..., V)
    beta                             0 to 1
    temperature                      > 0, divides both; there is no factor temperature^2 here
    returns                          (...)  never negative

    >>> one_in_three, even = [[np.log(3.0), 0.0]], [[0.0, 0.0]]              # (3/4, 1/4) and 1/2
    >>> divergence(one_in_three, even, beta=0.0).round(4)                    # KL(even || 3/4)
    array([0.1438])
    >>> divergence(one_in_three, even, beta=1.0).round(4)                    # KL(3/4 || even)
    array([0.1308])
    >>> divergence(one_in_three, even, beta=0.5).round(4)
    array([0.0338])
    """
    of_teacher, of_student = kl_weights(beta)
    log_q, log_p = _log_probs(student_logits, teacher_logits, temperature)
    log_m = log_mixture(log_q, log_p, beta)
    return of_teacher * kl.exact(log_p, log_m) + of_student * kl.exact(log_q, log_m)


def divergence_grad(
    student_logits: ArrayLike, teacher_logits: ArrayLike, *, beta: float, temperature: float = 1.0
) -> Array:
    """Compute d D / d(student_logits), (..., V); the teacher is constant.  It sums to 0 over V.

    beta = 0:  (Q - P) / temperature
    else       (1 - beta) Q (log Q - log M - KL(Q || M)) / temperature, without the 1 - beta at 1
    M moves, too, but sum (beta P/M + (1 - beta) Q/M) dM = sum dM = 0.

    >>> one_in_three, even = [[np.log(3.0), 0.0]], [[0.0, 0.0]]
    >>> divergence_grad(one_in_three, even, beta=0.0).round(4)
    array([[ 0.25, -0.25]])
    >>> divergence_grad(one_in_three, even, beta=1.0).round(4)          # 3/4 (ln 3/2 - 0.1308)
    array([[ 0.206, -0.206]])
    """
    of_student = kl_weights(beta)[1]
    log_q, log_p = _log_probs(student_logits, teacher_logits, temperature)
    if beta == 0:
        return (np.exp(log_q) - np.exp(log_p)) / temperature
    return of_student * kl.exact_grad(log_q, log_mixture(log_q, log_p, beta)) / temperature


def kl_weights(beta: float) -> tuple[float, float]:
    """Return the weights of KL(P || M) and KL(Q || M) in D: (beta, 1 - beta).

    At beta = 0 they are (1, 0), at beta = 1 (0, 1): D is the other KL alone there.

    >>> kl_weights(0.25), kl_weights(0), kl_weights(1)
    ((0.25, 0.75), (1.0, 0.0), (0.0, 1.0))
    """
    beta = _checks.number("beta", beta, at_least=0, at_most=1)
    return (1.0 - beta, beta) if beta in (0, 1) else (beta, 1.0 - beta)


def log_mixture(log_q: ArrayLike, log_p: ArrayLike, beta: float) -> Array:
    """Compute log M, (..., V), of log Q and log P; at beta = 0 it is log Q, at beta = 1 log P.

    >>> np.exp(log_mixture(np.log([0.75, 0.25]), np.log([0.5, 0.5]), 0.5))
    array([0.625, 0.375])
    """
    with np.errstate(divide="ignore"):  # log 0 = -inf: nothing of the other one
        return np.logaddexp(log_q + np.log1p(-beta), log_p + np.log(beta))


def loss(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    completion_mask: ArrayLike,
    *,
    beta: float,
    temperature: float = 1.0,
    num_items_in_batch: float | None = None,
) -> float:
    """Compute the mean over the tokens that count, a float; 0 if no token counts.

    student_logits, teacher_logits   (B, T, V)
    completion_mask                  (B, T)  1 = counts
    num_items_in_batch               tokens of the whole optimizer step; None: of this micro-batch
    beta, temperature                as in `divergence`

    >>> student, teacher = [[[np.log(3.0), 0.0], [0.0, 0.0]]], [[[0.0, 0.0], [0.0, 0.0]]]
    >>> round(loss(student, teacher, [[1, 1]], beta=1.0), 4)            # (0.1308 + 0) / 2
    0.0654
    """
    args = student_logits, teacher_logits, completion_mask, num_items_in_batch
    weights, student, teacher = _batch(*args)
    d = divergence(student, teacher, beta=beta, temperature=temperature)
    return float((weights * d).sum())


def loss_grad(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    completion_mask: ArrayLike,
    *,
    beta: float,
    temperature: float = 1.0,
    num_items_in_batch: float | None = None,
) -> Array:
    """Compute d loss / d(student_logits), (B, T, V).

    >>> student, teacher = [[[np.log(3.0), 0.0], [0.0, 0.0]]], [[[0.0, 0.0], [0.0, 0.0]]]
    >>> loss_grad(student, teacher, [[1, 0]], beta=0.0).round(4).tolist()
    [[[0.25, -0.25], [0.0, 0.0]]]
    """
    args = student_logits, teacher_logits, completion_mask, num_items_in_batch
    weights, student, teacher = _batch(*args)
    grad = divergence_grad(student, teacher, beta=beta, temperature=temperature)
    return weights[..., None] * grad


def _log_probs(student_logits, teacher_logits, temperature):
    log_q = logprobs.log_softmax(student_logits, temperature=temperature)
    teacher_logits = _checks.finite("teacher_logits", teacher_logits, shape=log_q.shape)
    return log_q, logprobs.log_softmax(teacher_logits, temperature=temperature)


def _batch(student_logits, teacher_logits, completion_mask, num_items_in_batch):
    reduction = "batch_token" if num_items_in_batch is None else "global_token"
    count = {"num_items_in_batch": num_items_in_batch}
    weights = sft.token_weights(completion_mask, reduction=reduction, **count)
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    student = _checks.counted_logits("student_logits", student_logits, mask)
    return weights, student, _checks.counted_logits("teacher_logits", teacher_logits, mask)


shares = _renamed.function("shares", kl_weights)
mixed = _renamed.function("mixed", log_mixture)
