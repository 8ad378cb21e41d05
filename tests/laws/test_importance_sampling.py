"""Laws of the correction for a separate sampler."""

import numpy as np
import pytest

from reference_math import importance_sampling

MASK = np.array([[1.0, 1, 1], [1, 1, 0], [0, 0, 0]])
RATIOS = np.array([[0.5, 1.0, 8.0], [0.5, 0.8, 9.0], [9.0, 9.0, 9.0]])  # of rows: 4, 0.4, 1
modes = pytest.mark.parametrize("mode", importance_sampling.MODES + importance_sampling.GEOMETRIC)
NONE = {"clip_min": None, "clip_max": None}


def two_samplers():
    old = -np.random.default_rng(0).exponential(size=MASK.shape)
    return old, old - np.log(RATIOS)


def ratio(mode, old=None, sampling=None, mask=MASK, **bounds):
    tokens = two_samplers() if old is None else (old, sampling)
    return importance_sampling.ratio(*tokens, mask, mode=mode, **NONE | bounds)


@modes
def test_a_sampler_that_agrees_has_ratio_1(mode):
    old, _ = two_samplers()
    np.testing.assert_array_equal(ratio(mode, old, old), 1.0)


@pytest.mark.parametrize("outside", ["truncate", "mask"])
def test_unbounded_the_sequence_ratio_is_the_product_of_the_token_ratios(outside):
    token, sequence = ratio(f"token_{outside}"), ratio(f"sequence_{outside}")
    assert sequence.shape == (3, 1)
    np.testing.assert_allclose(sequence[:, 0], token.prod(axis=1), rtol=1e-14)


def test_the_ratio_says_how_much_likelier_the_trainer_finds_the_token():
    expected = [[0.5, 1.0, 8.0], [0.5, 0.8, 1.0], [1.0, 1.0, 1.0]]
    np.testing.assert_allclose(ratio("token_truncate"), expected, rtol=1e-14)
    np.testing.assert_allclose(ratio("sequence_mask"), [[4.0], [0.4], [1.0]], rtol=1e-14)


@pytest.mark.parametrize(
    "mode, expected",
    [
        ("token_truncate", [[0.6, 1.0, 2.0], [0.6, 0.8, 1.0], [1.0, 1.0, 1.0]]),
        ("token_mask", [[0.0, 1.0, 0.0], [0.0, 0.8, 1.0], [1.0, 1.0, 1.0]]),
        ("sequence_truncate", [[2.0], [0.6], [1.0]]),
        ("sequence_mask", [[0.0], [0.0], [1.0]]),
        ("geometric_truncate", [[4 ** (1 / 3)], [0.4**0.5], [1.0]]),
        ("geometric_gate", [[0.5, 1.0, 8.0], [0.5, 0.8, 1.0], [1.0, 1.0, 1.0]]),
    ],
)
def test_truncating_moves_to_the_nearer_bound_and_masking_to_0(mode, expected):
    np.testing.assert_allclose(ratio(mode, clip_min=0.6, clip_max=2.0), expected, rtol=1e-14)


@pytest.mark.parametrize(
    "mode, expected",
    [
        ("geometric_truncate", [[1.2], [0.7], [1.0]]),
        ("geometric_mask", [[0.0], [0.0], [1.0]]),
        ("geometric_gate", [[0.0] * 3, [0.0, 0.0, 1.0], [1.0] * 3]),
    ],
)
def test_the_geometric_mean_is_what_the_bounds_are_held_to(mode, expected):
    """The rows' means are 1.587, 0.632 and 1."""
    np.testing.assert_allclose(ratio(mode, clip_min=0.7, clip_max=1.2), expected, rtol=1e-14)


def test_the_geometric_mean_does_not_grow_with_the_length_and_the_product_does():
    old, factor = np.zeros((1, 60)), np.log(1.1)
    for mode, expected in [("geometric_mask", 1.1), ("sequence_mask", 1.1**60)]:
        got = ratio(mode, old, old - factor, np.ones_like(old))
        np.testing.assert_allclose(got, [[expected]], rtol=1e-12)


@pytest.mark.parametrize("mode", importance_sampling.MODES + importance_sampling.GEOMETRIC[:2])
@pytest.mark.parametrize("bound", ["clip_min", "clip_max"])
def test_each_bound_works_alone_and_a_ratio_at_it_is_inside(mode, bound):
    free, got = ratio(mode), ratio(mode, **{bound: 1.0})
    beyond = free < 1.0 if bound == "clip_min" else free > 1.0
    assert beyond.any()
    outside = float(mode.endswith("truncate"))
    np.testing.assert_array_equal(got, np.where(beyond, outside, free))


@modes
def test_a_token_without_a_sampler_log_probability_has_ratio_1(mode):
    old, sampling = two_samplers()
    sampling[0, 1] = np.nan
    filled = np.where(np.isnan(sampling), old, sampling)
    np.testing.assert_array_equal(ratio(mode, old, sampling), ratio(mode, old, filled))


@modes
def test_what_stands_in_the_padding_is_never_read(mode):
    old, sampling = two_samplers()
    old[MASK == 0], sampling[MASK == 0] = np.nan, np.inf
    np.testing.assert_array_equal(ratio(mode, old, sampling), ratio(mode))


@pytest.mark.parametrize("outside", ["truncate", "mask"])
def test_padding_has_ratio_1_even_outside_the_bounds(outside):
    got = ratio(f"token_{outside}", clip_min=2.0, clip_max=3.0)
    np.testing.assert_array_equal(got[MASK == 0], 1.0)


@pytest.mark.parametrize("bound", ["clip_min", "clip_max"])
def test_a_geometric_mean_at_a_bound_opens_the_gate(bound):
    old, sampling = np.zeros((1, 2)), -np.log([[0.5, 2.0]])  # a geometric mean of 1
    for at, expected in [
        (1.0, [[0.5, 2.0]]),
        (1.0 + 1e-9 * (1 - 2 * (bound == "clip_max")), [[0, 0]]),
    ]:
        got = ratio("geometric_gate", old, sampling, np.ones((1, 2)), **{bound: at})
        np.testing.assert_allclose(got, expected, rtol=1e-14)


@modes
@pytest.mark.parametrize("gap", [-1e4, -700.0, 700.0, 1e4])
def test_nothing_overflows(mode, gap):
    old, _ = two_samplers()
    assert np.isfinite(ratio(mode, old, old - gap)).all()
    bounded = ratio(mode, old, old - gap, clip_max=3.0)
    assert bounded.max() <= 3.0


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"mode": "row_mask"}, "mode must be one of 'token_truncate', 'token_mask'"),
        ({"mask": 2 * MASK}, "completion_mask must hold only 0 and 1"),
        ({"mask": MASK[0]}, "completion_mask must have 2 axes"),
        ({"old": MASK * np.nan, "sampling": MASK}, "old_per_token_logps must be finite"),
        (
            {"old": MASK, "sampling": MASK + np.inf},
            "sampling_per_token_logps must be finite, got inf",
        ),
        ({"old": MASK, "sampling": MASK[:2]}, "sampling_per_token_logps must have shape"),
        ({"clip_min": np.nan}, "clip_min must be finite"),
        ({"clip_min": 2.0, "clip_max": 1.0}, "clip_max must be >= 2, got 1.0"),
    ],
)
def test_what_is_wrong_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        ratio(**{"mode": "token_mask"} | wrong)
