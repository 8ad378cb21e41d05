"""Laws of the filters: which tokens stay, by enumeration over a vocabulary of a few tokens."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from reference_math import logits_filters

# whole numbers of a third: ties are common, and probabilities are never within 1e-9 of a bound
LOGITS = st.integers(0, 2**32).map(
    lambda seed: np.random.default_rng(seed).integers(-9, 10, (2, 6)) / 3
)
FILTERS = [
    (logits_filters.top_k, 3),
    (logits_filters.top_p, 0.77),
    (logits_filters.min_p, 0.21),
    (logits_filters.temperature, 0.7),
]
each_filter = pytest.mark.parametrize(
    "step, value", FILTERS, ids=lambda f: getattr(f, "__name__", "")
)
fractions = st.integers(1, 999).map(lambda i: (i + 0.123456789) / 1000)


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


@each_filter
@given(logits=LOGITS, shift=st.integers(-5, 5))
def test_a_constant_added_to_the_logits_does_not_decide_who_stays(step, value, logits, shift):
    np.testing.assert_array_equal(
        np.isfinite(step(logits + shift, value)), np.isfinite(step(logits, value))
    )


@each_filter
@given(logits=LOGITS)
def test_rows_do_not_look_at_each_other(step, value, logits):
    both = step(logits, value)
    for row in (0, 1):
        np.testing.assert_array_equal(both[row : row + 1], step(logits[row : row + 1], value))


@each_filter
@given(order=st.permutations(range(6)), seed=st.integers(0, 99))
def test_the_names_of_the_tokens_do_not_matter(step, value, order, seed):
    logits = np.random.default_rng(seed).standard_normal((2, 6))
    np.testing.assert_array_equal(step(logits[:, order], value), step(logits, value)[:, order])


@each_filter
@given(logits=LOGITS, gone=st.integers(0, 5))
def test_a_removed_token_stays_removed_and_takes_no_part(step, value, logits, gone):
    removed = logits.copy()
    removed[:, gone] = -np.inf
    rest = [v for v in range(6) if v != gone]
    got = step(removed, value)
    assert (got[:, gone] == -np.inf).all()
    np.testing.assert_array_equal(got[:, rest], step(logits[:, rest], value))


@each_filter
def test_extreme_logits_are_no_trouble(step, value):
    with np.errstate(all="raise", under="ignore"):
        got = step(np.array([[1e4, -1e4, 1e4 - 0.1], [-1e4, -1e4, -1e4]]), value)
    assert np.isfinite(got).any(axis=1).all() and not np.isnan(got).any()


@each_filter
def test_what_stays_keeps_its_logit(step, value):
    logits = np.random.default_rng(0).standard_normal((4, 6))
    got, scale = step(logits, value), 1 / value if step is logits_filters.temperature else 1
    left = np.isfinite(got)
    np.testing.assert_allclose(got[left], (logits * scale)[left], rtol=1e-15)


@given(logits=LOGITS, tau=st.floats(0.1, 10))
def test_the_temperature_raises_the_odds_to_its_inverse(logits, tau):
    p, q = softmax(logits), softmax(logits_filters.temperature(logits, tau))
    np.testing.assert_allclose(
        np.log(q[:, :1] / q) * tau, np.log(p[:, :1] / p), rtol=1e-9, atol=1e-9
    )  # logs of probabilities down to e^-60, some near 0


@given(logits=LOGITS, k=st.integers(1, 9))
def test_top_k_keeps_exactly_those_with_fewer_than_k_above_them(logits, k):
    above = (logits[:, None, :] > logits[:, :, None]).sum(axis=2)
    np.testing.assert_array_equal(np.isfinite(logits_filters.top_k(logits, k)), above < k)


@given(seed=st.integers(0, 99), p=fractions)
def test_top_p_keeps_the_fewest_tokens_that_reach_p(seed, p):
    logits = 2 * np.random.default_rng(seed).standard_normal((1, 6))
    probs, kept = softmax(logits)[0], np.isfinite(logits_filters.top_p(logits, p))[0]
    assert probs[kept].sum() >= p
    for fewer in range(kept.sum()):  # every smaller set of tokens falls short
        assert all(probs[list(some)].sum() < p for some in combinations(range(6), fewer))


def test_top_p_keeps_the_likeliest_token_even_at_zero():
    kept = np.isfinite(logits_filters.top_p([[0.0, 2.0, 1.0], [5.0, 0.0, 0.0]], 0.0))
    np.testing.assert_array_equal(kept, [[False, True, False], [True, False, False]])


def test_top_p_of_exact_probabilities_meets_its_bound():
    quarter = np.zeros((1, 4))  # 1/4 each, and the sums are exact
    kept = [np.isfinite(logits_filters.top_p(quarter, p))[0] for p in (0.25, 0.5, 0.51, 0.75)]
    assert [k.sum() for k in kept] == [1, 2, 3, 3]
    assert [k.tolist() for k in kept[:2]] == [[False] * 3 + [True], [False] * 2 + [True] * 2]


def test_top_p_one_removes_nothing_not_even_a_probability_that_rounds_to_zero():
    logits = np.array([[0.0, -800.0]])
    np.testing.assert_array_equal(logits_filters.top_p(logits, 1.0), logits)


@given(logits=LOGITS, p=fractions)
def test_min_p_keeps_those_within_a_factor_of_the_likeliest(logits, p):
    probs = softmax(logits)
    np.testing.assert_array_equal(
        np.isfinite(logits_filters.min_p(logits, p)), probs >= p * probs.max(axis=1, keepdims=True)
    )


def test_min_p_at_its_ends():
    logits = np.array([[1.0, 1.0, 0.0]])
    np.testing.assert_array_equal(logits_filters.min_p(logits, 0.0), logits)
    np.testing.assert_array_equal(logits_filters.min_p(logits, 1.0), [[1.0, 1.0, -np.inf]])


@given(
    logits=LOGITS,
    ids=arrays(np.int64, st.tuples(st.just(2), st.integers(0, 5)), elements=st.integers(0, 5)),
    penalty=st.floats(1.01, 3),
)
def test_the_penalty_makes_what_was_seen_less_likely_and_touches_nothing_else(logits, ids, penalty):
    got = logits_filters.repetition_penalty(logits, ids, penalty)
    for row in (0, 1):
        for token in range(6):
            before, after = logits[row, token], got[row, token]
            if token not in ids[row] or before == 0:
                assert after == before
            else:  # by the same factor on either side of 0
                factor = after / before if before < 0 else before / after
                np.testing.assert_allclose(factor, penalty, rtol=1e-12)


def test_a_penalty_counts_once_and_one_is_no_penalty():
    logits = np.array([[2.0, -1.0, 3.0]])
    once, often = ([[0, 1]], [[0, 0, 0, 1, 1]])
    np.testing.assert_array_equal(
        logits_filters.repetition_penalty(logits, once, 1.5),
        logits_filters.repetition_penalty(logits, often, 1.5),
    )
    np.testing.assert_array_equal(logits_filters.repetition_penalty(logits, once, 1.0), logits)
    assert not np.shares_memory(logits_filters.repetition_penalty(logits, once, 1.5), logits)


@pytest.mark.parametrize(
    "step, name, bad",
    [
        (logits_filters.temperature, "temperature must be > 0", 0.0),
        (logits_filters.top_k, "top_k must be >= 1", 0),
        (logits_filters.top_k, "top_k must be an integer", 1.5),
        (logits_filters.top_p, "top_p must be >= 0", -0.1),
        (logits_filters.top_p, "top_p must be <= 1", 1.1),
        (logits_filters.min_p, "min_p must be >= 0", -0.1),
        (logits_filters.min_p, "min_p must be <= 1", 1.1),
    ],
)
def test_a_setting_out_of_range_is_named(step, name, bad):
    with pytest.raises(ValueError, match=name):
        step([[0.0, 1.0]], bad)


@each_filter
def test_logits_that_are_no_distribution_are_refused(step, value):
    with pytest.raises(ValueError, match="logits must have 2 axes"):
        step([0.0, 1.0], value)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="logits must be finite or -inf"):
            step([[0.0, bad]], value)
    with pytest.raises(ValueError, match="logits must leave a token in each row"):
        step([[0.0, 1.0], [-np.inf, -np.inf]], value)


def test_the_penalty_checks_its_arguments():
    with pytest.raises(ValueError, match="repetition_penalty must be > 0"):
        logits_filters.repetition_penalty([[0.0, 1.0]], [[0]], 0.0)
    with pytest.raises(ValueError, match="input_ids must lie in 0..1"):
        logits_filters.repetition_penalty([[0.0, 1.0]], [[2]], 1.5)
    with pytest.raises(ValueError, match=r"input_ids must have shape \(1, any\)"):
        logits_filters.repetition_penalty([[0.0, 1.0]], [[0], [1]], 1.5)
    with pytest.raises(ValueError, match="logits must be finite"):
        logits_filters.repetition_penalty([[0.0, np.nan]], [[0]], 1.5)


def test_a_logit_just_above_0_is_divided_and_one_just_below_multiplied():
    got = logits_filters.repetition_penalty(np.array([[0.5, -0.5]]), [[0, 1]], 2.0)
    np.testing.assert_array_equal(got, [[0.25, -1.0]])
