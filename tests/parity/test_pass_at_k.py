"""The advantage for the best of a group against what verl computed."""

import numpy as np
import pytest

from reference_math import pass_at_k
from reference_math.conformance import rosetta


@pytest.mark.parametrize(
    "case, f, options",
    [
        ("adv pass@k", pass_at_k.scaled, {"ddof": 1, "eps": 1e-6}),
        ("adv pass@k, without std", pass_at_k.advantage, {}),
    ],
)
def test_it_is_verls(case, f, options):
    arrays = rosetta.golden("verl")
    got = f(arrays["batch/R"], 4, **options)[:, None] * arrays["batch/m"]
    np.testing.assert_allclose(got, arrays[f"{case}/value"], rtol=1e-12)  # float64 there, too
    assert (got.any(axis=1)).sum() == 2  # one answer of each group
