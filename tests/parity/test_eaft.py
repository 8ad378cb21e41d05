"""reference_math.eaft against LLaMA-Factory's and axolotl's own results and against the torch twin."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import eaft
from reference_math.conformance import rosetta
from reference_math.torch import eaft as twin

MASK = np.array([[1.0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize("library, scale", [("llamafactory", 3.0), ("axolotl", 1.0)])
def test_the_loss_and_its_gradient_are_the_libraries(library, scale):
    arrays = rosetta.golden(library)
    z, ids = arrays["batch/z"], arrays["batch/ids"]
    k = (np.arange(1, 6) >= np.array([[3], [1]])) * 1.0  # prompts of 3 and 1 tokens
    options = {"top_k": 20, "scale": scale, "alpha": 1.0, "reduction": "global_token"}
    args, options = (z[:, :-1], ids[:, 1:], k), options | {"num_items_in_batch": 11}
    # their logits are float32
    np.testing.assert_allclose(eaft.loss(*args, **options), arrays["eaft/value"], rtol=1e-6)
    grad = eaft.loss_grad(*args, **options)
    np.testing.assert_allclose(grad, arrays["eaft/grad"][:, :-1], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("top_k, alpha", [(4, 1.0), (3, 2.0), (9, 0.5), (1, 1.0)])
def test_the_twin_agrees_in_value_and_gradient(place, top_k, alpha):
    rng = np.random.default_rng(0)
    z = place.tensor(rng.permuted(np.linspace(-2, 2, 7) + np.zeros((*MASK.shape, 1)), axis=-1))
    tokens, mask = torch.tensor(rng.integers(0, 7, MASK.shape)), place.tensor(MASK)
    options = {"top_k": top_k, "scale": np.log(4), "alpha": alpha, "reduction": "batch_token"}
    leaf = z.clone().requires_grad_(True)
    got = twin.loss(leaf, tokens.to(z.device), mask, **options)
    got.backward()
    args = place.numpy(z), tokens.numpy(), MASK
    eps = min(place.eps, torch.finfo(torch.float32).eps)  # computed in float32 at least
    eps = max(eps, place.eps)  # the entropy's inputs are rounded
    np.testing.assert_allclose(place.numpy(got), eaft.loss(*args, **options), rtol=60 * eps)
    grad = eaft.loss_grad(*args, **options)
    np.testing.assert_allclose(
        place.numpy(leaf.grad), grad, rtol=max(60 * eps, place.eps), atol=60 * eps
    )


def test_the_twin_names_what_is_wrong():
    for wrong in ({"top_k": 0}, {"top_k": 1.5}, {"scale": 0.0}, {"alpha": -1.0}):
        options = {"top_k": 2, "scale": 1.0, "alpha": 1.0} | wrong
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            twin.gate(torch.zeros(1, 3), **options)
