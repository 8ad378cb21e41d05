"""Compute advantages: the reward of each completion relative to the others of its group.

Source    group          Shao et al., DeepSeekMath (GRPO), arXiv 2402.03300, section 4.1.2
          batch          Liu et al., Tricks or Traps? (Lite PPO), arXiv 2508.08221
          dr_grpo        Liu et al., Understanding R1-Zero-Like Training, arXiv 2503.20783
          leave_one_out  Ahmadian et al., Back to Basics (RLOO), arXiv 2402.14740
          leave_one_out_scaled   NeMo-RL's default: nemo_rl/algorithms/advantage_estimator.py
          whiten         Hu, REINFORCE++, arXiv 2501.03262
          informative    Yu et al., DAPO, arXiv 2503.14476, dynamic sampling
Torch     reference_math.torch.advantages     Lesson   notebooks/03_grpo.ipynb
Proof     tests/laws/test_advantages.py, tests/parity/test_advantages.py

Shapes    B completions in prompt-major groups of num_generations: rows 0..G-1 answer prompt 0.
Missing   a reward that is None or NaN: its row is left out of every mean and std, and its advantage
          is 0. The advantage is also 0 in a group, or a batch, of one.

A group of equal rewards gets exactly 0. In float32 TRL does not quite: the mean of equal numbers can
be off by one rounding, which a std near 0 plus 1e-4 turns into advantages of up to 9.4e-3. Here the
lowest reward of the group is subtracted first, so equal rewards give exact zeros.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks
from reference_math._types import Array, ArrayLike, Rewards


def group(rewards: Rewards, num_generations: int, *, ddof: float, eps: float) -> Array:
    """Compute GRPO's advantage: the reward minus the group's mean, divided by the group's std.

    A_i = (r_i - mean_group) / (std_group + eps)

    rewards           (B,)  one per completion; None or NaN = missing
    num_generations   completions of one prompt
    ddof              std divides by count - ddof: 1 in torch and TRL, 0 in numpy
    eps               added to the std: 1e-4 in TRL, 1e-6 or 1e-8 elsewhere
    returns           (B,)

    >>> group([1.0, 0.0, 0.0, 1.0], 4, ddof=0, eps=0.0)         # mean 1/2, std 1/2
    array([ 1., -1., -1.,  1.])
    >>> group([3.0, 1.0, None, 5.0, 5.0, 5.0], 3, ddof=1, eps=0.0).round(4)
    array([ 0.7071, -0.7071,  0.    ,  0.    ,  0.    ,  0.    ])
    """
    deviations = centered(_grouped(rewards, num_generations), axis=1)
    return standardized(deviations, std(deviations, axis=1, ddof=ddof), eps=eps).reshape(-1)


def batch(rewards: Rewards, num_generations: int, *, ddof: float, eps: float) -> Array:
    """Compute the reward minus the group's mean, divided by the std of all rewards of the batch.

    A_i = (r_i - mean_group) / (std_batch + eps)

    >>> batch([1.0, 0.0, 5.0, 5.0], 2, ddof=0, eps=0.0).round(4)      # std of the four 2.2776
    array([ 0.2195, -0.2195,  0.    ,  0.    ])
    """
    grouped = _grouped(rewards, num_generations)
    scale = std(centered(grouped, axis=None), axis=None, ddof=ddof)
    return standardized(centered(grouped, axis=1), scale, eps=eps).reshape(-1)


def dr_grpo(rewards: Rewards, num_generations: int) -> Array:
    """Compute Dr. GRPO's advantage, without a std: hard and easy prompts weigh the same (TRL: "none").

    A_i = r_i - mean_group

    >>> dr_grpo([1.0, 0.0, 0.0, 0.0], 4)
    array([ 0.75, -0.25, -0.25, -0.25])
    """
    return np.nan_to_num(centered(_grouped(rewards, num_generations), axis=1)).reshape(-1)


def leave_one_out(rewards: Rewards, num_generations: int) -> Array:
    """Compute RLOO's advantage: its baseline is the mean of the others, independent of the completion.

    A_i = r_i - mean_{j != i} r_j = n / (n - 1) (r_i - mean_group)       n completions with a reward

    >>> leave_one_out([1.0, 0.0, 0.0, 0.0], 4).round(4)
    array([ 1.    , -0.3333, -0.3333, -0.3333])
    """
    deviations = centered(_grouped(rewards, num_generations), axis=1)
    n = np.sum(~np.isnan(deviations), axis=1, keepdims=True)
    return np.nan_to_num(deviations * n / np.maximum(n - 1, 1)).reshape(-1)


def leave_one_out_scaled(
    rewards: Rewards, num_generations: int, *, ddof: float, eps: float
) -> Array:
    """Compute NeMo-RL's advantage: the reward minus the others' mean, divided by the others' std.

    A_i = (r_i - mean_{j != i} r_j) / (std_{j != i} + eps)       undivided where the others are equal

    >>> leave_one_out_scaled([1.0, 0.0, 0.0, 0.0], 4, ddof=1, eps=0.0).round(4)   # -1/3 by sqrt(1/3)
    array([ 1.    , -0.5774, -0.5774, -0.5774])
    """
    grouped, eps = _grouped(rewards, num_generations), _checks.number("eps", eps, at_least=0)
    others = np.where(np.eye(num_generations) == 1, np.nan, grouped[:, None])  # row i: all but i
    scale = std(centered(others, axis=2), axis=2, ddof=ddof).reshape(-1)
    baselined = leave_one_out(rewards, num_generations)
    return np.divide(baselined, scale + eps, out=baselined.copy(), where=scale > 0)


def whiten(values: Rewards, *, ddof: float, eps: float) -> Array:
    """Compute REINFORCE++'s advantage: mean 0 and std 1 over the whole batch, all prompts together.

    A_i = (v_i - mean_batch) / (std_batch + eps)

    values    (B,)  rewards, or the advantages of `dr_grpo` (REINFORCE++ with a baseline) or
                    `leave_one_out` (TRL's normalize_advantages)

    >>> whiten([1.0, 3.0, None], ddof=0, eps=0.0)
    array([-1.,  1.,  0.])
    """
    deviations = centered(_checks.maybe_missing("values", values, ndim=1), axis=None)
    return standardized(deviations, std(deviations, axis=None, ddof=ddof), eps=eps)


def informative(rewards: Rewards, num_generations: int) -> Array:
    """Mark with 1 the completions of the groups whose rewards differ: DAPO's dynamic sampling keeps these.

    The advantages of a group of equal rewards are 0, so it has no gradient; DAPO samples other prompts
    in its place until the batch is full.  A group of one has nothing to differ from: 0 (verl and SkyRL
    keep it).

    returns           (B,)  a missing reward is 0 itself, and its group is judged without it

    >>> informative([1.0, 0.0, 1.0, 1.0], 2)
    array([1., 1., 0., 0.])
    """
    deviations = centered(_grouped(rewards, num_generations), axis=1)
    differ = (np.nan_to_num(deviations) != 0).any(axis=1, keepdims=True)
    return (differ & ~np.isnan(deviations)).astype(float).reshape(-1)


def centered(x: Array, axis: int | None) -> Array:
    """Subtract the mean of the values that are not missing; NaN stays NaN; equal values give exact zeros.

    >>> centered(np.array([[1.0, 2.0, np.nan]]), axis=1)
    array([[-0.5,  0.5,  nan]])
    """
    x = x - np.fmin.reduce(
        x, axis=axis, keepdims=True, initial=np.inf
    )  # equal values give exact zeros
    count = np.sum(~np.isnan(x), axis=axis, keepdims=True)
    return x - np.nansum(x, axis=axis, keepdims=True) / np.maximum(count, 1)


def std(deviations: Array, axis: int | None, *, ddof: float) -> Array:
    """Compute the std of deviations that are not missing; 0 for one value alone, whatever ddof.

    >>> std(np.array([[-1.0, 1.0, np.nan]]), axis=1, ddof=1)          # sqrt(2 / (2 - 1))
    array([[1.41421356]])
    """
    ddof = _checks.number("ddof", ddof, at_least=0, at_most=1)
    count = np.sum(~np.isnan(deviations), axis=axis, keepdims=True)
    squares = np.nansum(deviations**2, axis=axis, keepdims=True)
    return np.sqrt(squares / np.maximum(count - ddof, 1))  # one value alone: its square is 0


def standardized(deviations: ArrayLike, scale: Array, *, eps: float) -> Array:
    """Compute deviations / (scale + eps); 0 where the deviation is 0 or missing, even at 0 / 0.

    >>> standardized(np.array([2.0, 0.0, np.nan]), np.array([4.0, 0.0, 4.0]), eps=0.0)
    array([0.5, 0. , 0. ])
    """
    scale = scale + _checks.number("eps", eps, at_least=0)
    deviations = np.nan_to_num(deviations)
    return np.divide(deviations, scale, out=np.zeros_like(deviations), where=deviations != 0)


def _grouped(rewards, num_generations):
    rewards = _checks.maybe_missing("rewards", rewards, ndim=1)
    return rewards.reshape(-1, _checks.groups("rewards", len(rewards), num_generations))
