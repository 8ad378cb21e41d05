"""The pass@k advantage: by how much each answer raises the best reward of its group.

    A_i = max_j r_j - max_{j != i} r_j          the best answer's lead over the second; others 0

Source    Tang et al., Optimizing Language Models for Inference Time Objectives using Reinforcement
          Learning, arXiv 2503.19595 (leave-one-out of the best of k); verl's grpo_passk
Torch     none     Lesson   none
Proof     tests/laws/test_pass_at_k.py, tests/parity/test_pass_at_k.py

Shapes    B completions in prompt-major groups of num_generations = k.
Missing   a reward that is None or NaN: as if that answer had not been sampled; its advantage is 0.

With it REINFORCE climbs E[max_j r_j], which for rewards of 0 and 1 is pass@k.  An answer that is right
where another is right, too, has advantage 0.  verl divides by the std of the group by default.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, advantages
from reference_math._types import Array, Rewards


def advantage(rewards: Rewards, num_generations: int) -> Array:
    """Compute the advantage of each completion, never negative.

    rewards           (B,)    one per completion; None or NaN = missing
    num_generations   completions of one prompt, at least 2
    returns           (B,)

    >>> advantage([0.2, 0.9, 0.5, 1.0, 0.0, 1.0], 3)      # 0.9 - 0.5; two are best: neither is needed
    array([0. , 0.4, 0. , 0. , 0. , 0. ])
    """
    rewards, grouped = _grouped(rewards, num_generations)
    known = np.where(np.isnan(grouped), -np.inf, grouped)
    second, best = np.sort(known, axis=1)[:, -2:].T[..., None]
    with_rival = np.where(np.isneginf(second), best, second)  # the only answer of its group: 0
    lead = np.where(np.isneginf(best), 0.0, best) - np.where(np.isneginf(best), 0.0, with_rival)
    return np.where(known == best, lead, 0.0).reshape(-1)


def scaled(rewards: Rewards, num_generations: int, *, ddof: float, eps: float) -> Array:
    """Divide `advantage` by the standard deviation of the group's rewards.

    ddof   0 or 1. verl: 1
    eps    > 0, added to the std. verl: 1e-6

    >>> scaled([0.0, 0.5, 1.0], 3, ddof=1, eps=1e-9).round(4)      # 0.5 / 0.5
    array([0., 0., 1.])
    """
    lead = advantage(rewards, num_generations)
    eps = _checks.number("eps", eps, above=0)
    _, grouped = _grouped(rewards, num_generations)
    std = np.sqrt(_variance(grouped, _checks.one_of("ddof", ddof, (0, 1))))
    return (lead.reshape(grouped.shape) / (std + eps)).reshape(-1)


def _variance(grouped, ddof):
    squares = np.nan_to_num(advantages.centered(grouped, axis=1)) ** 2
    count = (~np.isnan(grouped)).sum(axis=1, keepdims=True)
    return squares.sum(axis=1, keepdims=True) / np.maximum(count - ddof, 1)


def _grouped(rewards, num_generations):
    rewards = _checks.maybe_missing("rewards", rewards, ndim=1)
    groups = _checks.groups("rewards", len(rewards), num_generations)
    if groups < 2:
        raise ValueError(f"num_generations must be >= 2: the best has no second, got {groups}")
    return rewards, rewards.reshape(-1, groups)
