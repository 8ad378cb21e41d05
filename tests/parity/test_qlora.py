"""reference_math.qlora against bitsandbytes' Linear4bit under PEFT's LoRA, and the torch twins.

Widths are multiples of 64: test_nf4.py shows what bitsandbytes does otherwise.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
bnb = pytest.importorskip("bitsandbytes")

from reference_math import double_quant, lora, nf4, qlora
from reference_math.torch import lora as lora_twin
from reference_math.torch import nf4 as nf4_twin

N_IN, N_OUT, R, ALPHA = 128, 64, 4, 8
STORED = {"shape": (N_OUT, N_IN), "blocksize": 64}


def some_numbers(seed=0):
    """x, the weight, A and B, in float32: bitsandbytes takes no float64."""
    rng = np.random.default_rng(seed)
    shapes = [(2, 3, N_IN), (N_OUT, N_IN), (R, N_IN), (N_OUT, R)]
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def peft_layer(weight, lora_A, lora_B, *, nested):
    stored = {"quant_type": "nf4", "compress_statistics": nested}
    base = bnb.nn.Linear4bit(N_IN, N_OUT, bias=False, compute_dtype=torch.float32, **stored)
    base.weight = bnb.nn.Params4bit(
        torch.tensor(weight), requires_grad=False, blocksize=64, **stored
    )
    base = base.to("cpu")  # here it is quantised
    config = peft.LoraConfig(r=R, lora_alpha=ALPHA)
    layer = peft.tuners.lora.Linear4bit(base, "default", config, r=R, lora_alpha=ALPHA)
    layer.lora_A["default"].weight.data = torch.tensor(lora_A)
    layer.lora_B["default"].weight.data = torch.tensor(lora_B)
    return layer


def stored(layer):
    """(packed, absmax) of a layer as numpy holds them."""
    state = layer.base_layer.weight.quant_state
    packed, absmax = layer.base_layer.weight.data.numpy().ravel(), state.absmax
    if state.nested:
        group_scale, offset = state.state2.absmax.numpy(), state.offset.item()
        absmax = torch.from_numpy(double_quant.dequantize(absmax.numpy(), group_scale, offset))
    return packed, absmax.numpy()


@pytest.mark.parametrize("nested", [False, True])
def test_peft_over_bitsandbytes_computes_the_same_layer_and_gradients(nested):
    x, weight, lora_A, lora_B = some_numbers()
    layer = peft_layer(weight, lora_A, lora_B, nested=nested)
    packed, absmax = stored(layer)
    if not nested:
        ours = nf4.quantize(weight, blocksize=64)
        np.testing.assert_array_equal(packed, ours[0])
        np.testing.assert_array_equal(absmax, ours[1])

    inputs = torch.tensor(x, requires_grad=True)
    grad_y = np.random.default_rng(1).standard_normal((2, 3, N_OUT)).astype(np.float32)
    got = layer(inputs)
    got.backward(torch.tensor(grad_y))
    numbers = x, packed, absmax, lora_A, lora_B
    expected = qlora.forward(*numbers, scaling=ALPHA / R, **STORED)
    grads = qlora.forward_grad(*numbers, grad_y, scaling=ALPHA / R, **STORED)
    # float32 sums of 128 products, each sum up to 60: 128 roundings of 2^-24 at most
    close = {"rtol": 2e-5, "atol": 60 * 2.0**-18}
    np.testing.assert_allclose(got.detach(), expected, **close)
    theirs = inputs.grad, layer.lora_A["default"].weight.grad, layer.lora_B["default"].weight.grad
    for their, grad in zip(theirs, grads, strict=True):
        np.testing.assert_allclose(their, grad, **close)
    assert layer.base_layer.weight.grad is None


def test_the_twins_compute_the_same_layer_and_gradients_wherever_they_run(place):
    x, weight, lora_A, lora_B = (place.tensor(a, requires_grad=True) for a in some_numbers())
    packed, absmax = nf4_twin.quantize(weight, blocksize=64)
    zero = torch.zeros(N_OUT, N_IN, device=x.device, dtype=x.dtype)
    got = nf4_twin.linear(x, packed, absmax, **STORED)
    got = got + lora_twin.forward(x, zero, lora_A, lora_B, scaling=2.0)
    grad_y = place.tensor(np.random.default_rng(1).standard_normal((2, 3, N_OUT)))
    got.backward(grad_y)

    numbers = [place.numpy(x), packed.cpu().numpy(), absmax.cpu().numpy()]
    numbers += [place.numpy(lora_A), place.numpy(lora_B)]
    expected = qlora.forward(*numbers, scaling=2.0, **STORED)
    grads = qlora.forward_grad(*numbers, place.numpy(grad_y), scaling=2.0, **STORED)
    # sums of 128 products, up to 60 in all
    close = {"rtol": 128 * place.eps, "atol": 60 * 4 * place.eps}
    np.testing.assert_allclose(place.numpy(got), expected, **close)
    for tensor, grad in zip((x, lora_A, lora_B), grads, strict=True):
        np.testing.assert_allclose(place.numpy(tensor.grad), grad, **close)


def simple_numbers():
    """Numbers whose products and sums are exact in float32, so that a merge has one answer."""
    _, weight, _, _ = some_numbers()
    rng = np.random.default_rng(2)
    lora_A = rng.integers(-3, 4, (R, N_IN)).astype(np.float32) / 8
    lora_B = rng.integers(-3, 4, (N_OUT, R)).astype(np.float32) / 8
    return weight, lora_A, lora_B


def test_peft_quantises_the_merged_weight_again_to_the_same_bits():
    weight, lora_A, lora_B = simple_numbers()
    layer = peft_layer(weight, lora_A, lora_B, nested=False)
    before = stored(layer)
    layer.merge()
    packed, absmax = stored(layer)
    # one float32 addition, W + update, stands between: ours is made in float64 and rounded once
    ours = qlora.merge(*before, lora_A, lora_B, scaling=ALPHA / R, **STORED)
    np.testing.assert_array_equal(packed, ours[0])
    np.testing.assert_array_equal(absmax, ours[1])


@pytest.mark.library_defect
def test_a_four_bit_merge_is_not_the_trained_layer_any_more():
    x, *_ = some_numbers()
    layer = peft_layer(*simple_numbers(), nested=False)
    trained = layer(torch.tensor(x)).detach().numpy()
    layer.merge()
    merged = layer(torch.tensor(x)).detach().numpy()
    error = np.abs(merged - trained).mean() / np.abs(trained).mean()
    # as coarse as the quantisation itself, which errs by about 0.1 of a weight
    assert 0.03 < error < 0.3


@pytest.mark.library_defect
@pytest.mark.parametrize("nested", [False, True])
def test_peft_merging_and_unmerging_four_bits_ratchets_the_scales_up(nested):
    layer = peft_layer(*simple_numbers(), nested=nested)
    packed, absmax = stored(layer)
    start = nf4.dequantize(packed, absmax, **STORED)
    drift, growth = [], []
    for _ in range(4):
        layer.merge()
        layer.unmerge()
        packed, now = stored(layer)
        drift.append(np.abs(nf4.dequantize(packed, now, **STORED) - start).mean())
        growth.append((now / absmax).mean())
    # no cycle gives the weight back, and each leaves it further away, the scales growing
    assert drift[0] > 0.02 and (np.diff(drift) > 0).all()
    assert growth[0] > 1.01 and (np.diff(growth) > 0).all()


def test_merging_into_the_unquantised_weight_keeps_the_update():
    weight, lora_A, lora_B = simple_numbers()
    exact = lora.merge(weight, lora_A, lora_B, scaling=ALPHA / R)
    again = lora.unmerge(exact, lora_A, lora_B, scaling=ALPHA / R)
    np.testing.assert_allclose(again, weight, rtol=0, atol=1e-15)
