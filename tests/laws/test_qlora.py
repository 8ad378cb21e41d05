"""Laws of QLoRA: LoRA over the weight that is really stored."""

import numpy as np
import pytest

from reference_math import lora, nf4, qlora

STORED = {"shape": (6, 10), "blocksize": 32}


def a_layer(seed, lead=(3,)):
    rng = np.random.default_rng(seed)
    packed, absmax = nf4.quantize(rng.standard_normal((6, 10)), blocksize=32)
    x = rng.standard_normal((*lead, 10))
    return x, packed, absmax, rng.standard_normal((2, 10)), rng.standard_normal((6, 2))


def test_without_an_update_the_layer_is_the_stored_weight():
    x, packed, absmax, lora_A, lora_B = a_layer(0)
    y = qlora.forward(x, packed, absmax, lora_A, 0 * lora_B, scaling=1.0, **STORED)
    np.testing.assert_array_equal(y, x @ np.float64(nf4.dequantize(packed, absmax, **STORED)).T)


def test_an_exactly_stored_weight_makes_it_plain_lora():
    x, _, _, lora_A, lora_B = a_layer(1)
    weight = nf4.CODEBOOK[np.random.default_rng(1).integers(0, 16, (6, 10))]
    weight[:, ::2] = np.sign(weight[:, ::2] - 0.05)  # each block holds a magnitude of 1
    packed, absmax = nf4.quantize(weight, blocksize=32)
    bias, grad_y = np.arange(6.0), np.ones((3, 6))
    got = qlora.forward(x, packed, absmax, lora_A, lora_B, scaling=0.5, bias=bias, **STORED)
    expected = lora.forward(x, weight, lora_A, lora_B, scaling=0.5, bias=bias)
    np.testing.assert_array_equal(got, expected)
    grads = qlora.forward_grad(x, packed, absmax, lora_A, lora_B, grad_y, scaling=0.5, **STORED)
    plain = lora.forward_grad(x, weight, lora_A, lora_B, grad_y, scaling=0.5)
    for grad, same in zip(grads, plain, strict=True):
        np.testing.assert_array_equal(grad, same)


def test_the_gradients_are_the_derivatives():
    x, packed, absmax, lora_A, lora_B = a_layer(2)
    grad_y = np.random.default_rng(3).standard_normal((3, 6))

    def loss(x, a, b):
        return np.sum(grad_y * qlora.forward(x, packed, absmax, a, b, scaling=0.5, **STORED))

    at = [x, lora_A, lora_B]
    grads = qlora.forward_grad(x, packed, absmax, lora_A, lora_B, grad_y, scaling=0.5, **STORED)
    for k, got in enumerate(grads):
        direction = np.random.default_rng(k).standard_normal(at[k].shape)
        up, down = list(at), list(at)
        up[k], down[k] = at[k] + 1e-6 * direction, at[k] - 1e-6 * direction
        # linear in each argument: exact up to rounding / 1e-6
        numeric = (loss(*up) - loss(*down)) / 2e-6
        np.testing.assert_allclose(np.sum(got * direction), numeric, rtol=1e-7, atol=1e-7)


def test_a_merge_rounds_the_sum_to_four_bits():
    _, packed, absmax, lora_A, lora_B = a_layer(4)
    merged = qlora.merge(packed, absmax, lora_A, lora_B, scaling=0.5, **STORED)
    exact = lora.merge(nf4.dequantize(packed, absmax, **STORED), lora_A, lora_B, scaling=0.5)
    back = nf4.dequantize(*merged, **STORED)
    half_gap = np.diff(nf4.CODEBOOK).max() / 2
    scale = np.repeat(merged[1], 32)[:60].reshape(6, 10)
    assert (np.abs(back - exact) <= scale * half_gap * (1 + 1e-6)).all()
    assert np.abs(back - exact).max() > 0.01  # it is a real loss


def test_an_update_below_half_a_step_is_lost_by_the_merge():
    _, packed, absmax, lora_A, lora_B = a_layer(5)
    tiny = 1e-3 / np.abs(lora_B @ lora_A).max()
    keep = np.float32(absmax)  # the update may move the scales, not one index
    merged, moved = qlora.merge(packed, absmax, lora_A, lora_B, scaling=tiny, **STORED)
    np.testing.assert_array_equal(merged, packed)
    np.testing.assert_allclose(moved, keep, atol=1e-3)


def test_a_weight_that_is_no_matrix_is_refused():
    x, packed, absmax, lora_A, lora_B = a_layer(6)
    with pytest.raises(ValueError, match=r"shape must be \(out, in\)"):
        qlora.forward(x, packed, absmax, lora_A, lora_B, scaling=1.0, shape=(6, 5, 2), blocksize=32)
