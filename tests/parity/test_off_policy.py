"""reference_math.off_policy against the torch twin and TRL."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import off_policy
from reference_math.torch import off_policy as twin

MASK = (np.arange(5) < np.array([[5], [3], [1], [4]])).astype(float)


def a_policy(seed=0):
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(size=MASK.shape)
    sampling = logps + rng.normal(size=MASK.shape)
    sampling[0, 1] = np.nan
    return np.array([-1.0, -0.5, 0.25, -2.0]), logps, sampling


def test_the_twin_agrees_wherever_it_runs(place):
    tensors = [place.tensor(x) for x in a_policy()]
    for threshold in (-0.5, -0.1, 0.1, 0.5):
        got = twin.keep_mask(*tensors, place.tensor(MASK), threshold=threshold)
        rounded = [place.numpy(x) for x in tensors]
        expected = off_policy.keep_mask(*rounded, MASK, threshold=threshold)
        np.testing.assert_array_equal(place.numpy(got), expected)


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_mask_is_trls(seed, per_token):
    from trl import GRPOTrainer

    a, logps, sampling = a_policy(seed)
    a = np.add.outer(a, np.linspace(-1, 2, 5)) if per_token else a[:, None]
    tensors = [torch.tensor(x) for x in (a, logps, sampling, MASK)]
    for threshold in (-0.5, -0.1, 0.1, 0.5):
        got = GRPOTrainer.get_off_policy_mask(*tensors, threshold)
        expected = off_policy.keep_mask(a, logps, sampling, MASK, threshold=threshold)
        np.testing.assert_array_equal(expected, got)
