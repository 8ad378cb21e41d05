"""Reward functions that nothing can hang, crash or fool, in TRL's signature:
`f(completions, **columns) -> list[float | None]`. What counts as right: rewards/POLICY.md."""

from rewards.accuracy import accuracy_reward
from rewards.combined import combine
from rewards.format import format_reward
from rewards.golds import check_golds
from rewards.instruction import instruction_reward
from rewards.length import length_reward, length_reward_within
from rewards.overlong import overlong_reward_within
from rewards.verdicts import Verdict, explain

__all__ = [
    "Verdict",
    "accuracy_reward",
    "check_golds",
    "combine",
    "explain",
    "format_reward",
    "instruction_reward",
    "length_reward",
    "length_reward_within",
    "overlong_reward_within",
]
