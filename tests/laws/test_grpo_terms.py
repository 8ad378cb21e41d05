"""Laws of what every GRPO-family loss shares."""

import numpy as np
import pytest

from reference_math import grpo_terms, ratios

MASK = np.array([[1.0, 1, 1], [1, 0, 0]])
LOGPS = np.array([[-1.0, -2.0, -0.5], [-0.2, -9.0, -9.0]])
REF = LOGPS + np.array([[0.3, -0.4, 0.0], [1.0, 5.0, 5.0]])
S = np.array([[0.1, -0.2, 0.3], [0.4, 0.0, 0.0]])
C = np.array([[1.0, -2.0, 4.0], [8.0, 16.0, 32.0]])
KL = {"ref_per_token_logps": REF, "use_bias_correction_kl": True}


def total(c=C, **terms):
    return grpo_terms.loss(c, S, LOGPS, MASK, **{"reduction": "luspo"} | terms)


def grad(dc_dlogps=0.0, dc_ds=0.0, **terms):
    terms = {"reduction": "luspo"} | terms
    return grpo_terms.loss_grad(dc_dlogps, dc_ds, S, LOGPS, MASK, **terms)


def test_the_loss_is_the_weighted_sum_of_the_surrogate():
    assert total() == (1.0 - 2.0 + 4.0 + 8.0) / 2


def test_a_factor_rescales_the_surrogate_token_by_token_or_row_by_row():
    assert total(factor=[[1, 0, 1], [0.5, 7, 7]]) == (1.0 + 4.0 + 4.0) / 2
    assert total(factor=[[0.0], [1.0]]) == 8.0 / 2
    assert total(factor=3.0) == 3 * total()


def test_a_factor_does_not_touch_the_kl():
    for beta in (0.5, 2.0):
        kl = total(0 * C, beta=beta, **KL)
        np.testing.assert_allclose(total(factor=0.0, beta=beta, **KL), kl, rtol=1e-15)
    np.testing.assert_allclose(grad(dc_ds=C, factor=0.0, beta=0.5, **KL), grad(beta=0.5, **KL))


def test_the_kl_is_proportional_to_beta_and_adds_to_the_rest():
    kl = total(0 * C, beta=1.0, **KL)
    assert kl > 0.1
    np.testing.assert_allclose(total(beta=3.0, **KL), total() + 3 * kl, rtol=1e-15)
    np.testing.assert_allclose(grad(beta=3.0, **KL), 3 * grad(beta=1.0, **KL), rtol=1e-15)


def test_at_beta_0_the_reference_is_not_asked_for():
    assert total(beta=0.0) == total()


def test_at_the_reference_the_kl_is_0_and_pushes_nothing():
    at_reference = {"ref_per_token_logps": LOGPS, "use_bias_correction_kl": True}
    assert total(beta=1.0, **at_reference) == total()
    assert not grad(beta=1.0, **at_reference).any()


def test_the_correction_multiplies_each_tokens_kl_by_its_ratio():
    one = {"ref_per_token_logps": np.where([[1, 0, 0], [0, 0, 0]], REF, LOGPS)}  # 1 token differs
    plain = total(0 * C, beta=1.0, use_bias_correction_kl=False, **one)
    corrected = total(0 * C, beta=1.0, use_bias_correction_kl=True, **one)
    np.testing.assert_allclose(corrected, np.exp(0.1) * plain, rtol=1e-14)


def test_the_two_paths_of_a_gradient_add():
    both = grad(dc_dlogps=C, dc_ds=2 * C, beta=0.5, **KL)
    np.testing.assert_allclose(both, grad(dc_dlogps=3 * C, beta=0.5, **KL), rtol=1e-14)


def test_at_sequence_level_a_row_shares_what_comes_through_its_ratio():
    rows = {"reduction": "luspo"}
    got = grpo_terms.loss_grad(0.0, [[6.0], [2.0]], S[:, :1], LOGPS, MASK, **rows)
    # each of the 3 tokens carries a weight of 1/2 of its row's 6; the sum is shared by 3
    np.testing.assert_allclose(got, [[3.0, 3.0, 3.0], [1.0, 0.0, 0.0]], rtol=1e-15)


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("level, slope", [("token", C), ("sequence", C[:, :1])])
def test_the_gradient_is_the_numeric_one_on_every_path(numeric_grad, level, slope, corrected):
    """A surrogate that falls on both paths, and the KL: its own path, and the correction's."""
    old = LOGPS - S
    terms = {"ref_per_token_logps": REF, "use_bias_correction_kl": corrected, "beta": 0.7}
    terms["reduction"] = "grpo"

    def value(x):
        s = ratios.log_importance_weights(x, old, MASK, level)
        return grpo_terms.loss(slope * s + 3.0 * x, s, x, MASK, **terms)

    s = ratios.log_importance_weights(LOGPS, old, MASK, level)
    got = grpo_terms.loss_grad(3.0, slope, s, LOGPS, MASK, **terms)
    np.testing.assert_allclose(got, numeric_grad(value, LOGPS), rtol=1e-9, atol=1e-11)


def test_the_kl_reads_no_padding():
    holes = np.where(MASK == 1, 0.0, np.nan)
    clean = grpo_terms.loss_grad(0.0, C, S, LOGPS, MASK, reduction="grpo", beta=0.5, **KL)
    dirty = KL | {"ref_per_token_logps": REF + holes}
    tokens = S, LOGPS + holes, MASK
    got = grpo_terms.loss_grad(0.0, C, *tokens, reduction="grpo", beta=0.5, **dirty)
    np.testing.assert_array_equal(got, clean)


@pytest.mark.parametrize("missing", KL)
def test_a_kl_without_a_reference_or_a_decision_is_refused(missing):
    for f in (total, grad):
        with pytest.raises(ValueError, match="beta > 0 needs ref_per_token_logps and use_bias"):
            f(beta=0.1, **KL | {missing: None})


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"beta": -1.0}, "beta must be >= 0"),
        ({"factor": np.ones((2, 2))}, r"factor must have shape \(2, 3\) or \(2, 1\), got \(2, 2\)"),
        ({"factor": np.ones(3)}, "factor must have shape"),
        ({"factor": np.nan}, "factor must be finite"),
        (
            {"beta": 1.0, **KL, "ref_per_token_logps": REF[:1]},
            "ref_per_token_logps must have shape",
        ),
        (
            {"beta": 1.0, **KL, "ref_per_token_logps": REF * np.nan},
            "ref_per_token_logps must be fin",
        ),
    ],
)
def test_what_is_wrong_is_named(wrong, message):
    for f in (total, grad):
        with pytest.raises(ValueError, match=message):
            f(**wrong)
