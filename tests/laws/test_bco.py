"""Laws of BCO, its running mean and its density ratios."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_math import bco, dpo, dpo_pointwise

CLOSE = {"rtol": 1e-12, "atol": 1e-14}  # a few roundings of terms of order one
LABEL = np.array([1, 0, 0, 1, 1, 0])
numbers = st.floats(-50, 50)


def two_policies(seed=0, scale=3.0):
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(size=6) * 5
    return logps, logps + scale * rng.normal(size=6)


@given(st.lists(st.lists(numbers, max_size=5), max_size=6))
def test_delta_is_the_mean_of_all_rewards_however_they_came(batches):
    delta, count = 0.0, 0
    for batch in batches:
        delta, count = bco.running_delta(delta, count, batch)
    every = [reward for batch in batches for reward in batch]
    assert count == len(every)
    # as many roundings as batches, each of numbers up to 50
    np.testing.assert_allclose(delta, np.mean(every) if every else 0.0, rtol=1e-12, atol=1e-12)


def test_a_batch_of_no_answers_moves_nothing():
    assert bco.running_delta(1.5, 4, []) == (1.5, 4)


def test_the_papers_delta_does_not_count_heads_and_trls_does():
    rewards, label = np.array([2.0, 4.0, -1.0, 0.0]), np.array([1, 1, 0, 0])
    assert bco.midpoint(rewards, label) == bco.running_delta(0.0, 0, rewards)[0] == 1.25
    more = np.append(rewards, [-1.0, 0.0]), np.append(label, [0, 0])  # the bad answers again
    assert bco.midpoint(*more) == 1.25
    assert bco.running_delta(0.0, 0, more[0])[0] < 1.0
    assert bco.midpoint(rewards[:2], label[:2]) == 3.0
    assert bco.midpoint(rewards[2:], label[2:]) == -0.5
    assert bco.midpoint([], []) == 0.0


def test_the_weighted_undesirable_prompts_stand_for_the_desirable_ones():
    """A classifier of as many of each knows p = f / (f + g); any mean over g, weighted, is f's."""
    f, g = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.3, 0.1, 0.3, 0.3])
    w = bco.density_ratio(f / (f + g), min_density_ratio=0.0)
    for function in np.eye(4):
        np.testing.assert_allclose((g * w * function).sum(), (f * function).sum(), rtol=1e-14)


def test_the_ratio_stays_inside_its_bounds_even_where_the_classifier_is_sure():
    p = np.array([0.0, 0.1, 1 / 3, 0.5, 10 / 11, 0.99, 1.0])
    np.testing.assert_allclose(bco.density_ratio(p), [0.5, 0.5, 0.5, 1, 10, 10, 10], rtol=1e-14)
    ratio = bco.density_ratio(p, min_density_ratio=0.0, max_density_ratio=50.0)
    np.testing.assert_allclose(ratio, [0, 1 / 9, 0.5, 1, 10, 50, 50], rtol=1e-14)


def test_delta_only_moves_the_threshold():
    logps, ref_logps = two_policies()
    shifted = bco.loss(logps - 0.4 / 0.3, ref_logps, LABEL, delta=0.0, beta=0.3)
    got = bco.loss(logps, ref_logps, LABEL, delta=0.4, beta=0.3)
    np.testing.assert_allclose(got, shifted, **CLOSE)


def test_without_delta_it_is_bco_pair_answer_by_answer():
    logps, ref_logps = two_policies()
    u = logps - ref_logps
    pairs = dpo_pointwise.bco_pair(u[LABEL == 1], u[LABEL == 0], beta=0.3).mean()
    got = bco.loss(logps, ref_logps, LABEL, delta=0.0, beta=0.3)
    np.testing.assert_allclose(got, pairs / 2, **CLOSE)  # two answers a pair


@given(chosen=numbers, rejected=numbers, delta=numbers)
def test_whatever_delta_is_a_pair_costs_at_least_what_dpo_asks(chosen, rejected, delta):
    """The paper's first theorem: the classifier's loss bounds DPO's from above."""
    both = 2 * bco.loss([chosen, rejected], [0.0, 0.0], [1, 0], delta=delta, beta=1.0)
    asked = dpo.sigmoid([chosen], [rejected], beta=1.0)[0]
    assert both >= asked * (1 - 1e-14)  # equal but for rounding where delta is far from both


def test_a_weight_scales_its_answer_alone():
    logps, ref_logps = two_policies()
    options = {"delta": 0.2, "beta": 0.5}
    ones = np.eye(6)
    parts = [bco.loss(logps, ref_logps, LABEL, **options, weights=w) for w in ones]
    whole = bco.loss(logps, ref_logps, LABEL, **options, weights=[1.0, 2, 3, 4, 5, 6])
    np.testing.assert_allclose(np.dot(parts, [1.0, 2, 3, 4, 5, 6]), whole, **CLOSE)
    np.testing.assert_allclose(sum(parts), bco.loss(logps, ref_logps, LABEL, **options), **CLOSE)


@pytest.mark.parametrize("far", [-1e4, -700.0, 700.0, 1e4])
def test_the_cost_of_a_wrong_answer_is_its_distance_and_never_overflows(far):
    for label, better in [(1, far > 0), (0, far < 0)]:
        cost = bco.loss([far], [0.0], [label], delta=0.0, beta=1.0)
        np.testing.assert_allclose(cost, 0.0 if better else abs(far), atol=1e-300)
        push = bco.loss_grad([far], [0.0], [label], delta=0.0, beta=1.0)
        sign = -1.0 if label else 1.0
        np.testing.assert_allclose(push, 0.0 if better else sign, atol=1e-300)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: bco.running_delta(0.0, -1, [1.0]), "count must be >= 0"),
        (lambda: bco.running_delta(np.nan, 0, [1.0]), "delta must be finite"),
        (lambda: bco.running_delta(0.0, 0, [np.nan]), "rewards must be finite"),
        (lambda: bco.running_delta(0.0, 0, [[1.0]]), "rewards must have 1 axes"),
        (lambda: bco.midpoint([[1.0]], [[1]]), "rewards must have 1 axes"),
        (lambda: bco.midpoint([1.0], [1, 0]), r"label must have shape \(1,\)"),
        (lambda: bco.density_ratio([0.5, 1.1]), r"must lie in 0..1, got 0.5..1.1"),
        (lambda: bco.density_ratio([-0.1, 0.5]), "prob_desirable must lie in 0..1"),
        (lambda: bco.density_ratio([[0.5]]), "prob_desirable must have 1 axes"),
        (lambda: bco.density_ratio([0.5], min_density_ratio=-1), "min_density_ratio must be >= 0"),
        (
            lambda: bco.density_ratio([0.5], max_density_ratio=0.1),
            "max_density_ratio must be >= 0.5",
        ),
    ],
)
def test_what_is_wrong_around_it_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
