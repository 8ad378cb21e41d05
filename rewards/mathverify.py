r"""The leaves that need algebra, through math-verify, gold first, and what it gets wrong.

math-verify 0.9 is asked first. Its yes is not taken where it is known to be too easy:
unsolvable equations are all equal to each other, e^{-50} is close enough to 0, R and r are
one letter, i is a letter like any other in half of the texts. No alarm is set here: whoever
needs a deadline runs this in the worker process.
"""

import logging
import re
from fractions import Fraction

import math_verify
import sympy
from latex2sympy2_extended import NormalizationConfig
from sympy.core.relational import Relational
from sympy.logic.boolalg import BooleanAtom, BooleanFunction

from rewards.numbers import is_rounding
from rewards.refused import Refused

logging.getLogger("math_verify").setLevel(logging.ERROR)  # "Timeout is disabled": as intended

_CONFIG = math_verify.LatexExtractionConfig(
    try_extract_without_anchor=False,
    boxed_match_priority=0,
    normalization_config=NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="last"
    ),
)
_UNDONE = (sympy.Integral, sympy.Sum, sympy.Product, sympy.Limit, sympy.Derivative)
_DIGITS = 30  # of the second opinion on constants; math-verify compares 15, and chops


def equal(gold, answer, interval=False):
    r"""Is the answer the gold, by algebra?

    gold, answer   str    LaTeX of one expression each, without delimiters
    interval       bool   the gold is an interval for sure: x > 2 may answer (2, \infty)
    returns        bool
    Raises Refused when one of the two does not parse.

    >>> equal(r"2\sqrt{2}", r"\sqrt{8}"), equal("x^2 = -1", "y^2 = -4")
    (True, False)
    """
    gold, answer = _tell_cases_apart(gold, answer)
    gold, answer = parse(gold), parse(answer)
    if _has(answer, _UNDONE) and not _has(gold, _UNDONE):
        raise Refused("a computation left undone")
    if _is_relation(gold) and _is_relation(answer):
        return _same_relation(gold, answer)
    return _may_be_same_constant(gold, answer) and math_verify.verify(
        [gold], [answer], allow_set_relation_comp=interval, timeout_seconds=None
    )


def rounds_to(gold, number):
    """Is `number` the constant `gold`, rounded to at least six decimals and six digits?"""
    gold = parse(gold)
    if not isinstance(gold, sympy.Expr) or gold.free_symbols:
        return False
    value = gold.evalf(_DIGITS + len(str(number.value)))
    return value.is_Float and is_rounding(number, Fraction(str(value)))


def same_solutions(gold, answer):
    r"""Do two statements about one variable have the same solutions?

    gold, answer   (connective, [LaTeX])   x < 1 or x > 2 is ("or", ["x<1", "x>2"])

    >>> same_solutions(("or", ["x<1", "x>2"]), ("and", [r"(-\infty,1)\cup(2,\infty)"]))
    True
    """
    sets, variables = [], set()
    for connective, statements in (gold, answer):
        parsed = [parse(statement) for statement in statements]
        variables |= {v for p in parsed if _is_relation(p) for v in p.free_symbols}
        each = [p.as_set() if _is_relation(p) else p for p in parsed]
        sets.append(sympy.Union(*each) if connective == "or" else sympy.Intersection(*each))
    return len(variables) == 1 and sets[0] == sets[1]


def parse(latex):
    """One sympy object: symbols real, i the imaginary unit, decimals exact."""
    found = math_verify.parse(
        "\\boxed{" + latex + "}",
        [_CONFIG],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,
    )
    if not found:
        raise Refused("does not parse")
    expression = _canonical(found[0])
    if isinstance(expression, BooleanAtom):
        raise Refused("a statement, not a value")
    return expression


def _canonical(expression):
    if isinstance(expression, Relational):  # evaluated, x^2 = -1 would turn into False
        return expression.func(*map(_canonical, expression.args), evaluate=False)
    if isinstance(expression, BooleanFunction) and hasattr(expression, "_unsorted_args"):
        return type(expression)(*map(_canonical, expression._unsorted_args))
    exact = {}
    for symbol in expression.atoms(sympy.Symbol):
        real = sympy.Symbol(symbol.name, real=True)
        exact[symbol] = sympy.I if symbol.name == "i" else real
    for number in expression.atoms(sympy.Float):
        exact[number] = sympy.Rational(str(number))
    exact = {old: new for old, new in exact.items() if old != new}
    return expression.xreplace(exact) if exact else expression


def _tell_cases_apart(gold, answer):
    """math-verify lowers all letters; where R and r both stand, R becomes another name."""
    letters = set(re.sub(r"\\[a-zA-Z]+", " ", gold + answer))
    for upper in sorted(c for c in letters if c.isascii() and c.isupper() and c.lower() in letters):
        in_both_cases = [bool(_letter(c).search(gold)) for c in (upper, upper.lower())]
        if all(in_both_cases):
            name = upper.lower() + "_{99}"
            gold, answer = (_letter(upper).sub(name, text) for text in (gold, answer))
    return gold, answer


def _letter(letter):
    return re.compile(r"(?<!\\)(?<![a-zA-Z])" + letter + r"(?![a-zA-Z_])")


def _has(expression, kinds):
    return hasattr(expression, "has") and expression.has(*kinds)


def _is_relation(expression):
    return isinstance(expression, (Relational, BooleanFunction))


def _same_relation(gold, answer):
    if isinstance(gold, sympy.Eq) and isinstance(answer, sympy.Eq):
        # verify solves both and finds two empty lists of solutions equal: ask for a multiple
        multiple = sympy.simplify((gold.lhs - gold.rhs) / (answer.lhs - answer.rhs))
        return multiple.is_number and multiple.is_finite and not multiple.is_zero
    if math_verify.verify([gold], [answer], timeout_seconds=None):
        return True
    if gold.free_symbols != answer.free_symbols or len(gold.free_symbols) != 1:
        return False
    return gold.as_set() == answer.as_set()


def _may_be_same_constant(gold, answer):
    """False for two constants that differ: verify compares 15 digits and chops what is small."""
    if not (isinstance(gold, sympy.Expr) and isinstance(answer, sympy.Expr)):
        return True
    if gold.free_symbols or answer.free_symbols or gold == answer:
        return True
    difference, size = (abs(x.evalf(_DIGITS)) for x in (gold - answer, gold))
    return (difference <= size * sympy.Float(10) ** -20) != False  # undecided stays possible
