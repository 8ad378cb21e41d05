"""lab.tap keeps the batch that TRL computed its loss from: numpy gets the same loss out of it."""

import numpy as np
import pytest
import torch
import trl
from datasets import Dataset
from lab import model, tap
from peft import LoraConfig, get_peft_model

from reference_math import advantages, grpo_trainer, lora

GROUP, STEP = 4, 1


def digits(completions, **_):
    return [float(sum(c.isdigit() for c in text)) for text in completions]


def vowels(completions, **_):
    return [float(sum(c in "aeiou" for c in text)) for text in completions]


def trainer_of(policy, tok, folder, **more):
    args = trl.GRPOConfig(
        output_dir=str(folder),
        report_to=[],
        use_cpu=True,
        per_device_train_batch_size=GROUP,
        num_generations=GROUP,
        max_steps=3,
        max_completion_length=6,
        learning_rate=1e-2,
        steps_per_generation=4,
        reward_weights=[1.0, 0.25],
        temperature=0.7,
        bf16=False,
        seed=3,
        **more,
    )
    rows = Dataset.from_dict({"prompt": [f"What is {a} + 2?" for a in range(16)]})
    return trl.GRPOTrainer(
        policy, [digits, vowels], args=args, train_dataset=rows, processing_class=tok
    )


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The batch of the second step: the policy has moved since it sampled, and TRL has shuffled."""
    tok = model.tokenizer()
    tiny = model.build(tok, hidden_size=64, intermediate_size=64, layers=1, heads=2)
    trainer = trainer_of(tiny, tok, tmp_path_factory.mktemp("run"))
    found, seen = tap.grpo_batch(trainer, STEP), {}
    compute = trainer._compute_loss

    def noted(policy, inputs):
        if trainer.state.global_step == STEP:
            seen.update(inputs, logps=_logps(policy, inputs, trainer.temperature))
        return compute(policy, inputs)

    trainer._compute_loss = noted
    trainer.train()
    return found, seen


@torch.no_grad()
def _logps(policy, inputs, temperature):
    """torch's own, of all rows at once."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    length = inputs["completion_ids"].shape[1]
    logits = policy(input_ids=ids, attention_mask=mask).logits[:, -length - 1 : -1].double()
    found = (logits / temperature).log_softmax(-1)
    return found.gather(-1, inputs["completion_ids"][..., None])[..., 0].numpy()


def test_the_loss_is_trls(kept):
    batch, _ = kept
    names = ("per_token_logps", "old_per_token_logps", "completion_mask", "tokens_per_micro_batch")
    own = {name: batch[name] for name in (*names, "advantages")}
    loss = grpo_trainer.loss(own, loss_type="dapo", gradient_accumulation_steps=1)
    assert loss == pytest.approx(batch["loss"], abs=1e-6) and abs(loss) > 1e-3
    moved = abs(batch["per_token_logps"] - batch["old_per_token_logps"])
    assert moved[batch["completion_mask"] == 1].max() > 1e-3


def test_the_log_probs_are_those_of_the_model_before_the_step(kept):
    batch, seen = kept
    counts = batch["completion_mask"] == 1
    np.testing.assert_allclose(batch["per_token_logps"][counts], seen["logps"][counts], atol=1e-5)


def test_the_rows_point_into_the_generation(kept):
    batch, _ = kept
    assert len(batch["rewards"]) == 4 * GROUP and len(set(batch["rows"])) == GROUP
    assert (batch["generation_mask"][batch["rows"]] == batch["completion_mask"]).all()
    of_all = advantages.group(batch["rewards"], GROUP, ddof=1, eps=1e-4)
    np.testing.assert_allclose(of_all[batch["rows"]], batch["advantages"], atol=1e-5)
    assert batch["rows"].tolist() != sorted(batch["rows"])  # TRL shuffles a generation


def test_the_rewards_are_summed_with_their_weights(kept):
    """A quarter of the vowels: rewards that are no whole numbers."""
    batch, _ = kept
    assert set(np.unique(batch["rewards"] % 1)) <= {0.0, 0.25, 0.5, 0.75}
    assert (batch["rewards"] % 1).any()


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_how_many_rows_are_scored_at_a_time_changes_nothing(kept, rows):
    tok = model.tokenizer()
    tiny = model.build(tok, hidden_size=64, intermediate_size=64, layers=1, heads=2)
    names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
    inputs = {name: kept[1][name] for name in names}
    found = tap.per_token_logps(tiny, inputs, 0.7, rows=rows)
    counts = kept[0]["completion_mask"] == 1
    np.testing.assert_allclose(found[counts], _logps(tiny, inputs, 0.7)[counts], atol=1e-5)


@pytest.mark.parametrize(("step", "accumulated"), [(0, 1), (1, 1), (1, 2)])
def test_a_lora_layers_gradients_are_the_references(tmp_path, step, accumulated):
    """Also where several batches make a step, and a sampler and a scorer read the layer in between."""
    tok = model.tokenizer()
    tiny = model.build(tok, hidden_size=64, intermediate_size=64, layers=2, heads=2)
    policy = get_peft_model(tiny, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    trainer = trainer_of(policy, tok, tmp_path, gradient_accumulation_steps=accumulated)
    layer = tap.lora_layer(trainer, policy.base_model.model.model.layers[1].mlp.up_proj, step)
    trainer.train()
    inputs = (layer[name] for name in ("x", "weight", "lora_A", "lora_B", "grad_y"))
    exact = lora.forward_grad(*inputs, scaling=layer["scaling"])
    for name, value in zip(("grad_x", "grad_A", "grad_B"), exact, strict=True):
        # float32 keeps 24 bits and a sum of some 200 terms loses a few: 1e-7 of the largest, times 100
        assert np.abs(layer[name] - value).max() <= 1e-5 * np.abs(value).max()
        assert value.any() == (step > 0 or name != "grad_A")  # B = 0 before the first step
    assert layer["scaling"] == 2.0 and layer["lora_B"].any() == (step > 0)
