"""reference_math.double_quant against bitsandbytes' nested quantisation: every bit."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
bnb = pytest.importorskip("bitsandbytes").functional

from reference_math import double_quant, nf4


def scales(kind, k):
    spread = np.random.default_rng(k).exponential(size=k).astype(np.float32)
    return {
        "spread": spread,
        "very uneven": spread**5,
        "all equal": np.full(k, 3.0, np.float32),
        "zeros": np.zeros(k, np.float32),
        "zeros but one": np.append(np.zeros(k - 1, np.float32), np.float32(1)),
        "tiny": spread * np.float32(1e-30),
        "huge": spread * np.float32(1e33),
    }[kind]


KINDS = ["spread", "very uneven", "all equal", "zeros", "zeros but one", "tiny", "huge"]


def test_the_256_values_are_theirs():
    theirs = bnb.create_dynamic_map().numpy()
    np.testing.assert_array_equal(theirs.view(np.uint32), double_quant.DYNAMIC_MAP.view(np.uint32))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 2, 255, 256, 257, 1000, 5000])
def test_the_cpu_rule_gives_their_bits(kind, k):
    absmax = scales(kind, k)
    theirs = torch.from_numpy(absmax)
    mean = theirs.mean()  # the order of torch's sum is its own, so its mean is handed over
    codes, state = bnb.quantize_blockwise(theirs - mean, blocksize=256)
    ours, group_scale, offset = double_quant.quantize(absmax, rule="cpu", offset=mean.item())
    np.testing.assert_array_equal(ours, codes.numpy())
    np.testing.assert_array_equal(group_scale, state.absmax.numpy())
    back = bnb.dequantize_blockwise(codes, state) + mean
    np.testing.assert_array_equal(double_quant.dequantize(ours, group_scale, offset), back.numpy())


@pytest.mark.parametrize("shape", [(64, 64), (40, 192), (300, 256)], ids=str)
def test_a_nested_weight_is_read_back_bit_for_bit(shape):
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    packed, state = bnb.quantize_4bit(
        torch.from_numpy(weight), blocksize=64, quant_type="nf4", compress_statistics=True
    )
    ours, absmax = nf4.quantize(weight, blocksize=64)
    codes, group_scale, offset = double_quant.quantize(
        absmax, rule="cpu", offset=state.offset.item()
    )
    np.testing.assert_array_equal(codes, state.absmax.numpy())
    np.testing.assert_array_equal(group_scale, state.state2.absmax.numpy())
    back = nf4.dequantize(
        ours, double_quant.dequantize(codes, group_scale, offset), shape, blocksize=64
    )
    np.testing.assert_array_equal(back, bnb.dequantize_4bit(packed, state).numpy())


@pytest.mark.parametrize("k", [3, 256, 5000])
def test_our_own_mean_is_theirs_up_to_a_few_last_bits(k):
    absmax = scales("spread", k)
    *_, offset = double_quant.quantize(absmax, rule="cpu")
    # torch adds in float32, pairwise: log2(5000) / 2 = 6 roundings at most, ours is rounded once
    np.testing.assert_allclose(offset, torch.from_numpy(absmax).mean(), rtol=6 * 2.0**-24)


def test_the_cpu_kernel_differs_from_the_nearest_value_in_about_one_code_of_700():
    absmax = scales("spread", 100_000)
    theirs = bnb.quantize_blockwise(torch.from_numpy(absmax - absmax.mean()), blocksize=256)[0]
    nearest, _, _ = double_quant.quantize(absmax, rule="nearest", offset=absmax.mean())
    assert 0.0005 < (theirs.numpy() != nearest).mean() < 0.003


@pytest.mark.library_defect
def test_bitsandbytes_mean_of_huge_scales_overflows_and_ours_does_not():
    absmax = np.full(300, 3e37, np.float32)  # the float32 sum is 9e39
    assert torch.from_numpy(absmax).mean().isinf()
    *_, offset = double_quant.quantize(absmax, rule="cpu")
    assert offset == np.float32(3e37)


@pytest.mark.library_defect
def test_bitsandbytes_puts_the_codes_of_a_subnormal_group_at_the_ends():
    rest = np.float32([1e-41, 2e-41, -4e-41])  # 1 / 4e-41 is beyond float32
    codes, _ = bnb.quantize_blockwise(torch.from_numpy(rest), blocksize=256)
    assert codes.tolist() == [255, 255, 0]
    ours, _, _ = double_quant.quantize(rest, rule="cpu", offset=0.0)
    assert ours[0] < ours[1] < 255 and ours[2] > 0
