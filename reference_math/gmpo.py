"""GMPO: GRPO with the geometric mean of a completion's token ratios, each clipped on its own.

    L = 1/B sum_b -A_b exp( 1/n_b sum_t clipped(s_t) ) + beta KL        s_t = log p / p_old
    clipped(s) = min(s, epsilon_high) where A > 0, else max(s, -epsilon_low)

Source    Zhao et al., Geometric-Mean Policy Optimization, arXiv 2507.20673
          TRL: experimental GMPOTrainer (1.16), epsilons 0.4: ratios from e^-0.4 to e^0.4
Lesson    none
Proof     tests/laws/test_gmpo.py, tests/parity/test_gmpo.py

Shapes    B completions, T positions.

The epsilons bound the log-ratio, not the ratio as in `grpo`.  Without a clip this is GSPO's weight
(`ratios`, "sequence"); GSPO clips the mean, GMPO each token before the mean.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, kl, ratios, reductions
from reference_math._types import Array, ArrayLike


def loss(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    advantages: ArrayLike,
    completion_mask: ArrayLike,
    *,
    epsilon_low: float,
    epsilon_high: float,
    beta: float = 0.0,
    ref_per_token_logps: ArrayLike | None = None,
) -> float:
    """Compute the loss of one micro-batch, a float.

    per_token_logps       (B, T)
    old_per_token_logps   (B, T)  when it was sampled
    advantages            (B,)
    completion_mask       (B, T)  1 = counts
    epsilon_low           >= 0, in nats; inf for no clip
    epsilon_high          >= 0, in nats; inf for no clip
    beta                  >= 0, weight of k3, the mean over tokens and then over completions
    ref_per_token_logps   (B, T)  needed when beta > 0

    >>> logps, old = np.log([[0.5, 0.5]]), np.log([[0.125, 0.5]])                 # ratios 4 and 1
    >>> free = dict(epsilon_low=np.inf, epsilon_high=np.inf)
    >>> round(loss(logps, old, [1.0], [[1, 1]], **free), 4)                       # sqrt 4
    -2.0
    >>> round(loss(logps, old, [1.0], [[1, 1]], epsilon_low=0.4, epsilon_high=0.4), 4)      # e^0.2
    -1.2214
    """
    tokens = per_token_logps, old_per_token_logps, advantages, completion_mask
    s, _, a, weights = _clipped(*tokens, epsilon_low, epsilon_high)
    value = -np.sum(a * ratios.ratio(s)) / max(len(s), 1)
    if _checks.number("beta", beta, at_least=0):
        value += beta * np.sum(
            weights * kl.k3(*_to_reference(per_token_logps, ref_per_token_logps, weights))
        )
    return float(value)


def loss_grad(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    advantages: ArrayLike,
    completion_mask: ArrayLike,
    *,
    epsilon_low: float,
    epsilon_high: float,
    beta: float = 0.0,
    ref_per_token_logps: ArrayLike | None = None,
) -> Array:
    """Compute d loss / d(per_token_logps), (B, T): -A w / (B n) on every token that is not clipped.

    w is one number per completion, so a clipped token still scales the gradient of the others.

    >>> logps, old = np.log([[0.5, 0.5]]), np.log([[0.125, 0.5]])
    >>> loss_grad(logps, old, [1.0], [[1, 1]], epsilon_low=0.4, epsilon_high=0.4).round(4)
    array([[-0.    , -0.6107]])
    """
    tokens = per_token_logps, old_per_token_logps, advantages, completion_mask
    s, passes, a, weights = _clipped(*tokens, epsilon_low, epsilon_high)
    grad = -a * ratios.ratio_grad(s) * weights * passes
    if _checks.number("beta", beta, at_least=0):
        grad = grad + beta * weights * kl.k3_grad(
            *_to_reference(per_token_logps, ref_per_token_logps, weights)
        )
    return grad


def _clipped(per_token_logps, old_per_token_logps, advantages, completion_mask, low, high):
    """Mean of the clipped log-ratios (B, 1), where they pass (B, T), A (B, 1), weights 1/(B n)."""
    for name, epsilon in (("epsilon_low", low), ("epsilon_high", high)):
        if not epsilon >= 0:
            raise ValueError(f"{name} must be >= 0 (inf for no clip), got {epsilon!r}")
    s = ratios.log_importance_weights(
        per_token_logps, old_per_token_logps, completion_mask, "token"
    )
    a = ratios.as_column(_checks.finite("advantages", advantages, shape=(len(s),)), len(s))
    clipped = np.where(a > 0, np.minimum(s, high), np.maximum(s, -low))
    weights = reductions.token_weights(completion_mask, reduction="grpo")
    mean = ratios.log_importance_weights(clipped, np.zeros_like(s), completion_mask, "sequence")
    return mean, s == clipped, a, weights


def _to_reference(per_token_logps, ref_per_token_logps, weights):
    if ref_per_token_logps is None:
        raise ValueError("beta > 0 needs ref_per_token_logps, got None")
    counts = (weights > 0).astype(float)
    logps = _checks.counted("per_token_logps", per_token_logps, counts)
    return logps, _checks.counted("ref_per_token_logps", ref_per_token_logps, counts)
