"""Laws of the four functions whose obvious form overflows or loses digits."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_math import _stable


@given(x=st.floats(-700, 700))
def test_sigmoid_and_its_log_are_one_function_and_its_mirror(x):
    x = np.array([x])
    both = _stable.sigmoid(x), _stable.sigmoid(-x)
    np.testing.assert_allclose(sum(both), 1.0, rtol=1e-15)
    np.testing.assert_allclose(both[0], both[1] * np.exp(x), rtol=1e-13)  # x of 700 carries 700 eps
    # log s(x) - log s(-x) = x, and neither is positive
    logs = _stable.log_sigmoid(x), _stable.log_sigmoid(-x)
    np.testing.assert_allclose(logs[0] - logs[1], x, rtol=1e-15, atol=1e-15)
    np.testing.assert_allclose(np.exp(logs[0]), both[0], rtol=1e-13)
    assert max(logs) <= 0


def test_sigmoid_beyond_the_ends_of_float64():
    far = np.array([-1e300, 1e300])
    np.testing.assert_array_equal(_stable.sigmoid(far), [0.0, 1.0])
    np.testing.assert_array_equal(_stable.log_sigmoid(far), [-1e300, 0.0])


@pytest.mark.parametrize(
    "x", [1e-12, -1e-12, 1e-6, -1e-3, 0.05, 0.0999, -0.0999, 0.1001, 0.5, -3.0]
)
def test_exp_minus_tangent_keeps_its_digits_however_small_x_is(x):
    """Against the power series in exact fractions."""
    term, total = Fraction(1), Fraction(0)
    for n in range(1, 60):
        term = term * Fraction(x) / n
        total += term if n >= 2 else 0
    # above 0.1 the subtraction costs 20 roundings at most
    np.testing.assert_allclose(_stable.exp_minus_tangent(x), float(total), rtol=5e-15)


def test_exp_minus_tangent_at_zero_and_beyond_float64():
    got = _stable.exp_minus_tangent(np.array([0.0, 800.0, -800.0]))
    np.testing.assert_array_equal(got, [0.0, np.inf, 799.0])


@given(x=st.floats(-700, -1e-300))
def test_log1mexp_and_its_argument_are_two_probabilities_that_sum_to_one(x):
    y = float(_stable.log1mexp(np.array(x)))
    assert y <= 0
    np.testing.assert_allclose(np.exp(x) + np.exp(y), 1.0, rtol=1e-15)


def test_log1mexp_keeps_its_digits_at_both_ends():
    x = np.array([-1e-300, -1e-20, -1e-8, -np.log(2.0), -50.0, -700.0])
    # ln x - x / 2 near 0, -e^x far below
    expected = [np.log(1e-300), np.log(1e-20), np.log(1e-8) - 5e-9, -np.log(2.0)]
    expected += [-np.exp(-50.0), -np.exp(-700.0)]
    np.testing.assert_allclose(_stable.log1mexp(x), expected, rtol=1e-15)


def test_between_its_tails_the_sigmoid_is_the_textbooks():
    x = np.linspace(-3.0, 3.0, 25)
    np.testing.assert_allclose(_stable.sigmoid(x), 1.0 / (1.0 + np.exp(-x)), rtol=1e-15)
