"""reference_math.bco against the golden vectors of TRL 1.13.0, the last to have a BCOTrainer."""

import numpy as np
import pytest

pytest.importorskip("torch")  # conftest

from reference_math import bco, implicit_rewards

BETA = 0.3  # of golden/drive_bco.py
STEPS = range(6)  # five of training, one of evaluation
# TRL keeps delta as a float32: 6e-8 of a reward of 3, in a loss of order one
TOLERANCE = {"float64": {"rtol": 3e-7, "atol": 3e-8}, "float32": {"rtol": 3e-6, "atol": 3e-7}}
TOLERANCE["weighted"] = TOLERANCE["float64"]


@pytest.fixture(scope="module")
def steps(golden):
    """steps(case) -> the arrays of each step by name"""
    vectors = golden("bco")

    def of(case):
        prefixes = [f"{case}/{step}/" for step in STEPS]
        return [
            {k.removeprefix(p): v for k, v in vectors.items() if k.startswith(p)} for p in prefixes
        ]

    return of


def answers(step):
    """(logps, ref_logps, label) of the batch, the desirable first"""
    logps, ref_logps = (
        np.concatenate([step[f"{ref}chosen_logps"], step[f"{ref}rejected_logps"]]).astype(float)
        for ref in ("", "ref_")
    )
    return logps, ref_logps, np.arange(len(logps)) < len(step["chosen_logps"])


@pytest.mark.parametrize("case", TOLERANCE)
def test_trls_loss_and_gradient_with_its_own_delta(steps, case):
    for step in steps(case):
        logps, ref_logps, label = answers(step)
        weights = np.ones(len(label))
        if case == "weighted":
            weights[~label] = bco.density_ratio(step["prob_desirable"])
            assert (weights[~label] != 1).all()
        options = {"delta": float(step["delta"]), "beta": BETA, "weights": weights}
        value = bco.loss(logps, ref_logps, label, **options)
        np.testing.assert_allclose(step["losses"].mean(), value, **TOLERANCE[case])
        grads = np.concatenate([step["chosen_grad"], step["rejected_grad"]])
        ours = bco.loss_grad(logps, ref_logps, label, **options)
        np.testing.assert_allclose(grads, ours, **TOLERANCE[case])


@pytest.mark.parametrize("case", TOLERANCE)
def test_trls_running_delta_which_evaluation_leaves_alone(steps, case):
    delta, count = 0.0, 0
    for number, step in enumerate(steps(case)):
        logps, ref_logps, _ = answers(step)
        if number < 5:
            rewards = implicit_rewards.rewards(logps, ref_logps, beta=BETA)
            delta, count = bco.running_delta(delta, count, rewards)
        np.testing.assert_allclose(step["delta"], delta, **TOLERANCE[case])
        np.testing.assert_allclose(step["count"], count, rtol=1e-15)


def test_trls_delta_is_not_the_papers_where_the_classes_differ_in_number(steps):
    """Step 1: one desirable answer, four undesirable."""
    seen = [answers(step) for step in steps("float64")[:2]]
    logps, ref_logps, label = (np.concatenate(x) for x in zip(*seen))
    rewards = implicit_rewards.rewards(logps, ref_logps, beta=BETA)
    theirs = float(steps("float64")[1]["delta"])
    np.testing.assert_allclose(theirs, rewards.mean(), **TOLERANCE["float64"])
    assert abs(bco.midpoint(rewards, label) / theirs - 1) > 0.05


@pytest.mark.library_defect
def test_trl_keeps_delta_in_float32_whatever_the_model(steps):
    delta, count, departures = 0.0, 0, []
    for step in steps("float64")[:5]:
        rewards = implicit_rewards.rewards(*answers(step)[:2], beta=BETA)
        delta, count = bco.running_delta(delta, count, rewards)
        departures.append(abs(float(step["delta"]) / delta - 1))
    assert 1e-10 < max(departures) < 1e-6


@pytest.mark.library_defect
def test_one_answer_that_is_nan_ends_trls_training_for_good(steps):
    """delta never recovers, and with it no later loss. Ours names the reward and keeps delta."""
    broken, *later = steps("broken")
    assert np.isnan(broken["chosen_logps"]).sum() == 1
    for step in later:
        assert np.isfinite(np.concatenate(answers(step)[:2])).all()
        assert np.isnan(step["delta"]) and np.isnan(step["losses"]).all()
    with pytest.raises(ValueError, match="rewards must be finite, got nan"):
        bco.running_delta(0.0, 0, [1.0, np.nan])
