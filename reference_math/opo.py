"""OPO's advantage: the reward less the mean of its group, each answer weighted by its length.

    A_i = r_i - sum_j n_j r_j / sum_j n_j       over the group; n_j tokens of answer j

Source    Hao et al., On-Policy RL with Optimal Reward Baseline, arXiv 2505.23585
Torch     none     Lesson   none
Proof     tests/laws/test_opo.py, tests/parity/test_opo.py

Shapes    B completions, T tokens each, in prompt-major groups of num_generations.
Missing   a reward that is None or NaN: it leaves the baseline, and its advantage is 0.

Where the squared norm of an answer's gradient is proportional to its length, this baseline makes the
variance of the policy gradient smallest. Where no token counts the advantage is 0, and so it is in a
group of one; verl gives a group of one its reward.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, advantages
from reference_math._types import Array, ArrayLike, Rewards


def advantage(rewards: Rewards, num_generations: int, completion_mask: ArrayLike) -> Array:
    """Compute the advantage of each completion.

    rewards           (B,)    one per completion; None or NaN = missing
    num_generations   completions of one prompt
    completion_mask   (B, T)  1 = counts
    returns           (B,)

    >>> advantage([1.0, 0.0], 2, [[1, 1, 1], [1, 0, 0]])      # baseline (3 * 1 + 1 * 0) / 4
    array([ 0.25, -0.75])
    """
    rewards = _checks.maybe_missing("rewards", rewards, ndim=1)
    mask = _checks.mask01("completion_mask", completion_mask, shape=(len(rewards), None))
    grouped = rewards.reshape(-1, _checks.groups("rewards", len(rewards), num_generations))
    deviations = advantages.centered(grouped, axis=1)  # equal rewards are exact zeros
    n = np.where(np.isnan(grouped), 0.0, mask.sum(axis=1).reshape(grouped.shape))
    deviations = np.nan_to_num(deviations)
    total = n.sum(axis=1, keepdims=True)
    baseline = (n * deviations).sum(axis=1, keepdims=True) / np.maximum(total, 1.0)
    there = ~np.isnan(grouped) & (total > 0)
    return np.where(there, deviations - baseline, 0.0).reshape(-1)
