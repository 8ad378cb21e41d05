"""Laws of the normalisers: what one number means."""

import numpy as np
import pytest

from reference_math import reductions, sft

MASK = np.array([[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
OPTIONS = {
    "grpo": {},
    "bnpo": {},
    "dr_grpo": {"max_completion_length": 10},
    "dapo": {"tokens_per_micro_batch": 5.0},
    "luspo": {},
    "prompt_mean": {"num_generations": 2},
}
every_reduction = pytest.mark.parametrize("reduction", reductions.REDUCTIONS)


def weights(reduction, mask=MASK):
    return reductions.token_weights(mask, reduction=reduction, **OPTIONS[reduction])


def reduced(reduction, per_token_loss, mask=MASK):
    return reductions.reduce(per_token_loss, mask, reduction=reduction, **OPTIONS[reduction])


def some_losses(seed=0):
    return np.random.default_rng(seed).normal(size=MASK.shape)


@every_reduction
def test_the_gradient_of_the_loss_is_the_weight(reduction, numeric_grad):
    grad = numeric_grad(lambda c: reduced(reduction, c), some_losses())
    np.testing.assert_allclose(weights(reduction), grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "name, of_sft",
    [
        ("grpo", {"reduction": "sequence"}),
        ("bnpo", {"reduction": "batch_token"}),
        ("dapo", {"reduction": "global_token", "num_items_in_batch": 5.0}),
    ],
)
@pytest.mark.parametrize("mask", [MASK, 0 * MASK])
def test_three_reductions_have_a_second_name_in_sft(name, of_sft, mask):
    np.testing.assert_array_equal(weights(name, mask), sft.token_weights(mask, **of_sft))


@every_reduction
def test_padding_weighs_nothing_and_is_never_read(reduction):
    losses = some_losses()
    expected = reduced(reduction, losses)
    losses[MASK == 0] = np.nan
    assert reduced(reduction, losses) == expected
    assert not weights(reduction)[MASK == 0].any()


@every_reduction
def test_a_batch_without_a_token_has_loss_0(reduction):
    assert reduced(reduction, np.full(MASK.shape, np.nan), 0 * MASK) == 0.0


@every_reduction
def test_a_batch_without_a_completion_has_loss_0(reduction):
    assert reduced(reduction, MASK[:0], MASK[:0]) == 0.0


def test_dapo_of_nothing_anywhere_is_0_and_not_0_over_0():
    options = {"reduction": "dapo", "tokens_per_micro_batch": 0}
    assert not reductions.token_weights(0 * MASK, **options).any()


@every_reduction
def test_a_loss_of_the_whole_row_stands_for_each_of_its_tokens(reduction):
    rows = np.arange(4.0)[:, None]
    everywhere = np.broadcast_to(rows, MASK.shape)
    assert reduced(reduction, rows) == reduced(reduction, everywhere)


def test_grpo_gives_each_completion_the_same_say_and_an_empty_one_its_share_of_nothing():
    np.testing.assert_allclose(weights("grpo").sum(axis=1), [0.25, 0.25, 0.25, 0.0])


@pytest.mark.parametrize("reduction", ["bnpo", "dr_grpo", "dapo", "luspo"])
def test_the_others_give_each_token_the_same_say(reduction):
    assert len(np.unique(weights(reduction)[MASK == 1])) == 1


def test_bnpo_is_the_mean_over_tokens():
    losses = some_losses()
    np.testing.assert_allclose(reduced("bnpo", losses), losses[MASK == 1].mean(), rtol=1e-14)


def test_luspo_is_the_mean_over_completions_of_the_sum_of_their_tokens():
    sums = (some_losses() * MASK).sum(axis=1)
    np.testing.assert_allclose(reduced("luspo", some_losses()), sums.mean(), rtol=1e-14)


def test_dr_grpo_is_luspo_over_the_maximal_length():
    np.testing.assert_allclose(weights("dr_grpo") * 10, weights("luspo"), rtol=1e-15)


def test_prompt_mean_is_the_mean_over_the_prompts_of_bnpo_of_each():
    losses = some_losses()
    parts = [reduced("bnpo", losses[i], MASK[i]) for i in (slice(2), slice(2, 4))]
    np.testing.assert_allclose(reduced("prompt_mean", losses), np.mean(parts), rtol=1e-14)
    each = weights("prompt_mean").reshape(2, -1)
    np.testing.assert_allclose(each.sum(axis=1), 0.5, rtol=1e-15)  # each prompt the same say
    assert all(len(np.unique(x[x > 0])) == 1 for x in each)  # and in it each token


@pytest.mark.parametrize("group, same", [(4, "bnpo"), (1, "grpo")])
def test_prompt_mean_of_one_prompt_is_bnpo_and_of_one_completion_each_is_grpo(group, same):
    got = reductions.token_weights(MASK, reduction="prompt_mean", num_generations=group)
    np.testing.assert_allclose(got, weights(same), rtol=1e-15)


def test_prompt_mean_gives_a_prompt_without_a_token_its_share_of_nothing():
    got = weights("prompt_mean", MASK * [[1], [1], [0], [0]])
    np.testing.assert_allclose(got.sum(axis=1), [4 / 12, 2 / 12, 0, 0], rtol=1e-15)


@pytest.mark.parametrize("wrong", [0, 3, 1.5])
def test_prompts_of_no_whole_number_of_rows_are_refused(wrong):
    with pytest.raises(ValueError, match="num_generations"):
        reductions.token_weights(MASK, reduction="prompt_mean", num_generations=wrong)


def test_dapo_with_the_tokens_of_this_batch_is_bnpo():
    here = reductions.token_weights(MASK, reduction="dapo", tokens_per_micro_batch=MASK.sum())
    np.testing.assert_allclose(here, weights("bnpo"), rtol=1e-15)


def test_only_dapo_sees_through_the_cut_into_micro_batches():
    """The mean of the losses of unequal micro-batches is the token mean of the whole batch."""
    losses = some_losses()
    tokens = {"reduction": "dapo", "tokens_per_micro_batch": MASK.sum() / 2}
    parts = [reductions.reduce(losses[i], MASK[i], **tokens) for i in (slice(1), slice(1, 4))]
    np.testing.assert_allclose(np.mean(parts), losses[MASK == 1].mean(), rtol=1e-14)
    local = [reduced("bnpo", losses[i], MASK[i]) for i in (slice(1), slice(1, 4))]
    assert abs(np.mean(local) - losses[MASK == 1].mean()) > 0.01


def test_when_all_are_of_one_length_four_reductions_agree():
    full, losses = np.ones((3, 4)), some_losses()[:3]
    tokens = {"dr_grpo": {"max_completion_length": 4}, "dapo": {"tokens_per_micro_batch": 12}}
    for reduction in ("grpo", "bnpo", "dr_grpo", "dapo"):
        options = tokens.get(reduction, {})
        value = reductions.reduce(losses, full, reduction=reduction, **options)
        np.testing.assert_allclose(value, losses.mean(), rtol=1e-14)


@pytest.mark.parametrize(
    "reduction, name",
    [
        ("dr_grpo", "max_completion_length"),
        ("dapo", "tokens_per_micro_batch"),
        ("prompt_mean", "num_generations"),
    ],
)
def test_a_count_that_is_needed_is_asked_for(reduction, name):
    with pytest.raises(ValueError, match=f"'{reduction}' needs {name}, got None"):
        reductions.token_weights(MASK, reduction=reduction)
    with pytest.raises(ValueError, match=f"{name} must be >= 0"):
        reductions.token_weights(MASK, reduction=reduction, **{name: -1})


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match="reduction must be one of"):
        reductions.token_weights(MASK, reduction="mean")
    with pytest.raises(ValueError, match="completion_mask must hold only 0 and 1"):
        reductions.token_weights(MASK / 2, reduction="grpo")
    with pytest.raises(ValueError, match="completion_mask must have 2 axes"):
        reductions.token_weights(MASK[0], reduction="grpo")
    for wrong in (MASK[:, :3], MASK[:3, :1]):
        with pytest.raises(
            ValueError, match=r"per_token_loss must have shape \(4, 4\) or \(4, 1\)"
        ):
            reductions.reduce(wrong, MASK, reduction="grpo")
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"per_token_loss must be finite, got .* \(0, 0\)"):
            reductions.reduce(np.full(MASK.shape, bad), MASK, reduction="grpo")
    with pytest.raises(ValueError, match="per_token_loss must have 2 axes"):
        reductions.reduce(MASK[0], MASK, reduction="grpo")


@pytest.mark.parametrize(
    "reduction, weight",
    [("grpo", 1.0), ("bnpo", 1.0), ("dr_grpo", 0.1), ("dapo", 0.2), ("luspo", 1.0)],
)
def test_a_lone_token_weighs_one_over_its_normaliser(reduction, weight):
    np.testing.assert_allclose(weights(reduction, np.array([[1.0]])), [[weight]], rtol=1e-15)


@pytest.mark.parametrize(
    "options",
    [
        {"reduction": "dapo", "tokens_per_micro_batch": 0},
        {"reduction": "dr_grpo", "max_completion_length": 0},
    ],
    ids=str,
)
def test_a_count_of_0_is_taken_for_1(options):
    assert reductions.token_weights([[1.0]], **options) == 1.0
