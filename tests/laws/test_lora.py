"""Laws of LoRA: what has to hold whatever library computes it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_math import lora

SIZES = {"r": st.integers(1, 4), "n_in": st.integers(1, 5), "n_out": st.integers(1, 5)}


def a_layer(seed, r=2, n_in=4, n_out=3, lead=(2, 3)):
    rng = np.random.default_rng(seed)
    x, weight = rng.standard_normal((*lead, n_in)), rng.standard_normal((n_out, n_in))
    return x, weight, rng.standard_normal((r, n_in)), rng.standard_normal((n_out, r))


def numeric_grad(f, at, h=1e-6):
    """Central differences of the scalar f; its error is h^2 times the third derivative."""
    grad = np.zeros_like(at)
    for i in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[i], down[i] = up[i] + h, down[i] - h
        grad[i] = (f(up) - f(down)) / (2 * h)
    return grad


@given(seed=st.integers(0, 99), **SIZES)
def test_the_layer_is_the_merged_weight_applied(seed, r, n_in, n_out):
    x, weight, lora_A, lora_B = a_layer(seed, r, n_in, n_out)
    merged = lora.merge(weight, lora_A, lora_B, scaling=0.7)
    expected = np.einsum("bti,oi->bto", x, merged)
    # atol: sums that cancel keep an error of the size of their terms, about 10 * 2^-53
    np.testing.assert_allclose(
        lora.forward(x, weight, lora_A, lora_B, scaling=0.7), expected, rtol=1e-12, atol=1e-13
    )


def test_B_zero_leaves_the_layer_as_it_was():
    x, weight, lora_A, lora_B = a_layer(0)
    y = lora.forward(x, weight, lora_A, 0 * lora_B, scaling=2.0)
    np.testing.assert_array_equal(y, x @ weight.T)


def test_the_update_is_linear_in_the_scaling_and_not_in_the_base():
    x, weight, lora_A, lora_B = a_layer(1)
    base = x @ weight.T
    one = lora.forward(x, weight, lora_A, lora_B, scaling=1.0) - base
    three = lora.forward(x, weight, lora_A, lora_B, scaling=3.0) - base
    np.testing.assert_allclose(three, 3 * one, rtol=1e-12)
    assert np.abs(one).min() > 1e-3  # or the line above says nothing


def test_the_bias_is_added_once_to_every_output():
    x, weight, lora_A, lora_B = a_layer(2)
    bias = np.array([10.0, 20.0, 30.0])
    with_bias = lora.forward(x, weight, lora_A, lora_B, scaling=1.0, bias=bias)
    without = lora.forward(x, weight, lora_A, lora_B, scaling=1.0)
    np.testing.assert_allclose(with_bias - without, np.broadcast_to(bias, without.shape))


@given(seed=st.integers(0, 99), **SIZES)
def test_the_update_has_at_most_rank_r(seed, r, n_in, n_out):
    *_, lora_A, lora_B = a_layer(seed, r, n_in, n_out)
    delta = lora.delta_weight(lora_A, lora_B, scaling=1.5)
    assert delta.shape == (n_out, n_in)
    assert np.linalg.matrix_rank(delta) <= r


def test_each_entry_of_the_update_is_a_row_of_B_times_a_column_of_A():
    *_, lora_A, lora_B = a_layer(3)
    delta = lora.delta_weight(lora_A, lora_B, scaling=2.0)
    one = 2.0 * sum(lora_B[2, k] * lora_A[k, 3] for k in range(2))
    np.testing.assert_allclose(delta[2, 3], one, rtol=1e-14)


@given(
    r=st.integers(1, 512), alpha=st.floats(0.5, 64), rslora=st.booleans(), times=st.integers(2, 5)
)
def test_the_scaling_falls_with_the_rank_as_promised(r, alpha, rslora, times):
    wide = lora.scaling(r * times**2, alpha, use_rslora=rslora)
    narrow = lora.scaling(r, alpha, use_rslora=rslora)
    np.testing.assert_allclose(narrow / wide, times if rslora else times**2, rtol=1e-14)


def test_rank_one_scales_by_alpha_in_either_form():
    assert lora.scaling(1, 8, use_rslora=False) == lora.scaling(1, 8, use_rslora=True) == 8


def test_unmerge_gives_the_weight_back():
    _, weight, lora_A, lora_B = a_layer(4)
    merged = lora.merge(weight, lora_A, lora_B, scaling=2.0)
    back = lora.unmerge(merged, lora_A, lora_B, scaling=2.0)
    # two roundings of numbers no larger than |W| + |s B A| < 20
    np.testing.assert_allclose(back, weight, rtol=0, atol=20 * 2.0**-52)
    assert np.abs(merged - weight).min() > 1e-3


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)], ids=str)
def test_the_gradients_are_the_derivatives(lead):
    x, weight, lora_A, lora_B = a_layer(5, lead=lead)
    grad_y = np.random.default_rng(6).standard_normal((*lead, 3))

    def loss(x, lora_A, lora_B):
        return np.sum(grad_y * lora.forward(x, weight, lora_A, lora_B, scaling=0.7))

    grads = lora.forward_grad(x, weight, lora_A, lora_B, grad_y, scaling=0.7)
    # forward is at most quadratic, so the differences are exact up to rounding / h = 1e-9
    close = {"rtol": 1e-7, "atol": 1e-8}
    for got, numeric in zip(
        grads,
        [
            numeric_grad(lambda a: loss(a, lora_A, lora_B), x),
            numeric_grad(lambda a: loss(x, a, lora_B), lora_A),
            numeric_grad(lambda a: loss(x, lora_A, a), lora_B),
        ],
        strict=True,
    ):
        assert got.shape == numeric.shape
        np.testing.assert_allclose(got, numeric, **close)


def test_only_B_learns_on_the_first_step_from_the_default_start():
    x, weight, lora_A, lora_B = a_layer(7)
    grad_x, grad_A, grad_B = lora.forward_grad(
        x, weight, lora_A, 0 * lora_B, np.ones((2, 3, 3)), scaling=1.0
    )
    assert not grad_A.any() and grad_B.all() and grad_x.all()


BAD = {
    "weight must have 2 axes": {"weight": np.zeros(4)},
    "lora_A must have shape": {"lora_A": np.zeros((2, 5))},
    "lora_B must have shape": {"lora_B": np.zeros((3, 4))},
    "lora_B must have shape .*got .4, 2": {"lora_B": np.zeros((4, 2))},
    "rank r >= 1": {"lora_A": np.zeros((0, 4))},
    "lora_A must have 2 axes": {"lora_A": np.zeros(4)},
    "x must end in the weight's 4 inputs": {"x": np.zeros((2, 3))},
    "x must end in the weight's 4 inputs, got ..": {"x": 1.0},
    "x must be finite": {"x": np.full((2, 4), np.nan)},
    "scaling must be finite": {"scaling": np.inf},
    "bias must have shape": {"bias": np.zeros(4)},
}


@pytest.mark.parametrize("message", BAD)
def test_a_wrong_argument_is_named(message):
    x, weight, lora_A, lora_B = a_layer(8)
    good = {"x": x, "weight": weight, "lora_A": lora_A, "lora_B": lora_B, "scaling": 1.0}
    with pytest.raises(ValueError, match=message):
        lora.forward(**(good | BAD[message]))


def test_the_other_functions_check_their_arguments_too():
    x, weight, lora_A, lora_B = a_layer(9)
    with pytest.raises(ValueError, match="r must be >= 1"):
        lora.scaling(0, 8, use_rslora=False)
    with pytest.raises(ValueError, match="lora_alpha"):
        lora.scaling(1, np.nan, use_rslora=False)
    with pytest.raises(ValueError, match="grad_y must have shape"):
        lora.forward_grad(x, weight, lora_A, lora_B, np.zeros((2, 3, 4)), scaling=1.0)
    with pytest.raises(ValueError, match="weight must have shape"):
        lora.merge(weight.T, lora_A, lora_B, scaling=1.0)
    with pytest.raises(ValueError, match="merged must have shape"):
        lora.unmerge(weight.T, lora_A, lora_B, scaling=1.0)
