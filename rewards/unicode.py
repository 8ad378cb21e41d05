"""Turn Unicode into ASCII LaTeX, where plain NFKC would change the value.

NFKC alone turns 5² into 52 and 1½ into 11/2: superscripts, subscripts and fractions are
spelled out first. Zero-width characters go; control characters, lone surrogates, private
and unassigned code points are refused, for no two readers see the same thing in them.
"""

import re
import unicodedata
from itertools import groupby

from rewards.refused import Refused

_SPELLED = {
    "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ",
    "∙": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/", "π": r"\pi ", "√": " sqrt", "∞": r"\infty ",
    "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ",
    "∪": r"\cup ", "∩": r"\cap ", "∖": r"\setminus ", "∈": r"\in ", "∅": r"\emptyset ",
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}", "°": r"^\circ ", "º": r"^\circ ", "±": r"\pm ", "⟨": r"\langle ",
    "⟩": r"\rangle ", "∫": r"\int ", "∑": r"\sum ", "∏": r"\prod ", "∂": r"\partial ",
    "∠": r"\angle ", "…": r"\ldots ", "。": ".", "、": ", ", "“": '"', "”": '"', "‘": "'", "’": "'",
}  # fmt: skip
_SPELLED |= {
    letter: f"\\{name} "
    for letter, name in zip(
        "αβγδεζηθικλμνξρστφχψωΓΔΘΛΞΠΣΦΨΩ",
        str.split(
            "alpha beta gamma delta varepsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau "
            "varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
        ),
        strict=True,
    )
}
_OVERLINED = re.compile("(?:[0-9][\u0304\u0305])+")
_DOTTED = re.compile("([0-9])\u0307")
_REFUSED = {"Cc", "Cs", "Co", "Cn"}


def to_ascii_latex(text: str) -> str:
    r"""Spell out what has a LaTeX spelling, and apply NFKC to the rest.

    Raises Refused on characters that cannot be read.

    >>> to_ascii_latex("−5² ≤ 1½")
    '-5^{2} \\le  1\\frac{1}{2}'
    """
    if any(unicodedata.category(c) in _REFUSED and not c.isspace() for c in text):
        raise Refused("does not parse: unreadable characters")
    if text.isascii():
        return text
    text = _OVERLINED.sub(lambda m: rf"\overline{{{m[0][::2]}}}", text)
    text = _DOTTED.sub(r"\\dot{\1}", text)
    runs = groupby((c for c in text if unicodedata.category(c) != "Cf"), key=_how)
    return "".join(_spell(how, "".join(run)) for how, run in runs)


def _how(char):
    """How a character departs from plain text: <super> for ², <fraction> for ½, "" for a."""
    if char.isascii() or char in _SPELLED:
        return ""
    return unicodedata.decomposition(char).partition(" ")[0]


def _spell(how, run):
    plain = unicodedata.normalize("NFKC", "".join(_SPELLED.get(c, c) for c in run))
    plain = "".join(_digit(_SPELLED.get(c, c)) for c in plain)  # the minus of ⁻³, now plain
    if how == "<super>":
        return "^{" + plain + "}"
    if how == "<sub>":
        return "_{" + plain + "}"
    if how == "<fraction>":
        parts = (unicodedata.normalize("NFKC", char).split("\u2044") for char in run)
        return "".join(rf"\frac{{{above}}}{{{below}}}" for above, below in parts)
    if how == "<circle>":  # a label like the circled 1, not a number
        raise Refused("does not parse: unreadable characters")
    return plain


def _digit(char):
    """A decimal digit of any script as its ASCII digit, any other text as it is."""
    return char if char.isascii() else str(unicodedata.decimal(char, char))
