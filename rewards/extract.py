r"""From an answer block or a gold column to the one expression that is compared.

An answer holds at most one box. Outside the box stands nothing that could change its value:
a lead-in ("The area is"), a name ("x ="), a unit, a full stop. A gold may be a whole worked
solution: what counts is what follows GSM8K's ####, or else its last box.
"""

import math
import re
from numbers import Number as AnyNumber
from numbers import Rational

from rewards.refused import Refused
from rewards.units import split_unit

MAX_CHARS = 2000  # longer than any answer worth verifying; keeps every scan short
_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*")
# words that end a sentence's way to its answer: "Therefore the area is", "we get", "Answer:"
_LEAD_IN = re.compile(
    r"(?:(?:[a-z][a-z']*|\$[^$\s]{1,20}\$),?\s+){0,15}?"  # words, and an $x$ among them
    r"(?:(?:is|are|equals|be|get|have|obtain|gives|so|hence|thus|therefore)\b\s*[:,]?"
    r"|(?:answer|solution|result)\s*:)\s*",
    re.IGNORECASE,
)
_HOPE = re.compile(r"[\s.]*I hope it is correct[\s.]*\Z")  # how Minerva's answers end
_CHANGES_THE_ANSWER = re.compile(
    r"\b(?:not|never|no|half|twice|double|minus|negative|opposite|inverse|reciprocal|square|"
    r"squared|cube|root|wrong|incorrect|other|than|unless|except|but|percent)\b",
    re.IGNORECASE,
)


def answer_text(block):
    r"""The expression an answer block gives.

    Raises Refused on a block that is too long, has two boxes or says more around the box.

    >>> answer_text(r"The area is $\boxed{4}$ cm."), answer_text("4")
    ('4 cm', '4')
    """
    if len(block) > MAX_CHARS:
        raise Refused(f"answer longer than {MAX_CHARS} characters")
    block = _HOPE.sub("", block)
    boxes = list(_BOX.finditer(block))
    if len(boxes) > 1:
        raise Refused("two boxes")
    if not boxes:
        return _trim(_after_lead_in(block))
    content, end = _content(block, boxes[0])
    before = _after_lead_in(_undelimited(block[: boxes[0].start()]))
    after = _trim(_undelimited(block[end:]))
    if before and not before.endswith("="):
        raise Refused("something before the box")
    if after and split_unit(f"0 {after}")[0] != "0" and after not in ("%", "\\%"):
        raise Refused("something after the box")
    return _trim(f"{before} {content} {after}")


def gold_text(gold):
    r"""The expression a gold gives: a number as it is, text after ####, or its last box.

    Raises Refused when there is nothing that could be compared.

    >>> gold_text("6 * 7 = 42\n#### 42"), gold_text(42), gold_text(r"so $\boxed{42}$.")
    ('42', '42', '42')
    """
    if isinstance(gold, bool) or gold is None:
        raise Refused(f"the gold is {gold}")
    if isinstance(gold, AnyNumber) and not isinstance(gold, complex):
        return _number_text(gold)
    if not isinstance(gold, str):
        raise Refused(f"the gold is a {type(gold).__name__}, not a text or a number")
    text = gold.rsplit("####", 1)[-1]
    if boxes := list(_BOX.finditer(text)):
        text, _ = _content(text, boxes[-1])
    if len(text.strip()) > MAX_CHARS:
        raise Refused(f"the gold is longer than {MAX_CHARS} characters")
    text = _trim(_after_lead_in(text))
    if not text:
        raise Refused("the gold is empty")
    return text


def _number_text(gold):
    """An int of any size, a Fraction, a finite float: Python prints ints of 4300 digits only."""
    try:
        if isinstance(gold, Rational) or math.isfinite(gold):
            return str(gold)
    except (ValueError, OverflowError):
        raise Refused("the gold is a number too large to print") from None
    raise Refused(f"the gold is {gold}")


def _content(text, box):
    r"""What stands in a \boxed{...}, and the index after its closing brace."""
    if text[box.end() : box.end() + 1] != "{":
        raise Refused("does not parse: a box without braces")
    depth = 0
    for i in range(box.end(), len(text)):
        escaped = i and text[i - 1] == "\\"
        depth += 0 if escaped else (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return text[box.end() + 1 : i].strip(), i + 1
    raise Refused("does not parse: a box that does not close")


def _after_lead_in(text):
    text = text.strip()
    while (found := _LEAD_IN.match(text)) and not _CHANGES_THE_ANSWER.search(found[0]):
        text = text[found.end() :]  # "So $x$ is 4": after "So", after "$x$ is"
    return text


def _undelimited(text):
    return re.sub(r"\$|\\[()\[\]]|\*\*", " ", text).strip()


def _trim(text):
    """Without the full stop of the sentence that the answer ends; an ellipsis stays."""
    text = text.strip()
    return text if text.endswith(("..", "\\.")) else text.removesuffix(".").strip()
