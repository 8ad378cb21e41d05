"""reference_math.nf4 against bitsandbytes' CPU kernels and the torch twin: every bit.

bitsandbytes' dequantisation has a defect on processors with AVX-512 (the last tests), so the
comparisons hand it 1-D weights, or matrices whose width is a multiple of the block.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import nf4
from reference_math.torch import nf4 as twin

SIZES = [1, 2, 3, 31, 32, 63, 64, 65, 127, 128, 129, 1000, 4095, 4096, 4097]


def weights(kind, n):
    rng = np.random.default_rng(n)
    normal = rng.standard_normal(n).astype(np.float32)
    return {
        "normal": normal,
        "zeros": np.zeros(n, np.float32),
        "subnormal": normal * np.float32(1e-41),
        "at the floor": normal * np.float32(1e-38),
        "huge": normal * np.float32(5e37),
        "ties": np.append(np.float32(1), rng.choice(nf4.MIDPOINTS, n - 1)),
        "codebook": rng.choice(nf4.CODEBOOK, n),
        "quarters": np.round(normal * 4) / np.float32(4),
        "one outlier": np.append(np.float32(1e4), normal[1:]),
    }[kind]


KINDS = ["normal", "zeros", "subnormal", "at the floor", "huge", "ties", "codebook", "quarters"]
KINDS += ["one outlier"]


def bits(x):
    return np.asarray(x).view(np.uint32)


@pytest.fixture
def bnb():
    """bitsandbytes.functional; torch.compile off, which compiles anew for each odd size."""
    functional = pytest.importorskip("bitsandbytes").functional
    with torch.compiler.set_stance("force_eager"):
        yield functional


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("blocksize", nf4.BLOCKSIZES)
def test_bitsandbytes_stores_and_reads_the_same_bits(bnb, kind, blocksize):
    for n in SIZES:
        weight = weights(kind, n)
        theirs, state = bnb.quantize_4bit(
            torch.from_numpy(weight), blocksize=blocksize, quant_type="nf4"
        )
        packed, absmax = nf4.quantize(weight, blocksize=blocksize)
        np.testing.assert_array_equal(packed, theirs.numpy().ravel(), err_msg=f"n = {n}")
        np.testing.assert_array_equal(bits(absmax), bits(state.absmax), err_msg=f"n = {n}")
        back = bnb.dequantize_4bit(theirs, state).numpy().ravel()
        ours = nf4.dequantize(packed, absmax, (n,), blocksize=blocksize)
        np.testing.assert_array_equal(bits(ours), bits(back), err_msg=f"n = {n}")


@pytest.mark.parametrize("shape", [(5,), (1, 7), (7, 1), (3, 3, 3), (6, 64), (2, 3, 128)], ids=str)
def test_any_shape_is_read_row_by_row(bnb, shape):
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    theirs, state = bnb.quantize_4bit(torch.from_numpy(weight), blocksize=64, quant_type="nf4")
    packed, absmax = nf4.quantize(weight, blocksize=64)
    np.testing.assert_array_equal(packed, theirs.numpy().ravel())
    ours = nf4.dequantize(packed, absmax, shape, blocksize=64)
    np.testing.assert_array_equal(ours, bnb.dequantize_4bit(theirs, state).numpy().reshape(shape))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_weight_is_quantised_from_its_float32_value(bnb, dtype):
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    theirs, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    packed, absmax = nf4.quantize(weight.float().numpy(), blocksize=64)
    np.testing.assert_array_equal(packed, theirs.numpy().ravel())
    ours = torch.from_numpy(nf4.dequantize(packed, absmax, (4, 64), blocksize=64)).to(dtype)
    assert torch.equal(ours, bnb.dequantize_4bit(theirs, state))
    again = twin.dequantize(theirs.ravel(), state.absmax, (4, 64), blocksize=64, dtype=dtype)
    assert torch.equal(again, ours)


@pytest.mark.gpu
def test_bitsandbytes_on_a_gpu_reads_the_same_bits_and_stores_nearly_the_same(bnb):
    weight = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    packed, absmax = nf4.quantize(weight, blocksize=64)
    theirs, state = bnb.quantize_4bit(torch.tensor(weight).cuda(), blocksize=64, quant_type="nf4")
    np.testing.assert_array_equal(absmax, state.absmax.cpu().numpy())
    stored = theirs.cpu().numpy().ravel()
    # the CUDA kernel may round the quotient otherwise: an index within a last bit of a midpoint
    ours, other = nf4.unpack(packed, weight.size), nf4.unpack(stored, weight.size)
    assert (ours != other).mean() < 1e-4
    assert np.abs(ours.astype(int) - other).max() <= 1
    back = bnb.dequantize_4bit(theirs, state).cpu().numpy()
    np.testing.assert_array_equal(nf4.dequantize(stored, absmax, (64, 256), blocksize=64), back)


def test_the_codebook_is_theirs(bnb):
    np.testing.assert_array_equal(nf4.CODEBOOK, bnb.get_4bit_type("nf4", device="cpu").numpy())


def test_the_twin_stores_and_reads_the_same_bits_wherever_it_runs(place):
    for kind in KINDS:
        for n in (1, 63, 64, 65, 1000):
            weight = place.tensor(weights(kind, n))
            if not weight.float().isfinite().all():
                continue
            packed, absmax = twin.quantize(weight, blocksize=64)
            expected, scales = nf4.quantize(weight.cpu().float().numpy(), blocksize=64)
            np.testing.assert_array_equal(packed.cpu(), expected, err_msg=f"{kind}, n = {n}")
            np.testing.assert_array_equal(bits(absmax.cpu()), bits(scales))
            back = twin.dequantize(packed, absmax, (n,), blocksize=64)
            ours = nf4.dequantize(expected, scales, (n,), blocksize=64)
            np.testing.assert_array_equal(bits(back.cpu()), bits(ours))


def test_the_twins_layer_reads_the_packed_weight_and_its_gradient_to_x_too(place):
    rng = np.random.default_rng(0)
    packed, absmax = twin.quantize(place.tensor(rng.standard_normal((6, 64))), blocksize=64)
    x = place.tensor(rng.standard_normal((2, 3, 64)), requires_grad=True)
    bias = place.tensor(np.arange(6.0))
    got = twin.linear(x, packed, absmax, (6, 64), blocksize=64, bias=bias)
    grad_y = place.tensor(rng.standard_normal((2, 3, 6)))
    got.backward(grad_y)
    weight = nf4.dequantize(packed.cpu().numpy(), absmax.cpu().numpy(), (6, 64), blocksize=64)
    if place.dtype == torch.bfloat16:
        weight = torch.from_numpy(weight).bfloat16().float().numpy()
    # sums of 64 products of size 1 to 10
    close = {"rtol": 100 * place.eps, "atol": 100 * place.eps}
    expected = place.numpy(x) @ np.float64(weight).T + np.arange(6.0)
    np.testing.assert_allclose(place.numpy(got), expected, **close)
    np.testing.assert_allclose(place.numpy(x.grad), place.numpy(grad_y) @ weight, **close)


def test_the_twins_layer_keeps_only_the_packed_weight_for_the_backward_pass():
    packed, absmax = twin.quantize(torch.randn(64, 64), blocksize=64)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        twin.linear(
            torch.randn(2, 64, requires_grad=True), packed, absmax, (64, 64), blocksize=64
        ).sum()
    assert sum(t.numel() * t.element_size() for t in kept) == 64 * 64 // 2 + 64 * 4


def test_the_twin_names_a_wrong_argument():
    packed, absmax = twin.quantize(torch.ones(64), blocksize=64)
    with pytest.raises(ValueError, match="blocksize must be one of"):
        twin.quantize(torch.ones(4), blocksize=16)
    with pytest.raises(ValueError, match="weight must be finite"):
        twin.quantize(torch.tensor([1.0, torch.nan]), blocksize=64)
    with pytest.raises(ValueError, match="absmax must have 2 scales"):
        twin.dequantize(packed, absmax, (65,), blocksize=64)
    with pytest.raises(ValueError, match="packed must have 33 bytes"):
        twin.dequantize(packed, torch.ones(2), (65,), blocksize=64)


@pytest.mark.library_defect
def test_bitsandbytes_lets_a_nan_or_inf_poison_its_block_and_ours_refuses(bnb):
    for bad in (np.nan, np.inf):
        weight = np.ones(128, np.float32)
        weight[3] = bad
        theirs, state = bnb.quantize_4bit(torch.from_numpy(weight), blocksize=64, quant_type="nf4")
        back = bnb.dequantize_4bit(theirs, state).numpy()
        assert not np.isfinite(back[:64]).all() and (back[64:] == 1).all()
        with pytest.raises(ValueError, match="weight must be finite"):
            nf4.quantize(weight, blocksize=64)


avx512 = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512",
    reason="the defect is in bitsandbytes' AVX-512 kernel; this processor takes another path",
)


@pytest.mark.library_defect
@pytest.mark.hardware
@avx512
@pytest.mark.parametrize("shape", [(48, 32), (32, 48), (64, 96)], ids=str)
def test_bitsandbytes_reads_the_wrong_scales_where_the_width_is_no_multiple_of_the_block(
    bnb, shape
):
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    theirs, state = bnb.quantize_4bit(torch.from_numpy(weight), blocksize=64, quant_type="nf4")
    packed, absmax = nf4.quantize(weight, blocksize=64)
    np.testing.assert_array_equal(packed, theirs.numpy().ravel())  # what is stored is right
    ours = nf4.dequantize(packed, absmax, shape, blocksize=64)
    back = bnb.dequantize_4bit(theirs, state).numpy()
    half_step = np.abs(weight).max() * np.diff(nf4.CODEBOOK).max() / 2
    assert np.abs(ours - weight).max() <= half_step * 1.000001  # float32's rounding
    assert np.abs(back - weight).max() > 2 * half_step
    # it counts a row's scales from the start of that row, in whole blocks of it
    rows, columns = np.indices(shape)
    mistaken = rows * (shape[1] // 64) + columns // 64
    values = nf4.CODEBOOK[nf4.unpack(packed, weight.size)].reshape(shape)
    np.testing.assert_array_equal(back, values * absmax[mistaken])


@pytest.mark.library_defect
@pytest.mark.hardware
@avx512
def test_the_same_bytes_read_as_one_row_are_right(bnb):
    weight = np.random.default_rng(0).standard_normal((48, 32)).astype(np.float32)
    theirs, state = bnb.quantize_4bit(
        torch.from_numpy(weight.ravel()), blocksize=64, quant_type="nf4"
    )
    packed, absmax = nf4.quantize(weight, blocksize=64)
    ours = nf4.dequantize(packed, absmax, (48, 32), blocksize=64)
    back = bnb.dequantize_4bit(theirs, state).numpy().reshape(48, 32)
    np.testing.assert_array_equal(back, ours)
