"""Laws of KTO and of its baseline."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_math import dpo_pointwise, kto

CLOSE = {"rtol": 1e-12, "atol": 1e-14}  # a few roundings of terms of order one
LABEL = np.array([1, 0, 0, 1, 1, 0])
WEIGHTS = {"desirable_weight": 1.5, "undesirable_weight": 0.7}


def two_policies(seed=0, scale=3.0):
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(size=6) * 5
    return logps, logps + scale * rng.normal(size=6)


@given(n=st.integers(0, 40), batch_size=st.integers(1, 9))
def test_each_micro_batch_keeps_its_own_answers_and_nobody_his(n, batch_size):
    partners = kto.kl_partners(n, batch_size=batch_size)
    assert partners.shape == (n,)
    for start in range(0, n, batch_size):
        block = list(range(start, min(start + batch_size, n)))
        assert sorted(partners[block]) == block
        if len(block) > 1:
            assert (partners[block] != block).all()
            # one circle: from any prompt, all the block's answers are met
            at, met = start, []
            for _ in block:
                at = partners[at]
                met.append(at)
            assert sorted(met) == block
        assert [partners[i] - i for i in block[1:]] == [-1] * (len(block) - 1)


@pytest.mark.parametrize("batch_size", [0, -2, 1.5])
def test_a_batch_size_that_is_none_is_refused(batch_size):
    with pytest.raises(ValueError, match="batch_size must be an integer >= 1"):
        kto.kl_partners(4, batch_size=batch_size)


def test_the_baseline_is_the_kl_where_its_answers_are_the_policys_own():
    """Sixteen draws from p in its very proportions; of the reference's own draws it would be < 0."""
    p, ref = np.array([1, 2, 5, 8]) / 16, np.array([4, 4, 4, 4]) / 16
    drawn = np.repeat(np.arange(4), (16 * p).astype(int))
    baseline = kto.kl_baseline(np.log(p[drawn]), np.log(ref[drawn]))
    np.testing.assert_allclose(baseline, (p * np.log(p / ref)).sum(), rtol=1e-14)
    drawn = np.repeat(np.arange(4), (16 * ref).astype(int))
    assert (np.log(p[drawn]) - np.log(ref[drawn])).mean() < 0
    assert kto.kl_baseline(np.log(p[drawn]), np.log(ref[drawn])) == 0.0
    assert kto.kl_baseline([], []) == 0.0
    assert kto.kl_baseline([-1.0], [-1.5]) == 0.5  # of one pair: its own log-ratio


def test_at_the_baseline_each_answer_costs_half_its_weight():
    logps, _ = two_policies()
    cost = kto.loss(logps, logps - 0.25, LABEL, kl=0.25, beta=2.0, **WEIGHTS)
    np.testing.assert_allclose(cost, (3 * 1.5 + 3 * 0.7) / 2 / 6, rtol=1e-14)


def test_a_higher_baseline_asks_more_of_the_desirable_and_forgives_the_others():
    logps, ref_logps = two_policies()
    for label, sign in [(1, 1.0), (0, -1.0)]:
        labels = np.full(6, label)
        costs = [kto.loss(logps, ref_logps, labels, kl=z, beta=0.5) for z in (0.0, 0.5, 1.0)]
        assert (sign * np.diff(costs) > 0).all()


def test_an_answer_called_bad_is_the_mirror_image_of_one_called_good():
    logps, ref_logps = two_policies()
    mirrored = ref_logps + (2 * 0.4 - (logps - ref_logps))  # u on the other side of z
    one = kto.loss(logps, ref_logps, LABEL, kl=0.4, beta=0.3)
    other = kto.loss(mirrored, ref_logps, 1 - LABEL, kl=0.4, beta=0.3)
    np.testing.assert_allclose(other, one, **CLOSE)


def test_the_push_is_largest_at_the_baseline_and_fades_far_from_it():
    u = np.linspace(-6.0, 8.0, 29)  # 1.0 among them
    for label in (0, 1):
        push = np.abs(kto.loss_grad(u, np.zeros(29), np.full(29, label), kl=1.0, beta=1.0))
        assert u[push.argmax()] == 1.0
        assert push[0] < 0.01 * push.max() and push[-1] < 0.01 * push.max()


def test_without_a_baseline_it_is_apo_zero_answer_by_answer():
    logps, ref_logps = two_policies()
    u = logps - ref_logps
    pairs = dpo_pointwise.apo_zero(u[LABEL == 1], u[LABEL == 0], beta=0.3).mean()
    got = kto.loss(logps, ref_logps, LABEL, kl=0.0, beta=0.3)
    np.testing.assert_allclose(got, pairs / 2, **CLOSE)  # two answers a pair


def test_the_weights_scale_their_own_class_alone():
    logps, ref_logps = two_policies()
    options = {"kl": 0.3, "beta": 0.5}
    plain = kto.loss_grad(logps, ref_logps, LABEL, **options)
    weighted = kto.loss_grad(logps, ref_logps, LABEL, **options, **WEIGHTS)
    np.testing.assert_allclose(weighted / plain, np.where(LABEL == 1, 1.5, 0.7), rtol=1e-14)
    halves = [
        kto.loss(logps, ref_logps, LABEL, **options, **{name: 0.0}) for name in sorted(WEIGHTS)
    ]
    np.testing.assert_allclose(sum(halves), kto.loss(logps, ref_logps, LABEL, **options), **CLOSE)


@pytest.mark.parametrize("label", [0, 1])
def test_a_batch_of_one_class_or_of_nothing_is_defined(label):
    logps, ref_logps = two_policies()
    labels = np.full(6, label)
    alone = [kto.loss(logps[[i]], ref_logps[[i]], [label], kl=0.1, beta=0.5) for i in range(6)]
    got = kto.loss(logps, ref_logps, labels, kl=0.1, beta=0.5)
    np.testing.assert_allclose(got, np.mean(alone), **CLOSE)
    assert kto.loss([], [], [], kl=0.1, beta=0.5) == 0.0
    assert kto.loss_grad([], [], [], kl=0.1, beta=0.5).shape == (0,)


def test_without_beta_nothing_is_learnt():
    logps, ref_logps = two_policies()
    assert kto.loss(logps, ref_logps, LABEL, kl=0.3, beta=0.0) == 0.5
    assert not kto.loss_grad(logps, ref_logps, LABEL, kl=0.3, beta=0.0).any()


@pytest.mark.parametrize("far", [-1e4, -700.0, 700.0, 1e4])
def test_however_far_the_policy_has_gone_the_cost_is_bounded(far):
    for label, better in [(1, far > 0), (0, far < 0)]:
        cost = kto.loss([far], [0.0], [label], kl=0.0, beta=1.0)
        np.testing.assert_allclose(cost, 0.0 if better else 1.0, atol=1e-300)
        assert np.abs(kto.loss_grad([far], [0.0], [label], kl=0.0, beta=1.0)) < 1e-300


@pytest.mark.parametrize(
    "logps, ref_logps, message",
    [
        ([[0.0]], [[0.0]], "kl_logps must have 1 axes"),
        ([0.0], [0.0, 0.0], r"ref_kl_logps must have shape \(1,\)"),
        ([np.inf], [0.0], "kl_logps must be finite"),
    ],
)
def test_what_is_wrong_with_the_baseline_is_named(logps, ref_logps, message):
    with pytest.raises(ValueError, match=message):
        kto.kl_baseline(logps, ref_logps)
