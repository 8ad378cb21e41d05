"""Laws of the bound on the second moment of the log-ratio."""

import numpy as np
import pytest

from reference_math import grpo, m2po

MASK = np.array([[1.0, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 1, 0, 1], [0, 0, 0, 0, 0]])
ADVANTAGES = np.array([1.25, -0.75, 0.0, 2.0])
BOTH = pytest.mark.parametrize("constrained", m2po.CONSTRAINED)


def two_policies(seed=0):
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(size=MASK.shape)
    return logps, logps + 0.5 * rng.normal(size=MASK.shape)


def the(logps, old, threshold=0.04, constrained="all", advantages=ADVANTAGES):
    options = {"threshold": threshold, "constrained": constrained}
    return m2po.keep_mask(logps, old, advantages, MASK, **options)


def constrained_tokens(logps, old, constrained):
    pushed = np.sign(ADVANTAGES)[:, None] == np.sign(logps - old)
    return (MASK == 1) & (pushed | (constrained == "all"))


@pytest.mark.parametrize("threshold", [0.0, 0.01, 0.04, 0.2, 9.0])
@BOTH
@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_papers_loop(seed, constrained, threshold):
    """Algorithm 1, one token at a time."""
    logps, old = two_policies(seed)
    m2 = (logps - old) ** 2
    t = {tuple(i) for i in np.argwhere(constrained_tokens(logps, old, constrained))}
    expected = np.ones(MASK.shape)
    while t and np.mean([m2[i] for i in t]) > threshold:
        worst = max(t, key=lambda i: m2[i])
        expected[worst] = 0.0
        t -= {worst}
    np.testing.assert_array_equal(the(logps, old, threshold, constrained), expected)


@BOTH
def test_what_remains_is_within_the_bound_and_one_token_more_is_not(constrained):
    logps, old = two_policies(seed=1)
    keep, m2 = the(logps, old, constrained=constrained), (logps - old) ** 2
    t = constrained_tokens(logps, old, constrained)
    rest, gone = m2[t & (keep == 1)], m2[t & (keep == 0)]
    assert rest.mean() <= 0.04 < np.append(rest, gone.min()).mean()
    assert rest.max() < gone.min() and not (keep[~t] == 0).any()


def test_only_tokens_that_a_clip_could_stop_are_left_out_by_the_paper():
    """With threshold 0 the mask is that of a clip of width 0: what has moved with its advantage goes."""
    logps, old = two_policies()
    keep = the(logps, old, 0.0, "trust_region")
    clip = {"epsilon_low": 0.0, "epsilon_high": 0.0, "delta": None}
    low, high = grpo.clipped(np.where(MASK == 1, logps - old, 0.0), ADVANTAGES, **clip)
    np.testing.assert_array_equal(keep, 1.0 - (low | high))
    assert 0 < (1 - keep).sum() < (the(logps, old, 0.0, "all") == 0).sum()


@BOTH
def test_on_policy_and_within_a_wide_bound_every_token_counts(constrained):
    logps, old = two_policies()
    assert the(logps, logps, 0.0, constrained).all()
    assert the(logps, old, 100.0, constrained).all()


@BOTH
def test_a_mean_at_the_threshold_is_within(constrained):
    logps = np.zeros(MASK.shape)
    old = -0.5 * np.sign(ADVANTAGES)[:, None] + 0 * MASK  # every (log w)^2 is 1/4, but where A is 0
    mean = 0.25 if constrained == "trust_region" else 0.25 * 8 / 11
    assert the(logps, old, mean, constrained).all()
    assert (the(logps, old, 0.999 * mean, constrained) == 0).any()


def test_of_equal_tokens_the_earlier_goes_first():
    logps, old = np.zeros((1, 4)), np.array([[-0.5, 0.0, -0.5, 0.0]])
    keep = m2po.keep_mask(logps, old, [1.0], np.ones((1, 4)), threshold=0.1, constrained="all")
    np.testing.assert_array_equal(keep, [[0.0, 1.0, 1.0, 1.0]])


@BOTH
def test_the_padding_is_kept_and_not_read(constrained):
    logps, old = two_policies()
    dirty = np.where(MASK == 1, logps, np.nan)
    keep = the(dirty, old, 0.0, constrained)
    np.testing.assert_array_equal(keep, the(logps, old, 0.0, constrained))
    assert keep[MASK == 0].all()


@BOTH
def test_an_advantage_per_token_holds_for_its_token(constrained):
    logps, old = two_policies()
    per_token = np.broadcast_to(ADVANTAGES[:, None], MASK.shape)
    one, other = (the(logps, old, 0.02, constrained, a) for a in (ADVANTAGES, per_token))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"threshold": -0.1}, "threshold must be >= 0"),
        ({"constrained": "clip"}, "constrained must be one of 'trust_region', 'all'"),
        ({"advantages": np.ones(3)}, "advantages must have shape"),
        ({"completion_mask": MASK / 2}, "completion_mask must hold only 0 and 1"),
    ],
)
def test_what_is_wrong_is_named(wrong, message):
    given = dict(zip(("per_token_logps", "old_per_token_logps"), two_policies()))
    given |= {"advantages": ADVANTAGES, "completion_mask": MASK}
    with pytest.raises(ValueError, match=message):
        m2po.keep_mask(**given | {"threshold": 0.1, "constrained": "all"} | wrong)
