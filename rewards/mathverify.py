r"""Compare what needs algebra through math-verify, gold first, and correct its known errors.

math-verify 0.9 parses, and compares what has letters in it. It is not asked where it is known to
be wrong: two constants are told apart exactly, by sympy, since math-verify compares 15 digits;
two equations are equal when one is a multiple of the other, since it finds all unsolvable ones
equal; what it does not read whole never gets here (`rewards.symbols`). R and r are told apart
before it makes them one letter; i is the imaginary unit. No alarm is set here: whoever needs a
deadline runs this in the worker process.
"""

import logging
import re
from fractions import Fraction

import math_verify
import sympy
from latex2sympy2_extended import NormalizationConfig
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational
from sympy.logic.boolalg import BooleanAtom, BooleanFunction

from rewards._types import Statements
from rewards.numbers import Number, is_rounding
from rewards.refused import Refused

logging.getLogger("math_verify").setLevel(logging.ERROR)  # "Timeout is disabled": as intended

_CONFIG = math_verify.LatexExtractionConfig(
    try_extract_without_anchor=False,
    boxed_match_priority=0,
    normalization_config=NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="last"
    ),
)
_CONSTANTS = {"i": sympy.I, "e": sympy.E}
_UNDONE = (sympy.Integral, sympy.Sum, sympy.Product, sympy.Limit, sympy.Derivative)
_DIGITS = 30  # of a rounded constant beyond what the answer writes out
_CANCELLED = 2500  # digits that may cancel before two constants count as not told apart


def equal(gold: str, answer: str, interval: bool = False) -> bool:
    r"""Tell whether the answer equals the gold, by algebra.

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
    gold, answer = _odd_roots(gold), _odd_roots(answer)
    if _is_constant(gold) and _is_constant(answer):
        return _same_constant(gold, answer)
    return _agree_somewhere(gold, answer) and math_verify.verify(
        [gold], [answer], allow_set_relation_comp=interval, timeout_seconds=None
    )


def rounds_to(gold: str, number: Number) -> bool:
    """Tell whether `number` is the constant `gold`, rounded to at least six decimals and six digits."""
    gold = parse(gold)
    if not isinstance(gold, sympy.Expr) or gold.free_symbols:
        return False
    value = gold.evalf(_DIGITS + len(str(number.value)))
    return value.is_Float and is_rounding(number, Fraction(str(value)))


def same_solutions(gold: Statements, answer: Statements) -> bool:
    r"""Tell whether two statements about one variable have the same solutions.

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


def parse(latex: str) -> sympy.Basic:
    """Parse into one sympy object: symbols real, i the imaginary unit, decimals exact."""
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
        exact[symbol] = _CONSTANTS.get(symbol.name, real)
    if expression.has(sympy.EulerGamma):  # \gamma is an angle in most texts
        exact[sympy.EulerGamma] = sympy.Symbol("gamma", real=True)
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
        return _is_multiple(_cleared(gold), _cleared(answer))
    if math_verify.verify([gold], [answer], timeout_seconds=None):
        return True
    if gold.free_symbols != answer.free_symbols or len(gold.free_symbols) != 1:
        return False
    return gold.as_set() == answer.as_set()


def _cleared(equation):
    """Left minus right, without denominators: y = 1/x is xy - 1 = 0."""
    return sympy.fraction(sympy.together(equation.lhs - equation.rhs))[0]


def _is_multiple(gold, answer):
    if gold.is_zero or answer.is_zero:
        return False
    multiple = sympy.simplify(gold / answer)
    return bool(multiple.is_number and multiple.is_finite and not multiple.is_zero)


def _is_constant(expression):
    """A number without letters or unknown functions, finite as far as sympy knows."""
    return (
        isinstance(expression, sympy.Expr)
        and not expression.free_symbols
        and not expression.atoms(AppliedUndef, *_UNDONE, sympy.UnevaluatedExpr)
        and not expression.has(sympy.oo, -sympy.oo, sympy.zoo, sympy.nan)
    )


def _same_constant(gold, answer):
    """Equal for sure: the difference is zero by algebra, not only to many digits."""
    difference = gold - answer
    if difference.is_Rational:
        return difference == 0
    value = difference.evalf(_DIGITS, maxn=_CANCELLED)
    if any(part.is_Float and part._prec > 1 and part != 0 for part in value.as_real_imag()):
        return False  # these digits are certain: evalf says when they are not
    return sympy.simplify(difference) == 0 or difference.equals(0) is True


def _agree_somewhere(gold, answer):
    """False for two expressions that differ at one point: verify takes 1e-30 for nothing."""
    if not (isinstance(gold, sympy.Expr) and isinstance(answer, sympy.Expr)) or gold == answer:
        return True
    names = sorted(gold.free_symbols | answer.free_symbols, key=str)
    point = {name: sympy.Rational(2 * n + 3, n + 2) for n, name in enumerate(names)}
    value = (gold - answer).subs(point)
    if not _is_constant(value):
        return True
    parts = value.evalf(_DIGITS, maxn=_CANCELLED).as_real_imag()
    return not any(part.is_Float and part._prec > 1 and part != 0 for part in parts)


def _odd_roots(expression):
    r"""\sqrt[3]{x^2} as x^{2/3}: sympy does not join them, since for even roots it may not."""
    if not isinstance(expression, sympy.Expr) or not expression.has(sympy.Pow):
        return expression

    def is_odd_root_of_power(e):
        return (
            e.is_Pow
            and e.exp.is_Rational
            and e.exp.q % 2 == 1 < e.exp.q
            and e.base.is_Pow
            and e.base.exp.is_Integer
        )

    return expression.replace(
        is_odd_root_of_power, lambda e: sympy.Pow(e.base.base, e.base.exp * e.exp)
    )
