"""ULD, the universal logit distance: distil from a teacher with a different vocabulary.

    D = sum_i | Q_(i) - P_(i) |        both sorted from the likeliest down, the shorter one padded with 0

Source    Boizard et al., Towards Cross-Tokenizer Distillation, arXiv 2402.12030: the Wasserstein
          distance of the two where every two different tokens are equally far from each other
          TRL: GOLDTrainer, ULDLoss (1.16)
Lesson    notebooks/05_gallery.ipynb
Proof     tests/laws/test_uld.py, tests/parity/test_uld.py

Shapes    T positions that both tokenizers align, V student's and V' teacher's vocabulary.

It compares the shapes of two distributions and no token with any other: a student that is sure of
the wrong token is as near as one that is sure of the right one.  So the paper adds cross-entropy.

GOLD around it, not here: it aligns the tokens by their bytes and merges probabilities of split
tokens; with uld_use_hybrid_loss it compares tokens that both vocabularies share by `gkd`'s
divergence, on probabilities that it does not normalise again.  By default ("observed") it reads the
logits one position late: never those that predict the answer's first token.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, logprobs
from reference_math._types import Array, ArrayLike


def loss(
    student_logits: ArrayLike, teacher_logits: ArrayLike, *, temperature: float = 1.0
) -> float:
    """Compute the mean of D over the positions, a float; 0 if there are no positions.

    student_logits   (T, V)
    teacher_logits   (T, V')
    temperature      > 0, divides both

    >>> three = np.log([[3.0, 1.0, 1.0]])                                 # 3/5, 1/5, 1/5
    >>> round(loss([[0.0, 0.0]], three), 4)                               # 1/10 + 3/10 + 1/5
    0.6
    """
    q, p, _ = _sorted(student_logits, teacher_logits, temperature)
    return float(np.abs(q - p).sum()) / max(len(q), 1)


def loss_grad(
    student_logits: ArrayLike, teacher_logits: ArrayLike, *, temperature: float = 1.0
) -> Array:
    """Compute d loss / d(student_logits), (T, V): Q_v (s_v - sum_u Q_u s_u) / (temperature T).

    s_v = sign(Q_(i) - P_(i)) at token v's rank i: a small step does not change the ranks.  Equal
    probabilities take the ranks in the order of their ids; where both are equal the gradient is 0.

    >>> loss_grad([[np.log(3.0), 0.0]], [[0.0, 0.0]])                     # 3/4 (1 - (3/4 - 1/4))
    array([[ 0.375, -0.375]])
    """
    q, p, order = _sorted(student_logits, teacher_logits, temperature)
    sign = np.sign(q - p)[:, : order.shape[1]]
    push = np.empty_like(sign)
    np.put_along_axis(push, order, sign, axis=1)
    log_q = logprobs.log_softmax(student_logits, temperature=temperature)
    # softmax: dQ_u = Q_u (dz_u - sum_v Q_v dz_v) / temperature, as log_softmax's with g = Q s
    grad = logprobs.log_softmax_grad(student_logits, np.exp(log_q) * push, temperature=temperature)
    return grad / len(q)  # empty batch: nothing is divided by 0


def _sorted(student_logits, teacher_logits, temperature):
    """Both probabilities from the likeliest down, (T, max(V, V')), and the student's order (T, V)."""
    student = _checks.finite("student_logits", student_logits, ndim=2)
    teacher = _checks.finite("teacher_logits", teacher_logits, shape=(len(student), None))
    order = np.argsort(-student, axis=1, kind="stable")
    width = max(student.shape[1], teacher.shape[1])
    ranked = []
    for logits in (np.take_along_axis(student, order, axis=1), -np.sort(-teacher, axis=1)):
        probs = np.exp(logprobs.log_softmax(logits, temperature=temperature))
        ranked.append(np.pad(probs, [(0, 0), (0, width - logits.shape[1])]))
    return *ranked, order
