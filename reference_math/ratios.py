"""Compute importance ratios of the policy to the one that sampled, per token or per sequence.

Source    token            Schulman et al., PPO, arXiv 1707.06347, section 3
          sequence         Zheng et al., GSPO, arXiv 2507.18071: the geometric mean of a row's token ratios
          sequence_token   the same paper's GSPO-token: that mean, with a gradient for each token of its own
Torch     reference_math.torch.ratios     Lesson   none
Proof     tests/laws/test_ratios.py, tests/parity/test_grpo.py

Shapes    B completions, T tokens each. A ratio is (B, 1) at sequence level, (B, T) at the two others.
          completion_mask (B, T), 1 = counts. What stands under a 0 is never read, NaN included.

Ratios are kept as logarithms as long as possible, and `ratio` stops growing at e^700 (its gradient is
0 beyond). TRL's exp(log_ratio) is inf there, so that even a clipped token has a NaN gradient: 0 * inf.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, _renamed
from reference_math._types import Array, ArrayLike

LEVELS = ("token", "sequence", "sequence_token")
MAX_LOG_RATIO = 700.0  # float64 ends at e^709.78: a factor of 17,000 is left for the advantages


def log_importance_weights(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    importance_sampling_level: str,
) -> Array:
    """Compute the log of the importance ratio.

    token            s_t = log p(y_t) - log p_old(y_t)
    sequence         s   = 1/n sum_t s_t            n tokens count; 0 when there is none
    sequence_token   sg[s] + log p(y_t) - sg[log p(y_t)]: the value of "sequence", the gradient of "token"

    per_token_logps       (B, T)  log-probability of each sampled token under the policy
    old_per_token_logps   (B, T)  the same when the completions were sampled
    completion_mask       (B, T)  1 = counts
    returns               (B, T), padding 0;  (B, 1) at "sequence"

    >>> logps, old = np.log([[0.5, 0.2]]), np.log([[0.25, 0.1]])
    >>> np.exp(log_importance_weights(logps, old, [[1, 0]], "token"))
    array([[2., 1.]])
    >>> np.exp(log_importance_weights(logps, old, [[1, 1]], "sequence"))
    array([[2.]])
    >>> np.exp(log_importance_weights(logps, old, [[1, 1]], "sequence_token"))
    array([[2., 2.]])
    """
    _checks.one_of("importance_sampling_level", importance_sampling_level, LEVELS)
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    log_ratio = _checks.counted("per_token_logps", per_token_logps, mask)
    log_ratio = log_ratio - _checks.counted("old_per_token_logps", old_per_token_logps, mask)
    if importance_sampling_level == "token":
        return log_ratio
    s = log_ratio.sum(axis=1, keepdims=True) / lengths(mask)
    return mask * s if importance_sampling_level == "sequence_token" else s


def log_importance_weights_grad(
    grad_log_weights: ArrayLike, completion_mask: ArrayLike, importance_sampling_level: str
) -> Array:
    """Compute dL/d(per_token_logps), given dL/d(log_weights).

    token, sequence_token: s_t moves one for one with its own log-probability.  sequence: each of the n
    tokens moves s by 1/n, so all of them share the gradient of the whole row.

    grad_log_weights   (B, T)  the part of each token's loss
    returns            (B, T)

    >>> log_importance_weights_grad([[3.0, 1.0, 5.0]], [[1, 1, 0]], "token")
    array([[3., 1., 0.]])
    >>> log_importance_weights_grad([[3.0, 1.0, 5.0]], [[1, 1, 0]], "sequence")
    array([[2., 2., 0.]])
    """
    _checks.one_of("importance_sampling_level", importance_sampling_level, LEVELS)
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    grad = _checks.counted("grad_log_weights", grad_log_weights, mask)
    if importance_sampling_level != "sequence":
        return grad
    return mask * grad.sum(axis=1, keepdims=True) / lengths(mask)


def ratio(log_weights: ArrayLike) -> Array:
    """Compute w = e^s, saturating at e^700.

    >>> ratio(np.array([0.0, -1e4, 1e4])).round(3)
    array([1.00000e+000, 0.00000e+000, 1.01423e+304])
    """
    return np.exp(np.minimum(_checks.finite("log_weights", log_weights), MAX_LOG_RATIO))


def ratio_grad(log_weights: ArrayLike) -> Array:
    """Compute dw/ds = w, and 0 where w has saturated.

    >>> ratio_grad(np.array([0.0, -1e4, 1e4]))
    array([1., 0., 0.])
    """
    return ratio(log_weights) * (np.asarray(log_weights) <= MAX_LOG_RATIO)


def lengths(completion_mask: Array) -> Array:
    """Count the tokens that count, (B, 1); 1 for an empty completion, where the numerator is 0.

    >>> lengths(np.array([[1.0, 1.0], [0.0, 0.0]]))
    array([[2.],
           [1.]])
    """
    return np.maximum(completion_mask.sum(axis=1, keepdims=True), 1.0)


def as_column(advantages: ArrayLike, rows: int) -> Array:
    """Reshape advantages for (B, T) tokens: (B,) becomes (B, 1); one per token, (B, T), stays.

    >>> as_column([1.0, -1.0], 2)
    array([[ 1.],
           [-1.]])
    """
    advantages = _checks.finite("advantages", advantages)
    if advantages.ndim not in (1, 2) or len(advantages) != rows:
        raise ValueError(
            f"advantages must have shape ({rows},), one per completion, or ({rows}, T), "
            f"got {advantages.shape}"
        )
    return advantages[:, None] if advantages.ndim == 1 else advantages


column = _renamed.function("column", as_column)
log_weights = _renamed.function("log_weights", log_importance_weights)
log_weights_grad = _renamed.function("log_weights_grad", log_importance_weights_grad)
