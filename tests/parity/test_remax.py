"""ReMax's advantage against what verl computed."""

import numpy as np

from reference_math import remax
from reference_math.conformance import rosetta


def test_it_is_verls():
    arrays = rosetta.golden("verl")
    greedy = np.tile([0.5, -0.25], 4)  # what the driver gave it, one per row
    got = remax.advantage(arrays["batch/R"], greedy, 1)[:, None] * arrays["batch/m"]
    np.testing.assert_allclose(got, arrays["adv remax/value"], rtol=1e-12)  # float64 there, too
