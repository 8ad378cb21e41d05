"""Reward functions in TRL's signature: `f(completions, **columns) -> list[float | None]`."""

from rewards.accuracy import accuracy_reward
from rewards.combined import combine
from rewards.format import format_reward
from rewards.length import length_reward

__all__ = ["accuracy_reward", "combine", "format_reward", "length_reward"]
