"""Every public function opens with these checks: what they let through, and what they say."""

import numpy as np
import pytest

from reference_math import _checks


def refused(f, *args, **kwargs):
    with pytest.raises(ValueError) as error:
        f(*args, **kwargs)
    return str(error.value)


def test_an_array_of_the_right_shape_comes_back_as_float64():
    for kwargs in ({}, {"ndim": 2}, {"shape": (1, 2)}, {"shape": (None, 2)}, {"shape": (1, None)}):
        x = _checks.array("x", [[1, 2]], **kwargs)
        assert x.dtype == np.float64 and x.tolist() == [[1.0, 2.0]]
    assert _checks.array("x", np.float32(1), dtype=None).dtype == np.float32
    assert np.isnan(_checks.array("x", [None, np.nan])).all()


def test_a_wrong_shape_is_named_with_what_was_expected():
    say = refused(_checks.array, "x", [[1, 2]], shape=(None, 3))
    assert say == "x must have shape (any, 3), got (1, 2)"
    assert "got (1, 2)" in refused(_checks.array, "x", [[1, 2]], shape=(2, None))
    assert "got (1, 2)" in refused(_checks.array, "x", [[1, 2]], shape=(1, 2, 1))
    assert refused(_checks.array, "x", [1], ndim=2) == "x must have 2 axes, got shape (1,)"
    assert "x must be a rectangular array" in refused(_checks.array, "x", [[1], [1, 2]])
    assert "x must be a rectangular array" in refused(_checks.array, "x", "abc")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_infinite_or_missing_number_is_found(bad):
    x = np.zeros((2, 3))
    x[1, 2] = bad
    say = refused(_checks.finite, "x", x)
    assert say == f"x must be finite, got {bad} at index (1, 2) of shape (2, 3)"
    x[1, 0] = bad  # of several, the first
    assert "at index (1, 0) of shape (2, 3)" in refused(_checks.finite, "x", x)
    assert "must have shape" in refused(_checks.finite, "x", np.zeros(2), shape=(3,))
    assert "must have 1 axes" in refused(_checks.finite, "x", np.zeros((2, 2)), ndim=1)
    np.testing.assert_array_equal(_checks.finite("x", [1, 2], ndim=1), [1.0, 2.0])


def test_a_mask_is_only_zeros_and_ones():
    np.testing.assert_array_equal(_checks.mask01("m", [[True, False]]), [[1.0, 0.0]])
    for bad in (2, -1, 0.5, np.nan):
        say = refused(_checks.mask01, "m", [[1.0, bad, 0.0]])
        assert (
            say
            == f"m must hold only 0 and 1 (1 = counts), got a value {float(bad)} in shape (1, 3)"
        )
    assert "must have shape" in refused(_checks.mask01, "m", [1], shape=(2,))
    assert "must have 2 axes" in refused(_checks.mask01, "m", [1], ndim=2)


def test_what_the_mask_hides_is_not_looked_at():
    mask = np.array([[1.0, 0.0]])
    np.testing.assert_array_equal(_checks.counted("x", [[3.0, np.nan]], mask), [[3.0, 0.0]])
    assert "x must be finite, got nan" in refused(_checks.counted, "x", [[np.nan, 3.0]], mask)
    assert "x must have shape (1, 2)" in refused(_checks.counted, "x", [[1.0]], mask)


def test_token_ids_lie_in_the_vocabulary():
    ids = _checks.token_ids("y", np.array([0, 4], dtype=np.uint8), vocab_size=5)
    assert ids.dtype == np.int64 and ids.tolist() == [0, 4]
    assert _checks.token_ids("y", np.zeros((0, 2)), vocab_size=5).shape == (0, 2)
    assert "got -1..0" in refused(_checks.token_ids, "y", [-1, 0], vocab_size=5)
    assert "got 0..5" in refused(_checks.token_ids, "y", [0, 5], vocab_size=5)
    assert "integers, got dtype float64" in refused(_checks.token_ids, "y", [0.0], vocab_size=5)
    assert "must have shape" in refused(_checks.token_ids, "y", [0], vocab_size=5, shape=(2,))
    assert "must have 2 axes" in refused(_checks.token_ids, "y", [0], vocab_size=5, ndim=2)


def test_arrays_that_belong_together_have_one_shape():
    _checks.same_shape(a=[1, 2], b=[3, 4], c=np.zeros(2))
    say = refused(_checks.same_shape, a=[1, 2], b=[3, 4], c=np.zeros(3))
    assert say == "c must have the shape of a (2,), got (3,)"


def test_a_number_respects_its_bounds():
    assert _checks.number("x", 1) == 1.0 and isinstance(_checks.number("x", np.int64(1)), float)
    assert _checks.number("x", 1, above=0, at_least=1, below=2, at_most=1) == 1.0
    for bounds, said in [
        ({"above": 1}, "x must be > 1, got 1.0"),
        ({"at_least": 2}, "x must be >= 2, got 1.0"),
        ({"below": 1}, "x must be < 1, got 1.0"),
        ({"at_most": 0.5}, "x must be <= 0.5, got 1.0"),
    ]:
        assert refused(_checks.number, "x", 1, **bounds) == said
    assert "must be finite" in refused(_checks.number, "x", np.inf)
    assert "must have 0 axes" in refused(_checks.number, "x", [1.0])


def test_a_choice_is_one_of_those_named():
    assert _checks.one_of("reduction", "mean", ("mean", "sum")) == "mean"
    assert "one of 'mean', 'sum', got 'avg'" in refused(_checks.one_of, "r", "avg", ("mean", "sum"))


def test_rows_split_into_whole_groups():
    assert _checks.groups("rewards", 6, 3.0) == 3
    assert _checks.groups("rewards", 6, 1) == 1
    assert "a multiple of num_generations=4 rows, got 6" in refused(_checks.groups, "rewards", 6, 4)
    for bad in (0, -2, 1.5):
        assert "num_generations must be an integer >= 1" in refused(_checks.groups, "r", 6, bad)


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_a_missing_number_passes_and_an_infinite_one_does_not(bad):
    x = np.array([[1.0, np.nan], [bad, bad]])
    say = refused(_checks.maybe_missing, "x", x)
    assert say == f"x must be finite, got {bad} at index (1, 0) of shape (2, 2)"
    np.testing.assert_array_equal(_checks.maybe_missing("x", [None, 2.0]), [np.nan, 2.0])
    assert "must have shape (3,)" in refused(_checks.maybe_missing, "x", np.zeros(2), shape=(3,))
    assert "must have 1 axes" in refused(_checks.maybe_missing, "x", np.zeros((2, 2)), ndim=1)
