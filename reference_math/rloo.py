"""RLOO: REINFORCE with the mean of the other completions as baseline, and the KL in the reward.

    loss = 1/B sum_b -min( w_b A_b,  clip(w_b, 1 - epsilon_low, 1 + epsilon_high) A_b )
    w_b  = p(completion_b) / p_old(completion_b)

Source    Ahmadian et al., Back to Basics, arXiv 2402.14740: plain REINFORCE, w = 1.
          The clipped ratio, once it has moved, is TRL's; on-policy the gradient is the paper's.
Torch     reference_math.torch.rloo     Lesson   notebooks/05_gallery.ipynb
Proof     tests/laws/test_rloo.py, tests/parity/test_rloo.py

Shapes    B completions, T tokens each.
Steps     `kl_penalized_rewards`, then `advantages.leave_one_out` (and `advantages.whiten` for TRL's
          normalize_advantages), then `loss`.

The ratio is of the whole completion, the product of all its tokens: ten tokens 2% likelier are
outside a clip of 0.2 already. It saturates at e^700, its gradient 0 beyond; see `ratios`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reference_math import _checks, _renamed, grpo
from reference_math._types import Array, ArrayLike


def kl_penalized_rewards(
    rewards: ArrayLike,
    old_per_token_logps: ArrayLike,
    ref_per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    *,
    beta: float,
    reward_clip_range: tuple[float, float] | None = None,
) -> Array:
    """Subtract the KL penalty from the reward: r - beta sum_t (log p_old - log p_ref).

    rewards               (B,)    None or NaN = missing, and stays NaN
    old_per_token_logps   (B, T)  of the policy when it sampled: the penalty has no gradient
    ref_per_token_logps   (B, T)
    completion_mask       (B, T)  1 = counts
    beta                  >= 0; 0.05 in TRL
    reward_clip_range     (low, high) of the reward itself, before the penalty; None for none
    returns               (B,)    k1 of `kl`, summed over the completion: it may be negative

    >>> old, ref = np.log([[0.5, 0.5]]), np.log([[0.25, 0.5]])            # ln 2
    >>> kl_penalized_rewards([9.0], old, ref, [[1, 1]], beta=1.0, reward_clip_range=(-5, 5)).round(4)
    array([4.3069])
    """
    beta = _checks.number("beta", beta, at_least=0)
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    rewards = _checks.maybe_missing("rewards", rewards, shape=(len(mask),))
    if reward_clip_range is not None:
        rewards = np.clip(rewards, *reward_clip_range)
    old_logps = _checks.counted("old_per_token_logps", old_per_token_logps, mask)
    ref_logps = _checks.counted("ref_per_token_logps", ref_per_token_logps, mask)
    return rewards - beta * (old_logps - ref_logps).sum(axis=1)


def loss(
    per_token_logps: ArrayLike,
    old_logps: ArrayLike,
    advantages: ArrayLike,
    completion_mask: ArrayLike,
    *,
    epsilon_low: float,
    epsilon_high: float,
) -> float:
    """Compute the loss of one batch, a float.

    per_token_logps   (B, T)  log-probability of each sampled token under the policy
    old_logps         (B,)    of the whole completion, when it was sampled
    advantages        (B,)
    completion_mask   (B, T)  1 = counts
    epsilon_low, epsilon_high   as in `grpo.per_token_loss`

    >>> clip = dict(epsilon_low=0.2, epsilon_high=0.2)
    >>> loss(np.log([[0.5, 0.5]]), np.log([0.1]), [1.0], [[1, 1]], **clip)       # w = 2.5
    -1.2
    """
    s, _ = _log_ratio(per_token_logps, old_logps, completion_mask)
    clip: dict[str, Any] = {"epsilon_low": epsilon_low, "epsilon_high": epsilon_high, "delta": None}
    return float(np.sum(grpo.per_token_loss(s, advantages, **clip))) / max(len(s), 1)


def loss_grad(
    per_token_logps: ArrayLike,
    old_logps: ArrayLike,
    advantages: ArrayLike,
    completion_mask: ArrayLike,
    *,
    epsilon_low: float,
    epsilon_high: float,
) -> Array:
    """Compute d loss / d(per_token_logps): each token moves s one for one, so all of a row share -A w / B.

    returns   (B, T)

    >>> clip = dict(epsilon_low=0.2, epsilon_high=0.2)
    >>> loss_grad(np.log([[0.5, 0.5]]), np.log([0.25]), [1.0], [[1, 1]], **clip)
    array([[-1., -1.]])
    """
    s, mask = _log_ratio(per_token_logps, old_logps, completion_mask)
    clip: dict[str, Any] = {"epsilon_low": epsilon_low, "epsilon_high": epsilon_high, "delta": None}
    return mask * grpo.per_token_loss_grad(s, advantages, **clip) / max(len(s), 1)


def _log_ratio(per_token_logps, old_logps, completion_mask):
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    logps = _checks.counted("per_token_logps", per_token_logps, mask).sum(axis=1)
    return (logps - _checks.finite("old_logps", old_logps, shape=logps.shape))[:, None], mask


penalized_rewards = _renamed.function("penalized_rewards", kl_penalized_rewards)
