"""Laws of double quantisation: the 256 values, the rounding, and what is left of the scales."""

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_math import double_quant


def some_scales(seed):
    """Up to 600 scales as different as e^-9 and e^9, or nearly equal."""
    rng = np.random.default_rng(seed)
    return np.exp(rng.standard_normal(rng.integers(1, 601)) * 3 ** (seed % 2)).astype(np.float32)


SCALES = st.integers(0, 2**32).map(some_scales)
CHECKSUM = 0x1B137AEB
RULES = pytest.mark.parametrize("rule", ["nearest", "cpu"])


def test_the_map_has_two_to_the_i_values_in_each_decade_and_both_signs():
    values = double_quant.dynamic_map()
    assert values.shape == (256,) and values.dtype == np.float32
    assert (np.diff(values) > 0).all()
    for i in range(7):
        decade = (values > 10.0 ** (i - 7)) & (values < 10.0 ** (i - 6))
        assert decade.sum() == 2**i
        assert np.isin(-values[decade], values).all()
        # midpoints of equal parts of [0.1, 1]: evenly spaced, the mean is the middle; float32
        np.testing.assert_allclose(values[decade].mean(), 0.55 * 10.0 ** (i - 6), rtol=1e-6)
        if i:
            np.testing.assert_allclose(
                np.diff(values[decade]), 0.9 * 10.0 ** (i - 6) / 2**i, rtol=1e-4
            )
    assert values[127] == 0 and values[255] == 1
    np.testing.assert_allclose(values[0], -0.99296875, rtol=1e-7)


def test_the_bits_of_the_map_are_those_of_the_stored_format():
    # a file holds codes, so the last bit of each value is part of the format: the checksum of
    # bitsandbytes' create_dynamic_map(); tests/parity compares the values themselves
    assert zlib.crc32(double_quant.dynamic_map().astype("<f4").tobytes()) == CHECKSUM


def test_nearest_is_nearest():
    unit = np.linspace(-1, 1, 20001, dtype=np.float32)
    values = np.float64(double_quant.dynamic_map())
    distance = np.abs(np.float64(unit)[:, None] - values)
    got = double_quant.nearest(unit)
    assert got.dtype == np.uint8
    chosen = np.take_along_axis(distance, got[:, None].astype(int), 1)[:, 0]
    # 2^-23: a midpoint is rounded to float32, so values that close to it may go to either side
    assert (chosen <= distance.min(axis=1) + 2.0**-23).all()
    np.testing.assert_array_equal(double_quant.nearest(np.float32(values)), np.arange(256))


def test_a_tie_takes_the_lower_code():
    values = double_quant.dynamic_map()
    midpoints = (values[:-1] + values[1:]) / 2
    np.testing.assert_array_equal(double_quant.nearest(midpoints), np.arange(255))


def test_the_cpu_rule_is_nearest_up_to_its_grid():
    unit = np.linspace(-1, 1, 20001, dtype=np.float32)
    values = double_quant.dynamic_map()
    lost = np.abs(values[double_quant.cpu(unit)] - unit)
    best = np.abs(values[double_quant.nearest(unit)] - unit)
    assert (lost - best).max() < 2 / 65535  # two half-steps of the grid
    differ = (double_quant.cpu(unit) != double_quant.nearest(unit)).mean()
    assert 0 < differ < 0.01
    assert double_quant.cpu(np.float32([-1, 1])).tolist() == [0, 255]


def test_the_cpu_rule_rounds_to_the_closest_grid_point():
    grid = np.arange(65536) / 32767.5 - 1
    # a quarter step to either side of a grid point is still that point; all 65536 of them
    for aside in (-0.25, 0.25):
        unit = np.clip(grid + aside / 32767.5, -1, 1).astype(np.float32)
        got = double_quant.cpu(unit)
        np.testing.assert_array_equal(got, double_quant.nearest(grid.astype(np.float32)))


@RULES
@given(absmax=SCALES)
def test_the_error_is_at_most_half_a_gap_of_the_map(rule, absmax):
    codes, group_scale, offset = double_quant.quantize(absmax, rule=rule)
    back = double_quant.dequantize(codes, group_scale, offset)
    scale = np.repeat(group_scale, 256)[: absmax.size]
    half_gap = np.diff(double_quant.dynamic_map()).max() / 2
    # float32 rounds sums as large as offset + scale; the cpu rule adds its grid's half step
    slack = 4e-7 * (offset + scale) + 2e-5 * scale
    assert (np.abs(back - absmax) <= scale * half_gap + slack).all()
    assert codes.dtype == np.uint8 and back.dtype == np.float32
    assert group_scale.dtype == np.float32 and offset.dtype == np.float32


@RULES
@given(absmax=SCALES)
def test_the_group_scale_is_the_largest_distance_from_the_offset(rule, absmax):
    _, group_scale, offset = double_quant.quantize(absmax, rule=rule)
    assert group_scale.size == -(-absmax.size // 256)
    for i, scale in enumerate(group_scale):
        assert scale == np.abs(absmax[256 * i : 256 * (i + 1)] - offset).max()


def test_groups_of_256_have_a_scale_of_their_own():
    absmax = np.concatenate([np.full(256, 1.0), np.full(256, 2.0), np.full(88, 9.0)])
    _, group_scale, offset = double_quant.quantize(absmax, rule="nearest", offset=1.5)
    assert offset == 1.5
    np.testing.assert_array_equal(group_scale, [0.5, 0.5, 7.5])


def test_the_offset_is_the_mean_rounded_once():
    absmax = np.float32([2**24, 1, 1, 1, 1])  # a float32 running sum would stay at 2^24
    *_, offset = double_quant.quantize(absmax, rule="nearest")
    assert offset == np.float32((2**24 + 4) / 5)


def test_a_given_offset_is_taken_away_and_put_back():
    absmax = np.float32([4.0, 6.0])
    codes, group_scale, offset = double_quant.quantize(absmax, rule="nearest", offset=5.0)
    np.testing.assert_array_equal(codes, [0, 255])
    back = double_quant.dequantize(codes, group_scale, offset)
    np.testing.assert_allclose(back, [5 - 0.99296875, 6.0], rtol=1e-7)


@pytest.mark.parametrize("rule, code", [("nearest", 127), ("cpu", 0)])
def test_equal_scales_come_back_exactly(rule, code):
    codes, group_scale, offset = double_quant.quantize(np.full(300, 3.25), rule=rule)
    assert set(codes) == {code} and not group_scale.any()
    np.testing.assert_array_equal(double_quant.dequantize(codes, group_scale, offset), 3.25)


@RULES
def test_one_flat_group_does_not_disturb_the_next(rule):
    absmax = np.concatenate([np.full(256, 2.0), [1.0, 3.0]])
    codes, group_scale, _ = double_quant.quantize(absmax, rule=rule, offset=2.0)
    np.testing.assert_array_equal(group_scale, [0.0, 1.0])
    assert codes[256:].tolist() == [0, 255] and len(set(codes[:256])) == 1


@RULES
def test_nothing_overflows_at_the_ends_of_float32(rule):
    for size in (1e-44, 1e-30, 1e38):
        absmax = np.float32([1.0, 2.0, 3.0]) * np.float32(size)
        with np.errstate(all="raise", under="ignore"):
            codes, group_scale, offset = double_quant.quantize(absmax, rule=rule)
            back = double_quant.dequantize(codes, group_scale, offset)
        assert (np.abs(back - absmax) <= np.float32(size)).all()


def test_a_wrong_argument_is_named():
    with pytest.raises(ValueError, match="rule must be one of 'nearest', 'cpu'"):
        double_quant.quantize([1.0], rule="gpu")
    with pytest.raises(ValueError, match="absmax must hold at least one"):
        double_quant.quantize([], rule="cpu")
    for bad in (np.nan, 1e39):
        with pytest.raises(ValueError, match="absmax must be finite"):
            double_quant.quantize([bad], rule="cpu")
    with pytest.raises(ValueError, match="absmax must have 1 axes"):
        double_quant.quantize([[1.0]], rule="cpu")
    with pytest.raises(ValueError, match="offset must be finite"):
        double_quant.quantize([1.0], rule="cpu", offset=np.inf)
    with pytest.raises(ValueError, match=r"group_scale must have shape \(2,?\), got \(1,\)"):
        double_quant.dequantize(np.zeros(257, int), [1.0], 0.0)
    with pytest.raises(ValueError, match="codes must lie in 0..255"):
        double_quant.dequantize([256], [1.0], 0.0)
    with pytest.raises(ValueError, match="codes must have 1 axes"):
        double_quant.dequantize([[1]], [1.0], 0.0)
    with pytest.raises(ValueError, match="offset must be finite"):
        double_quant.dequantize([1], [1.0], np.nan)
