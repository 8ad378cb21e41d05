"""Laws of NF4: the codebook from its definition, the rounding, the packing, the error bound."""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from reference_math import nf4


def a_weight(seed):
    """Up to 300 values of any size from 1e-9 to 1e3; some of them equal, some zero."""
    rng = np.random.default_rng(seed)
    n = rng.integers(1, 301)
    weight = rng.integers(-9, 10, n) / 9 if seed % 2 else rng.standard_normal(n)
    return (weight * 10.0 ** rng.integers(-9, 3)).astype(np.float32)


WEIGHTS = st.integers(0, 2**32).map(a_weight)  # what is below 1e-38 has a law of its own
FULL = np.float32(1)  # puts a block's scale at 1, so that its values are their own quotients


def block_with(values):
    """A full block of 64 that holds 1, the values, and zeros."""
    return np.concatenate([[FULL], np.float32(values), np.zeros(63 - len(values), np.float32)])


def indices_of(weight, blocksize=64):
    packed, _ = nf4.quantize(weight, blocksize=blocksize)
    return nf4.unpack(packed, np.size(weight))


def test_the_codebook_is_made_of_quantiles_of_a_normal():
    # the paper's construction: 8 even steps in probability below the median, 7 above, and 0;
    # 0.9677083 is the outermost probability that its code uses
    quantile = NormalDist().inv_cdf
    below = [quantile(p) for p in np.linspace(1 - 0.9677083, 0.5, 8)[:-1]]
    above = [quantile(p) for p in np.linspace(0.9677083, 0.5, 9)[:-1]]
    values = np.sort([*below, 0.0, *above])
    # the published digits were computed in float32 from a float32 linspace
    np.testing.assert_allclose(nf4.CODEBOOK, values / values.max(), rtol=2e-6)


def test_the_codebook_holds_the_ends_and_zero_exactly_and_ascends():
    assert nf4.CODEBOOK.dtype == np.float32 and nf4.CODEBOOK.shape == (16,)
    assert nf4.CODEBOOK[[0, 7, 15]].tolist() == [-1.0, 0.0, 1.0]
    assert (np.diff(nf4.CODEBOOK) > 0).all()


def test_each_value_of_the_codebook_is_its_own_nearest():
    np.testing.assert_array_equal(indices_of(block_with(nf4.CODEBOOK))[1:17], np.arange(16))


def test_each_value_goes_to_the_nearest_of_the_codebook():
    values = np.linspace(-1, 1, 4001, dtype=np.float32)  # none of them is a midpoint
    for part in np.array_split(values, 80):
        got = indices_of(block_with(part))[1 : 1 + len(part)]
        distance = np.abs(np.float64(part)[:, None] - np.float64(nf4.CODEBOOK))
        np.testing.assert_array_equal(got, distance.argmin(axis=1))


def test_a_tie_goes_to_the_lower_value_and_one_step_more_to_the_upper():
    midpoints = ((nf4.CODEBOOK[:-1] + nf4.CODEBOOK[1:]) / 2).astype(np.float32)
    np.testing.assert_array_equal(indices_of(block_with(midpoints))[1:16], np.arange(15))
    more = np.nextafter(midpoints, np.float32(2))
    np.testing.assert_array_equal(indices_of(block_with(more))[1:16], np.arange(1, 16))


@given(weight=WEIGHTS, blocksize=st.sampled_from([32, 64, 128]))
def test_the_error_is_at_most_half_the_widest_gap_of_the_codebook(weight, blocksize):
    packed, absmax = nf4.quantize(weight, blocksize=blocksize)
    back = nf4.dequantize(packed, absmax, weight.shape, blocksize=blocksize)
    half_gap = np.diff(nf4.CODEBOOK).max() / 2
    scale = np.repeat(absmax, blocksize)[: weight.size]
    # 1e-6: float32 rounds the quotient, the product and the midpoints
    assert (np.abs(back - weight) <= scale * half_gap * (1 + 1e-6)).all()


@given(weight=WEIGHTS, blocksize=st.sampled_from([32, 64]))
def test_each_scale_is_the_largest_magnitude_of_its_block(weight, blocksize):
    _, absmax = nf4.quantize(weight, blocksize=blocksize)
    blocks = [weight[i : i + blocksize] for i in range(0, weight.size, blocksize)]
    floor = np.float32(1e-38) if weight.size % blocksize else 0  # stored in a short block only
    expected = [max(np.abs(b).max(), floor if b is blocks[-1] else 0) for b in blocks]
    np.testing.assert_array_equal(absmax, np.float32(expected))
    assert absmax.dtype == np.float32


@given(weight=WEIGHTS, blocksize=st.sampled_from([32, 64]))
def test_the_largest_magnitude_of_a_block_survives_exactly(weight, blocksize):
    packed, absmax = nf4.quantize(weight, blocksize=blocksize)
    back = nf4.dequantize(packed, absmax, weight.shape, blocksize=blocksize)
    for i, scale in enumerate(absmax):
        block = slice(i * blocksize, (i + 1) * blocksize)
        if scale > 1e-37:  # not the floor that stands in for a short block of zeros
            largest = np.abs(weight[block]).argmax()
            assert back[block][largest] == weight[block][largest]


@given(weight=WEIGHTS)
def test_quantising_again_changes_nothing(weight):
    packed, absmax = nf4.quantize(weight, blocksize=64)
    back = nf4.dequantize(packed, absmax, weight.shape, blocksize=64)
    again, absmax_again = nf4.quantize(back, blocksize=64)
    np.testing.assert_array_equal(again, packed)
    np.testing.assert_array_equal(absmax_again, absmax)


@given(weight=WEIGHTS, power=st.integers(-20, 20))
def test_a_power_of_two_scales_the_scales_and_leaves_the_indices(weight, power):
    packed, absmax = nf4.quantize(weight[: weight.size // 64 * 64], blocksize=64)
    scaled = weight[: weight.size // 64 * 64] * np.float32(2.0**power)
    packed_scaled, absmax_scaled = nf4.quantize(scaled, blocksize=64)
    np.testing.assert_array_equal(packed_scaled, packed)
    np.testing.assert_array_equal(absmax_scaled, absmax * np.float32(2.0**power))


def test_blocks_do_not_look_at_each_other():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(192).astype(np.float32)
    louder = weight.copy()
    louder[64:128] *= 100
    np.testing.assert_array_equal(indices_of(louder)[:64], indices_of(weight)[:64])
    np.testing.assert_array_equal(indices_of(louder)[128:], indices_of(weight)[128:])


def test_a_matrix_is_read_row_by_row():
    weight = np.random.default_rng(0).standard_normal((6, 50)).astype(np.float32)
    packed, absmax = nf4.quantize(weight, blocksize=64)
    flat_packed, flat_absmax = nf4.quantize(weight.ravel(), blocksize=64)
    np.testing.assert_array_equal(packed, flat_packed)
    back = nf4.dequantize(packed, absmax, (6, 50), blocksize=64)
    flat = nf4.dequantize(flat_packed, flat_absmax, (300,), blocksize=64)
    np.testing.assert_array_equal(back, flat.reshape(6, 50))
    assert back.dtype == np.float32


@pytest.mark.parametrize("n", [1, 64, 65, 128])
def test_zeros_stay_zeros(n):
    packed, absmax = nf4.quantize(np.zeros(n), blocksize=64)
    assert set(packed) == {0x77}
    np.testing.assert_array_equal(nf4.dequantize(packed, absmax, (n,), blocksize=64), np.zeros(n))
    np.testing.assert_array_equal(absmax, [0.0] * (n // 64) + [np.float32(1e-38)] * (n % 64 > 0))


def test_a_scale_below_the_floor_loses_its_block():
    # bitsandbytes' floor of 1e-38 keeps 1 / scale finite: 1e-40 * 1e38 = 0.01 is nearest to 0
    packed, absmax = nf4.quantize(np.full(64, 1e-40), blocksize=64)
    assert set(packed) == {0x77} and absmax[0] == np.float32(1e-40)
    packed, absmax = nf4.quantize(np.full(64, 2e-38), blocksize=64)
    assert set(packed) == {0xFF} and absmax[0] == np.float32(2e-38)


def test_nothing_overflows_at_the_ends_of_float32():
    for size in (3e38, 1e-44):
        weight = np.float32([1, -0.5, 0.25] * 40) * np.float32(size)
        with np.errstate(all="raise", under="ignore"):
            packed, absmax = nf4.quantize(weight, blocksize=64)
        assert np.isfinite(absmax).all()
        back = nf4.dequantize(packed, absmax, weight.shape, blocksize=64)
        assert (np.abs(back - weight) <= np.float32(size)).all()


def test_full_blocks_multiply_by_the_reciprocal_and_the_short_one_divides():
    # 0x1.8p+1 * rounded(1/3) is below 1: only the true quotient of equals is always 1. A scale
    # whose float32 reciprocal is inexact tells the two apart in the last bit of some value.
    rng = np.random.default_rng(0)
    block = rng.uniform(-3, 3, 64).astype(np.float32)
    block[0] = 3
    full, _ = nf4.normalize(block, 64)
    short, _ = nf4.normalize(block[:63], 64)
    reciprocal = np.float64(np.float32(1) / np.float32(3))
    np.testing.assert_array_equal(full, (block * reciprocal).astype(np.float32))
    np.testing.assert_array_equal(short, (np.float64(block[:63]) / 3).astype(np.float32))
    assert (full[:63] != short).any()


@given(weight=WEIGHTS, blocksize=st.sampled_from([32, 64]))
def test_no_quotient_leaves_the_interval(weight, blocksize):
    unit, _ = nf4.normalize(weight, blocksize)
    assert unit.shape == weight.shape and (np.abs(unit) <= 1).all()


@given(indices=arrays(np.uint8, st.integers(0, 9), elements=st.integers(0, 15)))
def test_unpack_undoes_pack(indices):
    packed = nf4.pack(indices)
    assert packed.dtype == np.uint8 and packed.size == (indices.size + 1) // 2
    np.testing.assert_array_equal(nf4.unpack(packed, indices.size), indices)


def test_the_first_of_two_sits_in_the_high_half_and_the_odd_end_is_filled_with_the_zero_value():
    np.testing.assert_array_equal(nf4.pack([0xA, 0x3, 0xF]), [0xA3, 0xF7])
    np.testing.assert_array_equal(nf4.pack([0, 15]), [0x0F])


@pytest.mark.parametrize("blocksize", nf4.BLOCKSIZES)
def test_every_block_size_counts_its_scales(blocksize):
    packed, absmax = nf4.quantize(np.ones(2 * blocksize + 1), blocksize=blocksize)
    assert absmax.shape == (3,) and packed.shape == (blocksize + 1,)
    back = nf4.dequantize(packed, absmax, (2 * blocksize + 1,), blocksize=blocksize)
    np.testing.assert_array_equal(back, 1)


def test_the_block_sizes_are_those_that_the_kernels_have():
    assert nf4.BLOCKSIZES == tuple(2**i for i in range(5, 13))


def test_a_wrong_argument_is_named():
    with pytest.raises(ValueError, match="blocksize must be one of 32, 64"):
        nf4.quantize(np.ones(4), blocksize=16)
    with pytest.raises(ValueError, match="blocksize must be one of 32, 64"):
        nf4.dequantize(np.zeros(2), np.ones(1), (4,), blocksize=48)
    for bad in (np.nan, np.inf, 1e39):  # 1e39 is finite, but not in float32
        with pytest.raises(ValueError, match="weight must be finite"):
            nf4.quantize([1.0, bad], blocksize=64)
    with pytest.raises(ValueError, match=r"packed must have shape \(2,?\), got \(3,\)"):
        nf4.dequantize(np.zeros(3, np.uint8), np.ones(1), (4,), blocksize=64)
    with pytest.raises(ValueError, match=r"absmax must have shape \(1,?\), got \(2,\)"):
        nf4.dequantize(np.zeros(2, np.uint8), np.ones(2), (4,), blocksize=64)
    for bad in ([3, 16], [-1, 3]):
        with pytest.raises(ValueError, match="indices must lie in 0..15"):
            nf4.pack(bad)
    with pytest.raises(ValueError, match="indices must have 1 axes"):
        nf4.pack([[1]])
