"""ORPO: fine-tuning on the chosen answer plus its odds against the rejected one; no reference.

    L = nll(chosen) - beta mean log sigmoid(log odds(chosen) - log odds(rejected))
    odds = p / (1 - p),  p the geometric mean of the tokens' probabilities:  log p = mean_t l_t

Source    Hong et al., arXiv 2403.07691, eqs. 4 and 7; beta is their lambda
Lesson    notebooks/05_gallery.ipynb
Proof     tests/laws/test_orpo.py, tests/parity/test_orpo.py

Shapes    B pairs, T positions.  In (2B, T) the B chosen rows stand first, then the B rejected.
TRL       ORPOTrainer (trl.experimental) takes the nll over the prompt, too (`nll_mask`), and the
          odds in float32: within 3e-8 of log p = 0 its gradient is NaN. Here they saturate: a log p
          above -e^-700, an empty answer's above all, counts as -e^-700 and gets no gradient.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, _renamed, dpo, sft
from reference_math._stable import log1mexp, log_sigmoid, sigmoid
from reference_math._types import Array, ArrayLike

_SUREST = -np.exp(-700.0)  # one step further and 1 / (1 - p) leaves float64


def pair_loss(
    chosen_mean_logps: ArrayLike, rejected_mean_logps: ArrayLike, *, beta: float
) -> Array:
    """Compute -beta log sigmoid(h), h the log of the odds ratio, (B,).

    chosen_mean_logps, rejected_mean_logps   (B,)  mean log-probability of the answer's tokens, <= 0
    beta                                     >= 0

    >>> pair_loss(np.log([0.5]), np.log([0.5]), beta=1.0).round(4)   # odds 1 to 1: ln 2
    array([0.6931])
    """
    h, _, _ = _log_odds_ratio(chosen_mean_logps, rejected_mean_logps)
    return -_checks.number("beta", beta, at_least=0) * log_sigmoid(h)


def pair_loss_grad(
    chosen_mean_logps: ArrayLike, rejected_mean_logps: ArrayLike, *, beta: float
) -> tuple[Array, Array]:
    """Compute (d/d chosen, d/d rejected) = (-, +) beta sigmoid(-h) / (1 - p), each (B,).

    d log odds / d log p = 1 + p / (1 - p) = 1 / (1 - p): the likelier the answer, the larger it is.

    >>> pair_loss_grad(np.log([0.5]), np.log([0.5]), beta=1.0)   # 1/2 / (1 - 1/2)
    (array([-1.]), array([1.]))
    """
    h, d_chosen, d_rejected = _log_odds_ratio(chosen_mean_logps, rejected_mean_logps)
    slope = _checks.number("beta", beta, at_least=0) * sigmoid(-h)
    return -slope * d_chosen, slope * d_rejected


def loss(
    per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    *,
    beta: float = 0.1,
    nll_mask: ArrayLike | None = None,
) -> float:
    """Compute the loss of one batch, a float.

    per_token_logps   (2B, T)
    completion_mask   (2B, T)  1 = the answer's tokens
    beta              0.1 in TRL
    nll_mask          (2B, T)  the tokens of the nll, whose mean is taken over the batch (the
                      rejected rows are not read). None: the chosen answers, as in the paper

    >>> round(loss(np.log([[0.5], [0.5]]), [[1], [1]], beta=1.0), 4)   # ln 2 + ln 2
    1.3863
    """
    return _both(per_token_logps, completion_mask, beta, nll_mask)[0]


def loss_grad(
    per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    *,
    beta: float = 0.1,
    nll_mask: ArrayLike | None = None,
) -> Array:
    """Compute d loss / d(per_token_logps), (2B, T); the arguments of `loss`.

    >>> loss_grad(np.log([[0.5], [0.5]]), [[1], [1]], beta=1.0).tolist()   # nll: -1; odds: -+1
    [[-2.0], [1.0]]
    """
    return _both(per_token_logps, completion_mask, beta, nll_mask)[1]


loss_and_grad = _renamed.both(loss, loss_grad)


def mean_weights(completion_mask: Array) -> Array:
    """Compute the weight of each token in its answer's mean log-probability, (2B, T): 1 / its tokens.

    An empty answer has no weights: its mean is 0 (TRL: NaN).

    >>> mean_weights([[1, 1], [1, 0]])
    array([[0.5, 0.5],
           [1. , 0. ]])
    """
    weights = sft.token_weights(completion_mask, reduction="sequence") * len(completion_mask)
    if len(weights) % 2:
        raise ValueError(f"completion_mask must have 2B rows, B chosen first, got {weights.shape}")
    return weights


def _log_odds_ratio(chosen, rejected):
    """h, d log odds / d log p of the chosen, and of the rejected"""
    chosen = _checks.finite("chosen_mean_logps", chosen, ndim=1)
    rejected = _checks.finite("rejected_mean_logps", rejected, shape=chosen.shape)
    for name, x in {"chosen_mean_logps": chosen, "rejected_mean_logps": rejected}.items():
        if (x > 0).any():
            raise ValueError(f"{name} must be <= 0, got {x.max()} in shape {x.shape}")
    c, r = np.minimum(chosen, _SUREST), np.minimum(rejected, _SUREST)
    h = c - r - (log1mexp(c) - log1mexp(r))
    return h, (chosen <= _SUREST) / -np.expm1(c), (rejected <= _SUREST) / -np.expm1(r)


def _both(per_token_logps, completion_mask, beta, nll_mask):
    """(the loss, its gradient)"""
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    weights = mean_weights(mask)
    means = (weights * _checks.counted("per_token_logps", per_token_logps, mask)).sum(axis=1)
    pair = np.split(means, 2)
    nll_mask = mask if nll_mask is None else nll_mask
    nll_mask = _checks.mask01("nll_mask", nll_mask, shape=mask.shape)
    chosen = dpo.chosen_mask(nll_mask)
    nll = sft.nll(per_token_logps, chosen, reduction="batch_token")
    grad = sft.nll_grad(per_token_logps, chosen, reduction="batch_token")
    pairs = max(len(mask) // 2, 1)
    to_means = np.concatenate(pair_loss_grad(*pair, beta=beta)) / pairs
    value = nll + pair_loss(*pair, beta=beta).sum() / pairs
    return float(value), grad + to_means[:, None] * weights
