r"""Decide what counts as right. The policy in words, with a test for each line: rewards/POLICY.md.

`judge` is a pure function of two texts. It may take for ever on a hostile one: the reward
functions call it in the worker process, where it can be killed.
"""

import re
from functools import lru_cache

from rewards.comparison import COLLECTIONS, compare, squeeze
from rewards.extract import answer_text, gold_text
from rewards.reading import read
from rewards.refused import Refused
from rewards.units import nouns_in


def judge(gold: object, answer: str, question: str = "") -> str:
    r"""Return why the answer is not the gold, "" when it is.

    gold      str or number   LaTeX, a number, a box, GSM8K's ####
    answer    str             the inside of an answer block
    question  str             its words may stand beside the number too: "7 apples"
    returns   str             the reason, in words

    >>> judge("#### 42", r"\boxed{42}"), judge("42", "40 + 2")
    ('', 'not a plain number, as the gold is')
    """
    try:
        nouns = _nouns(gold) | nouns_in(question)
        return compare(_read_gold(gold), read(answer_text(answer, nouns), nouns))
    except Refused as refused:
        return str(refused)


def judge_gold(gold: object) -> str:
    r"""Return why a gold cannot be verified, "" when it can: it must be found equal to itself.

    It is compared with 0 as well, only to see whether it can be computed at all.

    >>> judge_gold("42"), judge_gold("The proof is left to the reader.")
    ('', 'words, not mathematics')
    """
    try:
        reading = _read_gold(gold)
        if reading.kind == "expression":
            compare(reading, read("0"))
        return compare(reading, reading, same_text=False) and "not even equal to itself"
    except Refused as refused:
        return str(refused)


def copied(gold: object, answer: str, prompt: str) -> bool:
    r"""Tell whether a right expression only repeats the question, in other words than the gold's.

    A number may well stand in the question; a number is an answer all the same.

    >>> copied("x+1", r"\frac{x^2-1}{x-1}", r"Simplify $\frac{x^2 - 1}{x - 1}$.")
    True
    >>> copied("x+1", "x + 1", "Simplify x+1."), copied("4", "4", "Which is larger, 3 or 4?")
    (False, False)
    """
    try:
        nouns = _nouns(gold) | nouns_in(prompt)
        wanted, reading = _read_gold(gold), read(answer_text(answer, nouns), nouns)
        text = squeeze(answer_text(answer, nouns)).strip("$")
    except Refused:
        return False
    stated = reading.kind in ("expression", "relation") and len(text) > 2
    same = squeeze(wanted.latex) == squeeze(reading.latex)
    return stated and not same and text in squeeze(prompt)


@lru_cache(maxsize=1024)
def _nouns(gold):
    return frozenset(nouns_in(gold_text(gold)))


@lru_cache(maxsize=1024)  # a group repeats its gold
def _read_gold(gold):
    reading = read(gold_text(gold), nouns=None)
    if any(part.kind == "prose" for part in _flat(reading)):
        raise Refused("words, not mathematics")
    if re.search(r"[?@#~\"]", reading.latex) or not re.search(r"[0-9A-Za-z∅]", reading.latex):
        raise Refused("does not parse")
    return reading


def _flat(reading):
    parts = reading.body if reading.kind in COLLECTIONS else ()
    parts = reading.body[1:] if reading.kind == "choice" else parts
    return [reading, *(leaf for part in parts for leaf in _flat(part))]
