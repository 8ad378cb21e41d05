"""Laws of DoRA: lengths and directions are separate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_math import dora, lora


def a_layer(seed, lead=(2, 3)):
    rng = np.random.default_rng(seed)
    x, weight = rng.standard_normal((*lead, 4)), rng.standard_normal((3, 4))
    lora_A, lora_B = rng.standard_normal((2, 4)), rng.standard_normal((3, 2))
    return (x, weight, lora_A, lora_B, rng.uniform(0.5, 2.0, 3))


def test_the_layer_starts_unchanged_when_the_magnitude_is_the_weight_norm():
    x, weight, lora_A, lora_B, _ = a_layer(0)
    start = dora.weight_norm(weight, lora_A, lora_B, scaling=0.5)
    got = dora.forward(x, weight, lora_A, lora_B, start, scaling=0.5)
    plain = lora.forward(x, weight, lora_A, lora_B, scaling=0.5)
    np.testing.assert_allclose(got, plain, rtol=1e-13)


@given(seed=st.integers(0, 99))
def test_each_merged_row_has_the_length_of_its_magnitude(seed):
    _, weight, lora_A, lora_B, magnitude = a_layer(seed)
    merged = dora.merge(weight, lora_A, lora_B, magnitude, scaling=0.5)
    np.testing.assert_allclose(np.linalg.norm(merged, axis=1), magnitude, rtol=1e-13)


def test_each_merged_row_keeps_the_direction_of_the_plain_merge():
    _, weight, lora_A, lora_B, magnitude = a_layer(1)
    merged = dora.merge(weight, lora_A, lora_B, magnitude, scaling=0.5)
    plain = lora.merge(weight, lora_A, lora_B, scaling=0.5)
    cosine = (merged * plain).sum(1) / np.linalg.norm(plain, axis=1) / magnitude
    np.testing.assert_allclose(cosine, 1.0, rtol=1e-13)


def test_the_layer_is_the_merged_weight_applied_and_the_bias_is_not_scaled():
    x, weight, lora_A, lora_B, magnitude = a_layer(2)
    bias = np.array([10.0, 20.0, 30.0])
    merged = dora.merge(weight, lora_A, lora_B, magnitude, scaling=0.5)
    got = dora.forward(x, weight, lora_A, lora_B, magnitude, scaling=0.5, bias=bias)
    np.testing.assert_allclose(got, np.einsum("bti,oi->bto", x, merged) + bias, rtol=1e-12)


def test_unmerge_gives_the_weight_back():
    _, weight, lora_A, lora_B, magnitude = a_layer(3)
    norm = dora.weight_norm(weight, lora_A, lora_B, scaling=0.5)
    merged = dora.merge(weight, lora_A, lora_B, magnitude, scaling=0.5)
    back = dora.unmerge(merged, lora_A, lora_B, magnitude, norm, scaling=0.5)
    np.testing.assert_allclose(back, weight, rtol=1e-12, atol=1e-14)  # entries near 0 cancel


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)], ids=str)
def test_the_gradients_are_the_derivatives_with_the_norm_held_still(lead):
    x, weight, lora_A, lora_B, magnitude = a_layer(4, lead)
    grad_y = np.random.default_rng(5).standard_normal((*lead, 3))
    norm = dora.weight_norm(weight, lora_A, lora_B, scaling=0.5)

    def loss(x, lora_A, lora_B, magnitude):  # a frozen norm is a rescaling of LoRA's outputs
        y = lora.forward(x, weight, lora_A, lora_B, scaling=0.5)
        return np.sum(grad_y * magnitude / norm * y)

    at = [x, lora_A, lora_B, magnitude]
    grads = dora.forward_grad(x, weight, lora_A, lora_B, magnitude, grad_y, scaling=0.5)
    for k, got in enumerate(grads):
        numeric = np.zeros_like(at[k])
        for i in np.ndindex(at[k].shape):
            step = np.zeros_like(at[k])
            step[i] = 1e-6
            up, down = list(at), list(at)
            up[k], down[k] = at[k] + step, at[k] - step
            numeric[i] = (loss(*up) - loss(*down)) / 2e-6
        assert got.shape == numeric.shape
        # at most quadratic: exact up to rounding / 1e-6
        np.testing.assert_allclose(got, numeric, rtol=1e-7, atol=1e-8)


def test_a_row_without_a_direction_stays_zero_and_gets_no_gradient():
    weight, lora_A, lora_B = np.array([[0.0, 0.0], [3.0, 4.0]]), np.ones((1, 2)), np.zeros((2, 1))
    magnitude = np.array([7.0, 5.0])
    y = dora.forward([1.0, 1.0], weight, lora_A, lora_B, magnitude, scaling=1.0)
    np.testing.assert_allclose(y, [0.0, 7.0])
    grads = dora.forward_grad([1.0, 1.0], weight, lora_A, lora_B, magnitude, [1, 1], scaling=1.0)
    assert all(np.isfinite(g).all() for g in grads)
    assert grads[2][0] == 0 and grads[3][0] == 0 and grads[2][1] == 2


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_lengths_do_not_overflow_or_vanish(size):
    weight = np.array([[3.0, 4.0]]) * size
    norm = dora.weight_norm(weight, np.zeros((1, 2)), np.zeros((1, 1)), scaling=1.0)
    np.testing.assert_allclose(norm, [5 * size], rtol=1e-15)


def test_a_wrong_argument_is_named():
    x, weight, lora_A, lora_B, magnitude = a_layer(6)
    norm = dora.weight_norm(weight, lora_A, lora_B, scaling=1.0)
    with pytest.raises(ValueError, match="magnitude must have shape"):
        dora.forward(x, weight, lora_A, lora_B, magnitude[:2], scaling=1.0)
    with pytest.raises(ValueError, match="bias must have shape"):
        dora.forward(x, weight, lora_A, lora_B, magnitude, scaling=1.0, bias=np.zeros(2))
    with pytest.raises(ValueError, match="grad_y must have shape"):
        dora.forward_grad(x, weight, lora_A, lora_B, magnitude, np.zeros((2, 3)), scaling=1.0)
    with pytest.raises(ValueError, match="norm must have 1 axes"):
        dora.unmerge(weight, lora_A, lora_B, magnitude, norm[:, None], scaling=1.0)
    with pytest.raises(ValueError, match="merged must have shape"):
        dora.unmerge(weight[:2], lora_A, lora_B, magnitude, norm, scaling=1.0)
    with pytest.raises(ValueError, match="row 1 of 3 is lost"):
        dora.unmerge(weight, lora_A, lora_B, magnitude * [-1, 0, 1], norm, scaling=1.0)
