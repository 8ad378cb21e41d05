"""ReMax's advantage: the reward minus the reward of the greedily decoded answer.

    A_i = r_i - r(greedy answer to the same prompt)

Source    Li et al., ReMax, arXiv 2310.10505, algorithm 1; verl's remax
Torch     none     Lesson   none
Proof     tests/laws/test_remax.py, tests/parity/test_remax.py

Shapes    B completions in prompt-major groups of num_generations; P = B / num_generations prompts.
Missing   a reward that is None or NaN, of the completion or of the greedy answer: the advantage is 0.

A baseline that costs one greedy answer per prompt instead of a value network.  It does not depend on
the sampled answer, so the policy gradient stays unbiased, with a single sampled answer, too.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks
from reference_math._types import Array, ArrayLike, Rewards


def advantage(rewards: Rewards, greedy_rewards: ArrayLike, num_generations: int) -> Array:
    """Compute the advantage of each completion.

    rewards           (B,)    one per completion; None or NaN = missing
    greedy_rewards    (P,)    of the greedy answer to each prompt
    num_generations   completions of one prompt, 1 or more
    returns           (B,)

    >>> advantage([1.0, 0.0, 0.5, 0.5], [0.25, 0.5], 2)
    array([ 0.75, -0.25,  0.  ,  0.  ])
    """
    rewards = _checks.maybe_missing("rewards", rewards, ndim=1)
    groups = _checks.groups("rewards", len(rewards), num_generations)
    prompts = (len(rewards) // groups,)
    greedy = _checks.maybe_missing("greedy_rewards", greedy_rewards, shape=prompts)
    return np.nan_to_num(rewards - np.repeat(greedy, groups))
