"""Names for the types that several modules of `rewards` take."""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

Chat = str | Mapping[str, Any] | Sequence[Mapping[str, Any]]  # a text, a message, a conversation
Completions = Sequence[Chat | None]
Golds = Sequence[Any]  # texts, numbers; whatever else stands there is named as unverifiable
Nouns = AbstractSet[str]  # words that may stand beside a number
RewardFunction = Callable[..., Sequence[float | None]]  # called as TRL calls it
Rules = dict[str, Any]
Statements = tuple[str, Sequence[str]]  # "or" or "and", and what it connects, in LaTeX
