"""A tiny Qwen2 through GRPOTrainer and RLOOTrainer, from text and rewards to every weight's gradient.

TRL's head computes log-probs in float32 and so does the model: agreement is to float32, no better.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from reference_math import (
    advantages,
    grpo_trainer,
    importance_sampling,
    logprobs,
    multi_reward,
    rloo,
)

TAU, G = 0.7, 4
# 20 tokens' worth of float32 roundings, through two layers and back
CLOSE = {"rtol": 1e-4, "atol": 5e-6}
REWARDS = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32).astype(float)
WEIGHTS = [1.0, 0.5]


def first(completions, **_):
    return REWARDS[: len(completions), 0].tolist()


def second(completions, **_):
    return [None, *REWARDS[1 : len(completions), 1].tolist()]


SCORED = REWARDS.copy()
SCORED[0, 1] = np.nan


def sampled(prompts, trainer):
    """Completions of 1 to 6 tokens, each with what a sampler might have thought of its tokens."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 7, len(prompts))
    return {
        "prompt_ids": [[5, 6 + i] for i in range(len(prompts))],
        "completion_ids": [[*rng.integers(3, 64, n - 1).tolist(), 1] for n in lengths],
        "logprobs": [(-4.0 + 0.1 * rng.normal(size=n)).tolist() for n in lengths],
    }


def statistics(model, batch):
    """(logits, per_token_logps, entropies) of the completions, by this package in float64."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    length = batch["completion_ids"].shape[1]
    logits = model(ids, attention_mask=attention).logits[:, -length - 1 : -1]
    z = logits.detach().double().numpy()
    tokens = batch["completion_ids"].numpy()
    logps = logprobs.per_token_logps(z, tokens, temperature=TAU)
    return logits, logps, logprobs.entropy(z, temperature=TAU)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def compare_gradients(model, batch, logits, grad_logps, grad_entropies, theirs):
    """Carry ours from the log-probs to the logits by hand, and through the model by autograd."""
    z, tokens = logits.detach().double().numpy(), batch["completion_ids"].numpy()
    grad = logprobs.logits_grad(z, tokens, grad_logps, temperature=TAU)
    grad = grad + logprobs.entropy_grad(z, grad_entropies, temperature=TAU)
    model.zero_grad()
    logits.backward(torch.tensor(grad, dtype=logits.dtype))
    ours = gradients(model)
    assert ours.keys() == theirs.keys() and len(ours) > 20
    for name, g in theirs.items():
        # relative to the largest of its matrix: single entries cancel
        np.testing.assert_allclose(ours[name], g, rtol=0, atol=1e-4 * g.abs().max(), err_msg=name)


@pytest.fixture
def model(tiny_qwen2, tmp_path):
    """Loaded from a folder, from where a trainer loads its reference, too."""
    from transformers import AutoModelForCausalLM

    tiny_qwen2().save_pretrained(tmp_path / "model")
    return AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)


@pytest.fixture
def build(model, tokenizer, trainer_args):
    """A trainer in the middle of training: the policy has left its reference."""

    def build(trainer_class, config_class, config, **more):
        from datasets import Dataset

        args = {"num_generations": G, "per_device_train_batch_size": 8, "temperature": TAU}
        args |= {"reward_weights": WEIGHTS, "max_completion_length": 8}
        trainer = trainer_class(
            model,
            reward_funcs=[first, second],
            args=config_class(**trainer_args | args | config),
            train_dataset=Dataset.from_dict({"prompt": ["w5 w6"] * 8}),
            processing_class=tokenizer,
            **more,
        )
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        torch.manual_seed(1)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.02 * torch.randn_like(weight))
        return trainer

    return build


def scored(trainer):
    return trainer._generate_and_score_completions([{"prompt": "w5 w6"} for _ in range(8)])


SETTINGS = {
    "dapo": {"loss_type": "dapo"},
    "grpo with everything": {
        "loss_type": "grpo",
        "beta": 0.2,
        "scale_rewards": "batch",
        "entropy_coef": 0.05,
        "top_entropy_quantile": 0.6,
        "off_policy_mask_threshold": 0.5,
    },
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4},
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0, "scale_rewards": "none"},
}


@pytest.mark.parametrize("config", SETTINGS)
def test_grpo_from_the_rewards_to_the_gradient(config, model, build):
    from trl import GRPOConfig, GRPOTrainer

    config = SETTINGS[config]
    trainer = build(GRPOTrainer, GRPOConfig, config, rollout_func=sampled)
    batch = scored(trainer)
    scale = config.get("scale_rewards", "group")
    options = {"scale_rewards": scale, "missing": "zero", "ddof": 1, "eps": 1e-4}
    expected = multi_reward.sum_then_normalize(SCORED, WEIGHTS, G, **options)
    np.testing.assert_allclose(batch["advantages"], expected, rtol=1e-5, atol=1e-6)  # float32

    # as if the policy had moved since: ratios away from 1
    noise = 0.1 * np.random.default_rng(2).normal(size=batch["completion_ids"].shape)
    batch["old_per_token_logps"] = torch.tensor(statistics(model, batch)[1] + noise).float()
    loss = trainer.compute_loss(trainer.model, {k: v.clone() for k, v in batch.items()})
    loss.backward()
    theirs = gradients(model)

    logits, logps, entropies = statistics(model, batch)
    ours = {k: v.numpy() for k, v in batch.items() if v.is_floating_point()}
    ours |= {"per_token_logps": logps, "entropies": entropies}
    ours["completion_mask"] = batch["completion_mask"].numpy()
    ours["tokens_per_micro_batch"] = batch["num_items_in_batch"].item()
    config = {k: v for k, v in config.items() if k != "scale_rewards"}
    epsilon = config.pop("epsilon", 0.2)
    config = {"epsilon_low": epsilon, "epsilon_high": epsilon, "max_completion_length": 8} | config
    np.testing.assert_allclose(grpo_trainer.loss(ours, **config), loss.item(), **CLOSE)
    compare_gradients(model, batch, logits, *grpo_trainer.loss_grad(ours, **config), theirs)


@pytest.mark.parametrize("mode", ["token_truncate", "sequence_mask"])
def test_the_samplers_ratio_in_a_real_trainer(mode, model, build):
    """As if vLLM had sampled: the flag is set behind the constructor, which would start it."""
    from trl import GRPOConfig, GRPOTrainer

    config = {"vllm_importance_sampling_mode": mode}
    trainer = build(GRPOTrainer, GRPOConfig, config, rollout_func=sampled)
    trainer.use_vllm = True
    trainer._last_loaded_step = trainer.state.global_step  # vLLM has the weights already
    batch = scored(trainer)
    _, logps, _ = statistics(model, batch)
    mask, sampling = batch["completion_mask"].numpy(), batch["sampling_per_token_logps"].numpy()
    options = {"mode": mode, "clip_min": None, "clip_max": 3.0}
    expected = importance_sampling.ratio(logps, sampling, mask, **options)
    assert len(np.unique(expected.round(3))) > 2  # masked, kept, and not all alike
    got = batch["importance_sampling_ratio"].numpy()
    got = np.where(mask == 1, got, 1.0) if mode.startswith("token") else got
    np.testing.assert_allclose(expected, got, rtol=2e-5)  # exp of float32 sums of order 10


@pytest.mark.parametrize(
    "config", [{}, {"normalize_advantages": True, "reward_clip_range": (-1.0, 1.0)}]
)
def test_rloo_from_the_rewards_to_the_gradient(config, model, build):
    from trl import RLOOConfig, RLOOTrainer

    trainer = build(RLOOTrainer, RLOOConfig, {"beta": 0.05} | config)
    batch = scored(trainer)
    mask = batch["completion_mask"].numpy()
    logits, logps, _ = statistics(model, batch)
    _, ref_logps, _ = statistics(trainer.ref_model, batch)

    rewards = multi_reward.weighted_sum(SCORED, WEIGHTS, G, missing="zero")
    options = {"beta": 0.05, "reward_clip_range": config.get("reward_clip_range")}
    rewards = rloo.kl_penalized_rewards(rewards, logps, ref_logps, mask, **options)
    expected = advantages.leave_one_out(rewards, G)
    if config:
        expected = advantages.whiten(expected, ddof=1, eps=1e-4)
    np.testing.assert_allclose(batch["advantages"], expected, rtol=1e-5, atol=5e-6)  # float32

    batch["old_logps"] = batch["old_logps"] + 0.1 * torch.arange(-4, 4)
    loss = trainer.compute_loss(trainer.model, {k: v.clone() for k, v in batch.items()})
    loss.backward()
    theirs = gradients(model)
    tokens = logps, batch["old_logps"].numpy(), batch["advantages"].numpy(), mask
    clip = {"epsilon_low": 0.2, "epsilon_high": 0.2}
    np.testing.assert_allclose(rloo.loss(*tokens, **clip), loss.item(), **CLOSE)
    grad = rloo.loss_grad(*tokens, **clip)
    compare_gradients(model, batch, logits, grad, np.zeros_like(grad), theirs)
