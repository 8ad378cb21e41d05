"""robust, EXO, DiscoPOP, AOT: preference losses of the margin h = beta (chosen - rejected).

Source    robust: Chowdhury et al., arXiv 2403.00409;  exo_pair: Ji et al., arXiv 2402.00856, eq. 16
          discopop: Lu et al., arXiv 2406.08414, eq. 5;  aot: Melnyk et al., arXiv 2406.05882
Lesson    none
Proof     tests/laws/test_dpo_margin.py, tests/parity/test_dpo.py

Shapes    B pairs: log-ratios (B,) or their f-divergence scores -> losses (B,);
          each gradient is the pair (d/d chosen, d/d rejected), each (B,).
Notation  eps = label_smoothing: assumed share of swapped labels.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks
from reference_math._stable import log_sigmoid, sigmoid
from reference_math._types import Array, ArrayLike
from reference_math.dpo import margin


def robust(
    chosen_logratios: ArrayLike,
    rejected_logratios: ArrayLike,
    *,
    beta: float,
    label_smoothing: float,
) -> Array:
    """Compute a loss that is unbiased for the clean labels if a share eps is swapped; 0 <= eps < 1/2.

    (-(1 - eps) log sigmoid(h) + eps log sigmoid(-h)) / (1 - 2 eps)

    >>> robust([1.0], [1.0], beta=0.1, label_smoothing=0.25).round(4)   # ln 2 (3/4 - 1/4) / (1/2)
    array([0.6931])
    """
    eps = _checks.number("label_smoothing", label_smoothing, at_least=0, below=0.5)
    h = margin(chosen_logratios, rejected_logratios, beta)
    return (-(1.0 - eps) * log_sigmoid(h) + eps * log_sigmoid(-h)) / (1.0 - 2.0 * eps)


def robust_grad(
    chosen_logratios: ArrayLike,
    rejected_logratios: ArrayLike,
    *,
    beta: float,
    label_smoothing: float,
) -> tuple[Array, Array]:
    """Compute +-beta (-(1 - eps) sigmoid(-h) - eps sigmoid(h)) / (1 - 2 eps).

    >>> robust_grad([1.0], [1.0], beta=0.1, label_smoothing=0.25)   # 0.1 (-1/2) / (1/2)
    (array([-0.1]), array([0.1]))
    """
    eps = _checks.number("label_smoothing", label_smoothing, at_least=0, below=0.5)
    h = margin(chosen_logratios, rejected_logratios, beta)
    return _both(beta * (-(1.0 - eps) * sigmoid(-h) - eps * sigmoid(h)) / (1.0 - 2.0 * eps))


def exo_pair(
    chosen_logratios: ArrayLike,
    rejected_logratios: ArrayLike,
    *,
    beta: float,
    label_smoothing: float,
) -> Array:
    """Compute KL of two Bernoulli distributions, (sigmoid(h), sigmoid(-h)) from (1 - eps, eps).

    0 < eps < 1.

    >>> exo_pair([1.0], [1.0], beta=0.1, label_smoothing=0.5).round(4)   # both are (1/2, 1/2)
    array([0.])
    """
    eps = _checks.number("label_smoothing", label_smoothing, above=0, below=1)
    h = margin(chosen_logratios, rejected_logratios, beta)
    won = sigmoid(h) * (log_sigmoid(h) - np.log1p(-eps))
    return won + sigmoid(-h) * (log_sigmoid(-h) - np.log(eps))


def exo_pair_grad(
    chosen_logratios: ArrayLike,
    rejected_logratios: ArrayLike,
    *,
    beta: float,
    label_smoothing: float,
) -> tuple[Array, Array]:
    """Compute +-beta sigmoid(h) sigmoid(-h) (h - log((1 - eps) / eps)): 0 once the odds are right.

    dKL = log(q / p) - log((1 - q) / (1 - p)) for dq = sigmoid(h) sigmoid(-h) dh, log-odds of q = h.

    >>> exo_pair_grad([10.0], [0.0], beta=0.1, label_smoothing=0.5)[0].round(4)   # h = 1
    array([0.0197])
    """
    eps = _checks.number("label_smoothing", label_smoothing, above=0, below=1)
    h = margin(chosen_logratios, rejected_logratios, beta)
    return _both(beta * sigmoid(h) * sigmoid(-h) * (h - np.log1p(-eps) + np.log(eps)))


def discopop(
    chosen_logratios: ArrayLike, rejected_logratios: ArrayLike, *, beta: float, discopop_tau: float
) -> Array:
    """Compute DiscoPOP, which a language model proposed: logistic where h < 0, exponential where h > 0.

    (1 - s) (-log sigmoid(h)) + s e^-h        s = sigmoid(h / tau)

    TRL multiplies s by e^-h: 0 inf = NaN at h < -88 in float32; here s e^-h is one exponential.
    For tau < 0.1023 the loss increases at h = 0; with tau = 0.05 it has a local maximum at
    h = 0.07 that training must cross.

    >>> discopop([1.0], [1.0], beta=0.1, discopop_tau=0.05).round(4)   # 1/2 ln 2 + 1/2
    array([0.8466])
    """
    tau = _checks.number("discopop_tau", discopop_tau, above=0)
    h = margin(chosen_logratios, rejected_logratios, beta)
    return -sigmoid(-h / tau) * log_sigmoid(h) + np.exp(log_sigmoid(h / tau) - h)


def discopop_grad(
    chosen_logratios: ArrayLike, rejected_logratios: ArrayLike, *, beta: float, discopop_tau: float
) -> tuple[Array, Array]:
    """Compute +-beta times  s' (log sigmoid(h) + e^-h) - (1 - s) sigmoid(-h) - s e^-h,  s' = s (1-s) / tau.

    >>> discopop_grad([1.0], [1.0], beta=0.1, discopop_tau=1.0)[0].round(4)   # h = 0
    array([-0.0673])
    """
    tau = _checks.number("discopop_tau", discopop_tau, above=0)
    h = margin(chosen_logratios, rejected_logratios, beta)
    s, not_s = sigmoid(h / tau), sigmoid(-h / tau)
    s_exp = np.exp(log_sigmoid(h / tau) - h)
    moved = not_s / tau * (s * log_sigmoid(h) + s_exp)
    return _both(beta * (moved - not_s * sigmoid(-h) - s_exp))


def aot(upper: ArrayLike, lower: ArrayLike, *, beta: float, label_smoothing: float) -> Array:
    """Align by optimal transport: compare sorted values, the i-th smallest of each array.

    -(1 - eps) log sigmoid(h) - eps log sigmoid(-h)        h = beta (sort(upper) - sort(lower))

    upper, lower   (B,)  aot: log p(chosen) - log p(rejected), of the policy and of the reference;
                         aot_unpaired: the log-ratios of the chosen and of the rejected answers
    returns        (B,)  one loss per rank; it depends on the other pairs of the micro-batch

    >>> aot([3.0, 1.0], [1.0, 3.0], beta=0.1, label_smoothing=0.0).round(4)   # ranks agree: ln 2
    array([0.6931, 0.6931])
    """
    eps = _checks.number("label_smoothing", label_smoothing, at_least=0, at_most=1)
    h = margin(np.sort(upper), np.sort(lower), beta)
    return -(1.0 - eps) * log_sigmoid(h) - eps * log_sigmoid(-h)


def aot_grad(
    upper: ArrayLike, lower: ArrayLike, *, beta: float, label_smoothing: float
) -> tuple[Array, Array]:
    """Compute +-beta (eps - sigmoid(-h)) of each value's rank, in the original order of the values.

    >>> aot_grad([3.0, 1.0], [1.0, 3.0], beta=0.1, label_smoothing=0.0)
    (array([-0.05, -0.05]), array([0.05, 0.05]))
    """
    eps = _checks.number("label_smoothing", label_smoothing, at_least=0, at_most=1)
    slope = beta * (eps - sigmoid(-margin(np.sort(upper), np.sort(lower), beta)))
    return slope[_rank(upper)], -slope[_rank(lower)]


def _both(slope):
    return slope, -slope


def _rank(x):
    return np.argsort(np.argsort(x, kind="stable"))
