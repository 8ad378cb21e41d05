"""A*-PO: estimate the best possible value of a prompt once, then regress the policy on it.

    V* = beta1 log mean_i e^(r_i / beta1)                  r_i of answers that the reference sampled
    L  = mean_b (beta2 log p(y_b) / p_ref(y_b) - (r_b - V*_b))^2

Source    Brantley et al., Optimal Advantage Regression, arXiv 2505.20686
          TRL: experimental A2POTrainer (1.16), beta1 0.5, beta2 1e-3, 8 answers per prompt
Lesson    notebooks/05_gallery.ipynb
Proof     tests/laws/test_a2po.py, tests/parity/test_a2po.py

Shapes    B completions, one per prompt, T positions; `optimal_value`: P prompts, n answers each.

The policy that maximises E[r] - beta KL(policy || reference) has log p / p_ref = (r - V*) / beta, so
at beta1 = beta2 = beta and the exact V* the loss is 0 there and nowhere else.  TRL, and the paper's
runs, take two betas: then V* is not that of the policy that is fitted.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks
from reference_math._types import Array, ArrayLike


def optimal_value(rewards: ArrayLike, *, beta1: float) -> Array:
    """Estimate V*, between the mean reward (beta1 large) and the best one (beta1 -> 0).

    rewards   (P, n)  of the reference's answers
    beta1     > 0
    returns   (P,)

    >>> optimal_value([[0.0, np.log(3.0)]], beta1=1.0).round(4)                 # ln (1 + 3)/2
    array([0.6931])
    """
    beta1 = _checks.number("beta1", beta1, above=0)
    rewards = _checks.finite("rewards", rewards, ndim=2)
    if rewards.shape[1] == 0:
        raise ValueError(f"rewards must hold at least one answer a prompt, got {rewards.shape}")
    log_sum = np.logaddexp.reduce(rewards / beta1, axis=1)
    return beta1 * (log_sum - np.log(rewards.shape[1]))


def loss(
    per_token_logps: ArrayLike,
    ref_per_token_logps: ArrayLike,
    rewards: ArrayLike,
    optimal_values: ArrayLike,
    completion_mask: ArrayLike,
    *,
    beta2: float,
) -> float:
    """Compute the mean square over the completions, a float; 0 for an empty batch.

    per_token_logps       (B, T)  of the policy, which sampled them
    ref_per_token_logps   (B, T)
    rewards               (B,)
    optimal_values        (B,)    V* of each one's prompt
    completion_mask       (B, T)  1 = counts
    beta2                 >= 0

    >>> logps, ref = np.log([[0.5, 0.5]]), np.log([[0.25, 0.5]])
    >>> round(loss(logps, ref, [1.0], [0.5], [[1, 1]], beta2=1.0), 4)            # (ln 2 - 1/2)^2
    0.0373
    """
    tokens = per_token_logps, ref_per_token_logps, rewards, optimal_values, completion_mask
    error, mask, _ = _error(*tokens, beta2)
    return float((error**2).sum()) / max(len(mask), 1)


def loss_grad(
    per_token_logps: ArrayLike,
    ref_per_token_logps: ArrayLike,
    rewards: ArrayLike,
    optimal_values: ArrayLike,
    completion_mask: ArrayLike,
    *,
    beta2: float,
) -> Array:
    """Compute d loss / d(per_token_logps), (B, T): 2 beta2 error / B on every token of the completion.

    >>> logps, ref = np.log([[0.5, 0.5]]), np.log([[0.25, 0.5]])
    >>> loss_grad(logps, ref, [1.0], [0.5], [[1, 1]], beta2=1.0).round(4)
    array([[0.3863, 0.3863]])
    """
    tokens = per_token_logps, ref_per_token_logps, rewards, optimal_values, completion_mask
    error, mask, beta2 = _error(*tokens, beta2)
    return 2.0 * beta2 * mask * error[:, None] / len(mask)  # empty batch: nothing is divided by 0


def _error(per_token_logps, ref_per_token_logps, rewards, optimal_values, completion_mask, beta2):
    beta2 = _checks.number("beta2", beta2, at_least=0)
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    logps = _checks.counted("per_token_logps", per_token_logps, mask)
    log_ratio = logps - _checks.counted("ref_per_token_logps", ref_per_token_logps, mask)
    rewards = _checks.finite("rewards", rewards, shape=(len(mask),))
    values = _checks.finite("optimal_values", optimal_values, shape=(len(mask),))
    return beta2 * log_ratio.sum(axis=1) - (rewards - values), mask, beta2
