"""Give the verdict on each completion with its reason; the reward functions are built on it."""

import re
from functools import lru_cache
from typing import NamedTuple

from rewards._types import Completions, Golds
from rewards.comparison import RIGHT
from rewards.completions import prompt_of, text_of
from rewards.extract import MAX_CHARS, gold_text
from rewards.policy import copied
from rewards.process import verifier
from rewards.refused import Refused
from rewards.tags import scan
from rewards.units import singular

_WORD = re.compile(r"[A-Za-z]{2,}")
_INTEGER = re.compile(r"-?[0-9]{1,18}")  # the fast path: nothing about these needs a parser


class Verdict(NamedTuple):
    reward: float | None  # None: the gold cannot be verified
    reason: str


def explain(
    completions: Completions, solution: Golds, prompts: Completions | None = None
) -> list[Verdict]:
    """Score completions as `accuracy_reward` does, with the reason for each.

    completions   list of N strings or chats
    solution      list of N golds
    prompts       list of N strings or chats   optional: to notice a copied question
    returns       list of N Verdict(reward, reason)

    >>> for verdict in explain(["<think>2+2</think><answer>4</answer>", "4"], ["4", "4"]):
    ...     print(verdict)
    Verdict(reward=1.0, reason='right')
    Verdict(reward=0.0, reason='no <think> tag')
    """
    prompts = [None] * len(completions) if prompts is None else prompts
    if not len(completions) == len(solution) == len(prompts):
        raise ValueError(
            f"explain: {len(completions)} completions, {len(solution)} in solution and "
            f"{len(prompts)} in prompts; give one gold, and one prompt if any, per completion."
        )
    rows = zip(completions, solution, prompts, strict=True)
    return [_verdict(text_of(c), gold, prompt) for c, gold, prompt in rows]


def why_unverifiable(gold: object) -> str:
    """Return why a gold cannot be verified, "" when it can.

    >>> why_unverifiable("#### 42"), why_unverifiable(None)
    ('', 'the gold is None')
    """
    try:
        return _judge_gold(gold_text(gold))
    except Refused as refused:
        return str(refused)


def _verdict(text, gold, prompt):
    if why := why_unverifiable(gold):
        return Verdict(None, f"gold not verifiable: {why}")
    blocks = scan(text)
    if blocks.reason:
        return Verdict(0.0, blocks.reason)
    why = _judge(gold_text(gold), blocks.answer, prompt)
    if why != RIGHT:
        return Verdict(0.0, why)
    plain = prompt is None or _INTEGER.fullmatch(blocks.answer)
    if not plain and copied(gold, blocks.answer, prompt_of(prompt)):
        return Verdict(0.0, "copied from the question")
    return Verdict(1.0, "right")


def _judge(gold, answer, prompt=None):
    if _INTEGER.fullmatch(gold) and _INTEGER.fullmatch(answer):
        return RIGHT if int(gold) == int(answer) else "wrong"
    if len(answer) > MAX_CHARS:
        return f"answer longer than {MAX_CHARS} characters"
    question = "" if prompt is None else _shared_words(answer, prompt_of(prompt))
    return _ask("judge", gold, answer, question)


def _shared_words(answer, question):
    """The words of the question that the answer uses too: all that its reader needs to know."""
    used = {singular(word) for word in _WORD.findall(answer)}
    found = {word for word in _WORD.findall(question) if singular(word) in used} if used else ()
    return " ".join(sorted(found))


def _judge_gold(gold):
    return RIGHT if _INTEGER.fullmatch(gold) else _ask("judge_gold", gold)


@lru_cache(maxsize=2**14)  # a group repeats its gold, and often its answers: bombs stall once
def _ask(job, *texts):
    return verifier.ask(job, *texts)
