"""reference_math.tpo against TRL's TPOTrainer."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import logprobs, tpo
from reference_math.conformance import trl_experimental


def both(*args, **options):
    return tpo.loss(*args, **options), tpo.loss_grad(*args, **options)


# float64, the same operations in another order; atol: what cancels from terms of order one
EXACT = {"rtol": 1e-11, "atol": 1e-14}


def a_batch(seed=0, B=3, T=4, V=5):
    rng = np.random.default_rng(seed)
    mask = (np.arange(T) < rng.integers(1, T + 1, size=(3 * B, 1))).astype(float)
    return rng.normal(size=(3 * B, T, V)), rng.integers(0, V, size=(3 * B, T)), mask


@pytest.mark.parametrize("loss_type", tpo.LOSS_TYPES)
@pytest.mark.parametrize("tpo_alpha", [1.0, 0.0])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_the_loss_and_its_gradient_are_trls(loss_type, tpo_alpha, label_smoothing):
    logits, tokens, mask = a_batch()
    options = {"loss_type": loss_type, "tpo_alpha": tpo_alpha, "label_smoothing": label_smoothing}
    options |= {"beta": 0.3}
    x = torch.tensor(logits, requires_grad=True)
    theirs = trl_experimental.tpo(x, torch.tensor(tokens), torch.tensor(mask), **options)
    theirs.backward()
    logps = logprobs.per_token_logps(logits, tokens)
    value, grad = both(logps, mask, **options)
    np.testing.assert_allclose(theirs.item(), value, **EXACT)
    np.testing.assert_allclose(x.grad, logprobs.logits_grad(logits, tokens, grad), **EXACT)


@pytest.mark.library_defect
def test_without_a_gold_token_trl_is_nan():
    logits, tokens, mask = a_batch()
    mask[6:] = 0
    args = torch.tensor(logits), torch.tensor(tokens), torch.tensor(mask)
    assert torch.isnan(trl_experimental.tpo(*args))
    logps = logprobs.per_token_logps(logits, tokens)
    assert np.isfinite(tpo.loss(logps, mask))
