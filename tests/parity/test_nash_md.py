"""reference_math.nash_md against the golden vectors of TRL 1.13.0, the last to have a NashMDTrainer."""

import numpy as np
import pytest

pytest.importorskip("torch")  # conftest

from reference_math import nash_md

# float64, the same operations in another order; atol: what cancels from terms of order one
EXACT = {"rtol": 1e-12, "atol": 1e-14}


def a_batch(vectors, case):
    given = {name: vectors[f"{case}/{name}"] for name in ("rewards", "mixture_rewards")}
    win = nash_md.win_probability(**given)
    logps, ref = (vectors[f"{case}/{name}"] for name in ("per_token_logps", "ref_per_token_logps"))
    return logps, ref, win, vectors[f"{case}/completion_mask"]


@pytest.mark.parametrize("case, beta", [("usual", 0.3), ("no_kl", 0.0)])
def test_what_trl_backpropagates_and_its_gradient(golden, case, beta):
    vectors = golden("nash_md")
    batch, options = a_batch(vectors, case), {"beta": beta, "kl_level": "token"}
    value = nash_md.loss(*batch, **options)
    np.testing.assert_allclose(vectors[f"{case}/backward"], value, **EXACT)
    grad = nash_md.loss_grad(*batch, **options)
    np.testing.assert_allclose(vectors[f"{case}/grad"], grad, **EXACT)


def test_the_mixture_that_the_rival_samples_from_is_trls(golden):
    vectors = golden("nash_md")
    models = vectors["mixture/logits"], vectors["mixture/ref_logits"]
    for coef in (0.0, 0.3, 1.0):
        ours = nash_md.mixture_log_probs(*models, mixture_coef=coef)
        np.testing.assert_allclose(vectors[f"mixture/{coef}"], ours, **EXACT)


@pytest.mark.library_defect
def test_trls_kl_is_not_the_papers_where_an_answer_has_two_tokens(golden):
    """Each token is pushed by its own log-ratio alone, not by what it leads to."""
    vectors = golden("nash_md")
    batch = a_batch(vectors, "usual")
    paper = nash_md.loss_grad(*batch, beta=0.3, kl_level="sequence")
    gap = np.abs(vectors["usual/grad"] - paper).max(axis=1)
    lengths = batch[3].sum(axis=1)
    assert (gap[lengths > 1] > 0.01).all() and (gap[lengths == 1] < 1e-14).all()


@pytest.mark.library_defect
def test_trls_gradient_grows_with_the_accumulation_steps_and_only_its_logged_loss_does_not(golden):
    vectors = golden("nash_md")
    np.testing.assert_array_equal(vectors["accumulated/grad"], vectors["usual/grad"])
    np.testing.assert_allclose(vectors["accumulated/logged"], vectors["usual/logged"] / 4)
