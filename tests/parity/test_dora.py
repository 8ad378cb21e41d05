"""reference_math.dora against PEFT's DoRA, at float64."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from reference_math import dora

ALPHA, R = 6, 3
SCALING = ALPHA / R


def a_layer(seed=0):
    rng = np.random.default_rng(seed)
    x, weight = rng.standard_normal((2, 4, 6)), rng.standard_normal((5, 6))
    lora_A, lora_B = rng.standard_normal((R, 6)), rng.standard_normal((5, R))
    return x, weight, lora_A, lora_B, rng.uniform(0.5, 2.0, 5)


def peft_layer(weight, lora_A, lora_B, magnitude=None, bias=None):
    n_out, n_in = weight.shape
    base = torch.nn.Linear(n_in, n_out, bias=bias is not None, dtype=torch.float64)
    base.weight.data = torch.tensor(weight)
    if bias is not None:
        base.bias.data = torch.tensor(bias)
    config = peft.LoraConfig(r=R, lora_alpha=ALPHA, use_dora=True)
    layer = peft.tuners.lora.Linear(base, "default", config, r=R, lora_alpha=ALPHA).double()
    layer.lora_A["default"].weight.data = torch.tensor(lora_A)
    layer.lora_B["default"].weight.data = torch.tensor(lora_B)
    if magnitude is not None:
        layer.lora_magnitude_vector["default"].weight.data = torch.tensor(magnitude)
    return layer


@pytest.mark.parametrize("with_bias", [False, True])
def test_peft_computes_the_same_layer_and_gradients(with_bias):
    x, *numbers = a_layer()
    bias = np.arange(5.0) if with_bias else None
    layer = peft_layer(*numbers, bias=bias)
    inputs = torch.tensor(x, requires_grad=True)
    grad_y = np.random.default_rng(1).standard_normal((2, 4, 5))
    got = layer(inputs)
    got.backward(torch.tensor(grad_y))
    expected = dora.forward(x, *numbers, scaling=SCALING, bias=bias)
    # PEFT adds (m/|V| - 1) x W^T to x W^T, which cancels: terms up to 50 lose a few last bits
    close = {"rtol": 1e-12, "atol": 1e-13}
    np.testing.assert_allclose(got.detach(), expected, **close)
    theirs = [
        inputs.grad,
        layer.lora_A["default"].weight.grad,
        layer.lora_B["default"].weight.grad,
        layer.lora_magnitude_vector["default"].weight.grad,
    ]
    grads = dora.forward_grad(x, *numbers, grad_y, scaling=SCALING)
    for their, grad in zip(theirs, grads, strict=True):
        np.testing.assert_allclose(their, grad, **close)


def test_peft_starts_the_magnitude_at_the_weight_norm():
    _, weight, lora_A, lora_B, _ = a_layer()
    layer = peft_layer(weight, lora_A, lora_B)
    start = layer.lora_magnitude_vector["default"].weight.detach()
    # it is taken when the layer is made: B was still zero
    norm = dora.weight_norm(weight, lora_A, 0 * lora_B, scaling=SCALING)
    np.testing.assert_allclose(start, norm, rtol=1e-14)


@pytest.mark.parametrize("safe_merge", [False, True])
def test_peft_merges_and_unmerges_the_same_weight(safe_merge):
    _, *numbers = a_layer()
    weight, lora_A, lora_B, magnitude = numbers
    layer = peft_layer(*numbers)
    layer.merge(safe_merge=safe_merge)
    merged = dora.merge(*numbers, scaling=SCALING)
    np.testing.assert_allclose(layer.base_layer.weight.detach(), merged, rtol=1e-13, atol=1e-15)
    layer.unmerge()
    norm = dora.weight_norm(weight, lora_A, lora_B, scaling=SCALING)
    back = dora.unmerge(merged, lora_A, lora_B, magnitude, norm, scaling=SCALING)
    np.testing.assert_allclose(layer.base_layer.weight.detach(), back, rtol=0, atol=1e-13)


@pytest.mark.library_defect
def test_peft_turns_a_zero_row_into_nan_and_ours_leaves_it_zero():
    x, weight, lora_A, lora_B, magnitude = a_layer()
    weight[2], lora_B[2] = 0, 0
    theirs = peft_layer(weight, lora_A, lora_B, magnitude)(torch.tensor(x)).detach().numpy()
    ours = dora.forward(x, weight, lora_A, lora_B, magnitude, scaling=SCALING)
    assert np.isnan(theirs[..., 2]).all() and np.isfinite(theirs[..., [0, 1, 3, 4]]).all()
    assert (ours[..., 2] == 0).all()
    np.testing.assert_allclose(ours[..., [0, 1]], theirs[..., [0, 1]], rtol=1e-12, atol=1e-13)
