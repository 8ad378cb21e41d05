"""Laws of the overlong punishment."""

import numpy as np
import pytest

from reference_math import overlong

LENGTHS = np.arange(1, 140)


@pytest.mark.parametrize("cache", [0, 1, 20, 100])
def test_it_is_0_up_to_the_cache_minus_1_beyond_the_end_and_falls_between(cache):
    price = overlong.soft_punishment(LENGTHS, max_length=100, cache=cache)
    assert not price[LENGTHS <= 100 - cache].any()
    np.testing.assert_array_equal(price[LENGTHS > 100], -1.0)
    assert (np.diff(price) <= 0).all() and (price >= -1).all()


def test_between_the_two_ends_each_token_costs_the_same():
    price = overlong.soft_punishment(LENGTHS, max_length=100, cache=20)
    np.testing.assert_allclose(np.diff(price)[80:99], -1 / 20, rtol=1e-12)
    np.testing.assert_allclose(price[[79, 84, 89, 99]], [0.0, -0.25, -0.5, -1.0], rtol=1e-12)


def test_units_do_not_matter():
    one = overlong.soft_punishment(LENGTHS, max_length=100, cache=20)
    np.testing.assert_allclose(
        overlong.soft_punishment(7 * LENGTHS, max_length=700, cache=140), one
    )


def test_no_completions():
    assert overlong.soft_punishment(np.zeros(0), max_length=100, cache=20).shape == (0,)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"max_length": 0}, "max_length must be > 0"),
        ({"cache": -1}, "cache must be >= 0"),
        ({"cache": 101}, "cache must be .*<= 100"),
        ({"lengths": [[1.0]]}, "lengths"),
        ({"lengths": [np.nan]}, "lengths must be finite"),
    ],
)
def test_a_wrong_argument_is_named(wrong, message):
    right = {"lengths": LENGTHS, "max_length": 100, "cache": 20}
    with pytest.raises(ValueError, match=message):
        overlong.soft_punishment(**right | wrong)
