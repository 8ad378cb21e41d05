"""reference_math.gmpo against TRL's GMPOTrainer."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import gmpo
from reference_math.conformance import trl_experimental

MASK = np.array([[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]])
ADVANTAGES = np.array([1.25, -0.75, 0.0, 1.0])
CLIP = {"epsilon_low": 0.2, "epsilon_high": 0.4}


def three_policies(seed=0):
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(size=MASK.shape)
    return logps, *(logps + 0.5 * rng.normal(size=(2, *MASK.shape)))


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_and_its_gradient_are_trls(beta, seed):
    logps, old, ref = three_policies(seed)
    x = torch.tensor(logps, requires_grad=True)
    rest, options = (old, ADVANTAGES, MASK), CLIP | {"beta": beta}
    theirs = trl_experimental.gmpo(
        x, *map(torch.tensor, rest), **options, ref_per_token_logps=torch.tensor(ref)
    )
    theirs.backward()
    options |= {"ref_per_token_logps": ref}
    # float64, the same operations; k3 as TRL writes it cancels
    np.testing.assert_allclose(theirs.item(), gmpo.loss(logps, *rest, **options), rtol=1e-12)
    grad = gmpo.loss_grad(logps, *rest, **options)
    np.testing.assert_allclose(x.grad, grad, rtol=1e-12, atol=1e-15)


@pytest.mark.library_defect
def test_a_bad_completion_that_has_become_likely_overflows_in_trl():
    """A < 0 has no upper clip: e^100 in float32 is inf, and so is its gradient.  Ours stays finite."""
    x = torch.zeros(1, 1, requires_grad=True)
    old, a, one = torch.tensor([[-100.0]]), torch.tensor([-1.0]), torch.ones(1, 1)
    theirs = trl_experimental.gmpo(x, old, a, one, **CLIP)
    theirs.backward()
    assert torch.isinf(theirs) and torch.isinf(x.grad).all()
    assert np.isfinite(gmpo.loss_grad([[0.0]], [[-100.0]], [-1.0], [[1]], **CLIP)).all()
