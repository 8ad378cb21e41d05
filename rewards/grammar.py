r"""List the words that may stand before an answer, and the names that it may be given.

    answer    lead-in* [name "="] value [unit] ["is the answer"] ["."]
    lead-in   connective | subject verb | "we get" | "this gives" | label ":"
    subject   [the] adjective* noun [of name | of the problem] | name | it | this
    name      a letter, with index or arguments; a segment, an angle; a quantity's noun

Every list is closed, so that no word can deny the answer or compute with it: "minus", "half of"
and "cannot be" are not forbidden, they are not in the grammar. The value and its unit are read by
`rewards.reading` and `rewards.units`; what those do not read either refuses the answer.
"""

import re

from rewards._types import Nouns

_ADJECTIVES = (
    "final correct right exact required requested desired numerical numeric simplified complete "
    "resulting only best maximum minimum largest smallest greatest overall unknown"
)
_NOUNS = (  # what an answer is called
    "answer|ans|solutions?|results?|conclusion|output|value|values"
)
_QUANTITIES = (  # what is asked for
    "area|volume|perimeter|circumference|length|width|height|depth|radius|diameter|distance|speed|"
    "velocity|time|duration|cost|price|profit|weight|mass|age|temperature|probability|number|"
    "amount|total|count|domain|range|interval|slope|angle|equation|expression|function|line|point|"
    "polynomial|matrix|vector|set|solution set|coordinates|vertex|minimum|maximum|base|term|coefficient|degree|"
    "money|day|year|date|measure|surface area|total number|total cost|expected value"
)
_ABOUT = "problem|question|exercise|equation|expression|system|inequality|puzzle|task|above|integral|limit"
_FIGURES = (
    "triangle|circle|square|rectangle|cube|sphere|cylinder|cone|polygon|parallelogram|trapezoid|region|"
    "shaded region|figure|solid|prism|pyramid|side|hypotenuse|segment|base|diagonal|solutions|roots|ways|"
    "line|function|parabola|ellipse|graph|curve"
)
_CONNECTIVES = (
    "so|hence|thus|therefore|then|finally|consequently|accordingly|ultimately|in conclusion|"
    "in summary|as a result|it follows that|we conclude that|this means that|this means|overall|"
    "and so|and thus|and therefore|and hence|to conclude|that is|i\\.e\\.|in short|in total"
)
_VERBS = (
    "is equal to|is given by|is thus|is therefore|is then|is simply|is just|is|are|equals|equal|"
    "will be|would be|must be|comes out to be|comes out to|comes to|turns out to be|works out to|"
    "becomes|evaluates to|simplifies to"
)
_GETS = (
    "(?:we|i|you|one) (?:get|obtain|have|find|find that|arrive at|see that|conclude that|know that|"
    "conclude|deduce that)|(?:(?:this|that|which|it|and this) )?(?:gives|yields|means|implies)"
    "(?: us| that)?|giving|yielding|there are|there is|it is|it's|this is|that is|they are"
)
_OTHER_LANGUAGES = (
    "(?:所以|因此|故|综上|综上所述|于是|即|那么|从而)?[,，]?\\s*(?:(?:最终|最后|正确|本题|该题|题目)的?)?"
    "(?:答案|结果|解|答|值)\\s*(?:应为|应该是|等于|就是|是|为|:)\\s*:?|所以\\s*[,:]?|因此\\s*[,:]?|故\\s*[,:]?|"
    "(?:答え|解答)は\\s*[,、]?|(?:答え|解答|答|정답|답)\\s*:|(?:정답|답)은|"
    "(?:la )?(?:r[ée]ponse|respuesta|resposta|risposta)(?: finale?| correcte?)?\\s*(?:est|es|é|è|:)\\s*:?|"
    "(?:die )?(?:antwort|l[öo]sung)\\s*(?:ist|lautet|:)\\s*:?|ответ\\s*:|"
    "(?:故|应|所以)?\\s*选择?\\s*:?(?=\\s*[A-J(])"
)
_LETTER = r"[a-zA-Z](?![a-zA-Z])|\\(?:alpha|beta|gamma|delta|theta|lambda|mu|rho|sigma|phi|omega)(?![a-zA-Z])"
_INDEX = r"(?:\s*_\s*(?:\{[^{}]*\}|[a-zA-Z0-9]))?"
_PLAIN_NAME = rf"(?:{_LETTER}){_INDEX}"
_NAME = rf"(?:\$\s*(?:{_PLAIN_NAME})\s*\$|\\\(\s*(?:{_PLAIN_NAME})\s*\\\)|(?:{_PLAIN_NAME}))"
_ANY_NOUN = rf"(?:{_QUANTITIES}|{_NOUNS})"
_OF = (
    rf"(?: (?:of|for) {_NAME}| (?:of|to|for) (?:(?:the|this|our|your) )?(?:given )?(?:{_ABOUT})"
    rf"| of (?:(?:the|this) )?(?:{_FIGURES})(?: [A-Z]{{2,5}})?| of [A-Z]{{2}}| here| above)?"
)
_SUBJECT = (
    rf"(?:(?:the|our|my|your|its|their|his|her) )?(?:(?:{'|'.join(_ADJECTIVES.split())}) )*"
    rf"(?:{_ANY_NOUN}(?: {_NAME})?{_OF}|choice|option)"
)
_TEXT_END = r"(?![a-zA-Z])"
_LEAD_INS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?:\\therefore|\\Rightarrow|\\implies|∴|⇒)(?![a-zA-Z])\s*",
        rf"(?:{_CONNECTIVES}){_TEXT_END}\s*[,:]?\s*",
        rf"(?:{_GETS}){_TEXT_END}\s*[,:]?\s*",
        rf"(?:{_SUBJECT}|{_NAME}|it|this|that) (?:{_VERBS}){_TEXT_END}(?: that)?\s*[,:]?\s*",
        rf"{_SUBJECT}\s*(?::|=|\n)\s*",
        rf"{_OTHER_LANGUAGES}\s*",
        rf"{_NAME}\s*的值?\s*(?:应为|等于|是|为|:)\s*",
    )
]
_TEXT_LEAD = re.compile(
    r"\\(?:text|mathrm|textrm|mbox|textnormal)\s*\{([^{}]*)\}\s*(?:~|\\[ ,;:])?\s*"
)
_TAIL = re.compile(
    r"(?<=[^\s,]),? is (?:the|our|my) (?:(?:final|correct|right) )?(?:answer|solution|result)[ .]{0,3}\Z",
    re.IGNORECASE,
)
_HOPE = re.compile(r"(?<=\S)\.? I hope it is correct[ .]{0,3}\Z")  # how Minerva's answers end
MOST_LEAD_INS = 5


def after_lead_in(text: str, nouns: Nouns = frozenset()) -> str:
    r"""Return the rest of an answer behind the words that lead to it.

    nouns   set of words   of the gold and the question: they may be its subject

    >>> after_lead_in("So the answer is: 4"), after_lead_in(r"\text{The answer is }4")
    ('4', '4')
    >>> after_lead_in("A third of it is 4"), after_lead_in("The answer cannot be 4")
    ('A third of it is 4', 'The answer cannot be 4')
    """
    text = text.strip()
    for _ in range(MOST_LEAD_INS):
        rest = _without_lead_in(text, nouns)
        if rest is None:
            break
        text = rest
    return text


def without_tail(text: str) -> str:
    """Return the answer without "is the final answer" or "I hope it is correct" behind it."""
    return _TAIL.sub("", _HOPE.sub("", text.strip()))


def is_quantity(words: str, nouns: Nouns = frozenset()) -> bool:
    """Tell whether a phrase only names what is asked for: "total area" does, "half" does not.

    >>> is_quantity("the total cost"), is_quantity("Area"), is_quantity("half of the area")
    (True, True, False)
    """
    words = " ".join(words.split())
    return bool(re.fullmatch(_SUBJECT, words, re.IGNORECASE)) or _of_the_question(words, nouns)


def _without_lead_in(text, nouns):
    if found := _TEXT_LEAD.match(text):  # \text{The answer is }4, \text{Answer: }4
        inside = re.sub(r"\s+", " ", found[1]).strip()
        if inside and not after_lead_in(inside + " ", nouns):
            return text[found.end() :]
        whole = inside + " " if inside.endswith((":", ",")) else inside
        if any(lead.fullmatch(whole) for lead in _LEAD_INS):
            return text[found.end() :]
        if is_quantity(inside.rstrip(":"), nouns) and inside.endswith(":"):
            return text[found.end() :]
    for lead in _LEAD_INS:
        if (found := lead.match(text)) and found.end():
            return text[found.end() :]
    if nouns and (
        found := re.match(
            r"([A-Za-z][A-Za-z' ]{1,120}?) (?:is|are|has|have|=)(?![a-z])\s*:?\s*", text
        )
    ):
        return text[found.end() :] if _of_the_question(found[1], nouns) else None
    return None


def _of_the_question(words, nouns):
    from rewards.units import singular

    found = [w for w in words.lower().split() if w not in ("the", "of", "in", "for", "a", "all")]
    quantities = set(_QUANTITIES.split("|"))
    known = [singular(word) in nouns for word in found]
    return any(known) and all(k or w in quantities for k, w in zip(known, found, strict=True))


_FUNCTION = r"(?:[fghpqFGHPEQRSTNVAC]|\\(?:phi|varphi|Phi|psi|tau|sigma))"
_NAMES = [
    re.compile(pattern)
    for pattern in (
        _PLAIN_NAME,
        rf"{_FUNCTION}{_INDEX}(?:'+|\^\s*\{{\s*-1\s*\}}|\^\{{\(\w+\)\}})?\s*\([^()=]*\)",
        r"[yuvrs]'*\s*\(\s*(?:-?[0-9]+|[xtn])\s*\)|x\s*\(\s*t\s*\)",
        r"[fghy]'+",  # y' = 2x: with letters on the right, see `is_name`
        r"\\frac\s*\{\s*d\s*[a-z]\s*\}\s*\{\s*d\s*[a-z]\s*\}|d[a-z]/d[a-z]",
        r"(?:\\overline|\\vec|\\mathbf|\\hat|\\overrightarrow|\\bar)\s*\{\s*[a-zA-Z]{1,2}\s*\}",
        r"(?:m\s*)?\\angle\s*\{?\s*[A-Z0-9]{1,3}\s*\}?(?:_\w)?|\[[A-Z]{3,6}\]",
        r"\|?(?P<segment>([A-Z])(?!\2)[A-Z])\|?",
    )
]


def is_name(text: str, nouns: Nouns = frozenset()) -> bool:
    r"""Tell whether the left side of an equation only names what is on the right.

    A letter with index or arguments, a segment, an angle, a quantity; nothing to compute with:
    x + y and xy are sums and products, and no word but those of the grammar.

    >>> [is_name(s) for s in ("x", "f(2)", "a_{10}", r"\angle ABC", r"\text{Area}", "AB")]
    [True, True, True, True, True, True]
    >>> [is_name(s) for s in ("x + y", "xy", "2x", "minus x", r"\text{half of }x", "5", "xx")]
    [False, False, False, False, False, False, False]
    """
    text = text.strip()
    if text.startswith("(") and text.endswith(")"):  # (x, y) = (1, 2)
        parts = text[1:-1].split(",")
        return len(parts) > 1 and all(is_name(part) for part in parts)
    if any(name.fullmatch(text) for name in _NAMES):
        return True
    words = re.sub(r"\\(?:text|mathrm)\s*\{([^{}]*)\}", r" \1 ", text).strip()
    if re.fullmatch(r"[A-Za-z][A-Za-z ]+", words) and is_quantity(words, nouns):
        return True
    split = re.fullmatch(rf"(.*\S)\s+(?:of\s+)?({_PLAIN_NAME})", words)
    if split is None or not re.search(r"\\text", text):
        return False
    return is_quantity(split[1], nouns)


def is_segment(text: str) -> bool:
    """Tell whether it is AB, the distance of two points; its value can only be a number: PV = nRT is a law."""
    return bool((found := _NAMES[-1].fullmatch(text.strip())) and found["segment"])
