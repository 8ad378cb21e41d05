"""Find where brackets close, and what stands outside all of them."""

import re
from itertools import accumulate

_BRACKET = re.compile(
    r"(?P<open>[(\[{]|\\langle|\\begin(?![a-zA-Z]))|[)\]}]|\\rangle|\\end(?![a-zA-Z])"
)


def matching(text: str, opening: int) -> int | None:
    """Return the index of the bracket that closes the one at `opening`, None if there is none.

    Half-open intervals are brackets too: any closing bracket closes any opening one.

    >>> matching("(a(b))c", 0), matching("[0,1)", 0), matching("(a", 0)
    (5, 4, None)
    """
    depth = 0
    for i in range(opening, len(text)):
        depth += (text[i] in "([{") - (text[i] in ")]}")
        if depth == 0:
            return i
    return None


def balanced(text: str) -> bool:
    r"""Tell whether every brace closes. A round or square bracket may stay half open.

    >>> balanced(r"\frac{1}{2}"), balanced("1}{2"), balanced("[0, 1)")
    (True, False, True)
    """
    depths = list(_depths(text, "{", "}"))
    return min(depths, default=0) >= 0 and (depths or [0])[-1] == 0


def deepest(text: str) -> int:
    """Count how many brackets stand inside each other.

    >>> deepest("(a(b))(c)")
    2
    """
    return max(_depths(text, "([{", ")]}"), default=0)


def _depths(text, opening, closing):
    return accumulate((c in opening) - (c in closing) for c in text)


def outside(text: str) -> str:
    r"""Return `text` with everything inside brackets and environments blanked, index for index.

    >>> outside("f(x, y) = {2}, 3")
    'f(    ) = { }, 3'
    """
    kept, depth, start = [], 0, 0
    for found in _BRACKET.finditer(text):
        between = text[start : found.start()]
        inside = depth
        depth = depth + 1 if found["open"] else max(0, depth - 1)
        kept.append(" " * len(between) if inside else between)
        kept.append(" " * len(found[0]) if inside and depth else found[0])
        start = found.end()
    rest = text[start:]
    return "".join(kept) + (" " * len(rest) if depth else rest)
