"""Compute the loss of TRL's CPOTrainer (CPO, SimPO, AlphaPO) from token log-probs.

    L = mean_pairs loss(f(s_chosen), f(s_rejected)) + cpo_alpha nll(chosen)

Source    TRL 1.16, CPOTrainer.get_batch_loss_metrics; each loss's own paper stands in its module
Lesson    notebooks/05_gallery.ipynb
Proof     tests/laws/test_cpo_trainer.py, tests/parity/test_cpo_trainer.py

Shapes    B pairs, T positions.  In (2B, T) the B chosen rows stand first, then the B rejected.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, _renamed, alphapo, cpo, dpo, orpo, sft, simpo
from reference_math._types import Array, ArrayLike

# loss_type: its two functions, whether s is the answer's mean, what it needs besides beta
_LOSSES = {
    "sigmoid": (cpo.pair_loss, cpo.pair_loss_grad, False, ("label_smoothing",)),
    "hinge": (dpo.hinge, dpo.hinge_grad, False, ()),
    "ipo": (dpo.ipo, dpo.ipo_grad, True, ()),
    "simpo": (simpo.pair_loss, simpo.pair_loss_grad, True, ("label_smoothing", "simpo_gamma")),
}
LOSS_TYPES = tuple(_LOSSES)


def loss(
    per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    *,
    loss_type: str = "sigmoid",
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    cpo_alpha: float = 1.0,
    simpo_gamma: float = 0.5,
    alpha: float = 0.0,
) -> float:
    """Compute the loss of one batch, a float.  Option names and defaults are TRL's.

    per_token_logps   (2B, T)
    completion_mask   (2B, T)
    loss_type         "sigmoid" and "hinge" of summed, "ipo" and "simpo" of mean log-probabilities.
                      TRL's "alphapo" is "simpo" with cpo_alpha = 0; set alpha, too
    label_smoothing   read by sigmoid and simpo
    cpo_alpha         weight of the nll, a mean over the batch's chosen tokens (the paper sums an
                      answer's). The paper's SimPO and AlphaPO: 0
    alpha             AlphaPO's; other than 0 it also transforms the summed log-probabilities, as in
                      TRL; the paper has means alone

    An empty answer has s = 0. If no chosen token counts, the nll is 0 (TRL: NaN).

    >>> logps, one = np.log([[0.5], [0.25]]), [[1], [1]]
    >>> round(loss(logps, one, beta=1.0, cpo_alpha=0.0), 4)   # h = ln 2: ln 3/2
    0.4055
    """
    options = {"beta": beta, "label_smoothing": label_smoothing, "simpo_gamma": simpo_gamma}
    return _both(per_token_logps, completion_mask, loss_type, options, cpo_alpha, alpha)[0]


def loss_grad(
    per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    *,
    loss_type: str = "sigmoid",
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    cpo_alpha: float = 1.0,
    simpo_gamma: float = 0.5,
    alpha: float = 0.0,
) -> Array:
    """Compute d loss / d(per_token_logps), (2B, T); the arguments of `loss`.

    >>> logps, one = np.log([[0.5], [0.25]]), [[1], [1]]
    >>> loss_grad(logps, one, beta=1.0, cpo_alpha=0.0).round(4).tolist()   # -+1/3
    [[-0.3333], [0.3333]]
    """
    options = {"beta": beta, "label_smoothing": label_smoothing, "simpo_gamma": simpo_gamma}
    return _both(per_token_logps, completion_mask, loss_type, options, cpo_alpha, alpha)[1]


loss_and_grad = _renamed.both(loss, loss_grad)


def _both(per_token_logps, completion_mask, loss_type, options, cpo_alpha, alpha):
    """(the loss, its gradient)"""
    _checks.one_of("loss_type", loss_type, LOSS_TYPES)
    pair_loss, pair_loss_grad, is_mean, needs = _LOSSES[loss_type]
    options = {name: options[name] for name in ("beta", *needs)}
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    weights = orpo.mean_weights(mask)
    if not is_mean:
        weights = mask
    s = (weights * _checks.counted("per_token_logps", per_token_logps, mask)).sum(axis=1)
    pair, slope = np.split(alphapo.reward(s, alpha=alpha), 2), alphapo.reward_grad(s, alpha=alpha)
    pairs = max(len(mask) // 2, 1)
    to_scores = np.concatenate(pair_loss_grad(*pair, **options)) / pairs
    chosen = dpo.chosen_mask(mask)
    nll = sft.nll(per_token_logps, chosen, reduction="batch_token")
    nll_grad = sft.nll_grad(per_token_logps, chosen, reduction="batch_token")
    nll_weight = _checks.number("cpo_alpha", cpo_alpha, at_least=0)
    value = pair_loss(*pair, **options).sum() / pairs + nll_weight * nll
    return float(value), (to_scores * slope)[:, None] * weights + nll_weight * nll_grad
