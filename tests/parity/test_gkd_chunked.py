"""reference_math.gkd_chunked against TRL's DistillationTrainer."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import gkd_chunked
from reference_math.conformance import trl_distillation

# TRL computes in float32 whatever it is given: a few roundings of terms of order one
FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}


def heads(seed=0, N=5, H=4, teacher_H=3, V=11):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in ((N, H), (N, teacher_H), (V, H), (V, teacher_H))]


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature, num_items", [(1.0, None), (1.7, 20)])
@pytest.mark.parametrize("vocab_chunk", [4, None])  # three tiles, the last one short; one tile
def test_the_loss_and_both_gradients_are_trls(beta, temperature, num_items, vocab_chunk):
    h, teacher_h, w, teacher_w = heads()
    options = {"beta": beta, "temperature": temperature, "num_items_in_batch": num_items}
    x, y = (torch.tensor(z, requires_grad=True) for z in (h, w))
    theirs = trl_distillation.distillation(
        x, torch.tensor(teacher_h), y, torch.tensor(teacher_w), vocab_chunk=vocab_chunk, **options
    )
    theirs.backward()
    args, tile = (h, teacher_h, w, teacher_w), vocab_chunk or 11
    value = gkd_chunked.loss(*args, **options, vocab_chunk=tile)
    np.testing.assert_allclose(theirs.item(), value, **FLOAT32)
    dh, dw = gkd_chunked.loss_grad(*args, **options, vocab_chunk=tile)
    np.testing.assert_allclose(x.grad, dh, **FLOAT32)
    np.testing.assert_allclose(y.grad, dw, **FLOAT32)
    assert np.abs(dh).max() > 1e-3 and np.abs(dw).max() > 1e-3


def test_float64_hidden_states_are_compared_in_float32():
    """Half the digits are gone: the reference for a float64 model is here, not there."""
    args = heads()
    theirs = trl_distillation.distillation(*map(torch.tensor, args), beta=0.3)
    ours = gkd_chunked.loss(*args, beta=0.3, vocab_chunk=4)
    assert theirs.dtype == torch.float32 and abs(theirs.item() - ours) > 1e-12
