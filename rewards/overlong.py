"""Penalise the last tokens before the limit, so that a completion learns to end before it is cut off."""

from collections.abc import Sequence
from typing import Any

from rewards._types import Completions


class overlong_reward_within:
    """Make DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13): 0 to -1 over the last `cache` tokens.

    max_tokens   int   L_max: at this length and beyond it costs 1. Give max_completion_length
    cache        int   L_cache: the price begins this many tokens before; 0: only beyond max_tokens

    Returns a function in TRL's signature, picklable, under a name of its own. Its values are never
    positive, so a short wrong answer gains nothing by it. It reads no text, so no completion can
    fool it.

    >>> reward = overlong_reward_within(100, 20)
    >>> reward(["a", "b", "c"], completion_ids=[[0] * 80, [0] * 90, [0] * 120])
    [0.0, -0.5, -1.0]
    """

    def __init__(self, max_tokens: int, cache: int) -> None:
        for name, value, least in (("max_tokens", max_tokens, 1), ("cache", cache, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(
                    f"overlong_reward_within: {name} is {value!r}; give a number of tokens >= {least}"
                )
        if cache > max_tokens:
            raise ValueError(
                f"overlong_reward_within: cache is {cache}, more than max_tokens {max_tokens}; the "
                "price would begin before the first token"
            )
        self.max_tokens, self.cache = max_tokens, cache
        self.__name__ = f"overlong_reward_within_{max_tokens}_{cache}"

    def __call__(
        self,
        completions: Completions,
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float]:
        if completion_ids is None or len(completion_ids) != len(completions):
            raise ValueError(
                f"{self.__name__}: it counts tokens and needs one list of them per completion in "
                "`completion_ids`. TRL passes it; elsewhere use tokenizer(texts)['input_ids']."
            )
        return [self.price(len(ids)) for ids in completion_ids]

    def price(self, tokens: int) -> float:
        """Return the price of one length."""
        if tokens > self.max_tokens:
            return -1.0
        over = tokens - (self.max_tokens - self.cache)
        return -over / self.cache if over > 0 else 0.0
