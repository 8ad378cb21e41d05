"""OPO's advantage against what verl computed."""

import numpy as np

from reference_math import advantages, opo
from reference_math.conformance import rosetta


def test_it_is_verls():
    arrays = rosetta.golden("verl")
    rewards, mask = arrays["batch/R"], arrays["batch/m"]
    theirs = arrays["adv opo/value"]
    # float64 there, too: what is left is the order of the sums
    np.testing.assert_allclose(opo.advantage(rewards, 4, mask)[:, None] * mask, theirs, rtol=1e-12)
    assert np.abs(advantages.dr_grpo(rewards, 4)[:, None] * mask - theirs).max() > 0.01
