"""Laws of distillation from the log-probabilities of a few tokens."""

import numpy as np
import pytest

from reference_math import gkd, logprobs, sdft, server_distillation

MASK = np.array([[1.0, 1, 0], [0, 1, 0], [0, 0, 0]])
V = 5


def two_models(seed=0):
    return np.random.default_rng(seed).normal(size=(2, *MASK.shape, V))


def scored(teacher, k, temperature=1.0):
    """The ids of the teacher's k likeliest tokens, and their log-probabilities."""
    log_p = logprobs.log_softmax(teacher, temperature=temperature)
    ids = np.argsort(-teacher, axis=-1)[..., :k]
    return ids, np.take_along_axis(log_p, ids, axis=-1)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("add_tail", [True, False])
@pytest.mark.parametrize("k", [1, 2, V])
def test_the_gradient_by_hand_is_the_numeric_one(numeric_grad, beta, add_tail, k):
    student, teacher = two_models()
    ids, logps = scored(teacher, k)
    options = {"beta": beta, "add_tail": add_tail, "temperature": 1.3}
    args = ids, logps, MASK
    slope = numeric_grad(lambda z: server_distillation.loss(z, *args, **options), student)
    got = server_distillation.loss_grad(student, *args, **options)
    np.testing.assert_allclose(got, slope, rtol=1e-8, atol=1e-11)
    assert not got[MASK == 0].any()
    np.testing.assert_allclose(got.sum(axis=-1), 0.0, atol=1e-15)
    assert (np.abs(got).max() > 1e-3) == (k > 1 or add_tail)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_a_teacher_that_scores_every_token_is_gkds(beta, temperature):
    student, teacher = two_models()
    options = {"beta": beta, "temperature": temperature}
    args = student, *scored(teacher, V, temperature), MASK
    for f, of_gkd in [
        (server_distillation.loss, gkd.loss),
        (server_distillation.loss_grad, gkd.loss_grad),
    ]:
        expected = of_gkd(student, teacher, MASK, **options)
        for add_tail in (True, False):  # nothing is left for a bucket
            got = f(*args, add_tail=add_tail, **options)
            np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_with_the_bucket_it_is_at_most_the_whole_divergence_and_grows_with_k(beta):
    student, teacher = two_models()
    whole = gkd.loss(student, teacher, MASK, beta=beta)
    parts = [
        server_distillation.loss(student, *scored(teacher, k), MASK, beta=beta, add_tail=True)
        for k in (1, 2, 3, 4)
    ]
    assert 0 < parts[0] and (np.diff(parts) > 0).all()
    assert parts[-1] < whole * (1 + 1e-12)  # a bucket of one token hides nothing


@pytest.mark.parametrize("add_tail", [True, False])
def test_on_the_students_own_likeliest_tokens_it_is_sdfts(add_tail):
    student, teacher = two_models()
    ids = np.argsort(-student, axis=-1)[..., :2]
    logps = np.take_along_axis(logprobs.log_softmax(teacher), ids, axis=-1)
    top, other = (
        sdft.on_topk(z, student, topk=2, add_tail=add_tail)[0] for z in (student, teacher)
    )
    expected = (MASK * gkd.divergence(top, other, beta=0.5)).sum() / 3
    got = server_distillation.loss(student, ids, logps, MASK, beta=0.5, add_tail=add_tail)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("add_tail", [True, False])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_a_missing_candidate_is_as_if_it_had_not_been_asked_for(add_tail, beta):
    student, teacher = two_models()
    ids, logps = scored(teacher, 3)
    options = {"beta": beta, "add_tail": add_tail}
    for missing in (0, 1, 2):
        fewer = np.where(np.arange(3) == missing, -1, ids)
        for nothing in (np.nan, -np.inf, 5.0):
            unread = np.where(fewer < 0, nothing, logps)
            for f in (server_distillation.loss, server_distillation.loss_grad):
                expected = f(
                    student,
                    np.delete(ids, missing, 2),
                    np.delete(logps, missing, 2),
                    MASK,
                    **options,
                )
                got = f(student, fewer, unread, MASK, **options)
                np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("add_tail", [True, False])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_a_position_that_the_teacher_did_not_score_adds_nothing_but_is_counted(add_tail, beta):
    student, teacher = two_models()
    ids, logps = scored(teacher, 2)
    ids[0, 0] = -1
    options = {"beta": beta, "add_tail": add_tail}
    left = MASK.copy()
    left[0, 0] = 0.0
    for f in (server_distillation.loss, server_distillation.loss_grad):
        got = 3 * f(student, ids, logps, MASK, **options)
        expected = 2 * f(student, ids, logps, left, **options)
        np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-16)


def test_tokens_of_the_whole_step_divide_where_they_are_given():
    student, teacher = two_models()
    args, options = (student, *scored(teacher, 2), MASK), {"beta": 0.5, "add_tail": True}
    for f in (server_distillation.loss, server_distillation.loss_grad):
        np.testing.assert_allclose(
            f(*args, **options, num_items_in_batch=6) * 2, f(*args, **options), rtol=1e-14
        )


def test_a_student_and_a_teacher_that_are_sure_stay_finite():
    """Of the bucket nothing is left: 2000 nats down, and a teacher whose candidates sum to 1."""
    student = np.array([[[2000.0, 0.0, 0.0]]])
    for beta in (0.0, 0.5, 1.0):
        for ids, logps in [([[[0]]], [[[0.0]]]), ([[[1]]], [[[0.0]]]), ([[[1]]], [[[-2000.0]]])]:
            for add_tail in (True, False):
                args = student, ids, logps, [[1]]
                options = {"beta": beta, "add_tail": add_tail}
                assert np.isfinite(server_distillation.loss(*args, **options))
                grad = server_distillation.loss_grad(*args, **options)
                assert np.isfinite(grad).all()


def test_the_students_rest_keeps_its_digits_and_the_teachers_has_a_floor():
    student, sure = np.array([[[60.0, 0.0, 0.0]]]), np.array([[[0.0]]])
    got = server_distillation.loss(student, [[[0]]], sure, [[1]], beta=0.0, add_tail=True)
    # p = (1, 1e-7) against q = (1, 2 e^-60): 1e-7 (ln 1e-7 + 60 - ln 2), and -1e-7 of the first term
    expected = 1e-7 * (np.log(1e-7) + 60.0 - np.log(2.0)) - 1e-7
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_candidates_far_below_the_others_are_compared_without_a_bucket():
    """Normalised over two candidates 1,000 nats down, a missing third one does not come back.

    The second position, whose candidates are likely, is no measure for the first.
    """
    student = np.array([[[0.0, -1000.0, -1000.0 - np.log(3.0)], [0.0, 0.0, 0.0]]])
    ids, logps = [[[1, 2, -1], [1, 2, -1]]], np.array([[[-900.0, -900.0, 0.0], [-1.0, -1.0, 0.0]]])
    got = server_distillation.loss(student, ids, logps, [[1, 1]], beta=1.0, add_tail=False)
    expected = gkd.divergence([np.log(3.0), 0.0], [0.0, 0.0], beta=1.0) / 2
    np.testing.assert_allclose(got, expected, rtol=1e-12)


# The candidates ---------------------------------------------------------------------------------


IDS = np.array([[[0, 2, 4], [3, 1, 2], [1, 0, -1], [-1, -1, -1]]])
LOGPS = np.where(IDS < 0, np.nan, np.log([0.6, 0.3, 0.05]))
SAMPLED = np.array([[2, 3, 4, 1]])  # the second, the likeliest, none of them, nothing there


def test_at_beta_0_all_candidates_stay():
    ids, logps = server_distillation.narrow_support(IDS, LOGPS, SAMPLED, beta=0.0)
    np.testing.assert_array_equal(ids, IDS)
    np.testing.assert_array_equal(logps, np.where(IDS < 0, 0.0, LOGPS))


def test_at_beta_1_the_sampled_token_stays():
    ids, logps = server_distillation.narrow_support(IDS, LOGPS, SAMPLED, beta=1.0)
    np.testing.assert_array_equal(ids, [[[2], [3], [-1], [-1]]])
    np.testing.assert_allclose(logps[0, :, 0], [np.log(0.3), np.log(0.6), 0.0, 0.0], rtol=1e-15)


@pytest.mark.parametrize("beta", [0.01, 0.99])
def test_between_the_likeliest_and_the_sampled_token_stay_each_once(beta):
    ids, logps = server_distillation.narrow_support(IDS, LOGPS, SAMPLED, beta=beta)
    np.testing.assert_array_equal(ids, [[[0, 2], [3, -1], [1, -1], [-1, -1]]])
    expected = np.log([[[0.6, 0.3], [0.6, 1.0], [0.6, 1.0], [1.0, 1.0]]])
    np.testing.assert_allclose(logps, expected, rtol=1e-15)


LOSS = {"beta": 0.5, "add_tail": True}
ONE = np.zeros((1, 1, V)), np.array([[[1, 2]]]), np.log([[[0.5, 0.25]]]), np.ones((1, 1))


@pytest.mark.parametrize(
    "at, wrong, message",
    [
        (1, [[[1, 1]]], "support_ids must differ within a position"),
        (1, [[[1, V]]], r"support_ids must lie in 0..4"),
        (1, [[[1, -2]]], r"support_ids must lie in 0..4"),
        (1, [[[1.0, 2.0]]], "support_ids must be integers"),
        (1, [[1, 2]], "support_ids must have shape"),
        (2, np.log([[[0.5, 0.502]]]), "sum to 1.0020"),
        (2, np.log([[[0.5]]]), "teacher_support_logps must have shape"),
        (2, [[[np.nan, 0.0]]], "teacher_support_logps must be finite"),
    ],
)
def test_what_is_wrong_is_named(at, wrong, message):
    args = list(ONE)
    args[at] = wrong
    for f in (server_distillation.loss, server_distillation.loss_grad):
        with pytest.raises(ValueError, match=message):
            f(*args, **LOSS)


def test_probabilities_that_sum_to_1_but_for_rounding_are_taken():
    for ids, logps in [(ONE[1], np.log([[[0.5, 0.5008]]])), ([[[1]]], [[[1e-3]]])]:
        assert np.isfinite(server_distillation.loss(ONE[0], ids, logps, ONE[3], **LOSS))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: server_distillation.narrow_support(IDS[0], LOGPS, SAMPLED, beta=0), "topk_ids must have 3 axes"),
        (lambda: server_distillation.narrow_support(IDS, LOGPS[:, 1:], SAMPLED, beta=0), "topk_logps must have shape"),
        (lambda: server_distillation.narrow_support(IDS, LOGPS, SAMPLED[0], beta=0), "tokens must have shape"),
        (lambda: server_distillation.narrow_support(IDS, LOGPS, SAMPLED, beta=1.1), "beta must be <= 1"),
        (lambda: server_distillation.narrow_support(IDS, LOGPS, SAMPLED, beta=-0.1), "beta must be >= 0"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_candidates_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
