"""Subtract a bounded price for tokens: a right answer earns more when it is shorter."""

from collections.abc import Sequence
from typing import Any

from rewards._types import Completions, Golds
from rewards.accuracy import require_golds
from rewards.verdicts import explain


def length_reward(
    completions: Completions,
    solution: Golds | None = None,
    completion_ids: Sequence[Sequence[int]] | None = None,
    prompts: Completions | None = None,
    max_tokens: int = 1024,
    **columns: Any,
) -> list[float | None]:
    """Give 1 - tokens / max_tokens for a right answer, 0.0 for a wrong one.

    completions      list of N strings or chats
    solution         list of N golds           as for `accuracy_reward`
    completion_ids   list of N token lists     TRL passes them
    max_tokens       int                       the length that earns nothing; for another one
                                               than 1024 see `length_reward_within`
    returns          list of N                 in [0, 1]; None: gold not verifiable

    Raises ValueError without `solution` or `completion_ids`.

    >>> right = "<think>2+2</think><answer>4</answer>"
    >>> length_reward([right], solution=["4"], completion_ids=[[0] * 256])
    [0.75]
    """
    golds = require_golds("length_reward", completions, solution, columns)
    if completion_ids is None or len(completion_ids) != len(completions):
        raise ValueError(
            "length_reward: it counts tokens, not characters, and needs one list of them per "
            "completion in `completion_ids`. TRL passes it; elsewhere use "
            "tokenizer(texts)['input_ids']."
        )
    _require_positive("length_reward", max_tokens)
    verdicts = explain(completions, golds, prompts)
    saved = [max(0.0, 1.0 - len(ids) / max_tokens) for ids in completion_ids]
    return [
        None if verdict.reward is None else verdict.reward * share
        for verdict, share in zip(verdicts, saved, strict=True)
    ]


class length_reward_within:
    """Make `length_reward` for another length, as TRL wants it: picklable, under a name of its own.

    >>> length_reward_within(46).__name__
    'length_reward_within_46'
    """

    def __init__(self, max_tokens: int) -> None:
        _require_positive("length_reward_within", max_tokens)
        self.max_tokens = max_tokens
        self.__name__ = f"length_reward_within_{max_tokens}"

    def __call__(self, completions: Completions, **columns: Any) -> list[float | None]:
        return length_reward(completions, **{**columns, "max_tokens": self.max_tokens})


def _require_positive(function, max_tokens):
    if not isinstance(max_tokens, int) or max_tokens < 1:
        raise ValueError(
            f"{function}: max_tokens is {max_tokens!r}; give the number of tokens at which nothing "
            "is earned any more, such as max_completion_length."
        )
