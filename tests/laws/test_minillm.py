"""Laws of MiniLLM."""

import itertools

import numpy as np
import pytest

from reference_math import gkd, grpo, kl, logprobs, minillm

MASK = np.array([[1.0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
PLAIN = {"gamma": 1.0, "length_normalization": False, "single_step_decomposition": False}


def two_models(seed=0):
    return -np.random.default_rng(seed).exponential(size=(2, *MASK.shape))


def advantages(logps, teacher, **options):
    return minillm.advantages(logps, teacher, MASK, **PLAIN | options)


@pytest.mark.parametrize("gamma", [1.0, 0.6, 0.0])
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("decompose", [False, True])
def test_it_is_the_discounted_sum_written_out(gamma, normalise, decompose):
    logps, teacher = two_models()
    r = teacher - logps
    options = {"length_normalization": normalise, "single_step_decomposition": decompose}
    got = advantages(logps, teacher, gamma=gamma, **options)
    for row, n in enumerate(MASK.sum(axis=1).astype(int)):
        for t in range(n):
            later = range(t + decompose, n)
            total = sum(gamma ** (i - t) * r[row, i] for i in later)
            length = sum(gamma ** (i - t) for i in later) if normalise else 1.0
            expected = total / length if length else 0.0
            np.testing.assert_allclose(got[row, t], expected, rtol=1e-12, atol=1e-15)
    assert not got[MASK == 0].any()


def test_from_the_start_each_token_counts_less_the_later_it_stands():
    """TRL's sum: gamma^t times the one from the token, unless it is a mean; with gamma 0, r alone."""
    logps, teacher = two_models()
    for gamma in (0.6, 1.0):
        fair = advantages(logps, teacher, gamma=gamma)
        late = advantages(logps, teacher, gamma=gamma, discount_from="start")
        np.testing.assert_allclose(late, fair * gamma ** np.arange(4), rtol=1e-13)
    mean = {"gamma": 0.6, "length_normalization": True}
    one, other = (advantages(logps, teacher, **mean, discount_from=x) for x in ("token", "start"))
    np.testing.assert_array_equal(one, other)
    alone = advantages(logps, teacher, gamma=0.0, discount_from="start")
    np.testing.assert_array_equal(alone, MASK * (teacher - logps))


def test_a_hole_in_the_mask_has_no_advantage():
    """A tool's reply between two tokens: neither its reward nor its place counts."""
    logps, teacher = two_models()
    mask = np.array([[1, 0, 1, 1]] * 3)
    got = minillm.advantages(logps, teacher, mask, **PLAIN)
    r = teacher - logps
    expected = np.stack([r[:, [0, 2, 3]].sum(axis=1), 0 * r[:, 0], r[:, 2:].sum(axis=1), r[:, 3]])
    np.testing.assert_allclose(got, expected.T, rtol=1e-13)


def tree(seed=0):
    """All answers of two tokens out of three; the second depends on the first.

    Logits of student and teacher: (9, 2, 3), the rows that an answer meets; the answers (9, 2).
    """
    rng = np.random.default_rng(seed)
    answers = np.array(list(itertools.product(range(3), repeat=2)))
    models = [(rng.normal(size=3), rng.normal(size=(3, 3))) for _ in range(2)]
    met = [
        np.stack([np.tile(first, (9, 1)), second[answers[:, 0]]], axis=1)
        for first, second in models
    ]
    return models, met, answers


def test_on_average_the_push_is_that_of_the_kl_of_whole_answers(numeric_grad):
    """By enumeration, to the first token's logits, decomposed and not: equations of section 2.2."""
    models, (student, teacher), answers = tree()
    (first, second), _ = models
    logps = logprobs.per_token_logps(student, answers)
    p = np.exp(logps.sum(axis=1))
    teacher_logps = logprobs.per_token_logps(teacher, answers).sum(axis=1)

    def kl_of_answers(z):
        rows = np.stack([np.tile(z, (9, 1)), second[answers[:, 0]]], axis=1)
        s = logprobs.per_token_logps(rows, answers).sum(axis=1)
        return float((np.exp(s) * (s - teacher_logps)).sum())

    expected = numeric_grad(kl_of_answers, first)
    found = {}
    for decompose in (False, True):
        options = PLAIN | {"single_step_decomposition": decompose, "clip": 0.2}
        grad = np.zeros(3)
        for i in range(9):  # one answer a batch, so that its mean over 2 tokens is undone by a 2
            one = student[[i]], teacher[[i]], answers[[i]], logps[[i]], np.ones((1, 2))
            grad += 2 * p[i] * minillm.loss_grad(*one, **options)[0, 0]
        found[decompose] = grad
        np.testing.assert_allclose(grad, expected, rtol=1e-9)
    # TRL adds the exact step to a sum that has it already: more than the gradient, by that step
    twice = found[False] + kl.exact_grad(first, models[1][0])
    assert np.abs(twice - expected).max() > 0.1 * np.abs(expected).max()


def batch(seed=0):
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(size=(2, *MASK.shape, 5))
    tokens = rng.integers(0, 5, size=MASK.shape)
    old = logprobs.per_token_logps(student, tokens) + 0.3 * rng.normal(size=MASK.shape)
    return student, teacher, tokens, old


@pytest.mark.parametrize("decompose", [False, True])
def test_the_gradient_by_hand_is_the_numeric_one_with_the_advantages_frozen(
    numeric_grad, decompose
):
    student, teacher, tokens, old = batch()
    options = PLAIN | {"gamma": 0.7, "single_step_decomposition": decompose}
    logps, teacher_logps = (logprobs.per_token_logps(z, tokens) for z in (student, teacher))
    a = minillm.advantages(logps, teacher_logps, MASK, **options)
    clip = {"epsilon_low": 0.2, "epsilon_high": 0.2, "reduction": "bnpo"}
    clip["importance_sampling_level"] = "token"

    def frozen(z):
        value = grpo.loss(logprobs.per_token_logps(z, tokens), old, a, MASK, **clip)
        return value + decompose * gkd.loss(z, teacher, MASK, beta=1.0)

    args = student, teacher, tokens, old, MASK
    got = minillm.loss_grad(*args, **options, clip=0.2)
    np.testing.assert_allclose(got, numeric_grad(frozen, student), rtol=1e-8, atol=1e-11)
    value = minillm.loss(*args, **options, clip=0.2)
    np.testing.assert_allclose(value, frozen(student), rtol=1e-14)


def test_a_student_that_is_its_teacher_is_left_alone():
    student, _, tokens, old = batch()
    for decompose in (False, True):
        options = PLAIN | {"single_step_decomposition": decompose, "clip": 0.2}
        args = student, student, tokens, old, MASK
        assert abs(minillm.loss(*args, **options)) < 1e-15
        assert np.abs(minillm.loss_grad(*args, **options)).max() < 1e-15


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"gamma": 1.1}, "gamma must be <= 1"),
        ({"gamma": -0.1}, "gamma must be >= 0"),
        ({"discount_from": "end"}, "discount_from must be one of 'token', 'start'"),
        ({"completion_mask": MASK / 2}, "completion_mask must hold only 0 and 1"),
        ({"completion_mask": MASK[0]}, "completion_mask must have 2 axes"),
        ({"per_token_logps": MASK[:1]}, r"per_token_logps must have shape \(3, 4\)"),
        ({"teacher_per_token_logps": MASK[:1]}, "teacher_per_token_logps must have shape"),
    ],
)
def test_what_is_wrong_is_named(wrong, message):
    tokens = {"per_token_logps": -MASK, "teacher_per_token_logps": -MASK, "completion_mask": MASK}
    with pytest.raises(ValueError, match=message):
        minillm.advantages(**tokens | PLAIN | wrong)


def test_a_clip_of_zero_is_allowed_and_a_negative_one_named():
    """On policy every ratio is 1, so the clip changes nothing."""
    student, teacher, tokens, _ = batch()
    args = student, teacher, tokens, logprobs.per_token_logps(student, tokens), MASK
    assert minillm.loss(*args, **PLAIN, clip=0.0) == minillm.loss(*args, **PLAIN, clip=0.2)
    with pytest.raises(ValueError, match="clip must be >= 0"):
        minillm.loss(*args, **PLAIN, clip=-0.1)
