"""Laws of the off-policy sequence mask."""

import numpy as np
import pytest

from reference_math import off_policy

MASK = np.array([[1.0, 1, 1], [1, 1, 0], [0, 0, 0]])


def keep(advantages, gap, threshold=0.5, mask=MASK, sampling=None):
    logps = np.full(mask.shape, -3.0)
    sampling = logps + gap if sampling is None else sampling
    return off_policy.keep_mask(advantages, logps, sampling, mask, threshold=threshold)


def test_a_good_completion_is_kept_however_far_the_policy_has_gone():
    np.testing.assert_array_equal(keep([1.0, 0.0, 1.0], 100.0), [[1.0], [1.0], [1.0]])


def test_a_bad_one_is_kept_up_to_the_threshold():
    """0.5 nats per token exactly; an empty completion has not moved at all."""
    bad = [-1.0, -1.0, -1.0]
    np.testing.assert_array_equal(keep(bad, 0.5), [[1.0], [1.0], [1.0]])
    np.testing.assert_array_equal(keep(bad, 0.50001), [[0.0], [0.0], [1.0]])


def test_moving_towards_a_bad_completion_never_drops_it():
    assert keep([-1.0, -1.0, -1.0], -100.0).all()


def test_the_gap_is_a_mean_over_the_tokens_that_count():
    gap = np.array([[0.9, 0.0, 0.0], [0.9, 0.0, 99.0], [0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(keep([-1.0] * 3, gap, threshold=0.3), [[1.0], [0.0], [1.0]])


def test_a_token_that_the_sampler_did_not_score_adds_0_but_counts():
    sampling = np.array([[-3.0 + 1.2, np.nan, -3.0], [np.nan, -3.0 + 1.2, np.nan], [np.nan] * 3])
    got = keep([-1.0] * 3, 0.0, threshold=0.5, sampling=sampling)
    np.testing.assert_array_equal(got, [[1.0], [0.0], [1.0]])  # 1.2 / 3 and 1.2 / 2


def test_an_advantage_a_token_makes_a_mask_a_token():
    advantages = np.array([[1.0, -1.0, 0.0]] * 3)
    expected = [[1.0, 0.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]
    np.testing.assert_array_equal(keep(advantages, 1.0), expected)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"threshold": np.nan}, "threshold must be finite"),
        ({"mask": MASK[0]}, "completion_mask must have 2 axes"),
        ({"mask": MASK / 2}, "completion_mask must hold only 0 and 1"),
        ({"gap": np.inf}, "sampling_per_token_logps must be finite, got inf"),
        ({"sampling": MASK[:2]}, "sampling_per_token_logps must have shape"),
        ({"advantages": [1.0]}, r"advantages must have shape \(3,\)"),
    ],
)
def test_what_is_wrong_with_a_mask_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        keep(**{"advantages": [1.0] * 3, "gap": 0.0} | wrong)


def test_the_policys_own_log_probabilities_must_be_finite():
    with pytest.raises(ValueError, match="^per_token_logps must be finite"):
        off_policy.keep_mask([1.0], [[np.nan]], [[0.0]], [[1]], threshold=0.1)
