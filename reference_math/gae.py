"""Generalised advantage estimation: the advantage of each token over the value estimate.

    delta_t = r_t + gamma V_{t+1} - V_t        A_t = delta_t + gamma lam A_{t+1}        R_t = A_t + V_t

Source    Schulman et al., arXiv 1506.02438, eqs. 11 and 16
          two lambdas, one of them by length: Yue et al., VAPO, arXiv 2504.05118
Lesson    notebooks/05_gallery.ipynb
Proof     tests/laws/test_gae.py, tests/parity/test_ppo.py

Shapes    B completions, T positions.  V_t values the state before token t; V after the last state is 0.
Masks     state_mask counts the states: the tokens, and where there is room for it the state after
          the last one (`ppo.state_mask`).  completion_mask counts the tokens alone.

In the loss of `ppo` all of this is constant, so nothing here has a gradient.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, _renamed
from reference_math._types import Array, ArrayLike


def advantages(
    rewards: ArrayLike,
    values: ArrayLike,
    state_mask: ArrayLike,
    *,
    gamma: float,
    lam: float | ArrayLike,
) -> Array:
    """Compute A_t, the (gamma lam)-discounted sum of the TD errors from t on.

    rewards      (B, T)  `ppo.token_rewards`
    values       (B, T)  the critic's, when the completions were sampled
    state_mask   (B, T)  1 = a state, all of them first; what stands elsewhere is never read
    gamma        0 to 1  discount of the reward
    lam          0 to 1  0: one-step TD error. 1: Monte Carlo return minus the value.  One number, or (B,)
    returns      (B, T)  0 where there is no state

    >>> advantages([[0.0, 1.0]], [[0.5, 0.25]], [[1, 1]], gamma=1.0, lam=0.5)   # -1/4 + 3/4 / 2
    array([[0.125, 0.75 ]])
    """
    gamma = _checks.number("gamma", gamma, at_least=0, at_most=1)
    mask = ones_first("state_mask", state_mask)
    decay = gamma * _lam(lam, len(mask))
    r, v = _checks.counted("rewards", rewards, mask), _checks.counted("values", values, mask)
    next_v = np.pad(v[:, 1:], [(0, 0), (0, 1)])
    a, after = r + gamma * next_v - v, 0.0
    for t in reversed(range(a.shape[1])):
        after = a[:, t] = a[:, t] + decay * after
    return a


def length_adaptive_lam(state_mask: ArrayLike, *, alpha: float) -> Array:
    """Compute VAPO's lambda for the policy, 1 - 1 / (alpha n), so that its weights add up to alpha n.

    In VAPO the policy's advantages have this lambda, and the critic's targets, `returns`, come from
    advantages of their own with lambda 1: two calls of `advantages`.  The reward at the end then reaches
    the first token of a long answer, too, while the critic learns without bias.

    state_mask   (B, T)  n of each row count
    alpha        > 0; VAPO: 0.05
    returns      (B,)  0 where alpha n is below 1, as in NeMo-RL

    >>> length_adaptive_lam([[1, 1, 1, 1], [1, 1, 0, 0]], alpha=0.5)            # 1 - 1/2, 1 - 1
    array([0.5, 0. ])
    """
    n = np.maximum(_checks.mask01("state_mask", state_mask, ndim=2).sum(axis=1), 1.0)
    return np.maximum(1.0 - 1.0 / (_checks.number("alpha", alpha, above=0) * n), 0.0)


def returns(advantages: ArrayLike, values: ArrayLike, state_mask: ArrayLike) -> Array:
    """Compute R_t = A_t + V_t, the critic's target, from the advantages before they are whitened.

    >>> returns([[0.125, 0.75]], [[0.5, 0.25]], [[1, 1]])
    array([[0.625, 1.   ]])
    """
    mask = _checks.mask01("state_mask", state_mask, ndim=2)
    values = _checks.counted("values", values, mask)
    return _checks.counted("advantages", advantages, mask) + values


def masked_whiten(
    x: ArrayLike, mask: ArrayLike, *, ddof: float, eps: float, shift_mean: bool = True
) -> Array:
    """Compute (x - mean) / sqrt(var + eps) over the whole batch where the mask is 1.

    x            (B, T)
    mask         (B, T)  1 = counts
    ddof         var divides by count - ddof: 1 in TRL
    eps          added to the variance, not to the std: 1e-8 in TRL
    shift_mean   False adds the mean back: whitened rewards keep their sign
    returns      (B, T)  0 elsewhere.  One number alone has no spread: it deviates by 0 (TRL: NaN)

    >>> masked_whiten([[1.0, 3.0, 9.0]], [[1, 1, 0]], ddof=0, eps=0.0)          # mean 2, std 1
    array([[-1.,  1.,  0.]])
    >>> masked_whiten([[1.0, 3.0, 9.0]], [[1, 1, 0]], ddof=0, eps=0.0, shift_mean=False)
    array([[1., 3., 0.]])
    """
    ddof = _checks.number("ddof", ddof, at_least=0, at_most=1)
    eps = _checks.number("eps", eps, at_least=0)
    mask = _checks.mask01("mask", mask, ndim=2)
    x, n = _checks.counted("x", x, mask), mask.sum()
    mean = x.sum() / max(n, 1.0)
    deviation = mask * (x - mean)
    std = np.sqrt((deviation**2).sum() / max(n - ddof, 1.0) + eps)
    whitened = np.divide(deviation, std, out=np.zeros_like(x), where=deviation != 0)
    return whitened if shift_mean else mask * (whitened + mean)


def ones_first(name: str, mask: ArrayLike) -> Array:
    """Return a mask without holes as float64: the ones on the left, the padding on the right.

    >>> ones_first("completion_mask", [[0, 1]])
    Traceback (most recent call last):
        ...
    ValueError: completion_mask must be ones, then zeros, in each row: pad on the right
    """
    mask = _checks.mask01(name, mask, ndim=2)
    if (np.diff(mask, axis=1) > 0).any():
        raise ValueError(f"{name} must be ones, then zeros, in each row: pad on the right")
    return mask


def _lam(lam, rows):
    """One number for all rows, or one for each, between 0 and 1."""
    lam = _checks.finite("lam", lam)
    if lam.shape not in ((), (rows,)):
        raise ValueError(f"lam must be one number, or have shape ({rows},), got {lam.shape}")
    for end in lam.reshape(-1):
        _checks.number("lam", end, at_least=0, at_most=1)
    return lam


whiten = _renamed.function("whiten", masked_whiten)
