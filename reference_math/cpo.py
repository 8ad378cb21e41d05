"""CPO: DPO against a uniform reference, which cancels, plus fine-tuning on the chosen answer.

    h = beta (log p(chosen) - log p(rejected))        L = -log sigmoid(h) + nll(chosen)

Source    Xu et al., arXiv 2401.08417, eq. 3
          label_smoothing: cDPO, Mitchell's note with the code of arXiv 2305.18290, as in TRL
Lesson    notebooks/05_gallery.ipynb
Proof     tests/laws/test_cpo.py, tests/parity/test_cpo_trainer.py

Shapes    B pairs.    `cpo_trainer` has the whole loss; dpo.hinge and dpo.ipo are its other shapes.
Notation  eps = label_smoothing: assumed share of swapped labels.
"""

from __future__ import annotations

from reference_math import _checks
from reference_math._stable import log_sigmoid, sigmoid
from reference_math._types import Array, ArrayLike


def pair_loss(
    chosen_scores: ArrayLike,
    rejected_scores: ArrayLike,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Array:
    """Compute -(1 - eps) log sigmoid(h) - eps log sigmoid(-h), h = beta (chosen - rejected), (B,).

    chosen_scores, rejected_scores   (B,)  CPO: log p of the answer; SimPO, AlphaPO: a score made from
                                     its mean log p; cDPO: the log-ratio log p - log p_ref
    beta                             >= 0
    label_smoothing                  eps, 0 to 1; for 0 < eps < 1 the minimum is at
                                     h = log((1 - eps) / eps)

    >>> pair_loss([1.0], [1.0], beta=0.1).round(4)   # no preference yet: ln 2
    array([0.6931])
    """
    h, eps = _margin(chosen_scores, rejected_scores, beta, label_smoothing)
    return -(1.0 - eps) * log_sigmoid(h) - eps * log_sigmoid(-h)


def pair_loss_grad(
    chosen_scores: ArrayLike,
    rejected_scores: ArrayLike,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> tuple[Array, Array]:
    """Compute (d/d chosen, d/d rejected) = -+beta ((1 - eps) sigmoid(-h) - eps sigmoid(h)), each (B,).

    >>> pair_loss_grad([1.0], [1.0], beta=0.1, label_smoothing=0.25)   # 0.1 (3/8 - 1/8)
    (array([-0.025]), array([0.025]))
    """
    h, eps = _margin(chosen_scores, rejected_scores, beta, label_smoothing)
    slope = -beta * ((1.0 - eps) * sigmoid(-h) - eps * sigmoid(h))
    return slope, -slope


def _margin(chosen, rejected, beta, label_smoothing):
    chosen = _checks.finite("chosen_scores", chosen, ndim=1)
    rejected = _checks.finite("rejected_scores", rejected, shape=chosen.shape)
    eps = _checks.number("label_smoothing", label_smoothing, at_least=0, at_most=1)
    return _checks.number("beta", beta, at_least=0) * (chosen - rejected), eps
