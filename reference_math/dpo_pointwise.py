"""NCA, BCO-pair, SPPO, APO: preference losses that compare each answer with a fixed target.

    a, b = log p_policy - log p_ref of the chosen and of the rejected answer

Source    nca_pair: Chen et al., arXiv 2402.05369;  bco_pair: Jung et al., arXiv 2404.04656
          sppo_hard: Wu et al., arXiv 2405.00675, eq. 4.7, with win probabilities 1 and 0
          apo_zero, apo_down: D'Oosterlinck et al., arXiv 2408.06266, eqs. 7 and 8
Lesson    none
Proof     tests/laws/test_dpo_pointwise.py, tests/parity/test_dpo.py

Shapes    B pairs: log-ratios (B,) -> losses (B,); each gradient is (d/d chosen, d/d rejected).
"""

from __future__ import annotations

from reference_math import _checks
from reference_math._stable import log_sigmoid, sigmoid
from reference_math._types import Array, ArrayLike
from reference_math.dpo import pair


def nca_pair(chosen_logratios: ArrayLike, rejected_logratios: ArrayLike, *, beta: float) -> Array:
    """Compute -log sigmoid(beta a) - 1/2 log sigmoid(-beta a) - 1/2 log sigmoid(-beta b).

    The middle term keeps the chosen answer's likelihood from drifting.

    >>> nca_pair([0.0], [0.0], beta=0.1).round(4)   # 2 ln 2
    array([1.3863])
    """
    a, b = _scaled(chosen_logratios, rejected_logratios, beta)
    return -log_sigmoid(a) - 0.5 * log_sigmoid(-a) - 0.5 * log_sigmoid(-b)


def nca_pair_grad(
    chosen_logratios: ArrayLike, rejected_logratios: ArrayLike, *, beta: float
) -> tuple[Array, Array]:
    """Compute (beta (1/2 sigmoid(beta a) - sigmoid(-beta a)), beta/2 sigmoid(beta b)).

    >>> nca_pair_grad([0.0], [0.0], beta=0.1)
    (array([-0.025]), array([0.025]))
    """
    a, b = _scaled(chosen_logratios, rejected_logratios, beta)
    return beta * (0.5 * sigmoid(a) - sigmoid(-a)), 0.5 * beta * sigmoid(b)


def bco_pair(chosen_logratios: ArrayLike, rejected_logratios: ArrayLike, *, beta: float) -> Array:
    """Compute -log sigmoid(beta a) - log sigmoid(-beta b), a classifier, without the paper's reward shift.

    >>> bco_pair([0.0], [0.0], beta=0.1).round(4)   # 2 ln 2
    array([1.3863])
    """
    a, b = _scaled(chosen_logratios, rejected_logratios, beta)
    return -log_sigmoid(a) - log_sigmoid(-b)


def bco_pair_grad(
    chosen_logratios: ArrayLike, rejected_logratios: ArrayLike, *, beta: float
) -> tuple[Array, Array]:
    """Compute (-beta sigmoid(-beta a), beta sigmoid(beta b)).

    >>> bco_pair_grad([0.0], [0.0], beta=0.1)
    (array([-0.05]), array([0.05]))
    """
    a, b = _scaled(chosen_logratios, rejected_logratios, beta)
    return -beta * sigmoid(-a), beta * sigmoid(b)


def sppo_hard(chosen_logratios: ArrayLike, rejected_logratios: ArrayLike, *, beta: float) -> Array:
    """Compute (a - 1/(2 beta))^2 + (b + 1/(2 beta))^2; beta > 0, 1/beta is the paper's eta.

    >>> sppo_hard([1.0], [0.0], beta=0.5)   # (1 - 1)^2 + (0 + 1)^2
    array([1.])
    """
    a, b = pair(chosen_logratios, rejected_logratios)
    target = 0.5 / _checks.number("beta", beta, above=0)
    return (a - target) ** 2 + (b + target) ** 2


def sppo_hard_grad(
    chosen_logratios: ArrayLike, rejected_logratios: ArrayLike, *, beta: float
) -> tuple[Array, Array]:
    """Compute (2 (a - 1/(2 beta)), 2 (b + 1/(2 beta))).

    >>> sppo_hard_grad([1.0], [0.0], beta=0.5)
    (array([0.]), array([2.]))
    """
    a, b = pair(chosen_logratios, rejected_logratios)
    target = 0.5 / _checks.number("beta", beta, above=0)
    return 2.0 * (a - target), 2.0 * (b + target)


def apo_zero(chosen_logratios: ArrayLike, rejected_logratios: ArrayLike, *, beta: float) -> Array:
    """Compute 1 - sigmoid(beta a) + sigmoid(beta b): raise the chosen answer, lower the rejected one.

    For pairs whose chosen answer is better than the policy's own answers.

    >>> apo_zero([0.0], [0.0], beta=0.1)
    array([1.])
    """
    a, b = _scaled(chosen_logratios, rejected_logratios, beta)
    return sigmoid(-a) + sigmoid(b)


def apo_zero_grad(
    chosen_logratios: ArrayLike, rejected_logratios: ArrayLike, *, beta: float
) -> tuple[Array, Array]:
    """Compute (-beta s(a) s(-a), beta s(b) s(-b)), s the sigmoid of beta times its argument.

    >>> apo_zero_grad([0.0], [0.0], beta=0.1)
    (array([-0.025]), array([0.025]))
    """
    a, b = _scaled(chosen_logratios, rejected_logratios, beta)
    return -beta * sigmoid(a) * sigmoid(-a), beta * sigmoid(b) * sigmoid(-b)


def apo_down(chosen_logratios: ArrayLike, rejected_logratios: ArrayLike, *, beta: float) -> Array:
    """Compute sigmoid(beta a) + 1 - sigmoid(beta (a - b)): lower both, the rejected one more.

    For pairs whose answers are both worse than the policy's own answers.

    >>> apo_down([0.0], [0.0], beta=0.1)
    array([1.])
    """
    a, b = _scaled(chosen_logratios, rejected_logratios, beta)
    return sigmoid(a) + sigmoid(b - a)


def apo_down_grad(
    chosen_logratios: ArrayLike, rejected_logratios: ArrayLike, *, beta: float
) -> tuple[Array, Array]:
    """Compute (beta (s(a) s(-a) - m), beta m), m = s(a - b) s(b - a).

    >>> apo_down_grad([0.0], [0.0], beta=0.1)
    (array([0.]), array([0.025]))
    """
    a, b = _scaled(chosen_logratios, rejected_logratios, beta)
    m = sigmoid(a - b) * sigmoid(b - a)
    return beta * (sigmoid(a) * sigmoid(-a) - m), beta * m


def _scaled(chosen, rejected, beta):
    beta = _checks.number("beta", beta, at_least=0)
    chosen, rejected = pair(chosen, rejected)
    return beta * chosen, beta * rejected
