r"""Extract from an answer block or a gold column the one expression that is compared.

An answer holds at most one box. Outside the box stands only what `rewards.grammar` reads: a
lead-in ("The area is"), a name ("x ="), a unit, a full stop. A gold may be a whole worked
solution: what counts is what follows GSM8K's ####, or else its boxes. Several boxes that differ
are a list where nothing but their labels stands between them; else no one can tell which of
them is the answer.
"""

import math
import re
from functools import lru_cache
from numbers import Number as AnyNumber
from numbers import Rational

from rewards._types import Nouns
from rewards.dress import undressed
from rewards.grammar import after_lead_in, is_name, without_tail
from rewards.numbers import read_number
from rewards.refused import Refused
from rewards.unicode import to_ascii_latex
from rewards.units import read_unit

MAX_CHARS = 2000  # longer than any answer worth verifying; keeps every scan short
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![a-zA-Z])\s*")
_BARE_CONTENT = re.compile(r"(-?[0-9][0-9,]*(?:\.[0-9]+)?|[a-zA-Z])(?![0-9a-zA-Z^_{\\])")
_ABOUT = re.compile(r"(?:^|(?<=[\s=$({]))~\s*(?=[-+$(.\\]*[0-9])")  # ~15; in B~15 it is a space
_DELIMITERS = re.compile(r"\$|\\[()\[\]]|\*\*")
_PERCENT = re.compile(r"\\?%|\\?\s*(?:per ?cent|pct)")
_BETWEEN = re.compile(  # two boxes of one answer: "or x =", "; (b)", and nothing else
    r"[\s,;.]*(?:and|or)?[\s,;.]*(?P<label>\(?(?:[a-h]|[ivx]{1,4}|[1-9])[).:])?\s*"
    r"(?:(?P<name>[a-zA-Z](?:_\{?\w+\}?)?)\s*=)?\s*"
)
_FIRST = re.compile(
    r"(?P<label>\(?(?:[a-h]|[ivx]{1,4}|[1-9])[).])?\s*(?:(?P<name>[a-zA-Z](?:_\{?\w+\}?)?)\s*=)?\s*$"
)


def answer_text(block: str, nouns: Nouns = frozenset()) -> str:
    r"""Return the expression that an answer block gives.

    nouns   set of words   of the gold and the question, for `rewards.grammar`

    Raises Refused on a block that is too long, has two boxes or says more around the box.

    >>> answer_text(r"The area is $\boxed{4}$ cm."), answer_text("**Answer:** 4")
    ('4 cm', '4')
    """
    if len(block) > MAX_CHARS:
        raise Refused(f"answer longer than {MAX_CHARS} characters")
    if read_number(block) is not None:
        return block.strip()
    block = without_tail(undressed(to_ascii_latex(block)))
    if _ABOUT.search(block):
        raise Refused("~ before a number says that the number is not exact")
    boxes = list(_BOX.finditer(block))
    if len(boxes) > 1:
        raise Refused("two boxes")
    if not boxes:
        return _trim(after_lead_in(block, nouns))
    content, end = _content(block, boxes[0])
    before, after = _undelimited(block[: boxes[0].start()]), _undelimited(block[end:])
    while before.endswith("{") and after.startswith("}"):  # {\Large \boxed{4}}
        before, after = before[:-1].rstrip(), after[1:].lstrip()
    before, after = after_lead_in(before, nouns), _trim(after)
    if before and not (before.endswith("=") and is_name(before[:-1], nouns)):
        raise Refused("something before the box")
    if after and not _PERCENT.fullmatch(after) and not read_unit(after, nouns):
        raise Refused("something after the box")
    return _trim(f"{before} {after_lead_in(content, nouns)} {after}")


def gold_text(gold: object) -> str:
    r"""Return the expression that a gold gives: a number as it is, text after ####, or its boxes.

    Raises Refused when there is nothing that could be compared.

    >>> gold_text("6 * 7 = 42\n#### 42"), gold_text(42), gold_text(r"so $\boxed{42}$.")
    ('42', '42', '42')
    >>> gold_text(r"$x=\boxed{3}$ or $x=\boxed{5}$"), gold_text(r"(a) $\boxed{1}$ (b) $\boxed{2}$")
    ('x=3, x=5', 'p_{1}=1, p_{2}=2')
    """
    if isinstance(gold, bool) or gold is None:
        raise Refused(f"the gold is {gold}")
    if isinstance(gold, AnyNumber) and not isinstance(gold, complex):
        return _number_text(gold)
    if not isinstance(gold, str):
        raise Refused(f"the gold is a {type(gold).__name__}, not a text or a number")
    return _gold_text(gold)


@lru_cache(maxsize=4096)  # a group repeats its gold
def _gold_text(gold):
    text = gold.rsplit("####", 1)[-1]
    if boxes := list(_BOX.finditer(text)):
        text = _boxed(text, boxes)
    text = text.strip()
    if len(text) > MAX_CHARS:
        raise Refused(f"the gold is longer than {MAX_CHARS} characters")
    text = _trim(after_lead_in(undressed(to_ascii_latex(text))))
    if not text:
        raise Refused("the gold is empty")
    return text


def _boxed(text, boxes):
    """What the boxes of a gold hold: one content, or the list that several of them make."""
    contents, between, end = [], [], 0
    for box in boxes:
        if box.start() < end:
            raise Refused("a box within a box")
        between.append(_undelimited(text[end : box.start()]))
        content, end = _content(text, box)
        contents.append(content)
    if len({re.sub(r"\s", "", content) for content in contents}) == 1:
        return contents[0]
    found = [_FIRST.search(between[0][-60:]), *map(_BETWEEN.fullmatch, between[1:])]
    if not all(found) or any("," in c or "=" in c for c in contents):
        raise Refused("several boxes, and no telling which of them is the answer")
    names = [match["name"] for match in found]
    if any(match["label"] for match in found):  # parts keep their order
        names = [f"p_{{{n}}}" for n in range(1, len(contents) + 1)]
    if all(names):
        contents = [f"{name}={content}" for name, content in zip(names, contents, strict=True)]
    return ", ".join(contents)


def _number_text(gold):
    """An int of any size, a Fraction, a finite float: Python prints ints of 4300 digits only."""
    try:
        if isinstance(gold, Rational) or math.isfinite(gold):
            return str(gold)
    except (ValueError, OverflowError):
        raise Refused("the gold is a number too large to print") from None
    raise Refused(f"the gold is {gold}")


def _content(text, box):
    r"""What stands in a \boxed{...}, and the index behind it; \boxed 2 needs no braces."""
    if text[box.end() : box.end() + 1] != "{":
        if bare := _BARE_CONTENT.match(text, box.end()):
            return bare[1], bare.end()
        raise Refused("does not parse: a box without braces")
    depth = 0
    for i in range(box.end(), len(text)):
        escaped = i and text[i - 1] == "\\"
        depth += 0 if escaped else (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return text[box.end() + 1 : i].strip(), i + 1
    raise Refused("does not parse: a box that does not close")


def _undelimited(text):
    return _DELIMITERS.sub(" ", text).strip()


def _trim(text):
    """Without the full stop of the sentence that the answer ends; an ellipsis stays."""
    text = text.strip()
    return text if text.endswith(("..", "\\.")) else text.removesuffix(".").strip()
