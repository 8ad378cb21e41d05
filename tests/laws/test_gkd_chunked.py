"""Laws of distillation from hidden states."""

import numpy as np
import pytest

from reference_math import gkd, gkd_chunked, logprobs

BETAS = pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
N, H, TEACHER_H, V = 4, 3, 2, 7


def heads(seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    shapes = (N, H), (N, TEACHER_H), (V, H), (V, TEACHER_H)
    return [scale * rng.normal(size=shape) for shape in shapes]


@BETAS
@pytest.mark.parametrize("vocab_chunk", [1, 3, 7, 100])
@pytest.mark.parametrize("num_items", [None, 32.0])
def test_in_tiles_it_is_gkds_loss_on_the_whole_logits(beta, vocab_chunk, num_items):
    h, teacher_h, w, teacher_w = heads()
    options = {"beta": beta, "temperature": 1.5, "num_items_in_batch": num_items}
    logits = (h @ w.T)[None], (teacher_h @ teacher_w.T)[None], np.ones((1, N))
    args = h, teacher_h, w, teacher_w
    value = gkd_chunked.loss(*args, **options, vocab_chunk=vocab_chunk)
    # sums of the same terms in another order; KL(P || M) cancels from terms of order one
    np.testing.assert_allclose(value, gkd.loss(*logits, **options), rtol=1e-12)
    dz = gkd.loss_grad(*logits, **options)[0]
    dh, dw = gkd_chunked.loss_grad(*args, **options, vocab_chunk=vocab_chunk)
    np.testing.assert_allclose(dh, dz @ w, rtol=1e-11, atol=1e-15)
    np.testing.assert_allclose(dw, dz.T @ h, rtol=1e-11, atol=1e-15)


@BETAS
def test_the_gradients_by_hand_are_the_numeric_ones(numeric_grad, beta):
    h, teacher_h, w, teacher_w = heads()
    options = {"beta": beta, "temperature": 0.7, "vocab_chunk": 2}
    dh, dw = gkd_chunked.loss_grad(h, teacher_h, w, teacher_w, **options)
    f = gkd_chunked.loss
    by_h = numeric_grad(lambda x: f(x, teacher_h, w, teacher_w, **options), h)
    by_w = numeric_grad(lambda x: f(h, teacher_h, x, teacher_w, **options), w)
    np.testing.assert_allclose(dh, by_h, rtol=1e-8, atol=1e-11)  # as gkd's, through a product
    np.testing.assert_allclose(dw, by_w, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("vocab_chunk", [1, 2, 7, 8])
def test_the_running_normaliser_is_the_log_sum_exp_however_large(vocab_chunk):
    h, _, w, _ = heads(scale=30.0)
    options = {"temperature": 0.5, "vocab_chunk": vocab_chunk}
    z = h @ w.T / 0.5
    assert np.abs(z).max() > 1000  # e^z would overflow
    expected = z - logprobs.log_softmax(z)
    got = gkd_chunked.log_normalisers(h, w, **options)
    np.testing.assert_allclose(np.broadcast_to(got, z.shape), expected, rtol=1e-12)


@BETAS
def test_models_far_apart_leave_everything_finite(beta):
    args = heads(scale=30.0)
    options = {"beta": beta, "vocab_chunk": 3}
    assert np.isfinite(gkd_chunked.loss(*args, **options))
    assert all(np.isfinite(g).all() for g in gkd_chunked.loss_grad(*args, **options))


def test_divided_by_one_item_it_is_the_sum():
    options = {"beta": 0.3, "vocab_chunk": 3}
    mean, total = (gkd_chunked.loss(*heads(), num_items_in_batch=n, **options) for n in (N, 1))
    assert total == N * mean  # exact: N is a power of 2
