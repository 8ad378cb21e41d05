"""The KL term of the GRPO family: k3 towards the reference, times the importance ratio or not.

    K = w k3        k3 = e^d - 1 - d        d = log p_ref - log p        w = e^s

Source    k3: see `kl`. times w: DeepSeek-V3.2, arXiv 2512.02556 (TRL: use_bias_correction_kl)
Torch     reference_math.torch.kl_term     Lesson   none
Proof     tests/laws/test_kl_term.py, tests/parity/test_grpo.py

Shapes    B completions, T tokens each; s is (B, T), or (B, 1) at sequence level.

Tokens that the old policy sampled must be weighted by w: only then is the mean of K the KL of the
policy itself. On-policy w = 1, and the value is k3's; but w has a gradient, so the gradient becomes
that of KL(policy || reference), log p - log p_ref per token, where k3 alone has 1 - p_ref / p.

When a token's probability tends to 0, w -> 0 and k3 -> inf while w k3 tends to the finite
p_ref / p_old; TRL evaluates 0 * inf = NaN. Here the exponents are added first; the term
saturates at e^700, its gradient 0 beyond.
"""

from __future__ import annotations

import numpy as np

from reference_math import ratios
from reference_math._stable import exp_minus_tangent
from reference_math._types import Array, ArrayLike

LIMIT = np.exp(ratios.MAX_LOG_RATIO)


def per_token_kl(
    per_token_logps: ArrayLike, ref_per_token_logps: ArrayLike, log_weights: ArrayLike
) -> Array:
    """Compute the KL term K of each token.

    per_token_logps       (B, T)  log p of each sampled token
    ref_per_token_logps   (B, T)  log p_ref
    log_weights           (B, T) or (B, 1)  s of `ratios.log_importance_weights`; 0.0 for plain k3
    returns               (B, T)  never negative

    >>> logps, ref = np.log([[0.5]]), np.log([[0.25]])
    >>> per_token_kl(logps, ref, 0.0).round(4)                # k3 = 1/2 - 1 + ln 2
    array([[0.1931]])
    >>> per_token_kl(logps, ref, np.log([[2.0]])).round(4)    # twice that
    array([[0.3863]])
    >>> per_token_kl([[-1000.0]], [[-1.0]], np.array([[-999.0]]))     # p_ref / p_old = 1
    array([[1.]])
    """
    d, s = np.subtract(ref_per_token_logps, per_token_logps), np.asarray(log_weights)
    w = ratios.ratio(s)
    with np.errstate(over="ignore"):  # cut off at LIMIT
        near = w * exp_minus_tangent(np.minimum(d, 1.0))  # keeps the digits of a small d
        far = np.where(s + d < ratios.MAX_LOG_RATIO, ratios.ratio(s + d) - w * (1.0 + d), LIMIT)
    return np.minimum(np.where(d < 1.0, near, far), LIMIT)


def per_token_kl_grad(
    per_token_logps: ArrayLike, ref_per_token_logps: ArrayLike, log_weights: ArrayLike
) -> tuple[Array, Array]:
    """Compute both parts of the gradient: (dK/d(per_token_logps) at a fixed w, dK/d(log_weights)).

    d falls as log p rises: w d(k3) = w (1 - e^d).   dw/ds = w, so dK/ds = K.

    returns   two (B, T); 0 where K or w has saturated

    >>> logps, ref = np.log([[0.5]]), np.log([[0.25]])
    >>> [g.round(4).tolist() for g in per_token_kl_grad(logps, ref, np.zeros((1, 1)))]
    [[[0.5]], [[0.1931]]]
    """
    d, s = np.subtract(ref_per_token_logps, per_token_logps), np.asarray(log_weights)
    w, k = ratios.ratio(s), per_token_kl(per_token_logps, ref_per_token_logps, s)
    slope = np.where(d < 1.0, -w * np.expm1(np.minimum(d, 1.0)), w - ratios.ratio(s + d))
    return slope * (k < LIMIT), k * (k < LIMIT) * (s <= ratios.MAX_LOG_RATIO)
