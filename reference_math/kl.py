"""KL(policy || reference): exactly, and estimated per token on tokens that the policy sampled.

Source    Schulman, "Approximating KL Divergence", joschu.net/blog/kl-approx.html
Torch     reference_math.torch.kl     Lesson   notebooks/03_grpo.ipynb, section 4
Proof     tests/laws/test_kl.py, tests/parity/test_kl.py

Shapes    B completions, T tokens each.    Natural logs; KL in nats.

Which way round    log r = ref - policy, always.  All three look at KL(policy || reference), the
                   direction that penalises tokens which the reference finds unlikely, and only while
                   the tokens come from the policy: on other tokens they estimate nothing.  For
                   KL(reference || policy), sample from the reference and swap the arguments.

          value on average      as a loss (gradient on average, tokens fixed)
    k1    KL                    0: no gradient on average
    k2    KL + O(log r^3)       grad KL(policy || reference)
    k3    KL                    grad KL(reference || policy): right value, the other direction
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, logprobs
from reference_math._stable import exp_minus_tangent
from reference_math._types import Array, ArrayLike


def k1(per_token_logps: ArrayLike, ref_per_token_logps: ArrayLike) -> Array:
    """Estimate the KL per token without bias; the estimate may be negative:   k1 = -log r.

    per_token_logps       (B, T)  log p_policy of each sampled token
    ref_per_token_logps   (B, T)  log p_ref of the same tokens
    returns               (B, T)  padding included: the caller masks

    >>> k1(np.log([[0.5]]), np.log([[0.25]])).round(4)   # ln 2
    array([[0.6931]])
    """
    return -_log_r(per_token_logps, ref_per_token_logps)


def k1_grad(per_token_logps: ArrayLike, ref_per_token_logps: ArrayLike) -> Array:
    """Compute d k1 / d(per_token_logps) = 1.

    >>> k1_grad(np.log([[0.5]]), np.log([[0.25]]))
    array([[1.]])
    """
    return np.ones_like(_log_r(per_token_logps, ref_per_token_logps))


def k2(per_token_logps: ArrayLike, ref_per_token_logps: ArrayLike) -> Array:
    """Estimate the KL per token, never negative but biased:   k2 = (log r)^2 / 2.  Shapes as in `k1`.

    >>> k2(np.log([[0.5]]), np.log([[0.25]])).round(4)   # (ln 2)^2 / 2
    array([[0.2402]])
    """
    return _log_r(per_token_logps, ref_per_token_logps) ** 2 / 2.0


def k2_grad(per_token_logps: ArrayLike, ref_per_token_logps: ArrayLike) -> Array:
    """Compute d k2 / d(per_token_logps) = -log r, since d(log r) = -d(per_token_logps).

    >>> k2_grad(np.log([[0.5]]), np.log([[0.25]])).round(4)   # ln 2
    array([[0.6931]])
    """
    return -_log_r(per_token_logps, ref_per_token_logps)


def k3(per_token_logps: ArrayLike, ref_per_token_logps: ArrayLike) -> Array:
    """Estimate the KL per token, unbiased and never negative: E_policy[k3] = KL(policy || reference).

    k3 = r - 1 - log r        r = p_ref(token) / p_policy(token)

    TRL writes exp(x) - x - 1, which keeps no digit of a k3 below 1e-16 (float32: below 1e-7) and
    can be negative there; this one keeps them all.  Above log r = 709.78 both are inf.

    per_token_logps       (B, T)  log p_policy of each sampled token
    ref_per_token_logps   (B, T)  log p_ref of the same tokens
    returns               (B, T)  padding included: the caller masks

    >>> k3(np.log([[0.5]]), np.log([[0.25]])).round(4)   # 1/2 - 1 + ln 2
    array([[0.1931]])
    """
    return exp_minus_tangent(_log_r(per_token_logps, ref_per_token_logps))


def k3_grad(per_token_logps: ArrayLike, ref_per_token_logps: ArrayLike) -> Array:
    """Compute d k3 / d(per_token_logps) = 1 - r.  (dr = r d(log r), d(log r) = -d(per_token_logps))

    >>> k3_grad(np.log([[0.5]]), np.log([[0.25]])).round(4)   # 1 - 1/2
    array([[0.5]])
    """
    with np.errstate(over="ignore"):
        return -np.expm1(_log_r(per_token_logps, ref_per_token_logps))


def exact(logits: ArrayLike, ref_logits: ArrayLike, *, temperature: float = 1.0) -> Array:
    """Compute KL(policy || reference) = sum_v p_v (log p_v - log q_v), over the whole vocabulary.

    logits        (..., V)  of the policy
    ref_logits    (..., V)  of the reference; swap the two for KL(reference || policy)
    temperature   tau > 0   divides both
    returns       (...)     never negative

    >>> exact([[0.0, 0.0]], [[np.log(3.0), 0.0]]).round(4)   # 1/2 ln 2/3 + 1/2 ln 2
    array([0.1438])
    """
    log_p = logprobs.log_softmax(logits, temperature=temperature)
    log_q = _ref_log_probs(ref_logits, log_p, temperature)
    p, log_r = np.exp(log_p), log_q - log_p
    # sum (q - p) = 0 is added, so that every term is p k3 >= 0 and none cancel; where r is large,
    # p k3 is written out, for p may have underflowed
    near = p * exp_minus_tangent(np.minimum(log_r, 1.0))
    return np.where(log_r < 1.0, near, np.exp(log_q) - p * (1.0 + log_r)).sum(axis=-1)


def exact_grad(logits: ArrayLike, ref_logits: ArrayLike, *, temperature: float = 1.0) -> Array:
    """Compute d KL / d(logits) = p_v (log p_v - log q_v - KL) / tau.

    dKL = sum (log p - log q + 1) dp;  dp_v = p_v (dz_v - sum_u p_u dz_u) / tau;  the 1 cancels.

    returns       (..., V)  sums to 0 over V

    >>> exact_grad([[0.0, 0.0]], [[np.log(3.0), 0.0]]).round(4)   # 1/2 (ln 2/3 - 0.1438)
    array([[-0.2747,  0.2747]])
    """
    log_p = logprobs.log_softmax(logits, temperature=temperature)
    log_q = _ref_log_probs(ref_logits, log_p, temperature)
    kl = exact(logits, ref_logits, temperature=temperature)[..., None]
    return np.exp(log_p) * (log_p - log_q - kl) / temperature


def _log_r(per_token_logps, ref_per_token_logps):
    logps = _checks.finite("per_token_logps", per_token_logps, ndim=2)
    ref_logps = _checks.finite("ref_per_token_logps", ref_per_token_logps, shape=logps.shape)
    return ref_logps - logps


def _ref_log_probs(ref_logits, log_p, temperature):
    ref_logits = _checks.finite("ref_logits", ref_logits, shape=log_p.shape)
    return logprobs.log_softmax(ref_logits, temperature=temperature)
