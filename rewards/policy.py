r"""What counts as right. The policy in words, a test for each line: rewards/POLICY.md.

`judge` is a pure function of two texts. It may take for ever on a hostile one: the reward
functions call it in the worker process, where it can be killed.
"""

import re
from fractions import Fraction

from rewards.extract import answer_text, gold_text
from rewards.numbers import same_number
from rewards.reading import is_unsolved, read, split
from rewards.refused import Refused

RIGHT = ""
_UNDONE = re.compile(
    r"\\(?:int|iint|iiint|oint|sum|prod|lim|limsup|liminf|bigcup|bigcap|partial|begin|det)(?![a-z])"
    r"|\\frac\s*\{\s*d\s*\}"
)
_MANY = ("list", "set", "sequence")


def judge(gold, answer):
    r"""Why the answer is not the gold, "" when it is.

    gold     str or number   LaTeX, a number, a box, GSM8K's ####
    answer   str             the inside of an answer block
    returns  str             the reason, in words

    >>> judge("#### 42", r"\boxed{42}"), judge("42", "40 + 2")
    ('', 'not a plain number, as the gold is')
    """
    try:
        return _compare(_read_gold(gold), read(answer_text(answer)))
    except Refused as refused:
        return str(refused)


def judge_gold(gold):
    r"""Why a gold cannot be verified, "" when it can: it must be found equal to itself.

    It is compared with 0 as well, only to see whether it can be computed at all.

    >>> judge_gold("42"), judge_gold("The proof is left to the reader.")
    ('', 'words, not mathematics')
    """
    try:
        reading = _read_gold(gold)
        if reading.kind == "expression":
            _compare(reading, read("0"))
        return _compare(reading, reading, same_text=False) and "not even equal to itself"
    except Refused as refused:
        return str(refused)


def copied(gold, answer, prompt):
    r"""Is a right expression only the question again, in other words than the gold's?

    A number may well stand in the question; a number is an answer all the same.

    >>> copied("x+1", r"\frac{x^2-1}{x-1}", r"Simplify $\frac{x^2 - 1}{x - 1}$.")
    True
    >>> copied("x+1", "x + 1", "Simplify x+1."), copied("4", "4", "Which is larger, 3 or 4?")
    (False, False)
    """
    try:
        gold, reading = _read_gold(gold), read(answer_text(answer))
        text = _squeeze(answer_text(answer)).strip("$")
    except Refused:
        return False
    stated = reading.kind in ("expression", "relation") and len(text) > 2
    same = _squeeze(gold.latex) == _squeeze(reading.latex)
    return stated and not same and text in _squeeze(prompt)


def _read_gold(gold):
    reading = read(gold_text(gold))
    if any(part.kind == "prose" for part in _flat(reading)):
        raise Refused("words, not mathematics")
    return reading


def _flat(reading):
    parts = reading.body if reading.kind in _MANY else ()
    return [reading, *(leaf for part in parts for leaf in _flat(part))]


def _compare(gold, answer, same_text=True):
    if answer.unit != gold.unit and ((answer.unit and gold.unit) or "base" in answer.unit):
        return "another unit"
    if gold.name and answer.name and gold.name != answer.name:
        return _by_algebra(gold.statement, answer.statement)
    if gold.name and gold.kind == "expression" and answer.kind == "relation":
        return _by_algebra(gold.statement, answer.latex)  # y = 2x + 3 and 2x - y = -3
    same_kind = gold.kind == answer.kind != "number"  # 1,234 and 1, 234 are not the same
    if same_text and same_kind and _squeeze(gold.latex) == _squeeze(answer.latex):
        return RIGHT
    gold, answer = _only(gold, answer), _only(answer, gold)
    if answer.kind == "number" and gold.kind in _MANY and "," in answer.latex:
        parts, _ = split(answer.latex)  # 100,200 is a list where the gold is one
        answer = answer._replace(kind="list", body=tuple(map(read, parts)))
    if _is_compound(gold) or _is_compound(answer):
        return _by_solution_set(gold, answer)
    kinds = gold.kind, answer.kind
    if kinds == ("number", "number"):
        return _numbers(gold.body, answer.body)
    if gold.kind == "number":
        return "not a plain number, as the gold is"
    if gold.kind == "word":
        return RIGHT if _word(gold) == _word(answer) else "wrong"
    if answer.kind in ("word", "prose"):
        return "words, not mathematics" if answer.kind == "prose" else "wrong"
    if gold.kind in _MANY and answer.kind in _MANY:
        return _collections(gold, answer, same_text)
    if answer.kind == "relation" and "=" in answer.latex and gold.kind != "relation":
        return "an equation where a value is wanted"
    if answer.kind == "number":
        return _against_number(gold, answer)
    return _by_algebra(gold.latex, answer.latex, interval=_is_interval(gold))


def _only(reading, other):
    """A set of one is its element, unless it meets another collection."""
    alone = reading.kind == "set" and len(reading.body) == 1 and other.kind not in _MANY
    alone = alone and "emptyset" not in other.latex  # the set of nothing is not nothing
    return reading.body[0] if alone else reading


def _is_compound(reading):
    """x < 1 or x > 2"""
    joined = reading.kind == "list" and reading.connective in ("and", "or")
    return joined and all(part.kind == "relation" for part in reading.body)


def _by_solution_set(gold, answer):
    from rewards import mathverify

    parts = [
        (r.connective, [p.latex for p in r.body]) if _is_compound(r) else ("and", [r.latex])
        for r in (gold, answer)
    ]
    return RIGHT if mathverify.same_solutions(*parts) else "wrong"


def _numbers(gold, answer):
    if not same_number(gold, answer):
        return "wrong"
    return "a division left undone" if answer.undone and not gold.undone else RIGHT


def _collections(gold, answer, same_text):
    kinds = {gold.kind, answer.kind}
    if kinds == {"set", "sequence"}:
        return "a set is not a sequence"
    if "sequence" in kinds:
        brackets = {r.brackets for r in (gold, answer) if r.kind == "sequence"}
        if len(brackets) > 1 or ("list" in kinds and brackets != {"()"}):
            return "other brackets"
        if len(gold.body) != len(answer.body):
            return "another number of entries"
        pairs = zip(gold.body, answer.body, strict=True)
        return next((why for g, a in pairs if (why := _compare(g, a, same_text))), RIGHT)
    if "set" not in kinds and len(gold.body) != len(answer.body):
        return "another number of entries"
    return _unordered(list(gold.body), list(answer.body), same_text, once="set" not in kinds)


def _unordered(gold, answer, same_text, once):
    """Each gold has its answer and each answer its gold; in a list each serves once."""
    unused = list(answer)
    for g in gold:
        found = next((a for a in unused if _quietly(g, a, same_text)), None)
        if found is None and (once or not any(_quietly(g, a, same_text) for a in answer)):
            return "wrong"
        if found is not None:
            unused.remove(found)
    return RIGHT if all(any(_quietly(g, a, same_text) for g in gold) for a in unused) else "wrong"


def _quietly(gold, answer, same_text):
    try:
        return _compare(gold, answer, same_text) == RIGHT
    except Refused:
        return False


def _against_number(gold, answer):
    from rewards import mathverify

    value = answer.body.value
    if mathverify.equal(gold.latex, _exact(value)) or mathverify.rounds_to(gold.latex, answer.body):
        return RIGHT
    return "wrong"


def _by_algebra(gold, answer, interval=False):
    from rewards import mathverify  # sympy: in the worker process only

    if set(_UNDONE.findall(answer)) - set(_UNDONE.findall(gold)):
        raise Refused("a computation left undone")
    if is_unsolved(answer) and not is_unsolved(gold):
        raise Refused("not solved for its variable")
    if answer.count("\\begin") > gold.count("\\begin"):
        raise Refused("a computation left undone")
    return RIGHT if mathverify.equal(gold, answer, interval) else "wrong"


def _is_interval(gold):
    """(1, 2) may be a point; with a square bracket or an infinity it is an interval."""
    return gold.kind == "expression" or gold.brackets not in ("", "()") or "infty" in gold.latex


def _exact(value):
    if isinstance(value, Fraction) and value.denominator != 1:
        sign = "-" if value < 0 else ""
        return sign + f"\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
    return str(int(value))


def _word(reading):
    text = reading.body if reading.kind in ("word", "prose") else reading.latex
    return re.sub(r"s\b", "", _squeeze(text).lower())


def _squeeze(text):
    """Without white space, but for what keeps two numbers apart."""
    return re.sub(r"(?<![0-9])\s|\s(?![0-9])", "", text)
