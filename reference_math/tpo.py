"""TPO: a preference loss without a reference, plus fine-tuning on a gold answer.

    L = mean_pairs l(s_chosen - s_rejected) + tpo_alpha NLL(gold)

Source    Saeidi et al., Triple Preference Optimization, arXiv 2405.16681
          TRL: experimental TPOTrainer (1.16)
Lesson    notebooks/05_gallery.ipynb
Proof     tests/laws/test_tpo.py, tests/parity/test_tpo.py

Shapes    B triples, T positions: 3B rows, the chosen answers, the rejected ones, the gold ones.

    sigmoid   -(1 - eps) log sigmoid(beta d) - eps log sigmoid(-beta d)     d of summed log p
    hinge     max(0, 1 - beta d)
    ipo       (d - 1/(2 beta))^2                                            d of mean log p
    tpo-l     sigmoid of d - gamma / beta                                   d of mean log p
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, _renamed, dpo, ratios, sft
from reference_math._types import Array, ArrayLike

LOSS_TYPES = ("sigmoid", "hinge", "ipo", "tpo-l")


def loss(
    per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    *,
    loss_type: str = "sigmoid",
    beta: float = 0.01,
    tpo_alpha: float = 1.0,
    label_smoothing: float = 0.0,
    tpo_l_gamma: float = 0.5,
) -> float:
    """Compute the loss of one micro-batch, a float; the defaults are TRL's.

    per_token_logps   (3B, T)
    completion_mask   (3B, T)  1 = counts
    beta              > 0
    tpo_alpha         >= 0, weight of the gold answers' token mean; none counts: 0 (TRL: NaN)
    label_smoothing   eps, 0 to 1; sigmoid and tpo-l only
    tpo_l_gamma       the margin to reach; tpo-l only

    >>> logps = np.log([[0.5], [0.25], [0.5]])                  # d = ln 2: ln(1 + 1/2); gold: ln 2
    >>> round(loss(logps, [[1], [1], [1]], beta=1.0), 4)
    1.0986
    """
    options = loss_type, beta, tpo_alpha, label_smoothing, tpo_l_gamma
    return _both(per_token_logps, completion_mask, *options)[0]


def loss_grad(
    per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    *,
    loss_type: str = "sigmoid",
    beta: float = 0.01,
    tpo_alpha: float = 1.0,
    label_smoothing: float = 0.0,
    tpo_l_gamma: float = 0.5,
) -> Array:
    """Compute d loss / d(per_token_logps), (3B, T); the arguments of `loss`.

    >>> logps = np.log([[0.5], [0.25], [0.5]])
    >>> loss_grad(logps, [[1], [1], [1]], beta=1.0).round(4).tolist()     # -+1 / (1 + 2), -1
    [[-0.3333], [0.3333], [-1.0]]
    """
    options = loss_type, beta, tpo_alpha, label_smoothing, tpo_l_gamma
    return _both(per_token_logps, completion_mask, *options)[1]


loss_and_grad = _renamed.both(loss, loss_grad)


def _both(
    per_token_logps, completion_mask, loss_type, beta, tpo_alpha, label_smoothing, tpo_l_gamma
):
    """(the loss, its gradient)"""
    _checks.one_of("loss_type", loss_type, LOSS_TYPES)
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    if len(mask) % 3:
        raise ValueError(
            f"completion_mask must have 3B rows: chosen, rejected, gold, got {mask.shape}"
        )
    logps, pairs = _checks.counted("per_token_logps", per_token_logps, mask), len(mask) // 3
    weights = mask / ratios.lengths(mask) if loss_type in ("ipo", "tpo-l") else mask
    chosen, rejected, _ = np.split((weights * logps).sum(axis=1), 3)
    margin = tpo_l_gamma if loss_type == "tpo-l" else 0.0
    losses, slope = _pair_loss(chosen, rejected, loss_type, beta, label_smoothing, margin)

    tpo_alpha = _checks.number("tpo_alpha", tpo_alpha, at_least=0)
    gold = np.repeat([[0.0], [0.0], [1.0]], pairs, axis=0) * mask
    nll = sft.nll(logps, gold, reduction="batch_token")
    grad = tpo_alpha * sft.nll_grad(logps, gold, reduction="batch_token")
    of_answer = (
        np.concatenate([slope, -slope, np.zeros(pairs)]) / pairs
    )  # empty batch: nothing is divided by 0
    value = float(losses.sum()) / max(pairs, 1) + tpo_alpha * float(nll)
    return value, grad + of_answer[:, None] * weights


def _pair_loss(chosen, rejected, loss_type, beta, label_smoothing, margin):
    """(B,) losses, and their slope in the chosen answer's log p: minus that in the rejected one's."""
    beta = _checks.number("beta", beta, above=0)
    if loss_type in ("hinge", "ipo"):
        slope = getattr(dpo, loss_type + "_grad")(chosen, rejected, beta=beta)
        return getattr(dpo, loss_type)(chosen, rejected, beta=beta), slope[0]
    eps = _checks.number("label_smoothing", label_smoothing, at_least=0, at_most=1)
    chosen = chosen - _checks.number("tpo_l_gamma", margin) / beta
    right, wrong = (chosen, rejected), (rejected, chosen)
    losses = (1.0 - eps) * dpo.sigmoid(*right, beta=beta) + eps * dpo.sigmoid(*wrong, beta=beta)
    slope = (1.0 - eps) * dpo.sigmoid_grad(*right, beta=beta)[0]
    return losses, slope + eps * dpo.sigmoid_grad(*wrong, beta=beta)[1]
