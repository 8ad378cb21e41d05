"""reference_math.a2po against TRL's A2POTrainer."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import a2po
from reference_math.conformance import trl_experimental


def test_the_loss_and_its_gradient_are_trls():
    rng = np.random.default_rng(0)
    mask = (np.arange(5) < np.array([[5], [2], [1], [3]])).astype(float)
    logps = -rng.exponential(size=mask.shape)
    batch = logps + rng.normal(size=mask.shape), rng.random(4), rng.random(4), mask
    x = torch.tensor(logps, requires_grad=True)
    theirs = trl_experimental.a2po(x, *map(torch.tensor, batch), beta2=0.3)
    theirs.backward()
    # float64, the same operations
    np.testing.assert_allclose(theirs.item(), a2po.loss(logps, *batch, beta2=0.3), rtol=1e-13)
    np.testing.assert_allclose(x.grad, a2po.loss_grad(logps, *batch, beta2=0.3), rtol=1e-12)


@pytest.mark.parametrize("beta1", [0.5, 0.01])
def test_the_value_of_a_prompt_is_trls(beta1):
    rewards = np.random.default_rng(0).integers(0, 2, size=(6, 8)).astype(float)
    theirs = trl_experimental.a2po_values(torch.tensor(rewards), beta1=beta1)
    np.testing.assert_allclose(a2po.optimal_value(rewards, beta1=beta1), theirs, rtol=1e-14)
