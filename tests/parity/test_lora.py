"""reference_math.lora against its torch twin and PEFT's Linear, at float64 unless said otherwise."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import lora
from reference_math.torch import lora as twin


def a_layer(seed=0, lead=(2, 3), r=3, n_in=6, n_out=5):
    rng = np.random.default_rng(seed)
    x, weight = rng.standard_normal((*lead, n_in)), rng.standard_normal((n_out, n_in))
    lora_A, lora_B = rng.standard_normal((r, n_in)), rng.standard_normal((n_out, r))
    return x, weight, lora_A, lora_B


def peft_layer(weight, lora_A, lora_B, *, lora_alpha, use_rslora=False, bias=None, dtype=None):
    """PEFT's Linear around torch's, holding these numbers."""
    peft = pytest.importorskip("peft")
    n_out, n_in = weight.shape
    base = torch.nn.Linear(n_in, n_out, bias=bias is not None, dtype=dtype or torch.float64)
    config = peft.LoraConfig(r=len(lora_A), lora_alpha=lora_alpha, use_rslora=use_rslora)
    layer = peft.tuners.lora.Linear(
        base, "default", config, r=config.r, lora_alpha=config.lora_alpha
    ).to(base.weight.dtype)
    with torch.no_grad():
        base.weight.copy_(torch.as_tensor(weight))
        layer.lora_A["default"].weight.copy_(torch.as_tensor(lora_A))
        layer.lora_B["default"].weight.copy_(torch.as_tensor(lora_B))
        if bias is not None:
            base.bias.copy_(torch.as_tensor(bias))
    return layer


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_twin_agrees_wherever_it_runs(place, lead, with_bias):
    arrays = a_layer(lead=lead)
    x, weight, lora_A, lora_B = (place.tensor(a, requires_grad=True) for a in arrays)
    bias = place.tensor(np.arange(5.0)) if with_bias else None
    grad_y = place.tensor(np.random.default_rng(1).standard_normal((*lead, 5)))
    got = twin.forward(x, weight, lora_A, lora_B, scaling=0.5, bias=bias)
    got.backward(grad_y)

    numbers = [place.numpy(t) for t in (x, weight, lora_A, lora_B)]
    expected = lora.forward(*numbers, scaling=0.5, bias=None if bias is None else place.numpy(bias))
    grads = lora.forward_grad(*numbers, place.numpy(grad_y), scaling=0.5)
    # sums of up to 6 * 3 products of size 1 to 10, each rounded, and rounded again on the way
    close = {"rtol": 50 * place.eps, "atol": 50 * place.eps}
    np.testing.assert_allclose(place.numpy(got), expected, **close)
    for tensor, grad in zip((x, lora_A, lora_B), grads, strict=True):
        np.testing.assert_allclose(place.numpy(tensor.grad), grad, **close)


def test_the_twin_merges_and_unmerges_alike():
    _, weight, lora_A, lora_B = (torch.tensor(a) for a in a_layer())
    merged = twin.merge(weight, lora_A, lora_B, scaling=2.0)
    numbers = weight.numpy(), lora_A.numpy(), lora_B.numpy()
    np.testing.assert_allclose(merged, lora.merge(*numbers, scaling=2.0), rtol=1e-13)
    back = twin.unmerge(merged, lora_A, lora_B, scaling=2.0)
    np.testing.assert_allclose(
        back, lora.unmerge(merged.numpy(), *numbers[1:], scaling=2.0), rtol=1e-13
    )
    with pytest.raises(ValueError, match="lora_A must have shape"):
        twin.merge(weight, lora_A, lora_B.T, scaling=2.0)


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_peft_computes_the_same_layer_and_gradients(use_rslora, with_bias):
    x, weight, lora_A, lora_B = a_layer()
    bias = np.arange(5.0) if with_bias else None
    layer = peft_layer(weight, lora_A, lora_B, lora_alpha=16, use_rslora=use_rslora, bias=bias)
    scaling = lora.scaling(3, 16, use_rslora=use_rslora)
    assert layer.scaling["default"] == scaling

    inputs = torch.tensor(x, requires_grad=True)
    grad_y = np.random.default_rng(1).standard_normal((2, 3, 5))
    got = layer(inputs)
    got.backward(torch.tensor(grad_y))
    # float64 all the way; atol for sums that cancel: terms up to 50, a few roundings each
    close = {"rtol": 1e-12, "atol": 1e-13}
    expected = lora.forward(x, weight, lora_A, lora_B, scaling=scaling, bias=bias)
    np.testing.assert_allclose(got.detach(), expected, **close)
    grads = lora.forward_grad(x, weight, lora_A, lora_B, grad_y, scaling=scaling)
    theirs = inputs.grad, layer.lora_A["default"].weight.grad, layer.lora_B["default"].weight.grad
    for their, grad in zip(theirs, grads, strict=True):
        np.testing.assert_allclose(their, grad, **close)


@pytest.mark.parametrize("safe_merge", [False, True])
def test_peft_merges_and_unmerges_the_same_weight(safe_merge):
    x, weight, lora_A, lora_B = a_layer()
    layer = peft_layer(weight, lora_A, lora_B, lora_alpha=6)
    layer.merge(safe_merge=safe_merge)
    merged = lora.merge(weight, lora_A, lora_B, scaling=2.0)
    np.testing.assert_allclose(layer.base_layer.weight.detach(), merged, rtol=1e-13, atol=1e-14)
    expected = lora.forward(x, weight, lora_A, lora_B, scaling=2.0)
    np.testing.assert_allclose(layer(torch.tensor(x)).detach(), expected, rtol=1e-12, atol=1e-13)

    layer.unmerge()
    back = lora.unmerge(merged, lora_A, lora_B, scaling=2.0)
    # the difference of numbers up to 10 keeps an absolute error of their size
    np.testing.assert_allclose(layer.base_layer.weight.detach(), back, rtol=0, atol=1e-14)


def test_a_bfloat16_merge_loses_a_small_update_and_float32_keeps_it():
    _, weight, lora_A, lora_B = a_layer()
    tiny = 1e-4  # of W: below bfloat16's step of 2^-8
    updates = {}
    for dtype in (torch.bfloat16, torch.float32):
        layer = peft_layer(weight, lora_A, lora_B * tiny, lora_alpha=3, dtype=dtype)
        before = layer.base_layer.weight.detach().clone()
        layer.merge()
        updates[dtype] = (layer.base_layer.weight.detach() - before).double().numpy()
    exact = lora.delta_weight(lora_A, lora_B * tiny, scaling=1.0)
    lost = np.abs(updates[torch.bfloat16] - exact) / np.abs(exact)
    kept = np.abs(updates[torch.float32] - exact) / np.abs(exact)
    assert np.median(lost) > 0.5  # most of the update is gone
    assert np.median(kept) < 1e-2  # float32's step of 6e-8 beside updates of 1e-4


def test_the_defaults_that_the_docstring_names_are_pefts():
    config = pytest.importorskip("peft").LoraConfig()
    assert (config.r, config.lora_alpha, config.use_rslora, config.lora_dropout) == (8, 8, False, 0)
