"""Direct preference optimisation: learn from pairs of a chosen and a rejected answer.

    h = beta ((log p - log p_ref)(chosen) - (log p - log p_ref)(rejected))        L = -log sigmoid(h)

Source    Rafailov et al., arXiv 2305.18290, eq. 7; IPO: Azar et al., arXiv 2310.12036, eq. 17
          hinge: Zhao et al. (SLiC), arXiv 2305.10425; ld_alpha: Liu et al., arXiv 2409.06411
Torch     reference_math.torch.dpo     Lesson   notebooks/02_dpo.ipynb
Proof     tests/laws/test_dpo.py, tests/parity/test_dpo.py

Shapes    B pairs, T positions.  In (2B, ...) the B chosen rows stand first, then the B rejected.
          A log-ratio is log p_policy - log p_ref of a whole answer, in nats.
Others    dpo_margin (robust, EXO, DiscoPOP, AOT), dpo_pointwise (NCA, BCO-pair, SPPO, APO): the other
          losses;  dpo_trainer: all fifteen from token log-probs;  f_divergences, wpo: other scores
          and weights;  implicit_rewards: the metrics to log
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, _stable
from reference_math._types import Array, ArrayLike


def sequence_weights(completion_mask: ArrayLike, *, ld_alpha: float | None = None) -> Array:
    """Compute the weight of each token in its answer's log-probability (LD-DPO: the tail weighs less).

    completion_mask   (2B, T)  1 = the answer's tokens
    ld_alpha          0 to 1: weight of the tokens beyond the shorter answer's length; None = 1
    returns           (2B, T)

    >>> sequence_weights([[1, 1, 1], [0, 1, 1]], ld_alpha=0.5)   # 2 tokens are shared
    array([[1. , 1. , 0.5],
           [0. , 1. , 1. ]])
    """
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    if len(mask) % 2:
        raise ValueError(f"completion_mask must have 2B rows, B chosen first, got {mask.shape}")
    if ld_alpha is None:
        return mask
    ld_alpha = _checks.number("ld_alpha", ld_alpha, at_least=0, at_most=1)
    length = mask.sum(axis=1, keepdims=True)
    shared = np.tile(np.minimum(*np.split(length, 2)), (2, 1))
    return mask * np.where(mask.cumsum(axis=1) <= shared, 1.0, ld_alpha)


def sequence_logps(
    per_token_logps: ArrayLike, completion_mask: ArrayLike, *, ld_alpha: float | None = None
) -> Array:
    """Compute each answer's log-probability; its gradient is `sequence_weights`.  Empty: log 1 = 0.

    per_token_logps   (2B, T)
    completion_mask   (2B, T)
    returns           (2B,)

    >>> sequence_logps([[-1.0, -2.0], [-4.0, -8.0]], [[1, 1], [1, 0]])
    array([-3., -4.])
    """
    weights = sequence_weights(completion_mask, ld_alpha=ld_alpha)
    mask = _checks.mask01("completion_mask", completion_mask)
    return (weights * _checks.counted("per_token_logps", per_token_logps, mask)).sum(axis=1)


def chosen_mask(completion_mask: ArrayLike) -> Array:
    """Set the mask's rejected rows to 0, (2B, T): the tokens of an nll of the chosen answers.

    >>> chosen_mask([[1, 1], [1, 0]])
    array([[1., 1.],
           [0., 0.]])
    """
    mask = sequence_weights(completion_mask)
    return mask * (np.arange(len(mask)) < len(mask) // 2)[:, None]


def sigmoid(chosen_logratios: ArrayLike, rejected_logratios: ArrayLike, *, beta: float) -> Array:
    """Compute -log sigmoid(h), h = beta (chosen - rejected): finite at any margin.

    chosen_logratios, rejected_logratios   (B,)  or their f-divergence scores
    beta                                   strength of the penalty for moving away from the reference; >= 0
    returns                                (B,)  one loss per pair

    >>> sigmoid([1.0], [1.0], beta=0.1).round(4)   # no preference yet: ln 2
    array([0.6931])
    """
    return -_stable.log_sigmoid(margin(chosen_logratios, rejected_logratios, beta))


def sigmoid_grad(
    chosen_logratios: ArrayLike, rejected_logratios: ArrayLike, *, beta: float
) -> tuple[Array, Array]:
    """Compute (d/d chosen, d/d rejected) = (-beta sigmoid(-h), +beta sigmoid(-h)), each (B,).

    >>> sigmoid_grad([1.0], [1.0], beta=0.1)   # half of beta each way
    (array([-0.05]), array([0.05]))
    """
    slope = -beta * _stable.sigmoid(-margin(chosen_logratios, rejected_logratios, beta))
    return slope, -slope


def hinge(chosen_logratios: ArrayLike, rejected_logratios: ArrayLike, *, beta: float) -> Array:
    """Compute max(0, 1 - h): zero once the margin reaches 1.  Shapes as in `sigmoid`.

    >>> hinge([3.0], [1.0], beta=0.1)   # 1 - 0.1 (3 - 1)
    array([0.8])
    """
    return np.maximum(1.0 - margin(chosen_logratios, rejected_logratios, beta), 0.0)


def hinge_grad(
    chosen_logratios: ArrayLike, rejected_logratios: ArrayLike, *, beta: float
) -> tuple[Array, Array]:
    """Compute (-beta, +beta) while h < 1, else 0; at exactly h = 1 the gradient is 0, as in torch.

    >>> hinge_grad([3.0], [1.0], beta=0.1)
    (array([-0.1]), array([0.1]))
    """
    slope = -beta * (margin(chosen_logratios, rejected_logratios, beta) < 1.0)
    return slope, -slope


def ipo(chosen_logratios: ArrayLike, rejected_logratios: ArrayLike, *, beta: float) -> Array:
    """Compute the margin's squared distance from its target: (chosen - rejected - 1/(2 beta))^2.

    A larger margin is penalised too. beta is the paper's tau.

    The paper takes whole answers' log-ratios; TRL divides each by its token count first.

    beta   > 0; 0 is a division by zero in TRL, a ValueError here

    >>> ipo([2.0], [1.0], beta=0.25)   # (1 - 2)^2
    array([1.])
    """
    return _ipo_error(chosen_logratios, rejected_logratios, beta) ** 2


def ipo_grad(
    chosen_logratios: ArrayLike, rejected_logratios: ArrayLike, *, beta: float
) -> tuple[Array, Array]:
    """Compute (2 error, -2 error), error = chosen - rejected - 1/(2 beta).

    >>> ipo_grad([2.0], [1.0], beta=0.25)
    (array([-2.]), array([2.]))
    """
    slope = 2.0 * _ipo_error(chosen_logratios, rejected_logratios, beta)
    return slope, -slope


def pair(chosen_logratios: ArrayLike, rejected_logratios: ArrayLike) -> tuple[Array, Array]:
    """Return both arrays as float64, checked to be finite and of one shape (B,).

    >>> pair([1], [2])
    (array([1.]), array([2.]))
    """
    chosen = _checks.finite("chosen_logratios", chosen_logratios, ndim=1)
    return chosen, _checks.finite("rejected_logratios", rejected_logratios, shape=chosen.shape)


def margin(chosen_logratios: ArrayLike, rejected_logratios: ArrayLike, beta: float) -> Array:
    """Compute h = beta (chosen - rejected), (B,).

    >>> margin([3.0], [1.0], 0.1)
    array([0.2])
    """
    chosen, rejected = pair(chosen_logratios, rejected_logratios)
    return _checks.number("beta", beta, at_least=0) * (chosen - rejected)


def _ipo_error(chosen, rejected, beta):
    chosen, rejected = pair(chosen, rejected)
    return chosen - rejected - 0.5 / _checks.number("beta", beta, above=0)
