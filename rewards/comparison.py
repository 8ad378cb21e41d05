r"""Compare two readings, answer and gold, by the lines of rewards/POLICY.md, kind by kind.

Each function returns "" when right, else the reason, or raises Refused with it. Only the
leaves that need algebra import sympy: in the worker process, that is.
"""

import re
from fractions import Fraction

from rewards.numbers import read_number, same_number
from rewards.reading import Reading, Time, is_unsolved, read, split
from rewards.refused import Refused
from rewards.symbols import is_algebra, with_named_derivatives
from rewards.units import same_unit

RIGHT = ""
COLLECTIONS = ("list", "set", "sequence")
_UNDONE = re.compile(
    r"\\(?:int|iint|iiint|oint|sum|prod|lim|limsup|liminf|bigcup|bigcap|partial|begin|det)(?![a-z])"
    r"|\\frac\s*\{\s*d\s*\}"
)


def compare(gold: Reading, answer: Reading, same_text: bool = True) -> str:
    """Return why the answer is not the gold, "" when it is.

    gold, answer   Reading
    same_text      bool      take the same words for the same thing, without any algebra
    """
    if "choice" in (gold.kind, answer.kind):
        return _choices(gold, answer, same_text)
    if not _units_agree(gold, answer):
        return "another unit"
    if gold.name and answer.name and gold.name != answer.name:
        return _by_algebra(gold.statement, answer.statement)
    if gold.name and gold.kind == "expression" and answer.kind == "relation":
        return _by_algebra(gold.statement, answer.latex)  # y = 2x + 3 and 2x - y = -3
    if gold.kind == "relation" and answer.name:  # 2x - y = -3 and y = 2x + 3
        return _by_algebra(gold.latex, answer.statement)
    same_kind = gold.kind == answer.kind != "number"  # 1,234 and 1, 234 are not the same
    if same_text and same_kind and squeeze(gold.latex) == squeeze(answer.latex):
        return RIGHT
    gold, answer = _only(gold, answer), _only(answer, gold)
    gold = _as_time(gold) if answer.kind == "time" else gold
    answer = _as_the_gold(gold, answer)
    if _is_compound(gold) or _is_compound(answer):
        return _by_solution_set(gold, answer)
    kinds = gold.kind, answer.kind
    if kinds == ("number", "number"):
        return _numbers(gold.body, answer.body)
    if "time" in kinds:
        return RIGHT if gold.kind == answer.kind and _same_time(gold.body, answer.body) else "wrong"
    if "quantity" in kinds:
        return _quantities(gold, answer)
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
    if gold.kind == "relation" and answer.kind != "relation" and not _is_solved(gold, answer):
        return "a value where a statement is wanted"
    if answer.kind == "number":
        return _against_number(gold, answer)
    return _by_algebra(gold.latex, answer.latex, interval=_is_interval(gold, answer))


def _choices(gold, answer, same_text):
    """A gold (C) 5 is met by C, by 5, or by both; a gold C or 5 not by both."""
    if gold.kind != "choice":
        return "a choice and a value, where the gold is one of them"
    letter, value = gold.body
    if answer.kind == "choice":
        letters = letter.lower() == answer.body[0].lower()
        return compare(value, answer.body[1], same_text) if letters else "wrong"
    if re.fullmatch(rf"\(?\s*{letter}\s*\)?", answer.latex, re.IGNORECASE):
        return RIGHT
    return compare(value, answer, same_text)


def _units_agree(gold, answer):
    if answer.unit.startswith("base ") and answer.unit != gold.unit:
        return answer.unit == "base 10" and not gold.unit.startswith("base ")
    halves = {gold.unit, answer.unit} & {"am", "pm"}
    if "time" in (gold.kind, answer.kind) and halves:
        return True  # part of the time
    return not gold.unit or not answer.unit or same_unit(gold.unit, answer.unit)


def _as_the_gold(gold, answer):
    """What an answer says depends on what is asked for: 100,200 may be a list, 11 and 5/6 a sum."""
    if answer.kind == "number" and gold.kind in COLLECTIONS and "," in answer.latex:
        parts, _ = split(answer.latex)
        return answer._replace(kind="list", body=tuple(map(read, parts)))
    if gold.kind == "number" and answer.kind == "list" and answer.connective == "and":
        mixed = re.sub(r"\s*\band\b\s*", " ", answer.latex, count=1)
        if re.fullmatch(r"-?[0-9]+ (?:[0-9]+/[0-9]+|\\frac\{[0-9]+\}\{[0-9]+\})", mixed):
            number = read_number(mixed)
            if number and abs(number.value) < abs(int(mixed.split()[0])) + 1:
                return answer._replace(kind="number", body=number, latex=mixed)
    return _as_time(answer) if gold.kind == "time" else answer


def _as_time(reading):
    """9 am and 5 o'clock are numbers with a unit, until they meet a time of day."""
    if reading.kind != "number" or reading.unit not in ("am", "pm", "o'clock"):
        return reading
    half = "" if reading.unit == "o'clock" else reading.unit
    return reading._replace(kind="time", body=Time(int(reading.body.value), 0, 0, half))


def _same_time(gold, answer):
    """9:00 and 9:00 AM, 21:00 and 9:00 PM; not 9:00 AM and 9:00 PM."""
    if gold[1:3] != answer[1:3]:
        return False
    if gold.hours == answer.hours:
        return not (gold.half and answer.half) or gold.half == answer.half
    late, half = (answer, gold) if gold.half else (gold, answer)
    return (
        bool(half.half)
        and not late.half
        and late.hours == half.hours % 12 + 12 * (half.half == "pm")
    )


def _quantities(gold, answer):
    if gold.kind != answer.kind or len(gold.body) != len(answer.body):
        return "wrong"
    pairs = zip(gold.body, answer.body, strict=True)
    same = all(g.unit == a.unit and same_number(g.body, a.body) for g, a in pairs)
    return RIGHT if same else "wrong"


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
        return _in_order(gold, answer, same_text)
    if "set" not in kinds and len(gold.body) != len(answer.body):
        return "another number of entries"
    if kinds == {"list"} and (_keeps_order(gold) or _keeps_order(answer, index=False)):
        return _in_order(gold, answer, same_text)
    return _unordered(list(gold.body), list(answer.body), same_text, once="set" not in kinds)


def _keeps_order(reading, index=True):
    """Do the entries of a list say which is which? By names, by units, or as marks do: T, F, T.

    An answer x_1 = 2, x_2 = 1 to an unnamed list names its roots as it likes: no index there.
    """
    names = [entry.name if index else re.sub(r"_.*", "", entry.name) for entry in reading.body]
    units = [entry.unit for entry in reading.body]
    words = [entry.latex.lower() for entry in reading.body]
    marks = "\\ldots" in reading.latex or all(
        re.fullmatch("t|f|y|n|true|false|yes|no", word) for word in words
    )
    return any(all(each) and len(set(each)) == len(each) for each in (names, units)) or marks


def _in_order(gold, answer, same_text):
    """Entry by entry, the named ones by their names."""
    golds, answers = list(gold.body), list(answer.body)
    names = [entry.name for entry in golds], [entry.name for entry in answers]
    if all(names[1]) and (not all(names[0]) or set(names[0]) == set(names[1])):
        answers.sort(key=lambda entry: entry.name)
        if all(names[0]):
            golds.sort(key=lambda entry: entry.name)
    units = [{entry.unit for entry in side} for side in (golds, answers)]
    if units[0] == units[1] and "" not in units[0] and len(units[0]) == len(golds):
        golds.sort(key=lambda entry: entry.unit)
        answers.sort(key=lambda entry: entry.unit)
    pairs = zip(golds, answers, strict=True)
    return next((why for g, a in pairs if (why := compare(g, a, same_text))), RIGHT)


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
    if not is_algebra(gold.latex):
        return "other symbols than the gold's"
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
    gold, answer = with_named_derivatives(gold), with_named_derivatives(answer)
    if not is_algebra(gold) or not is_algebra(answer):  # as written, or not at all
        return RIGHT if squeeze(gold) == squeeze(answer) else "other symbols than the gold's"
    return RIGHT if mathverify.equal(gold, answer, interval) else "wrong"


def _is_solved(gold, answer):
    """x < 3 may be answered by the interval that solves it; x + y = 3 by no value."""
    return not re.search(r"(?<!\\)=", gold.latex) and answer.kind in (
        "sequence",
        "set",
        "expression",
    )


def _is_interval(gold, answer):
    """(1, 2) is a point, until an inequality answers it: then both say what lies between."""
    return gold.kind in ("expression", "sequence") and (
        answer.kind == "relation"
        or gold.kind == "expression"
        or gold.brackets not in ("", "()")
        or "infty" in gold.latex
    )


def _exact(value):
    if isinstance(value, Fraction) and value.denominator != 1:
        sign = "-" if value < 0 else ""
        return sign + f"\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
    return str(int(value))


def _word(reading):
    text = reading.body if reading.kind in ("word", "prose") else reading.latex
    return re.sub(r"s\b", "", squeeze(text).lower())


def squeeze(text: str) -> str:
    """Return `text` without white space, except where it keeps two numbers apart; A^{T} as A^T."""
    text = re.sub(r"(?<![0-9])\s|\s(?![0-9])", "", text)
    return re.sub(r"([\^_])\{(\w)\}(?![0-9])", r"\1\2", text)
