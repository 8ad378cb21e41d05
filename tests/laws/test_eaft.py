"""Laws of fine-tuning that is gated by the entropy."""

import numpy as np
import pytest

from reference_math import eaft, logprobs, sft

MASK = np.array([[1.0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
OPTIONS = {"top_k": 4, "scale": np.log(4), "alpha": 1.0, "reduction": "batch_token"}
GATE = {"top_k": 4, "scale": np.log(4), "alpha": 1.0}


def a_batch(seed=0, vocabulary=6):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2.0, size=(*MASK.shape, vocabulary))
    return logits, rng.integers(0, vocabulary, MASK.shape)


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.0])
def test_the_gradient_is_the_slope_once_the_gate_is_held_still(numeric_grad, alpha):
    logits, tokens = a_batch()
    options = OPTIONS | {"alpha": alpha}
    weights = eaft.gate(logits, **GATE | {"alpha": alpha}) * MASK / MASK.sum()

    def held(z):
        return -(weights * logprobs.per_token_logps(z, tokens)).sum()

    np.testing.assert_allclose(eaft.loss(logits, tokens, MASK, **options), held(logits), rtol=1e-13)
    got = eaft.loss_grad(logits, tokens, MASK, **options)
    np.testing.assert_allclose(got, numeric_grad(held, logits), rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_the_gate_is_the_entropy_of_the_likeliest_alone(top_k):
    """By enumeration: the chances of the k likeliest, made to add up to 1."""
    logits, _ = a_batch()
    got = eaft.gate(logits, top_k=top_k, scale=2.0, alpha=1.0)
    for at in np.ndindex(MASK.shape):
        p = np.sort(np.exp(logits[at]))[::-1][:top_k]
        p = p / p.sum()
        np.testing.assert_allclose(got[at], -(p * np.log(p)).sum() / 2.0, rtol=1e-12, atol=1e-15)


def test_the_gate_lies_between_sure_and_uniform():
    sure, uniform = np.array([[200.0, 0, 0, 0, 0]]), np.zeros((1, 5))
    np.testing.assert_allclose(eaft.gate(sure, **GATE), 0.0, atol=1e-12)
    np.testing.assert_allclose(eaft.gate(uniform, **GATE), 1.0, rtol=1e-14)
    between = eaft.gate(a_batch()[0], **GATE)
    assert (between > 0).all() and (between < 1).all()


def test_where_the_gate_is_1_it_is_sft():
    """On uniform logits, and with alpha 0 on any."""
    logits, tokens = a_batch()
    for z, options in [(0 * logits, OPTIONS), (logits, OPTIONS | {"alpha": 0.0})]:
        logps = logprobs.per_token_logps(z, tokens)
        value = sft.nll(logps, MASK, reduction="batch_token")
        np.testing.assert_allclose(eaft.loss(z, tokens, MASK, **options), value, rtol=1e-14)
        push = logprobs.logits_grad(z, tokens, sft.nll_grad(logps, MASK, reduction="batch_token"))
        got = eaft.loss_grad(z, tokens, MASK, **options)
        np.testing.assert_allclose(got, push, rtol=1e-13, atol=1e-17)


def test_a_confident_conflict_is_hardly_pushed_where_sft_pushes_most():
    """The model is sure of token 0, the text says 1; beside it a model that does not know."""
    sure, unsure = np.array([[[9.0, 0, 0, 0]]]), np.array([[[0.1, 0, 0, 0]]])
    pushes = {}
    for name, z in {"sure": sure, "unsure": unsure}.items():
        plain = logprobs.logits_grad(z, [[1]], [[-1.0]])
        pushes[name] = np.abs(plain).max(), np.abs(eaft.loss_grad(z, [[1]], [[1]], **OPTIONS)).max()
    assert pushes["sure"][0] > pushes["unsure"][0]
    assert pushes["sure"][1] < 0.01 * pushes["unsure"][1]


def test_a_power_presses_the_small_weights_down():
    logits, _ = a_batch()
    one, three = (eaft.gate(logits, **GATE | {"alpha": a}) for a in (1.0, 3.0))
    np.testing.assert_allclose(three, one**3, rtol=1e-13)


def test_a_k_beyond_the_vocabulary_takes_all_of_it():
    logits, _ = a_batch()
    got = eaft.gate(logits, top_k=20, scale=1.0, alpha=1.0)
    np.testing.assert_allclose(got, logprobs.entropy(logits), rtol=1e-13)


def test_the_tokens_of_the_step_are_counted_as_in_sft():
    logits, tokens = a_batch()
    step = OPTIONS | {"reduction": "global_token", "num_items_in_batch": 12}
    whole = eaft.loss(logits, tokens, MASK, **OPTIONS)
    np.testing.assert_allclose(eaft.loss(logits, tokens, MASK, **step), whole / 2, rtol=1e-14)
    grads = [eaft.loss_grad(logits, tokens, MASK, **o) for o in (step, OPTIONS)]
    np.testing.assert_allclose(grads[0], grads[1] / 2, rtol=1e-14)


@pytest.mark.parametrize("wrong", [0, 1.5, -2])
def test_a_k_that_is_no_count_is_named(wrong):
    with pytest.raises(ValueError, match=f"top_k must be an integer >= 1, got {wrong}"):
        eaft.gate([[0.0, 1.0]], top_k=wrong, scale=1.0, alpha=1.0)
    with pytest.raises(ValueError, match="logits must be finite"):
        eaft.gate([[0.0, np.nan]], **GATE)
