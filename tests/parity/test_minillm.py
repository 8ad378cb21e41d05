"""reference_math.minillm against the golden vectors of TRL 1.14.2, the last to have a MiniLLMTrainer."""

import numpy as np
import pytest

pytest.importorskip("torch")  # conftest

from reference_math import gkd, grpo, logprobs, minillm

# TRL makes gamma^i in float32: 6e-8 of terms of order one
TOLERANCE = {"rtol": 1e-6, "atol": 1e-7}
CASES = {  # of golden/drive_minillm.py: gamma, length_normalization, single_step_decomposition
    "default": (0.0, True, True),
    "discounted": (0.7, False, False),
    "normalised": (0.7, True, True),
    "summed": (1.0, False, True),
}
CLIP = {"importance_sampling_level": "token", "reduction": "bnpo"}
CLIP |= {"epsilon_low": 0.2, "epsilon_high": 0.2}


@pytest.fixture(scope="module")
def batch(golden):
    """batch(case) -> its arrays by name"""
    vectors = golden("minillm")

    def of(case):
        found = {k.removeprefix(f"{case}/"): v for k, v in vectors.items()}
        return {k: v for k, v in found.items() if "/" not in k}

    return of


def token_logps(x):
    return [logprobs.per_token_logps(x[f"{m}_logits"], x["tokens"]) for m in ("student", "teacher")]


def trls(x, case):
    """The advantages by our function: from the answer's start, the first term left in, all counted.

    TRL's mask is true throughout; gamma 0 has no mean to take.
    """
    gamma, normalise, _ = CASES[case]
    return minillm.advantages(
        *token_logps(x),
        np.ones_like(x["completion_mask"]),
        gamma=gamma,
        length_normalization=normalise and gamma > 0,
        single_step_decomposition=False,
        discount_from="start",
    )


@pytest.mark.parametrize("case", CASES)
def test_the_advantages_are_trls(batch, case):
    x = batch(case)
    np.testing.assert_allclose(x["advantages"], trls(x, case), **TOLERANCE)


@pytest.mark.parametrize("case", CASES)
def test_the_loss_is_trls_and_so_is_its_gradient_once_the_advantage_is_detached(batch, case):
    x, decompose = batch(f"{case}_detached"), CASES[case][2]
    student, teacher, old = (
        x[k] for k in ("student_logits", "teacher_logits", "old_per_token_logps")
    )
    mask, a = np.ones_like(x["completion_mask"]), trls(x, case)
    logps, _ = token_logps(x)
    value = grpo.loss(logps, old, a, mask, **CLIP)
    value += decompose * gkd.loss(student, teacher, mask, beta=1.0)
    np.testing.assert_allclose(x["loss"], value, **TOLERANCE)
    dlogps = grpo.loss_grad(logps, old, a, mask, **CLIP)
    grad = logprobs.logits_grad(student, x["tokens"], dlogps)
    grad += decompose * gkd.loss_grad(student, teacher, mask, beta=1.0)
    np.testing.assert_allclose(x["grad"], grad, **TOLERANCE)


def test_without_the_departures_the_whole_is_ours(batch):
    """A mean of the discounted sum, nothing decomposed: what `minillm.loss` computes by itself."""
    x, options = (
        batch("discounted_detached"),
        dict(zip(("gamma", "length_normalization"), (0.7, False))),
    )
    args = [x[k] for k in ("student_logits", "teacher_logits", "tokens", "old_per_token_logps")]
    options |= {"single_step_decomposition": False, "discount_from": "start", "clip": 0.2}
    value = minillm.loss(*args, x["completion_mask"], **options)
    np.testing.assert_allclose(x["loss"], value, **TOLERANCE)
    grad = minillm.loss_grad(*args, x["completion_mask"], **options)
    np.testing.assert_allclose(x["grad"], grad, **TOLERANCE)


@pytest.mark.library_defect
@pytest.mark.parametrize("case", CASES)
def test_trls_advantage_is_not_detached(batch, case):
    """d(-w A)/dA reaches every later token: gamma^i sum_{t <= i} w_t / tokens, 0 on average at w = 1."""
    x, detached = batch(case), batch(f"{case}_detached")
    assert x["has_graph"] and np.isclose(x["loss"], detached["loss"], rtol=1e-12)
    extra = x["grad"] - detached["grad"]
    assert np.abs(extra).max() > 0.01
    if case in ("default", "discounted", "summed"):
        gamma, a = CASES[case][0], x["advantages"]
        s = token_logps(x)[0] - x["old_per_token_logps"]
        w = np.exp(s)
        ratio = np.where(w * a < np.clip(w, 0.8, 1.2) * a, w, np.clip(w, 0.8, 1.2))
        to_logps = np.cumsum(ratio, axis=1) * gamma ** np.arange(4.0) if gamma else ratio
        expected = logprobs.logits_grad(x["student_logits"], x["tokens"], to_logps / a.size)
        np.testing.assert_allclose(extra, expected, **TOLERANCE)


@pytest.mark.library_defect
def test_trl_counts_the_single_step_twice(batch):
    """The sum that it takes beside the exact step still has the step's own reward."""
    x = batch("summed")
    options = {"gamma": 1.0, "length_normalization": False}
    mask = np.ones_like(x["completion_mask"])
    paper = minillm.advantages(*token_logps(x), mask, single_step_decomposition=True, **options)
    logps, teacher = token_logps(x)
    np.testing.assert_allclose(x["advantages"] - paper, teacher - logps, **TOLERANCE)


@pytest.mark.library_defect
def test_padding_has_an_advantage_and_a_divergence_in_trl(batch):
    x = batch("padded")
    padding = x["completion_mask"] == 0
    assert padding.any() and (x["advantages"][padding] != 0).all()
    assert (np.abs(x["grad"][padding]).max(axis=-1) > 0).all()
    # the single step is a mean over all positions; GRPO's part knows the padding
    logps, _ = token_logps(x)
    value = grpo.loss(logps, x["old_per_token_logps"], x["advantages"], 1 - padding, **CLIP)
    models = x["student_logits"], x["teacher_logits"]
    value += gkd.loss(*models, np.ones_like(x["completion_mask"]), beta=1.0)
    np.testing.assert_allclose(x["loss"], value, **TOLERANCE)
