"""DPO under other divergences: each answer's log-ratio u becomes the score F(u) = f'(e^u).

Reverse KL, plain DPO, is the only one whose score is unbounded in both directions.

Source    Wang et al. (f-DPO), arXiv 2309.16240, table 1 (constants that cancel in a margin left out)
Lesson    none
Proof     tests/laws/test_f_divergences.py, tests/parity/test_dpo.py

Shapes    u (N,) log-ratios, log p_policy - log p_ref of an answer, in nats -> (N,); any shape does.
Range     exact to |u| = 709, where e^u leaves float64; TRL in float32 ends at 88
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, _stable
from reference_math._types import Array, ArrayLike


def reverse_kl(u: ArrayLike) -> Array:
    """Compute F(u) = u, from f(t) = t log t.

    >>> reverse_kl([2.0])
    array([2.])
    """
    return _checks.finite("u", u)


def reverse_kl_grad(u: ArrayLike) -> Array:
    """Compute F'(u) = 1.

    >>> reverse_kl_grad([2.0])
    array([1.])
    """
    return np.ones_like(_checks.finite("u", u))


def forward_kl(u: ArrayLike) -> Array:
    """Compute F(u) = 1 - e^-u, from f(t) = -log t: the score saturates at 1 as the
    answer becomes likelier.

    >>> forward_kl([np.log(2.0)])
    array([0.5])
    """
    return -np.expm1(-_checks.finite("u", u))


def forward_kl_grad(u: ArrayLike) -> Array:
    """Compute F'(u) = e^-u.

    >>> forward_kl_grad([np.log(2.0)])
    array([0.5])
    """
    return np.exp(-_checks.finite("u", u))


def js_divergence(u: ArrayLike) -> Array:
    """Compute F(u) = log 2 + log sigmoid(u) = log(2t / (1 + t)), t = e^u.

    >>> js_divergence([np.log(3.0)]).round(4)   # ln 3/2
    array([0.4055])
    """
    return np.log(2.0) + _stable.log_sigmoid(_checks.finite("u", u))


def js_divergence_grad(u: ArrayLike) -> Array:
    """Compute F'(u) = sigmoid(-u).

    >>> js_divergence_grad([np.log(3.0)])
    array([0.25])
    """
    return _stable.sigmoid(-_checks.finite("u", u))


def alpha_divergence(u: ArrayLike, *, alpha: float, max_exponent: float) -> Array:
    """Compute F(u) = (t^(alpha - 1) - 1) / (alpha - 1), t = e^u; u itself at alpha = 1.

    alpha          1: reverse KL; 0: forward KL; TRL: 0.5, and 1 wherever |alpha - 1| < 1e-6
    max_exponent   (alpha - 1) u is cut off above it; np.inf: the paper's; TRL: 80, float16: 11

    >>> alpha_divergence([np.log(4.0)], alpha=0.5, max_exponent=80.0)   # -2 (1/2 - 1)
    array([1.])
    """
    u, alpha = _checks.finite("u", u), _checks.number("alpha", alpha)
    if alpha == 1.0:
        return u
    return np.expm1(np.minimum((alpha - 1.0) * u, max_exponent)) / (alpha - 1.0)


def alpha_divergence_grad(u: ArrayLike, *, alpha: float, max_exponent: float) -> Array:
    """Compute F'(u) = t^(alpha - 1); 0 beyond the cut-off, where F is flat.

    >>> alpha_divergence_grad([np.log(4.0)], alpha=0.5, max_exponent=80.0)
    array([0.5])
    """
    exponent = (_checks.number("alpha", alpha) - 1.0) * _checks.finite("u", u)
    return np.exp(np.minimum(exponent, max_exponent)) * (exponent <= max_exponent)
