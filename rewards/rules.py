"""Check rules of an instruction by program, each with the reason of a failure.

    rule          value         kept if
    word          "blue"        the word occurs, in any case, as a word of its own
    mentions      "bridge"      the same, for the topic
    min_words     5             at least so many words
    max_words     12            at most so many words
    ends          "?"           the text ends with this character
    sentences     1             it has so many sentences
    starts        "Once"        the first word is this one
    no_comma      true          it has no comma
    lower_case    true          it has letters, and none of them is a capital
    items         3             it is a list of so many lines that begin with "- "

Source    Zhou et al., "IFEval", arXiv 2311.07911; as a reward: Lambert et al., "Tulu 3", 2411.15124
"""

import json
import re

from rewards._types import Rules

MAX_CHARS = 4000  # a longer text keeps no rule: nothing that the kit asks for is so long
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_ENDS = re.compile(r"[.!?]+(?=\s|$)")
_MARKUP = re.compile(r"<\|[^|<>]*\|>|</?\w+>")


def words(text: str) -> list[str]:
    """
    >>> words("Don't rush: a well-read cat!")
    ["Don't", 'rush', 'a', 'well-read', 'cat']
    """
    return _WORD.findall(text)


def sentences(text: str) -> int:
    """Count the sentences: pieces that hold a word, parted where . ! or ? ends a word.

    >>> sentences("It is 3.5 m long. Is it?"), sentences("no end"), sentences("...")
    (2, 1, 0)
    """
    return sum(bool(words(piece)) for piece in _ENDS.split(text))


def _has(text, word):
    return word.lower() in (each.lower() for each in words(text))


def _counted(n, noun):
    return f"{n} {noun}" + "s" * (n != 1)


def _word(text, word):
    return "" if _has(text, word) else f"the word {word!r} is missing"


def _min_words(text, least):
    n = len(words(text))
    return "" if n >= least else f"{_counted(n, 'word')}, fewer than {least}"


def _max_words(text, most):
    n = len(words(text))
    return "" if n <= most else f"{_counted(n, 'word')}, more than {most}"


def _ends_with(text, mark):
    return "" if text.endswith(mark) else f"ends with {text[-1:]!r}, not with {mark!r}"


def _sentences(text, n):
    found = sentences(text)
    return "" if found == n else f"{_counted(found, 'sentence')}, not {n}"


def _starts(text, word):
    first = text.split(maxsplit=1)[:1] or [""]
    return "" if words(first[0])[:1] == [word] else f"starts with {first[0][:20]!r}, not {word!r}"


def _no_comma(text, _):
    return "a comma" if "," in text else ""


def _lower_case(text, _):
    if not any(c.islower() for c in text):
        return "no small letter"
    return "a capital letter" if any(c.isupper() for c in text) else ""


def _items(text, n):
    lines = [line for line in text.splitlines() if line.strip()]
    found = sum(line.startswith("- ") and bool(words(line)) for line in lines)
    good = found == n and len(lines) == n
    return "" if good else f"{_counted(found, 'item')} in {_counted(len(lines), 'line')}, not {n}"


RULES = {  # name: the check, and the type of its value
    "word": (_word, str),
    "mentions": (_word, str),
    "min_words": (_min_words, int),
    "max_words": (_max_words, int),
    "ends": (_ends_with, str),
    "sentences": (_sentences, int),
    "starts": (_starts, str),
    "no_comma": (_no_comma, bool),
    "lower_case": (_lower_case, bool),
    "items": (_items, int),
}


def read(rules: Rules | str) -> Rules:
    """Return the rules of one row as a dict: itself, or its JSON.

    Raises ValueError for what is neither, for an unknown rule and for a value of another type.

    >>> read('{"word": "blue", "max_words": 8}')
    {'word': 'blue', 'max_words': 8}
    """
    try:
        found = json.loads(rules) if isinstance(rules, str) else rules
    except ValueError:
        found = None
    if not isinstance(found, dict) or not found:
        raise ValueError(f"rules: {rules!r:.60} is no JSON object of rules; see rewards/rules.py")
    for name, value in found.items():
        if name not in RULES:
            raise ValueError(f"rules: there is no rule {name!r}; there are {', '.join(RULES)}")
        of = RULES[name][1]
        if type(value) is not of or not value:
            raise ValueError(f"rules: {name} is {value!r}; expected {of.__name__}, not empty")
    return found


def failures(text: str, rules: Rules | str) -> dict[str, str]:
    """Return {rule: why the text breaks it, "" if it keeps it}.

    >>> failures("The sky is blue.", {"word": "blue", "ends": "?"})
    {'word': '', 'ends': "ends with '.', not with '?'"}
    """
    text = text.strip()
    rules = read(rules)
    if not words(text):
        return dict.fromkeys(rules, "no words")
    if len(text) > MAX_CHARS:
        return dict.fromkeys(rules, f"longer than {MAX_CHARS} characters")
    if _MARKUP.search(text):
        return dict.fromkeys(rules, "markup")
    return {name: RULES[name][0](text, value) for name, value in rules.items()}
