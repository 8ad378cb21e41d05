r"""Bring what people and models write, plain text and LaTeX, into one notation.

`notation` only respells; it never computes and never drops a symbol that carries value.
Every pattern is anchored on a literal and has no nested repetition: linear time.
"""

import re

from rewards.brackets import matching
from rewards.refused import Refused
from rewards.unicode import to_ascii_latex

_WORD_END = r"(?![a-zA-Z])"
_FUNCTIONS = (
    "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|sec|csc|cot|ln|log|exp|sqrt|"
    "pi|theta|alpha|beta|gamma|lambda|sigma|omega"
)
_RESPELL = [
    (r"~\s*=", r"\\ne "),
    (r"(?<!\\)\\[()\[\]]", " "),  # \( \) \[ \], but not the row break in \\[2pt]
    (r"\\(?:left|right|[bB]igg?[lrm]?)" + _WORD_END + r"\s*", ""),
    (r"\\!|\\(?:displaystyle|textstyle|limits|nolimits)" + _WORD_END, ""),
    (r"(?<!\\)\\[,;:> ]|~|\\(?:quad|qquad|enspace|thinspace|newline)" + _WORD_END, " "),
    (r"\\hspace\*?\{[^{}]*\}", " "),
    (r"\\text\{\s*\}", " "),
    (r"\\text\{\s*([,.])\s*\}", r"\1"),
    (r"\{,\}", ","),
    (r"(?<=[0-9])\s*(?:\^\s*\{)?\s*\\text\{\s*(?:st|nd|rd|th)\s*\}\}?", ""),  # 42\text{nd}
    (r"\.\.\.|\\(?:dots|cdots|dotsc|hdots)" + _WORD_END, r"\\ldots "),
    (r"\\pmod\s*([0-9a-z])" + _WORD_END, r"\\pmod{\1}"),
    (r"\\(?:[dtcs]frac|nicefrac|flatfrac)" + _WORD_END, r"\\frac"),
    (r"\\[dt]binom" + _WORD_END, r"\\binom"),
    (r"\\overline\s*\{\s*([A-Z]{2})\s*\}", r" \1 "),  # a segment is its two points
    (r"\\(?:mathrm|textrm|mbox|hbox|textnormal)\{", r"\\text{"),
    (r"\\text\{\s*([ei]|[-+]?[0-9][0-9.,/]*)\s*\}", r"\1"),  # e, i and numbers set upright
    (r"\\lbrace" + _WORD_END, r"\\{"),
    (r"\\rbrace" + _WORD_END, r"\\}"),
    (r"\\lbrack" + _WORD_END, "["),
    (r"\\rbrack" + _WORD_END, "]"),
    (r"\\[lr]?vert" + _WORD_END, "|"),
    (r"\\(?:leqslant|leq)" + _WORD_END + r"|<=", r"\\le "),
    (r"\\(?:geqslant|geq)" + _WORD_END + r"|>=", r"\\ge "),
    (r"\\lt" + _WORD_END, "<"),
    (r"\\gt" + _WORD_END, ">"),
    (r"\\neq" + _WORD_END, r"\\ne "),
    (r"\\(?:varnothing|empty)" + _WORD_END, r"\\emptyset "),
    (r"\\%|\\?\b(?:per ?cent|pct)\b|\\text\{\s*(?:\\?%|per ?cent)\s*\}", "%"),
    (r"\s*(?:\^\s*\{\s*\\circ\s*\}|\^\s*\\circ|\\degrees?)" + _WORD_END, r"^\\circ "),
    (r"\*\*", "^"),
    (r"\\text\{[\s,]*(and|or)[\s,]*\}", r" \1 "),
    (r"\\text\{([^{}]*?)\s*,?\s+and\s*\}(?=\s*[0-9])", r"\\text{\1} and "),  # 3 cats and 5
    (r"(?<![\\a-zA-Z])(?:infinity|infty|inf|oo)" + _WORD_END, r"\\infty "),
    (r"(?<![\\a-zA-Z])(" + _FUNCTIONS + ")" + _WORD_END, r"\\\1 "),
    (r"\\sqrt\s*([0-9]{2,})", r"\\sqrt{\1}"),  # sqrt 12, which LaTeX would read as √1 · 2
]
_COMPILED = [(re.compile(pattern), by) for pattern, by in _RESPELL]


def notation(text: str) -> str:
    r"""Respell an answer or a gold: no delimiters, no spacing commands, one name per symbol.

    Raises Refused on characters that cannot be read and on a lone math delimiter.

    >>> notation(r"$\left(\dfrac{1}{2}, \sqrt(3)\right)$")
    '(\\frac{1}{2}, \\sqrt{3})'
    """
    text = to_ascii_latex(text).strip().strip("`")
    if len(text) > 2 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    text = _dollars(text)
    for pattern, by in _COMPILED:
        text = pattern.sub(by, text)
    if "\\over" in text:
        text = _fractions_of_over(text)
    if "\\frac" in text:
        text = _FRAC_ARGUMENTS.sub(_with_braces, text)
    text = _brace_arguments(text, "\\sqrt")
    text = _brace_arguments(text, "^")
    return " ".join(text.split())


_ARGUMENT = (
    r"\s*(?:\{(?:[^{}]|\{[^{}]*\})*\}|[0-9a-zA-Z]|\\(?:pi|alpha|beta|theta|lambda|omega)(?![a-z]))"
)
_FRAC_ARGUMENTS = re.compile(r"\\frac(?![a-zA-Z])(" + _ARGUMENT + ")(" + _ARGUMENT + ")")
_OVER = re.compile(
    r"\{([^{}]*)\\over(?![a-zA-Z])([^{}]*)\}|^([^{}=,]*)\\over(?![a-zA-Z])([^{}=,]*)$"
)


def _with_braces(found):
    r"""\frac\pi2 as \frac{\pi}{2}; \frac12 stays as it is, for the reader of numbers."""
    if found[1].strip().isdigit() or found[2].strip().isdigit() or "\\" in found[0][5:]:
        parts = (part.strip() for part in found.groups())
        return "\\frac" + "".join(p if p.startswith("{") else "{" + p + "}" for p in parts)
    return found[0]


def _fractions_of_over(text):
    r"""{1 \over 2} as \frac{1}{2}."""
    for _ in range(10):
        text, found = _OVER.subn(
            lambda m: "\\frac{" + (m[1] or m[3] or "") + "}{" + (m[2] or m[4] or "") + "}", text
        )
        if not found:
            break
    return text


def _dollars(text):
    r"""Dollar signs in pairs delimit mathematics; a single one before a digit is money."""
    text = text.replace("\\$", "\\usd ")
    if text.count("$") == 1 and re.search(r"\$\s*[0-9.]", text):
        return text.replace("$", "\\usd ")
    if text.count("$") % 2:
        raise Refused("does not parse: a $ without its partner")
    return text.replace("$", " ")


def _brace_arguments(text, command):
    r"""sqrt(2) and 2^(x+1) with braces; what has no closing bracket stays as it is."""
    start = 0
    while (at := text.find(command, start)) >= 0:
        start = at + len(command)
        opening = start + len(text[start:]) - len(text[start:].lstrip())
        if text[opening : opening + 1] != "(":
            continue
        closing = matching(text, opening)
        if closing is None:
            return text
        inner = text[opening + 1 : closing]
        text = text[:start] + "{" + inner + "}" + text[closing + 1 :]
    return text
