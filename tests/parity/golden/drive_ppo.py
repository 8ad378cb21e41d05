"""TRL 1.12.0's PPOTrainer.train, one whole update of a policy and a critic that are tables.

The loss stands in the middle of `train` and can be called by nobody, so the trainer runs as it is and
the driver looks on from `accelerator.backward`: what `train` has computed by then are its locals.

A table's row is the model's answer to the last token: the policy's logits, the critic's features.
So the update can be recomputed without a network, from the tables to the tables.
"""

NEEDS = ("trl==1.12.0",)

VOCAB, RESPONSE = 7, 5
PAD, EOS = 0, 1
CASES = {
    "k1": {
        "kl_estimator": "k1",
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
    },
    "whitened": {
        "kl_estimator": "k3",
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "whiten_rewards": True,
        "missing_eos_penalty": 0.5,
        "gamma": 0.9,
    },
}
ROLLOUT = (
    "responses",
    "logprobs",
    "ref_logprobs",
    "scores",
    "values",
    "rewards",
    "advantages",
    "returns",
    "padding_mask",
    "padding_mask_p1",
)


def vectors():
    found = {}
    for case, options in CASES.items():
        found |= {f"{case}/{name}": x for name, x in an_update(options).items()}
    return found | the_edges()


def the_edges():
    """What the release makes of one token alone, and of a micro-batch without any."""
    import torch
    from trl.experimental.ppo.ppo_trainer import masked_mean, masked_whiten

    x, one, none = torch.tensor([[2.0, 3.0]]), torch.tensor([[True, False]]), torch.zeros(1, 2)
    mean = masked_mean(x, none.bool())
    return {"edges/whiten_one": masked_whiten(x, one).numpy(), "edges/mean_of_none": mean.numpy()}


def an_update(options):
    import sys
    import tempfile

    import numpy as np
    import torch
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    with tempfile.TemporaryDirectory() as folder:
        args = PPOConfig(
            output_dir=folder,
            bf16=False,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            gradient_checkpointing=False,
            disable_tqdm=True,
            num_sample_generations=0,
            optim="adamw_torch",
            learning_rate=0.05,
            lr_scheduler_type="constant",
            num_ppo_epochs=3,
            num_mini_batches=1,
            response_length=RESPONSE,
            stop_token="eos",
            total_episodes=options["per_device_train_batch_size"]
            * options["gradient_accumulation_steps"],
            **options,
        )
        policy, ref, reward, value = models()
        trainer = PPOTrainer(
            args,
            processing_class=Tokenizer(),
            model=policy,
            ref_model=ref,
            reward_model=reward,
            value_model=value,
            train_dataset=[{"input_ids": [2 + i % 5, 2 + i // 5]} for i in range(8)],
            data_collator=lambda rows: {"input_ids": torch.tensor([r["input_ids"] for r in rows])},
        )
        tables = {f"{n}_before": x.detach().numpy().copy() for n, x in weights(policy, value)}
        tables |= {"ref_table": ref.backbone.weight.detach().numpy()}
        rollout, steps = {}, []
        plain = trainer.accelerator.backward

        def backward(loss):
            seen = sys._getframe(1).f_locals
            rollout.update({name: seen[name].numpy().copy() for name in ROLLOUT})
            rollout["queries"] = seen["queries"].numpy().copy()
            for name in ("new_logprobs", "vpred"):
                seen[name].retain_grad()
            plain(loss)
            steps.append(
                {
                    "rows": np.array(seen["micro_batch_inds"]),
                    "pg_loss": seen["pg_loss"].item(),
                    "vf_loss": seen["vf_loss"].item(),
                    "loss": loss.item(),
                    "new_logprobs": seen["new_logprobs"].detach().numpy(),
                    "vpred": seen["vpred"].detach().numpy(),
                    "logps_grad": seen["new_logprobs"].grad.numpy(),
                    "values_grad": seen["vpred"].grad.numpy(),
                }
            )

        trainer.accelerator.backward = backward
        np.random.seed(
            0
        )  # train shuffles the rows with numpy's own generator, which it does not seed
        trainer.train()
    tables |= {f"{n}_after": x.detach().numpy() for n, x in weights(policy, value)}
    return (
        tables
        | rollout
        | {f"steps/{name}": np.stack([s[name] for s in steps]) for name in steps[0]}
    )


def weights(policy, value):
    return (
        ("policy_table", policy.backbone.weight),
        ("value_table", value.backbone.weight),
        ("value_head", value.score.weight),
    )


def models():
    """Policy, reference, reward model and critic, float64."""
    import torch
    from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

    class Table(torch.nn.Embedding):
        of_all_tokens = False

        def forward(self, input_ids, **_):
            rows = super().forward(input_ids)
            rows = rows.cumsum(dim=1) if self.of_all_tokens else rows
            return BaseModelOutput(last_hidden_state=rows, hidden_states=(rows,))

    class Config(PretrainedConfig):
        model_type = "table"

    class Model(PreTrainedModel, GenerationMixin):
        config_class, base_model_prefix = Config, "backbone"

        def __init__(self, config):
            super().__init__(config)
            self.backbone = Table(VOCAB, VOCAB)
            self.score = torch.nn.Linear(VOCAB, 1, bias=False)
            self.post_init()

        def forward(self, input_ids, attention_mask=None, **_):
            return CausalLMOutput(logits=self.backbone(input_ids).last_hidden_state)

        def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **_):
            return {"input_ids": input_ids}

    def build(seed):
        config = Config(vocab_size=VOCAB, num_hidden_layers=0)
        model = Model(config).double()
        torch.manual_seed(seed)
        for x in model.parameters():
            torch.nn.init.normal_(x)
        return model

    policy, *others = (build(seed) for seed in range(4))
    policy.generation_config.pad_token_id = PAD
    with torch.no_grad():
        policy.backbone.weight[:, PAD] = -20.0  # a sampled pad would be taken for the answer's end
        policy.backbone.weight[:, EOS] -= 1.0
    ref, reward, value = others
    reward.backbone.of_all_tokens = True  # the last one is nearly always the same
    return policy, ref, reward, value


class Tokenizer:
    """The two ids that the trainer asks for."""

    pad_token_id, eos_token_id = PAD, EOS

    def save_pretrained(self, *_):
        pass
