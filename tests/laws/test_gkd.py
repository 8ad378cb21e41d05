"""Laws of the generalised Jensen-Shannon divergence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_math import gkd, kl, logprobs

BETAS = pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
MASK = np.array([[1.0, 1, 0], [0, 1, 1], [0, 0, 0]])


def two_models(shape=(4, 5), seed=0, scale=1.0):
    return np.random.default_rng(seed).normal(scale=scale, size=(2, *shape))


@BETAS
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_gradient_by_hand_is_the_numeric_one(numeric_grad, beta, temperature):
    student, teacher = two_models()
    options = {"beta": beta, "temperature": temperature}
    expected = numeric_grad(lambda z: gkd.divergence(z, teacher, **options).sum(), student)
    got = gkd.divergence_grad(student, teacher, **options)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(got.sum(axis=-1), 0.0, atol=1e-15)


@BETAS
def test_it_is_the_sum_over_the_vocabulary_of_the_papers_equation(beta):
    student, teacher = two_models()
    q, p = (np.exp(logprobs.log_softmax(z)) for z in (student, teacher))
    m = beta * p + (1 - beta) * q
    parts = [(p * np.log(p / m)).sum(axis=-1), (q * np.log(q / m)).sum(axis=-1)]
    if beta in (0.0, 1.0):  # equation 1's ends are the two divergences themselves
        expected = parts[int(beta)]
    else:
        expected = beta * parts[0] + (1 - beta) * parts[1]
    np.testing.assert_allclose(gkd.divergence(student, teacher, beta=beta), expected, rtol=1e-12)


def test_the_ends_are_the_forward_and_the_reverse_kl():
    student, teacher = two_models()
    ahead, back = kl.exact(teacher, student), kl.exact(student, teacher)
    np.testing.assert_allclose(gkd.divergence(student, teacher, beta=0.0), ahead, rtol=1e-13)
    np.testing.assert_allclose(gkd.divergence(student, teacher, beta=1.0), back, rtol=1e-13)
    by_beta = gkd.divergence(student, teacher, beta=1e-7) / 1e-7
    np.testing.assert_allclose(by_beta, ahead, rtol=1e-5)  # the next term is beta times smaller
    by_rest = gkd.divergence(student, teacher, beta=1 - 1e-7) / 1e-7
    np.testing.assert_allclose(by_rest, back, rtol=1e-5)


@given(st.floats(0.0, 1.0), st.floats(0.0, 300.0), st.integers(0, 99))
def test_it_is_never_negative_and_between_the_ends_at_most_a_bernoulli_entropy(beta, scale, seed):
    student, teacher = two_models((3, 4), seed, scale)
    d = gkd.divergence(student, teacher, beta=beta)
    assert (d >= 0).all() and np.isfinite(d).all()
    assert np.isfinite(gkd.divergence_grad(student, teacher, beta=beta)).all()
    if 0 < beta < 1:
        coin = -beta * np.log(beta) - (1 - beta) * np.log1p(-beta)
        assert (d <= coin * (1 + 1e-12)).all()


@BETAS
def test_it_is_0_with_gradient_0_where_both_agree_and_only_there(beta):
    student, teacher = two_models()
    shifted = student + np.arange(4.0)[:, None]  # a constant added to the logits of a position
    np.testing.assert_allclose(gkd.divergence(student, shifted, beta=beta), 0.0, atol=1e-15)
    grad = gkd.divergence_grad(student, shifted, beta=beta)
    np.testing.assert_allclose(grad, 0.0, atol=1e-15)
    assert (gkd.divergence(student, teacher, beta=beta) > 0.01 * min(beta, 1 - beta)).all()


@BETAS
def test_swapping_the_two_mirrors_beta(beta):
    student, teacher = two_models()
    other = gkd.divergence(teacher, student, beta=1 - beta)
    np.testing.assert_allclose(gkd.divergence(student, teacher, beta=beta), other, rtol=1e-12)


@BETAS
def test_permuting_the_vocabulary_permutes_the_gradient_alone(beta):
    student, teacher = two_models()
    turn = [3, 1, 4, 0, 2]
    one = gkd.divergence(student, teacher, beta=beta)
    np.testing.assert_allclose(gkd.divergence(student[:, turn], teacher[:, turn], beta=beta), one)
    grad = gkd.divergence_grad(student, teacher, beta=beta)[:, turn]
    got = gkd.divergence_grad(student[:, turn], teacher[:, turn], beta=beta)
    np.testing.assert_allclose(got, grad, rtol=1e-9, atol=1e-16)


def test_the_temperature_divides_both_models_logits():
    student, teacher = two_models()
    for f, power in ((gkd.divergence, 0), (gkd.divergence_grad, 1)):
        got = f(student, teacher, beta=0.3, temperature=2.0)
        expected = f(student / 2, teacher / 2, beta=0.3) / 2.0**power
        np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("num_items", [None, 16.0])
def test_the_loss_is_the_mean_over_the_tokens_that_count(numeric_grad, num_items):
    """By hand: (1/2, 1/2) from (3/4, 1/4) is ln(4/3) / 2; a second token agrees, a third is padding."""
    logits = [[[np.log(3.0), 0.0], [0.0, 0.0], [9.0, 0.0]]], np.zeros((1, 3, 2))
    value = gkd.loss(*logits, [[1, 1, 0]], beta=0.0, num_items_in_batch=num_items)
    np.testing.assert_allclose(value, np.log(4 / 3) / (32 if num_items else 4), rtol=1e-14)
    student, teacher = two_models((3, 3, 4))
    options = {"beta": 0.3, "temperature": 1.5, "num_items_in_batch": num_items}
    expected = numeric_grad(lambda z: gkd.loss(z, teacher, MASK, **options), student)
    got = gkd.loss_grad(student, teacher, MASK, **options)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("f", [gkd.divergence, gkd.divergence_grad])
def test_two_vocabularies_are_refused(f):
    with pytest.raises(ValueError, match=r"teacher_logits must have shape \(2,\), got \(3,\)"):
        f(np.zeros(2), np.zeros(3), beta=0.5)
