"""Laws of the universal logit distance."""

import itertools

import numpy as np
import pytest

from reference_math import logprobs, uld


def two_models(v=4, teacher_v=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(3, v)), rng.normal(size=(3, teacher_v))


def probs(logits, temperature=1.0):
    return np.exp(logprobs.log_softmax(logits, temperature=temperature))


@pytest.mark.parametrize("v, teacher_v", [(4, 6), (6, 4), (5, 5), (1, 3)])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_gradient_by_hand_is_the_numeric_one(numeric_grad, v, teacher_v, temperature):
    student, teacher = two_models(v, teacher_v)
    options = {"temperature": temperature}
    expected = numeric_grad(lambda z: uld.loss(z, teacher, **options), student)
    got = uld.loss_grad(student, teacher, **options)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(got.sum(axis=1), 0.0, atol=1e-15)


def test_it_is_the_least_distance_of_any_pairing_of_the_tokens():
    """By enumeration: the likeliest with the likeliest is the cheapest of all 120 pairings."""
    student, teacher = two_models(3, 5)
    q, p = np.pad(probs(student), [(0, 0), (0, 2)]), probs(teacher)
    pairings = [
        np.abs(q[:, list(order)] - p).sum(axis=1) for order in itertools.permutations(range(5))
    ]
    np.testing.assert_allclose(
        uld.loss(student, teacher), np.min(pairings, axis=0).mean(), rtol=1e-14
    )


def test_it_does_not_know_which_token_is_which():
    student, teacher = two_models(5, 5)
    turned = student[:, [3, 1, 4, 0, 2]]
    np.testing.assert_allclose(uld.loss(turned, teacher), uld.loss(student, teacher), rtol=1e-14)
    grad = uld.loss_grad(student, teacher)[:, [3, 1, 4, 0, 2]]
    np.testing.assert_allclose(uld.loss_grad(turned, teacher), grad, rtol=1e-13, atol=1e-17)
    assert uld.loss(student, student[:, ::-1]) < 1e-15  # sure of another token: as good


@pytest.mark.parametrize("scale", [0.0, 1.0, 1000.0])
def test_it_lies_between_0_and_2(scale):
    student, teacher = two_models()
    assert 0 <= uld.loss(scale * student, -scale * teacher) <= 2
    assert np.isfinite(uld.loss_grad(scale * student, -scale * teacher)).all()


def test_equal_probabilities_take_their_ranks_in_order():
    """(1/2, 1/2) against (3/4, 1/4): the first is too small, the second too large."""
    got = uld.loss_grad([[0.0, 0.0]], [[np.log(3.0), 0.0]])
    np.testing.assert_allclose(got, [[-0.5, 0.5]], rtol=1e-14)


def test_where_both_agree_nothing_is_pushed():
    assert not uld.loss_grad([[0.0, 0.0]], [[1.0, 1.0]]).any()
