r"""List the LaTeX that math-verify reads whole. The rest is compared as it is written, never by algebra.

math-verify drops or confuses what it does not know: a prime, a transpose, a bar, a word between
two formulas, the order of two functions. So there is a list of what it is known to read. An
expression with anything else in it equals its own text and nothing more.
"""

import re

_COMMANDS = set(
    str.split(
        "frac sqrt cdot times div pm infty pi cup cap setminus emptyset mathbb in le ge ne "
        "sin cos tan sec csc cot arcsin arccos arctan sinh cosh tanh ln log exp max min "
        "alpha beta gamma delta epsilon varepsilon zeta eta theta iota kappa lambda mu nu xi rho sigma "
        "tau phi varphi chi psi omega ell lfloor rfloor lceil rceil binom int iint sum prod lim "
        "infty to begin end left right or and mathrm"
    )
)
_ENVIRONMENTS = {"pmatrix", "bmatrix", "vmatrix", "matrix", "array"}
_COMMAND = re.compile(r"\\([a-zA-Z]+)")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{([a-z]*)\*?\}(?:\{[clr|]*\})?")
_NUMBER_SET = re.compile(r"\\mathbb\s*\{[RZNQC]\}(?!\s*[_^/+*])")
_PRIMES = re.compile(r"([A-Za-z])(?:('+)|\s*\^\s*\{?\s*((?:\\prime\s*)+)\}?)")
# a transpose, an adjoint, a star, a sign alone: A^T, A^\top, a^*, \mathbb{Z}^+
_MARK = re.compile(
    r"\^\s*(?:[TH*]|\{[^{}]*(?:[TH*]|[+-]\s*\})|[+-](?=\s*(?:$|[^0-9a-zA-Z\\({.\s])))"
)
_MISREAD = re.compile(
    r"(?<![a-zA-Z\\])[a-zA-Z]\s*\(\s*[a-zA-Z]\s*\("  # f(g(x)) is read as a product
    r"|(?<![a-zA-Z\\])O\s*\("  # the order of growth as well
    r"|(?<![a-zA-Z\\])[fgh]\s*\^\s*\{\s*-1\s*\}"  # an inverse as a reciprocal
    r"|[A-Z]\s*\\times\s*[A-Z]|\\setminus\s*[A-Z]"  # the product of sets as that of numbers
    r"|\\\||\([^()|]*\|[^()|]*\)|_\s*[+-]|[0-9]\s*\\mathbb"  # and these not at all
    r"|\\log\s*\^[^_]*_|\\log\s*_\s*\{?\w\}?\s*\^"  # a logarithm's power hides its base
)
_UNKNOWN_SIGN = re.compile(r"['\"#@`~?$;]|!\s*!|\|\s*\||(?<![0-9)}\s]):|:(?![0-9({\s])")


def with_named_derivatives(latex: str) -> str:
    r"""Turn each primed letter into a letter of its own, for a parser that would drop the prime.

    >>> with_named_derivatives("y''+y=0"), with_named_derivatives(r"f^{\prime}(x)")
    ('y_{992}+y=0', 'f_{991}(x)')
    """
    return _PRIMES.sub(_as_index, latex)


def _as_index(found):
    order = len(found[2]) if found[2] else found[3].count("prime")
    return f"{found[1]}_{{99{order}}}"


def is_algebra(latex: str) -> bool:
    r"""Tell whether every symbol of `latex` is one that math-verify reads.

    >>> [is_algebra(s) for s in (r"\frac{x}{2}", r"\neg p", "A^T", r"\mathbb{Z}_6", "(2n)!!")]
    [True, False, False, False, False]
    """
    rest = _NUMBER_SET.sub(" ", latex)
    if not set(_ENVIRONMENT.findall(rest)) <= _ENVIRONMENTS:
        return False
    rest = _ENVIRONMENT.sub(" ", rest)
    if _MISREAD.search(latex) or _MARK.search(rest) or _UNKNOWN_SIGN.search(rest):
        return False
    commands = set(_COMMAND.findall(rest))
    return rest.isascii() and commands <= _COMMANDS - {"mathbb", "begin", "end"}
