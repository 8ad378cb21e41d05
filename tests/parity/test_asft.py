"""reference_math.asft against LLaMA-Factory's own result and against the torch twin."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import asft
from reference_math.conformance import rosetta
from reference_math.torch import asft as twin

MASK = np.array([[1.0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])


def test_the_loss_and_its_gradient_are_llama_factorys():
    arrays = rosetta.golden("llamafactory")
    z, zr, ids = (arrays[f"batch/{letter}"] for letter in ("z", "zr", "ids"))
    k = (np.arange(1, 6) >= np.array([[3], [1]])) * 1.0  # prompts of 3 and 1 tokens
    args = z[:, :-1], zr[:, :-1], ids[:, 1:], k
    options = {"kl_weight": 0.1, "reduction": "batch_token"}
    # their logits are float32
    np.testing.assert_allclose(asft.loss(*args, **options), arrays["asft/value"], rtol=1e-6)
    grad = asft.loss_grad(*args, **options)
    np.testing.assert_allclose(grad, arrays["asft/grad"][:, :-1], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kl_weight", [0.0, 0.05, 1.0])
def test_the_twin_agrees_in_value_and_gradient(place, kl_weight):
    rng = np.random.default_rng(0)
    z, zr = (place.tensor(x) for x in rng.normal(size=(2, *MASK.shape, 7)))
    tokens, mask = torch.tensor(rng.integers(0, 7, MASK.shape)), place.tensor(MASK)
    options = {"kl_weight": kl_weight, "reduction": "sequence"}
    leaf = z.clone().requires_grad_(True)
    got = twin.loss(leaf, zr, tokens.to(z.device), mask, **options)
    got.backward()
    args = place.numpy(z), place.numpy(zr), tokens.numpy(), MASK
    # sums of a few dozen terms of order 1; bfloat16's gradient is rounded once, at the end
    eps = min(place.eps, torch.finfo(torch.float32).eps)
    np.testing.assert_allclose(place.numpy(got), asft.loss(*args, **options), rtol=60 * eps)
    grad = asft.loss_grad(*args, **options)
    atol = max(60 * eps, place.eps)
    np.testing.assert_allclose(place.numpy(leaf.grad), grad, rtol=atol, atol=atol)
