"""Compute four functions whose obvious form overflows or loses digits."""

from __future__ import annotations

import numpy as np

from reference_math._types import Array, ArrayLike


def log_sigmoid(x: Array) -> Array:
    """Compute log(1 / (1 + e^-x)), not as the log of a quotient: e^-x overflows below -709.

    >>> log_sigmoid(np.array([-1000.0, 0.0, 50.0])).tolist()   # -x, ln 1/2, -e^-50
    [-1000.0, -0.6931471805599453, -1.9287498479639178e-22]
    """
    return -np.logaddexp(0.0, -x)


def sigmoid(x: Array) -> Array:
    """Compute 1 / (1 + e^-x), accurate in both tails.  1 - sigmoid(x) is sigmoid(-x), to every digit.

    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


def log1mexp(x: Array) -> Array:
    """Compute log(1 - e^x) for x <= 0: near 0 by expm1, far below by log1p, which lose digits elsewhere.

    >>> log1mexp(np.array([-50.0, -1e-20])).tolist()   # -e^-50, ln 1e-20
    [-1.928749847963918e-22, -46.051701859880914]
    """
    with np.errstate(divide="ignore"):  # ln 0, at 0 itself or in the form that is not taken
        return np.where(x > -1.0, np.log(-np.expm1(x)), np.log1p(-np.exp(x)))


def exp_minus_tangent(x: ArrayLike) -> Array:
    """Compute e^x - 1 - x, never negative; below 0.1 by its Taylor series, where the differences cancel.

    >>> float(exp_minus_tangent(1e-9))   # x^2 / 2; expm1(x) - x keeps half of these digits
    5.000000001666667e-19
    """
    x = np.asarray(x, dtype=float)
    series = np.ones_like(x)
    for n in range(11, 2, -1):  # the next term is below 1e-17 of the sum
        series = 1.0 + x / n * series
    with np.errstate(over="ignore"):  # above 709.78 the value is beyond float64: inf
        return np.where(np.abs(x) < 0.1, x * x / 2.0 * series, np.expm1(x) - x)
