"""Combine several rewards into one reward function, a weighted sum."""

import math
from collections.abc import Iterable
from typing import Any

from rewards._types import Completions, RewardFunction


class combine:
    """Sum several rewards with weights; None where any of them is None.

    reward_funcs     list of K reward functions
    reward_weights   list of K floats             optional, 1.0 each
    returns          a reward function for TRL

    TRL's own reward_weights count None as 0 once any other reward of that row is a number:
    a gold that cannot be verified then shifts the mean of its whole group. Here such a row is skipped.
    A class, not a closure: TRL pickles reward functions, and logs them by `__name__`.

    >>> from rewards import format_reward
    >>> half = combine([format_reward], [0.5])
    >>> half.__name__, half(["<think>a</think><answer>4</answer>"])
    ('0.5*format_reward', [0.5])
    """

    def __init__(
        self, reward_funcs: Iterable[RewardFunction], reward_weights: Iterable[float] | None = None
    ) -> None:
        self.reward_funcs = list(reward_funcs)
        weights = [1.0] * len(self.reward_funcs) if reward_weights is None else reward_weights
        self.reward_weights = [float(weight) for weight in weights]
        if not self.reward_funcs or len(self.reward_weights) != len(self.reward_funcs):
            raise ValueError(
                f"combine: {len(self.reward_funcs)} reward_funcs and {len(self.reward_weights)} "
                "reward_weights; give one weight per function, at least one."
            )
        if not all(map(math.isfinite, self.reward_weights)):
            raise ValueError(
                f"combine: reward_weights are {self.reward_weights}; give finite ones."
            )
        parts = zip(self.reward_weights, map(_name, self.reward_funcs), strict=True)
        self.__name__ = "+".join(f"{weight:g}*{name}" for weight, name in parts)

    def __call__(self, completions: Completions, **columns: Any) -> list[float | None]:
        rewards = [reward(completions, **columns) for reward in self.reward_funcs]
        return [self._sum(row) for row in zip(*rewards, strict=True)]

    def _sum(self, row):
        if any(reward is None for reward in row):
            return None
        return sum(w * r for w, r in zip(self.reward_weights, row, strict=True))


def _name(reward):
    """A functools.partial goes by its function's name."""
    reward = getattr(reward, "func", reward)
    return getattr(reward, "__name__", type(reward).__name__)
