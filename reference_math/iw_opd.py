"""IW-OPD: on-policy distillation that weighs a token less the further the answer has drifted.

    L = -1/N sum_bt w_t a_t log p_t        a_t = sg[log p_T,t - log p_old,t]
    w_t = 1 + gamma (1 - sum_{s < t} |a_s| / sum_s |a_s|)

Source    Xie et al., On the Position Bias of On-Policy Distillation, arXiv 2606.22600, algorithm 1
          advantages   of MOPD, MiMo-V2-Flash, arXiv 2601.02780; Tinker's, prime-rl's, NeMo-RL's, slime's
          TRL: IWOPDTrainer (1.16), distillation_objective "iw_opd"
Torch     none     Lesson   none
Proof     tests/laws/test_iw_opd.py, tests/parity/test_iw_opd.py

Shapes    B completions of the student, T tokens each; N of all of them count.    Natural logs.

gamma = 0 is on-policy distillation on the sampled token alone: the teacher's log-probability is the
reward, the student's own the baseline.  On average its gradient is that of KL(student || teacher).

TRL    Keeps sum |a| at 1e-8 or above before it divides; here the weight is 1 + gamma where no token
       differs, and a is 0 there anyway.  Its other distillation_objective, "jsd", is `gkd.loss`, or
       with a top-k `server_distillation.loss` on tokens that a local teacher scores.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, sft
from reference_math._types import Array, ArrayLike


def loss(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    teacher_per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    *,
    gamma: float,
    num_items_in_batch: float | None = None,
) -> float:
    """Compute the loss of one micro-batch, a float; 0 if no token counts.

    per_token_logps           (B, T)  of each sampled token under the student
    old_per_token_logps       (B, T)  the same when it was sampled; on-policy, a copy of the first
    teacher_per_token_logps   (B, T)  under the teacher
    completion_mask           (B, T)  1 = counts
    gamma                     >= 0, what the first token's weight is above 1. TRL: 0.5
    num_items_in_batch        N, tokens of the whole optimizer step; None: of this micro-batch

    >>> logps, teacher = np.log([[0.5, 0.5]]), np.log([[0.25, 0.25]])
    >>> round(loss(logps, logps, teacher, [[1, 1]], gamma=1.0), 4)    # -(2 + 1.5) ln(2)^2 / 2
    -0.8408
    """
    args = old_per_token_logps, teacher_per_token_logps, completion_mask
    grad = loss_grad(per_token_logps, *args, gamma=gamma, num_items_in_batch=num_items_in_batch)
    logps = _checks.counted("per_token_logps", per_token_logps, np.asarray(completion_mask))
    return float((grad * logps).sum())


def loss_grad(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    teacher_per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    *,
    gamma: float,
    num_items_in_batch: float | None = None,
) -> Array:
    """Compute d loss / d(per_token_logps) = -w a / N, (B, T); w and a are constant: the loss is linear.

    >>> logps, teacher = np.log([[0.5, 0.5]]), np.log([[0.25, 0.25]])
    >>> loss_grad(logps, logps, teacher, [[1, 1]], gamma=1.0).round(4)    # 2 ln 2 / 2, 1.5 ln 2 / 2
    array([[0.6931, 0.5199]])
    """
    reduction = "batch_token" if num_items_in_batch is None else "global_token"
    count = {"num_items_in_batch": num_items_in_batch}
    share = sft.token_weights(completion_mask, reduction=reduction, **count)
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    _checks.counted("per_token_logps", per_token_logps, mask)
    a = advantages(old_per_token_logps, teacher_per_token_logps, mask)
    return -share * prefix_weights(a, gamma=gamma) * a


def advantages(
    old_per_token_logps: ArrayLike, teacher_per_token_logps: ArrayLike, completion_mask: ArrayLike
) -> Array:
    """Compute a, (B, T): the teacher's log-probability as the reward, the student's own as the baseline.

    One advantage per token, for any policy loss: with `grpo.loss` the student may train several times on
    the same answers, and a weighted sum with the advantages of a verifier trains on both.  With several
    teachers, each row has the log-probabilities of its own.

    >>> advantages(np.log([[0.5, 0.5]]), np.log([[0.25, 0.5]]), [[1, 1]]).round(4)
    array([[-0.6931,  0.    ]])
    """
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    teacher = _checks.counted("teacher_per_token_logps", teacher_per_token_logps, mask)
    return teacher - _checks.counted("old_per_token_logps", old_per_token_logps, mask)


def prefix_weights(advantages: ArrayLike, *, gamma: float) -> Array:
    """Compute w of each token: 1 + gamma before the first that differs, down to 1 after the last.

    advantages   (B, T)  a, 0 where nothing counts
    gamma        >= 0
    returns      (B, T)

    >>> prefix_weights([[1.0, -3.0, 0.0], [0.0, 0.0, 0.0]], gamma=0.5)
    array([[1.5  , 1.375, 1.   ],
           [1.5  , 1.5  , 1.5  ]])
    """
    gamma = _checks.number("gamma", gamma, at_least=0)
    drift = np.abs(_checks.finite("advantages", advantages, ndim=2))
    total = drift.sum(axis=1, keepdims=True)
    before = np.cumsum(drift, axis=1) - drift
    done = np.divide(before, total, out=np.zeros_like(drift), where=total > 0)
    return 1.0 + gamma * (1.0 - done)
