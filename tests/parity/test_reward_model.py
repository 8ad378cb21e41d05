"""reference_math.reward_model against TRL's RewardTrainer and transformers' classification head."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import implicit_rewards, reward_model
from reference_math.conformance import trl_reward

EXACT = {"rtol": 1e-12, "atol": 1e-14}  # float64, a few roundings of terms of order one
MARGIN = np.array([0.5, 0.0, 2.0, -1.0])
OPTIONS = [{}, {"margin": MARGIN}, {"center_rewards_coefficient": 0.01}]
OPTIONS += [OPTIONS[1] | {"center_rewards_coefficient": 0.3}]


def some_pairs(seed=0, B=4):
    return np.random.default_rng(seed).normal(scale=3.0, size=(2, B))


def trls(chosen, rejected, margin=None, **options):
    """Value, the two gradients, and what was logged."""
    pair = [torch.tensor(x, requires_grad=True) for x in (chosen, rejected)]
    margin = None if margin is None else torch.tensor(margin)
    metrics = {}
    value = trl_reward.loss(*pair, margin, **options, metrics=metrics)
    value.backward()
    return value.item(), [x.grad.numpy() for x in pair], metrics


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options) or "plain")
@pytest.mark.parametrize("gap", [0.0, 700.0, 1e4])
def test_trls_loss_and_gradient(options, gap):
    pytest.importorskip("trl")
    chosen, rejected = some_pairs() + [[0.0], [gap]]
    value, grads, _ = trls(chosen, rejected, **options)
    np.testing.assert_allclose(value, reward_model.loss(chosen, rejected, **options), **EXACT)
    ours = reward_model.loss_grad(chosen, rejected, **options)
    np.testing.assert_allclose(grads, ours, **EXACT)


def test_trl_logs_accuracy_and_margin_without_the_margin_of_the_data():
    pytest.importorskip("trl")
    chosen, rejected = some_pairs()
    chosen[:2] = rejected[:2] + [0.0, 0.1]  # a tie is a miss; 0.1 is a hit, whatever the margin
    _, _, metrics = trls(chosen, rejected, MARGIN)
    expected = implicit_rewards.accuracies(chosen, rejected).mean()
    assert 0 < expected < 1
    np.testing.assert_allclose(metrics["accuracy"], expected)
    margins = implicit_rewards.margins(chosen, rejected)
    np.testing.assert_allclose(metrics["margin"], margins.mean(), **EXACT)


@pytest.mark.library_defect
def test_no_pairs_stop_trl():
    """It logs the least of no rewards. Ours: a loss of 0."""
    pytest.importorskip("trl")
    with pytest.raises(RuntimeError, match="min"):
        trls(np.zeros(0), np.zeros(0))
    assert reward_model.loss([], []) == 0.0


def a_scorer(seed=0):
    from transformers import Qwen2Config, Qwen2ForSequenceClassification

    torch.manual_seed(seed)
    sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    return Qwen2ForSequenceClassification(
        Qwen2Config(**sizes, **heads, pad_token_id=0, eos_token_id=1, num_labels=1)
    )


def scores_and_hidden(model, input_ids, attention_mask):
    with torch.no_grad():
        hidden = model.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    at = reward_model.scored_positions(input_ids.numpy(), pad_token_id=0)
    hidden = hidden.double().numpy()[np.arange(len(at)), at]
    return hidden @ model.score.weight.detach().double().numpy()[0], hidden


def test_transformers_scores_the_last_token_that_is_not_padding():
    pytest.importorskip("transformers")
    model = a_scorer()
    ids = torch.tensor([[5, 6, 7, 0, 0], [0, 0, 9, 8, 1], [3, 0, 4, 0, 0], [1, 2, 3, 4, 5]])
    with torch.no_grad():
        got = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, 0]
    expected, _ = scores_and_hidden(model, ids, torch.ones_like(ids))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)  # a float32 model


@pytest.mark.library_defect
def test_transformers_scores_the_first_token_of_a_row_of_padding():
    """argmax of a row of zeros. Ours names the row."""
    pytest.importorskip("transformers")
    model = a_scorer()
    nothing = torch.zeros((1, 3), dtype=torch.long)
    with torch.no_grad():
        got = model(input_ids=nothing, attention_mask=torch.ones_like(nothing)).logits
        first = model(input_ids=nothing[:, :1], attention_mask=torch.ones((1, 1))).logits
    np.testing.assert_allclose(got, first, rtol=1e-5, atol=1e-6)  # a float32 model
    with pytest.raises(ValueError, match="got only padding in row 0"):
        reward_model.scored_positions(nothing.numpy(), pad_token_id=0)


ROWS = [
    {"prompt": "w3 w4", "chosen": " w5 w6 w7", "rejected": " w8", "margin": 0.5},
    {"prompt": "w9 w10 w11", "chosen": " w12", "rejected": " w13 w14 w15 w16", "margin": 0.0},
    {"prompt": "w17", "chosen": " w18 w19", "rejected": " w20 w21", "margin": 2.0},
]


@pytest.mark.parametrize("center", [None, 0.1])
def test_a_whole_trainers_loss_gradient_and_metrics(tokenizer, trainer_args, center):
    pytest.importorskip("trl")
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    options = {"per_device_train_batch_size": 3, "center_rewards_coefficient": center}
    trainer = RewardTrainer(
        model=a_scorer(),
        args=RewardConfig(**trainer_args, **options),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=tokenizer,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    got = trainer.compute_loss(trainer.model, dict(batch))
    got.backward()
    scores, hidden = scores_and_hidden(trainer.model, batch["input_ids"], batch["attention_mask"])
    assert batch["input_ids"].shape[0] == 6 and (batch["input_ids"] == 0).any()
    margin = batch["margin"].numpy()
    assert sorted(margin) == [0.0, 0.5, 2.0]
    given = (*np.split(scores, 2), margin, center)
    value = reward_model.loss(*given[:2], margin=given[2], center_rewards_coefficient=center)
    np.testing.assert_allclose(got.item(), value, rtol=1e-5)  # a float32 model
    to_scores = np.concatenate(
        reward_model.loss_grad(*given[:2], margin=given[2], center_rewards_coefficient=center)
    )
    np.testing.assert_allclose(
        trainer.model.score.weight.grad[0], to_scores @ hidden, rtol=1e-4, atol=1e-5
    )
    logged = trainer._metrics["train"]
    margins = implicit_rewards.margins(*np.split(scores, 2))
    np.testing.assert_allclose(logged["margin"][-1], margins.mean(), rtol=1e-5, atol=1e-6)
