"""PPO: a critic's advantages, a clipped policy loss, a clipped value loss, and the KL in the reward.

    L = mean_tokens max(-A w, -A clip(w, 1 +- eps)) + vf_coef/2 mean_states max((V - R)^2, (V' - R)^2)

    w  = p / p_old                V' = V_old + clip(V - V_old, +- eps_v)

Source    Schulman et al., arXiv 1707.06347, eqs. 7 and 9 (the entropy bonus is not used here)
          KL in the reward: Ziegler et al., arXiv 1909.08593, eq. 2; clipped values: OpenAI baselines
Lesson    notebooks/05_gallery.ipynb
Proof     tests/laws/test_ppo.py, tests/parity/test_ppo.py (TRL 1.12.0, the last that had it)

Shapes    B completions, T positions.  completion_mask (B, T): tokens first, then padding.
Steps     `token_rewards`; `gae.advantages` and `gae.returns`; `gae.masked_whiten`; then `loss` on each
          micro-batch, the advantages, returns and old values held constant.

TRL adds the score not at the last token but at the state after it. The score then reaches every token
discounted once more, and reduced by the critic's value of that state. A full row has no such state:
there TRL adds the score at the last token.  `score_at` has both.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, gae, grpo, kl
from reference_math._types import Array, ArrayLike

SCORE_AT = ("last_token", "next_state")


def state_mask(completion_mask: ArrayLike) -> Array:
    """Mark the states that have a value: before each token, and after the last if there is room.

    >>> state_mask([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    array([[1., 1., 1., 0.],
           [1., 1., 1., 1.],
           [1., 0., 0., 0.]])
    """
    mask = gae.ones_first("completion_mask", completion_mask)
    return np.pad(mask, [(0, 0), (1, 0)], constant_values=1.0)[:, :-1]


def token_rewards(
    scores: ArrayLike,
    per_token_logps: ArrayLike,
    ref_per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    *,
    kl_coef: float,
    kl_estimator: str,
    score_at: str,
) -> Array:
    """Compute the reward per token: -kl_coef KL everywhere, plus the score at one position.

    scores                (B,)    of the reward model, any missing_eos_penalty taken off
    per_token_logps       (B, T)  of the policy when it sampled
    ref_per_token_logps   (B, T)
    completion_mask       (B, T)
    kl_coef               >= 0; 0.05 in TRL
    kl_estimator          "k1" or "k3" of `kl`
    score_at              "last_token": add the score at the last token; an empty completion gets
                          none. "next_state" (TRL): add it at the position after the last token,
                          or at the last token if the row is full
    returns               (B, T)

    >>> old, ref = np.log([[0.5, 0.5, 1.0]]), np.log([[0.25, 0.5, 1.0]])             # ln 2
    >>> options = dict(kl_coef=1.0, kl_estimator="k1")
    >>> token_rewards([9.0], old, ref, [[1, 1, 0]], score_at="last_token", **options).round(4)
    array([[-0.6931,  9.    ,  0.    ]])
    >>> token_rewards([9.0], old, ref, [[1, 1, 0]], score_at="next_state", **options).round(4)
    array([[-0.6931,  0.    ,  9.    ]])
    """
    kl_coef = _checks.number("kl_coef", kl_coef, at_least=0)
    _checks.one_of("kl_estimator", kl_estimator, ("k1", "k3"))
    _checks.one_of("score_at", score_at, SCORE_AT)
    mask = gae.ones_first("completion_mask", completion_mask)
    scores = _checks.finite("scores", scores, shape=(len(mask),))
    logps = _checks.counted("per_token_logps", per_token_logps, mask)
    ref_logps = _checks.counted("ref_per_token_logps", ref_per_token_logps, mask)
    has = state_mask(mask) if score_at == "next_state" else mask
    last = has - np.pad(has[:, 1:], [(0, 0), (0, 1)])  # 1 where the ones end
    return last * scores[:, None] - kl_coef * getattr(kl, kl_estimator)(logps, ref_logps)


def policy_loss(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    advantages: ArrayLike,
    completion_mask: ArrayLike,
    *,
    cliprange: float,
) -> float:
    """Compute `grpo`'s clipped surrogate with one advantage per token; mean over the micro-batch's tokens.

    >>> logps, old = np.log([[0.5, 0.5]]), np.log([[0.25, 0.5]])               # w = 2 and 1
    >>> policy_loss(logps, old, [[2.0, 1.0]], [[1, 1]], cliprange=0.2)         # -(1.2 2 + 1) / 2
    -1.7
    """
    tokens = per_token_logps, old_per_token_logps, advantages, completion_mask
    return grpo.loss(*tokens, **_surrogate(cliprange))


def policy_loss_grad(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    advantages: ArrayLike,
    completion_mask: ArrayLike,
    *,
    cliprange: float,
) -> Array:
    """Compute d policy_loss / d(per_token_logps), (B, T): -A w / tokens, 0 where clipped.

    >>> logps, old = np.log([[0.5, 0.5]]), np.log([[0.25, 0.5]])
    >>> policy_loss_grad(logps, old, [[2.0, 1.0]], [[1, 1]], cliprange=0.2)
    array([[ 0. , -0.5]])
    """
    tokens = per_token_logps, old_per_token_logps, advantages, completion_mask
    return grpo.loss_grad(*tokens, **_surrogate(cliprange))


def value_loss(
    values: ArrayLike,
    old_values: ArrayLike,
    returns: ArrayLike,
    state_mask: ArrayLike,
    *,
    cliprange_value: float,
) -> float:
    """Compute half the mean of the larger of two squared errors, with and without the value's clip.

    values            (B, T)  of the critic now
    old_values        (B, T)  when the completions were sampled
    returns           (B, T)  of `gae.returns`
    state_mask        (B, T)
    cliprange_value   >= 0, inf for no clip

    >>> clip = dict(cliprange_value=0.5)
    >>> value_loss([[1.0]], [[0.0]], [[2.0]], [[1]], **clip)      # V' = 1/2: (3/2)^2 / 2
    1.125
    """
    v, clipped, r, mask = _critic(values, old_values, returns, state_mask, cliprange_value)
    worse = np.maximum((v - r) ** 2, (clipped - r) ** 2)
    return float(0.5 * worse.sum() / max(mask.sum(), 1.0))  # where nothing counts, all are 0


def value_loss_grad(
    values: ArrayLike,
    old_values: ArrayLike,
    returns: ArrayLike,
    state_mask: ArrayLike,
    *,
    cliprange_value: float,
) -> Array:
    """Compute d value_loss / d(values), (B, T): (V - R) / states; 0 where the clipped square is larger.

    V' does not move with V outside the clip, and is V inside it.  At a tie V counts (torch: half).

    >>> value_loss_grad([[1.0, 1.0]], [[0.0, 0.0]], [[2.0, 0.0]], [[1, 1]], cliprange_value=0.5)
    array([[0. , 0.5]])
    """
    v, clipped, r, mask = _critic(values, old_values, returns, state_mask, cliprange_value)
    moves = (v - r) ** 2 >= (clipped - r) ** 2
    return moves * (v - r) / max(mask.sum(), 1.0)


def _surrogate(cliprange):
    if not cliprange >= 0:
        raise ValueError(f"cliprange must be >= 0 (inf for no clip), got {cliprange!r}")
    clip = {"epsilon_low": cliprange, "epsilon_high": cliprange}
    return clip | {"importance_sampling_level": "token", "reduction": "bnpo"}


def _critic(values, old_values, returns, state_mask, cliprange_value):
    if not cliprange_value >= 0:
        raise ValueError(f"cliprange_value must be >= 0 (inf for no clip), got {cliprange_value!r}")
    mask = _checks.mask01("state_mask", state_mask, ndim=2)
    v, old = (
        _checks.counted("values", values, mask),
        _checks.counted("old_values", old_values, mask),
    )
    clipped = np.clip(v, old - cliprange_value, old + cliprange_value)
    return v, clipped, _checks.counted("returns", returns, mask), mask
