r"""Read plain numbers exactly, without floating point: 0.1 + 0.2 is 0.3.

A plain number is digits with a sign, a decimal point, thousands separators, at most one
fraction bar (mixed numbers too), a power of ten, a percent sign, a repeating decimal.
Anything that is still to be computed (2+2, 2^3, \sqrt{16}, 4!) is not one.
"""

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

MAX_EXPONENT = 1000  # 10^{10^9} would fill the memory before anything is compared
ROUNDED_PLACES = 6  # as many decimals, and digits, as math-verify compares

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?: [0-9]{3})+|[0-9]+)"
_INT = r"([-+]?)\s*(" + _DIGITS + r")"
_DECIMAL = re.compile(r"([-+]?)\s*(" + _DIGITS + r"?)(?:\.([0-9]*))?")
_REPEATING = re.compile(
    r"([-+]?)([0-9]*)\.([0-9]*)(?:\\(?:overline|bar|dot)\s*(?:\{\s*([0-9]+)\s*\}|([0-9]))"
    r"|\(([0-9]+)\)|\\dot\s*\{?([0-9])\}?\s*([0-9]*)\s*\\dot\s*\{?([0-9])\}?)"
)
_QUOTIENT = re.compile(r"(?:" + _INT + r"\s+)?([-+]?)\s*([0-9]+)\s*/\s*([-+]?[0-9]+)")
_FRAC = re.compile(
    r"(?:" + _INT + r"|([-+]?))\s*\\frac\s*(?:\{\s*([-+]?[0-9]+)\s*\}|([0-9]))"
    r"\s*(?:\{\s*([-+]?[0-9]+)\s*\}|([0-9]))"
)
_POWER = re.compile(
    r"(.*?)\s*(?:\\times|\\cdot|[*x])\s*10\s*\^\s*(?:\{\s*([-+]?[0-9]+)\s*\}|([0-9]))"
)
_BARE_POWER = re.compile(r"([-+]?)10\s*\^\s*(?:\{\s*([-+]?[0-9]+)\s*\}|([0-9]))")
_NEGATED = re.compile(r"-\s*\(([^-+()][^()]*)\)")
_E_NOTATION = re.compile(r"([-+]?[0-9.]+)[eE]([-+]?[0-9]+)")


class Number(NamedTuple):
    value: Fraction
    places: int | None = None  # decimals written out; None: the value is exact
    undone: bool = False  # a division left to do: 84/2


@lru_cache(maxsize=4096)
def read_number(text: str) -> Number | None:
    r"""Return the number that `text` writes, None when it is not a plain number.

    >>> read_number("1,234.50").value, read_number(r"-2\frac{1}{2}").value
    (Fraction(2469, 2), Fraction(-5, 2))
    >>> read_number("50%").value, read_number("84/2").undone, read_number("2+2")
    (Fraction(1, 2), True, None)
    """
    text = text.strip()
    if text.endswith("%") and not text.endswith("%%"):
        number = read_number(text[:-1])
        places = None if number is None or number.places is None else number.places + 2
        return number and number._replace(value=number.value / 100, places=places)
    for read in (_decimal, _fraction, _power_of_ten, _repeating, _negated):
        number = read(text)
        if number is not None:
            return number
    return None


def same_number(gold: Number, answer: Number) -> bool:
    """Tell whether two numbers are equal, or one is the other rounded to at least six decimals and digits.

    >>> third = read_number("1/3")
    >>> [same_number(third, read_number(s)) for s in ("2/6", "0.333333", "0.33333", "0.3333334")]
    [True, True, False, False]
    """
    if gold.value == answer.value:
        return True
    if gold.places == answer.places:  # both exact, or as many decimals and other ones
        return False
    places = [float("inf") if n.places is None else n.places for n in (gold, answer)]
    coarse, fine = (gold, answer) if places[0] < places[1] else (answer, gold)
    return is_rounding(coarse, fine.value)


def is_rounding(decimal: Number, value: Fraction) -> bool:
    """Tell whether `decimal` is that exact value, rounded where it ends. Ties may go either way."""
    if decimal.places is None or decimal.places < ROUNDED_PLACES:
        return False
    unit = Fraction(1, 10**decimal.places)
    enough_digits = abs(decimal.value) >= 10 ** (ROUNDED_PLACES - 1) * unit
    return enough_digits and abs(decimal.value - value) <= unit / 2


def _decimal(text):
    found = _DECIMAL.fullmatch(text)
    if not found or not (found[2] or found[3]):
        return None
    digits, places = _int(found[2] or "0"), found[3]
    value = Fraction(int(str(digits) + (places or "")), 10 ** len(places or ""))
    return Number(-value if found[1] == "-" else value, len(places) if places else None)


def _fraction(text):
    if found := _QUOTIENT.fullmatch(text):
        whole_sign, whole, sign, above, below = found.groups()
    elif found := _FRAC.fullmatch(text):
        whole_sign, whole, sign, *parts = found.groups()
        above, below = parts[0] or parts[1], parts[2] or parts[3]
    else:
        return None
    if int(below) == 0 or (whole and (sign or above[0] in "-+" or below[0] in "-+")):
        return None
    part = Fraction(int(above), int(below))
    value = part + (_int(whole) if whole else 0)
    negative = "-" in ((whole_sign or ""), (sign or ""))
    return Number(-value if negative else value, undone=part.denominator == 1)


def _power_of_ten(text):
    if found := _BARE_POWER.fullmatch(text):
        mantissa, exponent = Number(Fraction(-1 if found[1] == "-" else 1)), found[2] or found[3]
    elif found := _POWER.fullmatch(text):
        mantissa, exponent = _decimal(found[1]), found[2] or found[3]
    elif found := _E_NOTATION.fullmatch(text):
        mantissa, exponent = _decimal(found[1]), found[2]
    else:
        return None
    if mantissa is None or len(exponent) > 5 or abs(int(exponent)) > MAX_EXPONENT:
        return None
    value = mantissa.value * Fraction(10) ** int(exponent)
    places = None if mantissa.places is None else max(0, mantissa.places - int(exponent))
    return Number(value, places)


def _repeating(text):
    if not (found := _REPEATING.fullmatch(text)):
        return None
    sign, whole, fixed, *repeated = found.groups()
    repeated = "".join(filter(None, repeated))  # one bar, 0.(3), or the dots of 0.\dot14\dot2
    value = Fraction(int(whole + fixed or "0"), 10 ** len(fixed))
    value += Fraction(int(repeated), (10 ** len(repeated) - 1) * 10 ** len(fixed))
    return Number(-value if sign == "-" else value)


def _negated(text):
    """-(1/2); around an integer the parentheses have no business, and -(5) is no number."""
    found = _NEGATED.fullmatch(text)
    number = read_number(found[1]) if found else None
    if number is None or number.value.denominator == 1:
        return None
    return number._replace(value=-number.value)


def _int(digits):
    return int(digits.replace(",", "").replace(" ", ""))
