"""Laws of the process reward model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_math import prm, reward_model

CLOSE = {"rtol": 1e-12, "atol": 1e-14}  # a few roundings of terms of order one
SEPARATOR = [8, 9]
answers = st.lists(
    st.tuples(st.lists(st.integers(1, 7), max_size=4), st.sampled_from([0, 1])), max_size=4
)


def judged(seed=0, B=3, T=5, C=2):
    """Logits, and labels of which some are not judged."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, C, size=(B, T))
    labels[rng.random((B, T)) < 0.4] = -100
    return rng.normal(scale=2.0, size=(B, T, C)), labels


@given(prompt=st.lists(st.integers(1, 7), max_size=3), answer=answers)
def test_each_step_is_judged_once_where_it_ends(prompt, answer):
    steps, labels = [step for step, _ in answer], [label for _, label in answer]
    input_ids, marks = prm.tokenize_row(prompt, steps, labels, separator_ids=SEPARATOR)
    assert len(input_ids) == len(marks) and input_ids[: len(prompt)] == prompt
    ends = [i for i, mark in enumerate(marks) if mark != -100]
    assert [marks[i] for i in ends] == labels
    starts = [len(prompt), *(i + 1 for i in ends)]
    read = [input_ids[a : b + 1] for a, b in zip(starts, ends)]
    assert read == [step + SEPARATOR for step in steps]
    assert starts[-1] == len(input_ids)


def test_a_step_without_separator_is_judged_at_its_own_last_token():
    assert prm.tokenize_row([1], [[2, 3], [4]], [1, 0], separator_ids=[]) == (
        [1, 2, 3, 4],
        [-100, -100, 1, 0],
    )
    with pytest.raises(ValueError, match="steps_ids must hold tokens where there is no separator"):
        prm.tokenize_row([1], [[2, 3], []], [1, 0], separator_ids=[])


STEPS = {"prompt_ids": [1, 2], "steps_ids": [[3, 4], [5], [6]], "labels": [True, False, True]}


@pytest.mark.parametrize(
    "options, ids, marks",
    [
        ({}, [1, 2, 3, 4, 9, 5, 9, 6, 9], [-100, -100, -100, -100, 1, -100, 0, -100, 1]),
        ({"bos_token_id": 7}, [7, 1, 2, 3, 4, 9, 5, 9, 6, 9], [-100] * 5 + [1, -100, 0, -100, 1]),
        ({"bos_token_id": 0}, [0, 1, 2, 3, 4, 9, 5, 9, 6, 9], [-100] * 5 + [1, -100, 0, -100, 1]),
        ({"train_on_last_step_only": True}, [1, 2, 3, 4, 9, 5, 9, 6, 9], [-100] * 8 + [1]),
        ({"max_completion_length": 4}, [1, 2, 3, 4, 9, 5], [-100] * 4 + [1, -100]),
        ({"max_length": 7}, [1, 2, 3, 4, 9, 5, 9], [-100] * 4 + [1, -100, 0]),
        ({"max_length": 3}, [1, 2, 3], [-100] * 3),  # nothing is left to learn from
        ({"max_completion_length": 3, "max_length": 4}, [1, 2, 3, 4], [-100] * 4),
    ],
    ids=str,
)
def test_options_by_hand(options, ids, marks):
    assert prm.tokenize_row(**STEPS, separator_ids=[9], **options) == (ids, marks)


@pytest.mark.parametrize(
    "labels, message",
    [([1, 0], r"labels must have shape \(3,\)"), ([1, 0, 2], "labels must hold only 0 and 1")],
)
def test_wrong_labels_of_steps_are_named(labels, message):
    with pytest.raises(ValueError, match=message):
        prm.tokenize_row(**STEPS | {"labels": labels}, separator_ids=[9])


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("num_items_in_batch", [None, 20])
def test_the_gradient_by_hand_is_the_slope(numeric_grad, num_items_in_batch, classes):
    logits, labels = judged(C=classes)
    options = {"num_items_in_batch": num_items_in_batch}
    expected = numeric_grad(lambda z: prm.loss(z, labels, **options), logits)
    got = prm.loss_grad(logits, labels, **options)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)  # see numeric_grad
    assert (got[labels == -100] == 0).all() and (got[labels != -100] != 0).all()
    np.testing.assert_allclose(got.sum(axis=-1), 0.0, atol=1e-16)


def test_two_classes_are_a_pair_of_rewards():
    """-log softmax(z)[y] is Bradley-Terry's: the label's logit against the other."""
    logits, labels = judged()
    labels = np.where(labels == -100, 1, labels)
    z = logits.reshape(-1, 2)
    right = np.take_along_axis(z, labels.reshape(-1, 1), axis=1)[:, 0]
    pairs = reward_model.loss(right, z.sum(axis=1) - right)
    np.testing.assert_allclose(prm.loss(logits, labels), pairs, **CLOSE)


def test_what_is_not_judged_is_never_read():
    logits, labels = judged()
    other = np.where((labels == -100)[..., None], 1e4, logits)
    assert prm.loss(other, labels) == prm.loss(logits, labels)
    np.testing.assert_array_equal(prm.loss_grad(other, labels), prm.loss_grad(logits, labels))


def test_micro_batches_add_up_where_the_steps_labels_are_counted():
    logits, labels = judged()
    total = (labels != -100).sum()
    parts = [prm.loss(logits[[i]], labels[[i]], num_items_in_batch=total) for i in range(3)]
    np.testing.assert_allclose(sum(parts), prm.loss(logits, labels), **CLOSE)


@pytest.mark.parametrize("gap", [700.0, 1e4])
def test_a_sure_and_wrong_judgement_costs_its_distance(gap):
    assert prm.loss([[[gap, 0.0]]], [[1]]) == gap
    assert 0.0 <= prm.loss([[[gap, 0.0]]], [[0]]) < 1e-300


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"logits": np.zeros((1, 2))}, "logits must have 3 axes"),
        ({"logits": np.full((1, 2, 2), np.inf)}, "logits must be finite"),
        ({"labels": [[1]]}, r"labels must have shape \(1, 2\)"),
        ({"labels": [[1, 2]]}, r"labels must lie in 0..1"),
        ({"labels": [[1, -1]]}, r"labels must lie in 0..1"),
        ({"labels": [[1.0, 0.5]]}, "labels must be integers"),
        ({"num_items_in_batch": -1}, "num_items_in_batch must be >= 0"),
    ],
)
def test_what_is_wrong_is_named(wrong, message):
    for f in (prm.loss, prm.loss_grad):
        with pytest.raises(ValueError, match=message):
            f(**{"logits": np.zeros((1, 2, 2)), "labels": [[1, -100]]} | wrong)
