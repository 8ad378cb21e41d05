r"""Read the structure of an answer: what kind of thing it states, down to numbers and expressions.

kind         body
number       Number
word         str          yes, \text{Monday}, 101_2: compared letter by letter
prose        str          bare words, as an answer may give them: Monday. No gold is prose
time         Time         12:30 PM
quantity     (Reading,)   2 ft 6 in: numbers, each with its unit
choice       (str, Reading)   (C) 5: the letter of a choice and its value
list         (Reading,)   1, 2 without brackets; connective "," or "and" or "or"
set          (Reading,)   {1, 2}: order and repetition mean nothing
sequence     (Reading,)   (1, 2), [1, 2), <1, 2>: brackets and order count
relation     str          x < 3, 2x + y = 1: an equation whose left side is no name
expression   str          everything else, for math-verify to parse

Numbers, words and brackets are compared here, exactly, since math-verify is too loose with
them (anagrams of words are equal, {1,2} = (1,2)); it gets the leaves it is good at.

`nouns` are the words that may stand beside a number, those of the gold and the question. For a
gold it is None: a gold is believed, so any noun may stand there, and a bare word is a word.
"""

import re
from itertools import product
from typing import NamedTuple

from rewards._types import Nouns
from rewards.brackets import balanced, deepest, matching, outside
from rewards.grammar import is_name, is_segment
from rewards.notation import notation
from rewards.numbers import read_number
from rewards.refused import Refused
from rewards.units import quantities, split_unit

MAX_DEPTH = 40  # of brackets; reading takes a few calls per level
MAX_SIGNS = 3  # \pm in one expression: each doubles the list


class Reading(NamedTuple):
    kind: str
    body: object
    latex: str
    name: str = ""  # x in x = 4, whose latex is 4
    statement: str = ""  # x = 4
    unit: str = ""
    brackets: str = ""  # of a sequence: "()", "[)", "<>"
    connective: str = ","  # of a list


class Time(NamedTuple):
    hours: int
    minutes: int
    seconds: int
    half: str  # "am", "pm", or "" where the text does not say


_WORDS = re.compile(
    r"(?:yes|no|true|false|even|odd|none|undefined|dne|does not exist|no (?:real )?solutions?|"
    r"infinite|infinitely many(?: solutions?)?|all real numbers)",
    re.IGNORECASE,
)
_SEPARATOR = re.compile(r"[,;]|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])")
_EQUALS = re.compile(r"(?<![<>!:\\])==?|\\in(?![a-zA-Z])|\\approx(?![a-zA-Z])")
_ORDER = re.compile(r"[<>]|\\(?:le|ge|ne)(?![a-zA-Z])")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_SIGN = re.compile(r"\\(pm|mp)(?![a-zA-Z])")
_BASE = re.compile(
    r"\(?(?:\\text\{\s*)?(?P<digits>[0-9A-Za-z]+)\s*\}?\)?\s*"
    r"(?:_\s*\{?\s*\(?|(?:\\text\{)?,?\s*(?:\(\s*)?\(?(?:in )?base[ -])\s*(?:\\text\{)?\s*(?:base\s*\}?\s*)?"
    r"(?P<base>[0-9]{1,2}|[a-z]{3,11})\s*\)?\s*\}?\s*\}?\)?"
)
_BASES = dict(
    zip(
        str.split("two three four five six seven eight nine ten eleven twelve sixteen"),
        [*range(2, 13), 16],
        strict=True,
    )
)
_BASES |= {"binary": 2, "octal": 8, "hex": 16, "hexadecimal": 16}
_TIME = re.compile(
    r"([0-9]{1,2})\s*:\s*([0-9]{2})(?:\s*:\s*([0-9]{2}))?\s*"
    r"(?:\\text\{)?\s*(?:([ap])\.?\s?m\.?|o'clock|h(?:rs?|ours?)?)?\s*\}?",
    re.IGNORECASE,
)
_CHOICE_WORD = re.compile(
    r"(?:\\text\{\s*)?(?:option|choice)\s+(\(?[A-Za-z]\)?)\s*\}?", re.IGNORECASE
)
_CHOICE = re.compile(
    r"(?:\\text\{\s*)?(?:(?i:option|choice)\s+)?(?:\(\s*(?P<a>[A-J])\s*\)|(?P<b>[A-J])\s*[).:]|"
    r"(?<=\\text\{)(?P<c>[A-J])(?=\s*\}\s*[^\s)}]))(?:\s*\})?(?P<gap>[\s:.]*)(?P<value>\S.*)",
    re.DOTALL,
)
_NO_ANSWERS = set(
    str.split("proof proved qed omitted see figure diagram graph sketch varies vary unknown")
)
_GREEK = set(
    str.split("alpha beta gamma delta epsilon theta lambda mu rho sigma tau phi psi omega")
)
_SHORT_WORDS = set(
    str.split("am an as at be by do go he hi if in is it me my no of oh ok on or ox so to up us we")
)


def read(text: str, nouns: Nouns | None = frozenset()) -> Reading:
    r"""Read one answer or gold.

    text      str            as `rewards.extract` gives it
    nouns     set of words   that may stand beside a number; None for a gold
    returns   Reading
    Raises Refused, with the reason, on what states no single thing.

    >>> read("x = 4").name, read("(1, 2)").brackets, read(r"\{1, 2\}").kind
    ('x', '()', 'set')
    >>> read("(C) 5").body[0], read("2 ft 6 in").kind, read("9:00 a.m.").body
    ('C', 'quantity', Time(hours=9, minutes=0, seconds=0, half='am'))
    """
    if (number := read_number(text)) is not None:
        return Reading("number", number, text.strip())
    text = notation(text)
    if not balanced(text):
        raise Refused("does not parse: braces that do not close")
    if deepest(text) > MAX_DEPTH:
        raise Refused("does not parse: nested too deeply")
    return _choice(text, nouns) or _read(text, nouns)


def _choice(text, nouns):
    """(C) 5: a letter set off from what follows; C alone and the product 5C are not."""
    if found := _CHOICE_WORD.fullmatch(text):
        letter = found[1].strip("()").upper()
        return Reading("expression", letter, letter)
    if letter := re.fullmatch(r"\\text\{\s*([A-J])[).:]\s*\}|([A-J])\)", text):
        letter = letter[1] or letter[2]
        return Reading("expression", letter, letter)
    found = _CHOICE.fullmatch(text)
    if not found or (found["a"] and not found["gap"] and not re.match(r"[0-9\\]", found["value"])):
        return None
    if re.match(r"[A-J]\b|[-+*/^=_<>]\s|[*/^=_<>]", found["value"]):  # a ratio, a sum
        return None
    letter = found["a"] or found["b"] or found["c"]
    value = _read(found["value"], nouns)
    if nouns is None and value.kind == "prose":  # (D) None of the above
        value = value._replace(kind="word")
    return Reading("choice", (letter, value), text)


def _read(text, nouns):
    text = text.strip()
    if text.endswith(".") and not text.endswith("..") and not re.search(r"[ap]\.\s?m\.$", text):
        text = text[:-1].strip()  # "$4.$": the stop of a sentence
    if not text:
        raise Refused("does not parse: nothing to compare")
    if special := _number(text, nouns) or _special(text):  # before splitting: 1,234 is one number
        return special
    parts, connective = split(text)
    if len(parts) > 1:
        return _list(text, parts, connective, nouns)
    if _EQUALS.search(outside(text)):
        return _equation(text, nouns)
    if _ORDER.search(outside(text)):
        return Reading("relation", text, text)
    if _SIGN.search(text) and not text.startswith("\\{"):
        return Reading("list", tuple(_read(t, nouns) for t in _with_signs(text)), text)
    if bracketed := _bracketed(text, nouns):
        return bracketed
    value, unit = split_unit(text, nouns)
    if unit:
        return _read(value, nouns)._replace(unit=unit)
    return _leaf(text, nouns)


def _number(text, nouns):
    if (number := read_number(text)) is not None:
        return Reading("number", number, text)
    value, unit = split_unit(text, nouns)
    number = read_number(value)
    return None if number is None else Reading("number", number, value, unit=unit)


def _special(text):
    """A time of day, a number in another base, a quantity in several units; None if neither."""
    if found := _TIME.fullmatch(text):
        hours, minutes, seconds = (int(part or 0) for part in found.groups()[:3])
        half = f"{found[4].lower()}m" if found[4] else ""
        return Reading("time", Time(hours, minutes, seconds, half), text)
    if parts := quantities(text):
        body = tuple(Reading("number", read_number(n), n, unit=unit) for n, unit in parts)
        return Reading("quantity", body, text)
    return _in_base(text)


def _in_base(text):
    found = _BASE.fullmatch(text)
    if not found:
        return None
    digits = found["digits"].lower()
    base = int(found["base"]) if found["base"].isdigit() else _BASES.get(found["base"], 0)
    letters_only = digits.isalpha()  # x_{12} is a name, FF_{16} is a number
    try:
        value = int(digits, base) if 2 <= base <= 36 else None
    except ValueError:
        value = None
    if value is None or (letters_only and (len(digits) < 2 or not found["digits"].isupper())):
        return None
    if base == 10:
        return Reading("number", read_number(digits), digits, unit="base 10")
    return Reading("word", digits.lstrip("0") or "0", text, unit=f"base {base}")


def _list(text, parts, connective, nouns):
    r"""The entries of a list; what \pm makes two of becomes two entries."""
    entries = tuple(e for part in parts for e in _entries(part, _read(part, nouns)))
    return Reading("list", entries, text, connective=connective)


def _entries(text, reading):
    return reading.body if reading.kind == "list" and _SIGN.search(text) else (reading,)


def _with_signs(text):
    r"""The texts that \pm stands for: each sign its own, \mp the opposite of them all."""
    signs = _SIGN.findall(text)
    if len(signs) > MAX_SIGNS:
        raise Refused("does not parse: too many signs")
    together = "mp" in signs
    for choice in (
        [("+",) * len(signs), ("-",) * len(signs)] if together else product("+-", repeat=len(signs))
    ):
        each = iter(choice)

        def sign(found, each=each):
            chosen = next(each)
            return chosen if found[1] == "pm" else "+-"[chosen == "+"]

        chosen = _SIGN.sub(sign, text).strip()
        yield re.sub(r"(^|[({,=])\s*\+", r"\1", chosen).strip()


def _leaf(text, nouns):
    plain = re.fullmatch(r"\(?\s*\\text\{([^{}]*)\}\s*\)?", text)
    words = " ".join((plain[1] if plain else text).strip("()\"' ").split())
    if plain and re.match("[-+.0-9]", words):  # \text{5 apples}
        return _read(words, nouns)
    if plain and re.fullmatch(r"[A-J](?:(?:\s*,\s*|\s+and\s+|\s*,\s*and\s+)[A-J])+", words):
        return _read(words, nouns)
    if _WORDS.fullmatch(words) or (plain and len(words) > 1):
        return Reading("word", words.lower(), text)
    if plain:
        return Reading("expression", words, words)
    if nouns is None and _is_word(words) and words.lower() not in _NO_ANSWERS:
        return Reading("word", words.lower(), text)
    bare = re.sub(r"\\(?:text|begin|end|operatorname)\*?\{[^{}]*\}|\\[a-zA-Z]+", " ", text)
    if re.search("[a-zA-Z]{4}", bare):
        return Reading("prose", words.lower(), text)
    return Reading("expression", text, text)


def _is_word(text):
    """cat, TTF, NE: letters alone are a word in a gold; xy is a product, and so is a b."""
    letters = re.fullmatch("[A-Za-z]{2,}", text)
    if re.fullmatch(r"[A-Z](?:\s+[A-Z])+", text):  # T F T
        return True
    return bool(letters) and (len(text) > 2 or text != text.lower() or text in _SHORT_WORDS)


def is_unsolved(text: str) -> bool:
    r"""Tell whether it is an inequality with a side that is neither a lone name nor free of letters.

    >>> is_unsolved("2x < 6"), is_unsolved("1 < x"), is_unsolved("x + 1")
    (True, False, False)
    """
    sides = [side.strip() for side in _ORDER.split(text)]
    clear = (is_name(s) or not re.search("[a-zA-Z]", _COMMAND.sub("", s)) for s in sides)
    return len(sides) > 1 and not all(clear)


def split(text: str) -> tuple[list[str], str]:
    """Return the parts between the commas, semicolons, "and" and "or" that no bracket encloses.

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


def _bracketed(text, nouns):
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
        return _read(inner, nouns)
    if brackets == "[]" and len(parts) == 1:
        return None
    if brackets == "{}":
        items = tuple(e for part in parts for e in _entries(part, _read(part, nouns)))
        return Reading("set", items, text)
    items = tuple(_read(part, nouns) for part in parts)
    return Reading("sequence", items, text, brackets=brackets)


def _equation(text, nouns):
    signs = list(_EQUALS.finditer(outside(text)))
    if len(signs) > 1:
        raise Refused("a chain of equalities")
    sign = signs[0][0]
    left, right = text[: signs[0].start()].strip(), text[signs[0].end() :].strip()
    if not left:  # "= 4"
        return _read(right, nouns)
    if is_name(left, nouns or ()) or (nouns is None and _names_in_text(left)):
        value = _read(right, nouns)
        if not is_segment(left) or value.kind == "number" or not _letters(right):
            return _named(value, left, text)
    if sign == "\\approx" and not (read_number(left) and read_number(right)):
        return _read(left, nouns)
    if is_name(right, nouns or ()) and sign != "\\in" and read_number(left) is not None:
        return _named(_read(left, nouns), right, text)
    if sign == "\\in":
        return Reading("expression", text, text)
    if not _letters(text):
        raise Refused("an equality of numbers")
    return Reading("relation", text, text)


def _named(value, name, statement):
    if value.kind == "word" and value.latex.isalpha() and value.latex.islower():
        value = value._replace(kind="expression")  # V = lwh: a product
    return value._replace(name=re.sub(r"\s", "", name), statement=statement)


def _names_in_text(left):
    r"""\text{Area of } ABC in a gold: any words, as long as there is nothing else."""
    rest = re.sub(r"\\text\{[^{}]*\}", "", left).strip()
    return "\\text" in left and (not rest or is_name(rest) or rest.isalpha())


def _letters(text):
    return re.search("[a-zA-Z]", _COMMAND.sub(_as_letter, text))


def _as_letter(command):
    """Greek letters are letters, but for the one that is a number."""
    return "x" if command[0][1:].lower() in _GREEK else ""
