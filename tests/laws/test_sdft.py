"""Laws of self-distillation fine-tuning."""

import numpy as np
import pytest

from reference_math import gkd, logprobs, sdft

MASK = np.array([[1.0, 1, 0], [0, 1, 0], [0, 0, 0]])
SUPPORTS = pytest.mark.parametrize(
    "support",
    [{}, {"topk": 2}, {"topk": 2, "add_tail": True}, {"topk": 5, "add_tail": True}],
    ids=["all", "top 2", "top 2 and the rest", "top 5 of 5"],
)


def two_models(seed=0):
    return np.random.default_rng(seed).normal(size=(2, *MASK.shape, 5))


@SUPPORTS
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_gradient_by_hand_is_the_numeric_one(numeric_grad, support, alpha):
    student, teacher = two_models()
    weights = np.random.default_rng(1).random(MASK.shape)
    options = {"alpha": alpha, "is_weights": weights} | support
    expected = numeric_grad(lambda z: sdft.loss(z, teacher, MASK, **options), student)
    got = sdft.loss_grad(student, teacher, MASK, **options)
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-11)
    assert np.abs(got).max() > 1e-3 and not got[MASK == 0].any()


def test_each_completion_weighs_the_same_however_long():
    student, teacher = two_models()
    d = gkd.divergence(student, teacher, beta=0.5)
    expected = (d[0, :2].mean() + d[1, 1]) / 3  # the empty one counts
    np.testing.assert_allclose(sdft.loss(student, teacher, MASK, alpha=0.5), expected, rtol=1e-14)
    double = sdft.loss(student, teacher, MASK, alpha=0.5, is_weights=2.0)
    np.testing.assert_allclose(double, 2 * expected, rtol=1e-14)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_kept_tokens_are_the_students_likeliest_and_the_rest_is_one_probability(k):
    student, teacher = two_models()
    for logits in (student, teacher):
        p = np.exp(logprobs.log_softmax(logits))
        top = np.argsort(-student, axis=-1)[..., :k]
        kept = np.take_along_axis(p, top, axis=-1)
        found, _ = sdft.on_topk(logits, student, topk=k, add_tail=True)
        found = np.exp(logprobs.log_softmax(found))
        np.testing.assert_allclose(found[..., :k], kept, rtol=1e-13)
        np.testing.assert_allclose(found[..., k], 1 - kept.sum(axis=-1), rtol=1e-12)
        cut, _ = sdft.on_topk(logits, student, topk=k)
        cut = np.exp(logprobs.log_softmax(cut))
        np.testing.assert_allclose(cut, kept / kept.sum(axis=-1, keepdims=True), rtol=1e-13)


def test_with_a_bucket_it_is_at_most_the_whole_divergence():
    """Putting tokens together can only hide a difference; dropping them is no such bound."""
    student, teacher = two_models()
    for alpha in (0.0, 0.5, 1.0):
        whole = sdft.loss(student, teacher, MASK, alpha=alpha)
        for k in (1, 2, 3):
            part = sdft.loss(student, teacher, MASK, alpha=alpha, topk=k, add_tail=True)
            assert 0 < part < whole
        part = sdft.loss(student, teacher, MASK, alpha=alpha, topk=5, add_tail=True)
        np.testing.assert_allclose(part, whole, rtol=1e-14)


def test_of_equally_likely_tokens_the_lower_id_is_kept():
    found, slope = sdft.on_topk(np.arange(3.0)[None, None], np.zeros((1, 1, 3)), topk=2)
    np.testing.assert_array_equal(found, [[[0.0, 1.0]]])
    np.testing.assert_array_equal(slope, np.eye(3)[None, None, :2])


def test_the_slope_of_the_bucket_is_numeric(numeric_grad):
    student, _ = two_models()
    _, slope = sdft.on_topk(student, student, topk=2, add_tail=True)
    for j in range(3):

        def kept(z, j=j):
            return sdft.on_topk(z, student, topk=2, add_tail=True)[0][..., j].sum()

        expected = numeric_grad(kept, student)
        np.testing.assert_allclose(slope[..., j, :], expected, rtol=1e-9, atol=1e-11)


def test_the_ratio_is_clipped_above_only_and_1_in_the_padding():
    logps = np.log([[0.5, 0.1, 0.3]])
    old = np.log([[0.1, 0.5, 0.2]])
    got = sdft.clipped_ratio(logps, old, [[1, 1, 0]], clip=2.0)
    np.testing.assert_allclose(got, [[2.0, 0.2, 1.0]], rtol=1e-14)
    free = sdft.clipped_ratio(logps, old, [[1, 1, 1]], clip=9.0)
    np.testing.assert_allclose(free, [[5.0, 0.2, 1.5]], rtol=1e-14)


def test_a_clip_of_0_is_refused():
    with pytest.raises(ValueError, match="clip must be > 0"):
        sdft.clipped_ratio(-MASK, -MASK, MASK, clip=0.0)
