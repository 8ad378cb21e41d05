"""CPO, SimPO and AlphaPO by TRL's names: from token log-probs to one number.

    L = mean_pairs loss(f(s_chosen), f(s_rejected)) + cpo_alpha nll(chosen)

Source    TRL 1.16, CPOTrainer.get_batch_loss_metrics; each loss's own paper stands in its module
Lesson    notebooks/05_gallery.ipynb
Proof     tests/laws/test_cpo_trainer.py, tests/parity/test_cpo_trainer.py

Shapes    B pairs, T positions.  In (2B, T) the B chosen rows stand first, then the B rejected.
"""

import numpy as np

from reference_math import _checks, alphapo, cpo, dpo, dpo_loss, orpo, simpo

# loss_type: its two functions, whether s is the answer's mean, what it needs besides beta
_LOSSES = {
    "sigmoid": (cpo.pair_loss, cpo.pair_loss_grad, False, ("label_smoothing",)),
    "hinge": (dpo.hinge, dpo.hinge_grad, False, ()),
    "ipo": (dpo.ipo, dpo.ipo_grad, True, ()),
    "simpo": (simpo.pair_loss, simpo.pair_loss_grad, True, ("label_smoothing", "simpo_gamma")),
}
LOSS_TYPES = tuple(_LOSSES)


def loss_and_grad(
    per_token_logps,
    completion_mask,
    *,
    loss_type="sigmoid",
    beta=0.1,
    label_smoothing=0.0,
    cpo_alpha=1.0,
    simpo_gamma=0.5,
    alpha=0.0,
):
    """The loss, a float, and its gradient to per_token_logps, (2B, T).  Names and defaults: TRL's.

    per_token_logps   (2B, T)
    completion_mask   (2B, T)
    loss_type         "sigmoid" and "hinge" of summed, "ipo" and "simpo" of mean log-probabilities.
                      TRL's "alphapo" is "simpo" with cpo_alpha = 0; set alpha, too
    label_smoothing   read by sigmoid and simpo
    cpo_alpha         weight of the nll, a mean over the batch's chosen tokens (the paper sums an
                      answer's). The paper's SimPO and AlphaPO: 0
    alpha             AlphaPO's; other than 0 it bends the summed log-probabilities as well, as in
                      TRL, where the paper has means

    An empty answer has s = 0, and no chosen token an nll of 0 (TRL: NaN for a mean of nothing).

    >>> logps, one = np.log([[0.5], [0.25]]), [[1], [1]]
    >>> value, grad = loss_and_grad(logps, one, beta=1.0, cpo_alpha=0.0)
    >>> round(value, 4), grad.round(4).tolist()   # h = ln 2: ln 3/2, -+1/3
    (0.4055, [[-0.3333], [0.3333]])
    """
    given = {"beta": beta, "label_smoothing": label_smoothing, "simpo_gamma": simpo_gamma}
    loss, loss_grad, is_mean, needs = _LOSSES[_checks.one_of("loss_type", loss_type, LOSS_TYPES)]
    options = {name: given[name] for name in ("beta", *needs)}
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    weights = orpo.mean_weights(mask)
    if not is_mean:
        weights = mask
    s = (weights * _checks.counted("per_token_logps", per_token_logps, mask)).sum(axis=1)
    pair, slope = np.split(alphapo.reward(s, alpha=alpha), 2), alphapo.reward_grad(s, alpha=alpha)
    pairs = max(len(mask) // 2, 1)
    to_scores = np.concatenate(loss_grad(*pair, **options)) / pairs
    nll, nll_grad = dpo_loss._chosen_nll(per_token_logps, mask)
    nll_weight = _checks.number("cpo_alpha", cpo_alpha, at_least=0)
    value = loss(*pair, **options).sum() / pairs + nll_weight * nll
    return float(value), (to_scores * slope)[:, None] * weights + nll_weight * nll_grad
