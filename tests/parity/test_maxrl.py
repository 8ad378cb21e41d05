"""MaxRL's advantage against what SkyRL computed."""

import numpy as np

from reference_math import maxrl
from reference_math.conformance import rosetta


def test_it_is_skyrls():
    arrays = rosetta.golden("skyrl")
    rewards, mask = np.abs(arrays["batch/R"]), arrays["batch/m"]
    got = maxrl.advantage(rewards, 4, eps=1e-6)[:, None] * mask
    np.testing.assert_allclose(got, arrays["adv maxrl/value"], rtol=1e-12)  # float64 there, too
