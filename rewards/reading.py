r"""The structure of an answer: what kind of thing it states, down to numbers and expressions.

kind         body
number       Number
word         str          yes, \text{Monday}, 12:30, 101_2: compared letter by letter
prose        str          bare words, as an answer may give them: Monday. No gold is prose
list         (Reading,)   1, 2 without brackets; connective "," or "and" or "or"
set          (Reading,)   {1, 2}: order and repetition mean nothing
sequence     (Reading,)   (1, 2), [1, 2), <1, 2>: brackets and order count
relation     str          x < 3, 2x + y = 1: an equation whose left side is no name
expression   str          everything else, for math-verify to parse

Numbers, words and brackets are compared here, exactly, since math-verify is too loose with
them (anagrams of words are equal, {1,2} = (1,2)); it gets the leaves it is good at.
"""

import re
from typing import NamedTuple

from rewards.brackets import balanced, deepest, matching, outside
from rewards.notation import notation
from rewards.numbers import read_number
from rewards.refused import Refused
from rewards.units import split_unit

MAX_DEPTH = 40  # of brackets; reading takes a few calls per level


class Reading(NamedTuple):
    kind: str
    body: object
    latex: str
    name: str = ""  # x in x = 4, whose latex is 4
    statement: str = ""  # x = 4
    unit: str = ""
    brackets: str = ""  # of a sequence: "()", "[)", "<>"
    connective: str = ","  # of a list


_WORDS = re.compile(
    r"(?:yes|no|true|false|even|odd|none|undefined|dne|does not exist|no (?:real )?solutions?|"
    r"infinite|infinitely many(?: solutions?)?|all real numbers)",
    re.IGNORECASE,
)
_SEPARATOR = re.compile(r"[,;]|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])")
_EQUALS = re.compile(r"(?<![<>!:\\])==?|\\in(?![a-zA-Z])|\\approx(?![a-zA-Z])")
_ORDER = re.compile(r"[<>]|\\(?:le|ge|ne)(?![a-zA-Z])")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_PLUS_MINUS = re.compile(r"\\pm(?![a-zA-Z])")
_SUBSCRIPT_OR_PRIME = re.compile(r"_(?:\{[^{}]*\}|[A-Za-z0-9])|'|\^\{?\\prime\}?")
_ARGUMENTS = re.compile(r"(?<=[A-Za-z}])\s*\([^()]*\)")
_NAME_COMMANDS = re.compile(
    r"\\(?:text|overline|vec|hat|bar|angle|triangle|operatorname|cdot|gcd|det|alpha|beta|gamma|"
    r"delta|epsilon|theta|lambda|mu|nu|rho|sigma|tau|phi|varphi|psi|omega|pi|ell|Delta|Omega)"
    r"(?![a-zA-Z])"
)
_BASE = re.compile(r"(?P<digits>[0-9A-F]+)\s*_\s*\{?\s*(?P<base>[0-9]+)\s*\}?")


def read(text):
    r"""Read one answer or gold.

    text      str   as `rewards.extract` gives it
    returns   Reading
    Raises Refused, with the reason, on what states no single thing.

    >>> read("x = 4").name, read("(1, 2)").brackets, read(r"\{1, 2\}").kind
    ('x', '()', 'set')
    """
    text = notation(text)
    if not balanced(text):
        raise Refused("does not parse: braces that do not close")
    if deepest(text) > MAX_DEPTH:
        raise Refused("does not parse: nested too deeply")
    return _read(text)


def _read(text):
    text = text.strip()
    if text.endswith(".") and not text.endswith(".."):  # "$4.$": the stop of a sentence
        text = text[:-1].strip()
    if not text:
        raise Refused("does not parse: nothing to compare")
    if number := _number(text):  # before splitting: 1,234 km is one number
        return number
    parts, connective = split(text)
    if len(parts) > 1:
        return Reading("list", tuple(map(_read, parts)), text, connective=connective)
    if bracketed := _bracketed(text):
        return bracketed
    if _EQUALS.search(outside(text)):
        return _equation(text)
    if _ORDER.search(outside(text)):
        return Reading("relation", text, text)
    if len(_PLUS_MINUS.findall(text)) == 1:
        signs = (_read(_PLUS_MINUS.sub(sign, text, count=1).lstrip("+ ")) for sign in "+-")
        return Reading("list", tuple(signs), text)
    value, unit = split_unit(text)
    if unit:
        return _read(value)._replace(unit=unit)
    return _leaf(text)


def _number(text):
    try:
        value, unit = split_unit(text)
    except Refused:
        value, unit = text, ""
    number = read_number(value)
    return None if number is None else Reading("number", number, value, unit=unit)


def _leaf(text):
    if found := _BASE.fullmatch(text):
        if int(found["base"]) == 10:
            return _read(found["digits"])
        return Reading("word", found["digits"].lower(), text, unit=f"base {int(found['base'])}")
    if re.fullmatch(r"[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?", text):  # a time of day is no ratio
        return Reading("word", text, text)
    plain = re.fullmatch(r"\(?\s*\\text\{([^{}]*)\}\s*\)?", text)
    words = " ".join((plain[1] if plain else text).strip("()\"' ").split())
    if plain and re.match("[-+.0-9]", words):  # \text{5 apples}
        return _read(words)
    if _WORDS.fullmatch(words) or (plain and len(words) > 1):
        return Reading("word", words.lower(), text)
    if plain:
        return Reading("expression", words, words)
    bare = re.sub(r"\\(?:text|begin|end|operatorname)\*?\{[^{}]*\}|\\[a-zA-Z]+", " ", text)
    if re.search("[a-zA-Z]{4}", bare):
        return Reading("prose", words.lower(), text)
    return Reading("expression", text, text)


def is_unsolved(text):
    r"""Is it an inequality with a side that is neither a lone name nor free of letters?

    >>> is_unsolved("2x < 6"), is_unsolved("1 < x"), is_unsolved("x + 1")
    (True, False, False)
    """
    sides = [side.strip() for side in _ORDER.split(text)]
    clear = (is_name(s) or not re.search("[a-zA-Z]", _COMMAND.sub("", s)) for s in sides)
    return len(sides) > 1 and not all(clear)


def split(text):
    """The parts between the commas, semicolons, "and" and "or" that no bracket encloses.

    >>> split("(1,2), x and y")
    (['(1,2)', 'x', 'y'], 'and')
    """
    parts, connective, start = [], ",", 0
    for found in _SEPARATOR.finditer(outside(text)):
        parts.append(text[start : found.start()].strip())
        connective = found[0] if found[0] in ("and", "or") else connective
        start = found.end()
    parts.append(text[start:].strip())
    if len(parts) > 1:
        parts = [p for p in parts if p]  # "1, 2, and 3" has nothing between , and and
    return parts or [text], connective


def _bracketed(text):
    r"""A set, a sequence, or what stands in redundant parentheses; None for anything else."""
    if text.startswith("\\langle") and text.endswith("\\rangle"):
        brackets, inner = "<>", text[len("\\langle") : -len("\\rangle")]
    elif text.startswith("\\{") and text.endswith("\\}") and matching(text, 1) == len(text) - 1:
        brackets, inner = "{}", text[2:-2]
    elif text[0] in "([{" and matching(text, 0) == len(text) - 1:
        brackets, inner = text[0] + text[-1], text[1:-1]
    else:
        return None
    if brackets == "{}" and text[0] == "\\" and not inner.strip():
        return Reading("set", (), text)
    parts, _ = split(inner)
    if brackets in ("()", "{}") and len(parts) == 1 and text[0] != "\\":
        return _read(inner)
    if brackets == "[]" and len(parts) == 1:
        return None
    items = tuple(map(_read, parts))
    if brackets == "{}":
        return Reading("set", items, text)
    return Reading("sequence", items, text, brackets=brackets)


def _equation(text):
    signs = list(_EQUALS.finditer(outside(text)))
    if len(signs) > 1:
        raise Refused("a chain of equalities")
    sign = signs[0][0]
    left, right = text[: signs[0].start()].strip(), text[signs[0].end() :].strip()
    if not left:  # "= 4"
        return _read(right)
    if is_name(left):
        value = _read(right)
        return value._replace(name=re.sub(r"\s", "", left), statement=text)
    if sign == "\\approx":
        return _read(left)
    if is_name(right) and sign != "\\in" and read_number(left) is not None:
        return _read(left)._replace(name=re.sub(r"\s", "", right), statement=text)
    if not re.search("[a-zA-Z]", _COMMAND.sub("", text)):
        raise Refused("an equality of numbers")
    return Reading("relation", text, text)


def is_name(text):
    r"""Does the left side of an equation only name what is on the right?

    Letters, sums and products of letters, indices, arguments; no number to compute with.

    >>> [is_name(s) for s in ("x", "f(2)", "a_{10}", "x + y", r"\angle ABC", "2x", "x^2", "5")]
    [True, True, True, True, True, False, False, False]
    """
    if text.startswith("(") and text.endswith(")"):  # (x, y) = (1, 2)
        return all(map(is_name, split(text[1:-1])[0]))
    if re.fullmatch(r"\\frac\s*\{\s*d\s*[a-z]\s*\}\s*\{\s*d\s*[a-z]\s*\}", text):  # dy/dx
        return True
    text = _ARGUMENTS.sub("", _SUBSCRIPT_OR_PRIME.sub("", text))
    text = re.sub(r"\\text\{[^{}]*\}|\|[A-Z]{2}\|", "x", text)  # |AB| is a length
    return bool(re.fullmatch(r"[A-Za-z][A-Za-z+\- {}]*", _NAME_COMMANDS.sub("x", text).strip()))
