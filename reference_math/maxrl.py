"""MaxRL's advantage: the deviation from the group's mean reward, divided by that mean.

    A_i = (r_i - mean r) / (mean r + eps)

Source    Tajwar et al., Maximum Likelihood Reinforcement Learning, arXiv 2602.02710
Torch     none     Lesson   none
Proof     tests/laws/test_maxrl.py, tests/parity/test_maxrl.py

Shapes    B completions in prompt-major groups of num_generations.
Missing   a reward that is None or NaN: it leaves the mean, and its advantage is 0.

Rewards are never negative; the paper's are 0 and 1.  With those, where the policy is right once in a
hundred answers, the right answer weighs a hundred times what it does in plain REINFORCE: as the group
grows, the gradient tends to that of log P(right).  A group of N has the first N - 1 terms,
sum_k (1 - P(right))^(k - 1) grad P(right).  Where no answer is right the advantages are 0.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, advantages
from reference_math._types import Array, Rewards


def advantage(rewards: Rewards, num_generations: int, *, eps: float) -> Array:
    """Compute the advantage of each completion.

    rewards           (B,)    one per completion, at least 0; None or NaN = missing
    num_generations   completions of one prompt
    eps               >= 0, added to the mean. SkyRL: 1e-6
    returns           (B,)

    >>> advantage([1.0, 0.0, 0.0, 0.0], 4, eps=0.0)          # the mean is 1/4
    array([ 3., -1., -1., -1.])
    """
    rewards = _checks.maybe_missing("rewards", rewards, ndim=1)
    if (rewards < 0).any():
        raise ValueError(f"rewards must be >= 0, got {np.nanmin(rewards)}")
    eps = _checks.number("eps", eps, at_least=0)
    grouped = rewards.reshape(-1, _checks.groups("rewards", len(rewards), num_generations))
    count = (~np.isnan(grouped)).sum(axis=1, keepdims=True)
    total = np.nan_to_num(grouped).sum(axis=1, keepdims=True)
    mean = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
    deviations = np.nan_to_num(advantages.centered(grouped, axis=1))
    a = np.divide(deviations, mean + eps, out=np.zeros_like(deviations), where=mean > 0)
    return a.reshape(-1)
