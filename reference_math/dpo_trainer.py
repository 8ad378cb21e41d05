"""Compute any of TRL's fifteen preference losses, or a mixture of them, from token log-probs.

    L = sum_k loss_weight_k mean_pairs( wpo_weight x loss_k )

Source    TRL 1.16, DPOTrainer._compute_loss; each loss's own paper stands in its module
Torch     reference_math.torch.dpo (sigmoid, hinge, ipo)     Lesson   notebooks/02_dpo.ipynb
Proof     tests/laws/test_dpo_trainer.py, tests/parity/test_dpo.py

Shapes    B pairs, T positions.  In (2B, T) the B chosen rows stand first, then the B rejected.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reference_math import (
    _checks,
    _renamed,
    dpo,
    dpo_margin,
    dpo_pointwise,
    f_divergences,
    sft,
    wpo,
)
from reference_math._types import Array, ArrayLike

# loss_type: its module, its function, what it compares, what it needs besides beta.
#   score   F(log-ratio)         mean_score   F(log-ratio) / the answer's tokens
#   ratio   log-ratio            log_odds     log p(chosen) - log p(rejected): policy, reference
_LOSSES = {
    "sigmoid": (dpo, "sigmoid", "score", ()),
    "hinge": (dpo, "hinge", "score", ()),
    "ipo": (dpo, "ipo", "mean_score", ()),
    "sigmoid_norm": (dpo, "sigmoid", "mean_score", ()),
    "exo_pair": (dpo_margin, "exo_pair", "score", ("label_smoothing",)),
    "robust": (dpo_margin, "robust", "score", ("label_smoothing",)),
    "discopop": (dpo_margin, "discopop", "score", ("discopop_tau",)),
    "aot": (dpo_margin, "aot", "log_odds", ("label_smoothing",)),
    "aot_unpaired": (dpo_margin, "aot", "ratio", ("label_smoothing",)),
    "nca_pair": (dpo_pointwise, "nca_pair", "ratio", ()),
    "bco_pair": (dpo_pointwise, "bco_pair", "ratio", ()),
    "sppo_hard": (dpo_pointwise, "sppo_hard", "ratio", ()),
    "apo_zero": (dpo_pointwise, "apo_zero", "ratio", ()),
    "apo_down": (dpo_pointwise, "apo_down", "ratio", ()),
}
LOSS_TYPES = (*_LOSSES, "sft")  # sft: token mean over the chosen answers, no reference
F_DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")
_TRL_MAX_EXPONENT = 80.0  # where TRL cuts the alpha-divergence off, in float32 and bfloat16


def loss(
    per_token_logps: ArrayLike,
    ref_per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    *,
    loss_type: str | Sequence[str] = "sigmoid",
    loss_weights: Sequence[float] | None = None,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    f_divergence_type: str = "reverse_kl",
    f_alpha_divergence_coef: float = 0.5,
    ld_alpha: float | None = None,
    log_sum_sq_probs: ArrayLike | None = None,
    discopop_tau: float = 0.05,
) -> float:
    """Compute the loss of one batch, a float.  Option names and defaults are TRL's.

    per_token_logps       (2B, T)
    ref_per_token_logps   (2B, T)  a constant
    completion_mask       (2B, T)
    loss_type             one of LOSS_TYPES, or a list of them with loss_weights (None: all 1)
    label_smoothing       read by exo_pair, robust, aot, aot_unpaired; sigmoid ignores it
    f_divergence_type     one of F_DIVERGENCES; not the default: losses of scores, and sft, only
    log_sum_sq_probs      (2B, T) turns WPO's weights on (TRL: use_weighting); not for aot*

    Where nothing is masked in, sft is 0 (TRL: NaN).  sft and hinge with WPO are defined here (TRL
    stops with an error).  TRL's answer lengths include a first token that was never predicted.

    >>> half, quarter = np.log([[0.5]]), np.log([[0.25]])
    >>> logps, ref = np.concatenate([half, quarter]), np.concatenate([quarter, half])
    >>> round(loss(logps, ref, [[1], [1]], beta=1.0), 4)   # log-ratios +-ln 2: ln(1 + 1/4)
    0.2231
    """
    tokens = per_token_logps, ref_per_token_logps, completion_mask
    mixture = _mixture(loss_type, loss_weights, f_divergence_type, log_sum_sq_probs)
    options = {"beta": beta, "label_smoothing": label_smoothing, "discopop_tau": discopop_tau}
    score = f_divergence_type, f_alpha_divergence_coef, ld_alpha
    return _both(*tokens, mixture, options, *score, log_sum_sq_probs)[0]


def loss_grad(
    per_token_logps: ArrayLike,
    ref_per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    *,
    loss_type: str | Sequence[str] = "sigmoid",
    loss_weights: Sequence[float] | None = None,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    f_divergence_type: str = "reverse_kl",
    f_alpha_divergence_coef: float = 0.5,
    ld_alpha: float | None = None,
    log_sum_sq_probs: ArrayLike | None = None,
    discopop_tau: float = 0.05,
) -> Array:
    """Compute d loss / d(per_token_logps), (2B, T); the arguments of `loss`.

    >>> half, quarter = np.log([[0.5]]), np.log([[0.25]])
    >>> logps, ref = np.concatenate([half, quarter]), np.concatenate([quarter, half])
    >>> loss_grad(logps, ref, [[1], [1]], beta=1.0).round(4).tolist()   # -+1/(1 + 4)
    [[-0.2], [0.2]]
    """
    tokens = per_token_logps, ref_per_token_logps, completion_mask
    mixture = _mixture(loss_type, loss_weights, f_divergence_type, log_sum_sq_probs)
    options = {"beta": beta, "label_smoothing": label_smoothing, "discopop_tau": discopop_tau}
    score = f_divergence_type, f_alpha_divergence_coef, ld_alpha
    return _both(*tokens, mixture, options, *score, log_sum_sq_probs)[1]


loss_and_grad = _renamed.both(loss, loss_grad)


def _both(
    per_token_logps,
    ref_per_token_logps,
    completion_mask,
    mixture,
    options,
    f_divergence_type,
    f_alpha_divergence_coef,
    ld_alpha,
    log_sum_sq_probs,
):
    """(the loss, its gradient)"""
    weights = dpo.sequence_weights(completion_mask, ld_alpha=ld_alpha)
    mask = _checks.mask01("completion_mask", completion_mask)
    ref_per_token_logps = _checks.counted("ref_per_token_logps", ref_per_token_logps, mask)
    logps, ref_logps = (
        dpo.sequence_logps(x, completion_mask, ld_alpha=ld_alpha)
        for x in (per_token_logps, ref_per_token_logps)
    )
    score, slope = _score(logps - ref_logps, f_divergence_type, f_alpha_divergence_coef)
    length = np.sum(completion_mask, axis=1).clip(min=1.0)
    compared = {  # what a loss sees of the chosen and the rejected answers, and its d / d(logps)
        "score": (score, slope),
        "mean_score": (score / length, slope / length),
        "ratio": (logps - ref_logps, 1.0),
        "log_odds": (_log_odds(logps, ref_logps), 1.0),
    }
    pair_weights = np.ones(len(logps) // 2)
    if log_sum_sq_probs is not None:
        pair_weights = wpo.pair_weights(per_token_logps, log_sum_sq_probs, completion_mask)

    value, grad = 0.0, np.zeros_like(weights)
    for name, loss_weight in mixture:
        scale = loss_weight * pair_weights / len(pair_weights)
        if name == "sft":
            chosen = dpo.chosen_mask(completion_mask)
            losses = sft.nll(per_token_logps, chosen, reduction="batch_token")
            token_grads = sft.nll_grad(per_token_logps, chosen, reduction="batch_token")
            grad += scale.sum() * token_grads
        else:
            losses, answer_grads = _pair_loss(name, compared, options)
            grad += (np.tile(scale, 2) * answer_grads)[:, None] * weights
        value += (scale * losses).sum()
    return float(value), grad


def _pair_loss(name, compared, options):
    """(losses (B,), their gradient to the answers' log-probabilities (2B,))"""
    module, function, kind, needs = _LOSSES[name]
    (chosen, rejected), slope = np.split(compared[kind][0], 2), compared[kind][1]
    own = {key: options[key] for key in ("beta", *needs)}
    losses = getattr(module, function)(chosen, rejected, **own)
    g_chosen, g_rejected = getattr(module, function + "_grad")(chosen, rejected, **own)
    if kind == "log_odds":  # both answers stand in the first argument, the reference in the other
        g_rejected = -g_chosen
    return losses, np.concatenate([g_chosen, g_rejected]) * slope


def _mixture(loss_type, loss_weights, f_divergence_type, log_sum_sq_probs):
    names = [loss_type] if isinstance(loss_type, str) else list(loss_type)
    _checks.one_of("f_divergence_type", f_divergence_type, F_DIVERGENCES)
    for name in names:
        _checks.one_of("loss_type", name, LOSS_TYPES)
        if f_divergence_type != "reverse_kl" and name != "sft" and "score" not in _LOSSES[name][2]:
            raise ValueError(f"loss_type {name!r} takes f_divergence_type 'reverse_kl' only")
        if log_sum_sq_probs is not None and name in ("aot", "aot_unpaired"):
            raise ValueError(f"loss_type {name!r} sorts the pairs: WPO's weights would not follow")
    loss_weights = np.ones(len(names)) if loss_weights is None else loss_weights
    return list(zip(names, _checks.finite("loss_weights", loss_weights, shape=(len(names),))))


def _score(u, f_divergence_type, coef):
    cut = {"alpha": coef, "max_exponent": _TRL_MAX_EXPONENT}
    options = cut if f_divergence_type == "alpha_divergence" else {}
    score = getattr(f_divergences, f_divergence_type)
    slope = getattr(f_divergences, f_divergence_type + "_grad")
    return score(u, **options), slope(u, **options)


def _log_odds(logps, ref_logps):
    return np.concatenate([np.subtract(*np.split(x, 2)) for x in (logps, ref_logps)])
