"""Reward 1.0 for a completion in the required form, 0.0 for any other."""

from typing import Any

from rewards._types import Completions
from rewards.completions import text_of
from rewards.tags import scan


def format_reward(completions: Completions, **columns: Any) -> list[float]:
    """Require exactly one non-empty <think> block, then exactly one non-empty <answer> block.

    completions   list of N strings or chats   the last assistant message of a chat counts
    returns       list of N floats             0.0 or 1.0, never None

    >>> format_reward(["<think>a\\nb</think>\\n<answer>4</answer>", "4"])
    [1.0, 0.0]
    """
    return [float(scan(text_of(completion)).reason == "") for completion in completions]
