r"""Is one reading the other? The lines of rewards/POLICY.md, kind by kind.

Each function returns "" when right, else the reason, or raises Refused with it. Only the
leaves that need algebra import sympy: in the worker process, that is.
"""

import re
from fractions import Fraction

from rewards.numbers import same_number
from rewards.reading import is_unsolved, read, split
from rewards.refused import Refused

RIGHT = ""
COLLECTIONS = ("list", "set", "sequence")
_UNDONE = re.compile(
    r"\\(?:int|iint|iiint|oint|sum|prod|lim|limsup|liminf|bigcup|bigcap|partial|begin|det)(?![a-z])"
    r"|\\frac\s*\{\s*d\s*\}"
)


def compare(gold, answer, same_text=True):
    """Why the answer is not the gold, "" when it is.

    gold, answer   Reading
    same_text      bool      take the same words for the same thing, without any algebra
    """
    if answer.unit != gold.unit and (
        (answer.unit and gold.unit) or answer.unit.startswith("base ")
    ):
        return "another unit"
    if gold.name and answer.name and gold.name != answer.name:
        return _by_algebra(gold.statement, answer.statement)
    if gold.name and gold.kind == "expression" and answer.kind == "relation":
        return _by_algebra(gold.statement, answer.latex)  # y = 2x + 3 and 2x - y = -3
    same_kind = gold.kind == answer.kind != "number"  # 1,234 and 1, 234 are not the same
    if same_text and same_kind and squeeze(gold.latex) == squeeze(answer.latex):
        return RIGHT
    gold, answer = _only(gold, answer), _only(answer, gold)
    if answer.kind == "number" and gold.kind in COLLECTIONS and "," in answer.latex:
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
    if gold.kind in COLLECTIONS and answer.kind in COLLECTIONS:
        return _collections(gold, answer, same_text)
    if answer.kind == "relation" and "=" in answer.latex and gold.kind != "relation":
        return "an equation where a value is wanted"
    if answer.kind == "number":
        return _against_number(gold, answer)
    return _by_algebra(gold.latex, answer.latex, interval=_is_interval(gold))


def _only(reading, other):
    """A set of one is its element, unless it meets another collection."""
    alone = reading.kind == "set" and len(reading.body) == 1 and other.kind not in COLLECTIONS
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
        return next((why for g, a in pairs if (why := compare(g, a, same_text))), RIGHT)
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
        return compare(gold, answer, same_text) == RIGHT
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
    return re.sub(r"s\b", "", squeeze(text).lower())


def squeeze(text):
    """`text` without white space, but for what keeps two numbers apart."""
    return re.sub(r"(?<![0-9])\s|\s(?![0-9])", "", text)
