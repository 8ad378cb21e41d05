r"""Remove what only changes how an answer looks: Markdown, HTML, colours, sizes, environments.

What marks an answer as withdrawn (struck out, cancelled, hidden) is not only looks: it stays, or is
refused. Each pattern is anchored on a literal, so the time is linear in the text.
"""

import re

from rewards.brackets import matching
from rewards.refused import Refused

_FENCE = re.compile(r"```[a-z]*\s*\n(.*?)\n?\s*```", re.DOTALL)
_MARKDOWN = [
    (re.compile(r"^\s*#{1,6}\s+(?=[^\s\d$\\.+-])"), ""),  # a heading of words
    (re.compile(r"(?<![\w)\]}*\\])\*{3}(?=[^\s*])([^*]+)(?<=\S)\*{3}"), r" \1 "),
    (re.compile(r"(?<![\w)\]}*\\])\*\*(?=\S)((?:[^*]|\*(?!\*))+?)(?<=\S)\*\*"), r" \1 "),
    (re.compile(r"(?<![\w)\]}*\\])\*(?=[^\s*])([^*]+?)(?<=\S)\*(?!\*)"), r" \1 "),
    (re.compile(r"(?:(?<=\s)|^)(__?)(?=[^\s_])([^_]+?)(?<=\S)\1(?=\W|$)"), r" \2 "),
    (re.compile(r"<(b|strong|i|em|u|p|span|center|div|big|mark)>(.*?)</\1>", re.DOTALL), r" \2 "),
    (re.compile(r"(?:\s*<br\s*/?>)+\s*$"), ""),
]
_WORD_END = r"(?![a-zA-Z])"
_SWITCHES = re.compile(
    r"\\(?:tiny|scriptsize|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge|bf|rm|it|sf|tt|"
    r"bfseries|itshape|boldmath|displaystyle|textstyle|centering|nonumber|notag|left\.|right\.)"
    + _WORD_END
)
_ENVIRONMENTS = re.compile(
    r"\\(?:begin|end)\s*\{(equation|align|aligned|gather|gathered|center|displaymath|math|split|"
    r"flalign|multline|eqnarray)\*?\}"
)
_LABELS = re.compile(r"\\(?:tag|label)\*?\{[^{}]*\}")
# command -> number of arguments before the one that is shown
_WRAPPERS = {
    "textcolor": 1, "color": 1, "colorbox": 1, "fcolorbox": 2, "underline": 0, "emph": 0,
    "mathbf": 0, "mathit": 0, "mathsf": 0, "mathtt": 0, "boldsymbol": 0, "bm": 0, "pmb": 0,
    "textbf": 0, "textit": 0, "textsf": 0, "texttt": 0, "ensuremath": 0, "framebox": 0,
}  # fmt: skip
_WRAPPER = re.compile(r"\\(" + "|".join(_WRAPPERS) + ")" + _WORD_END + r"\s*(?:\[[^\[\]]*\])?\s*")


def undressed(text: str) -> str:
    r"""Return the text without what only changes its looks.

    Raises Refused on text that is struck out.

    >>> undressed("**Answer:** 4").split(), undressed(r"{\color{blue}\underline{15}}").split()
    (['Answer:', '4'], ['{', '15', '}'])
    """
    if "~~" in text or "\\sout" in text or "\\cancel" in text:
        raise Refused("struck out")
    text = _FENCE.sub(r"\1", text)
    for pattern, by in _MARKDOWN:
        if "<" in pattern.pattern or pattern.pattern[0] in "^(":
            text = pattern.sub(by, text)
    if "\\" not in text:
        return text
    if _ENVIRONMENTS.search(text):
        text = _ENVIRONMENTS.sub(" ", text)
        if "\\begin" not in text:  # the & of an alignment, not of a matrix
            text = text.replace("&", " ")
    text = _LABELS.sub(" ", _SWITCHES.sub(" ", text))
    return re.sub(r"(?:\s*\\\\)+(\s*\$*\s*)$", r"\1", _unwrapped(text))


def _unwrapped(text):
    r"""\underline{15} as 15, an exponent with its braces; \color{blue} alone goes."""
    start = 0
    while found := _WRAPPER.search(text, start):
        at, shown = found.end(), None
        for _ in range(_WRAPPERS[found[1]] + 1):
            closing = matching(text, at) if text[at : at + 1] == "{" else None
            shown = None if closing is None else text[at + 1 : closing]
            if closing is None:
                break
            at = closing + 1
        if shown is None and found[1] != "color":
            start = found.end()
            continue
        shown = "" if shown is None else shown
        if found[1] == "textbf" and re.fullmatch(r"\s*[A-J]\s*", shown):  # the letter of a choice
            shown = f"\\text{{{shown.strip()}}}"
        index = text[: found.start()].rstrip()[-1:] in ("^", "_")
        shown = "{" + shown + "}" if index else f" {shown} "
        text = text[: found.start()] + shown + text[at:]
        start = found.start()
    return text
