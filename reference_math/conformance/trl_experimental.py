"""Call TRL's own losses of the trainers under trl.experimental: OnlineDPO, TPO, A2PO, GMPO."""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

from reference_math.conformance import stubs
from reference_math.conformance._types import Tensor
from reference_math.conformance.trl_grpo import token_inputs


def online_dpo(
    per_token_logps: Tensor,
    ref_per_token_logps: Tensor,
    rewards: Tensor,
    completion_mask: Tensor,
    *,
    beta: float,
    loss_type: str = "sigmoid",
    ended: Tensor | None = None,
    missing_eos_penalty: float | None = None,
    gradient_accumulation_steps: int = 1,
    logged: list[Tensor] | None = None,
) -> Tensor:
    """Return what `OnlineDPOTrainer.training_step` passes to backward, a 0-d tensor with its graph.

    per_token_logps       (2B, T)  any dtype and device; the B first answers, then the second ones
    ref_per_token_logps   (2B, T)
    rewards               (2B,)
    completion_mask       (2B, T)
    ended                 (2B,)  1 = the answer holds its end-of-sequence token; None: all do
    logged                a list to append the returned, logged loss to
    """
    import torch
    from trl.experimental.online_dpo import OnlineDPOTrainer

    pairs, device = len(rewards) // 2, per_token_logps.device
    ended = torch.ones_like(rewards) if ended is None else ended
    ids = ended.long()[:, None].expand(-1, completion_mask.shape[1])  # token 1 ends a sequence
    answers, backward = iter([per_token_logps, ref_per_token_logps]), []
    trainer = stubs.trainer(
        device,
        model=stubs.model(lambda **_: None),
        ref_model="the reference",
        beta=beta,
        stats=defaultdict(list),
        eos_token_ids=[1],
        reward_funcs=[None],
        processing_class=SimpleNamespace(batch_decode=lambda *_, **__: [""] * 2 * pairs),
        _generate=lambda *_: (None, None, ids, completion_mask, None),
        _forward=lambda *_: next(answers),
        _calculate_rewards_from_functions=lambda **_: rewards.clone(),
        args=SimpleNamespace(
            use_vllm=False,
            loss_type=loss_type,
            missing_eos_penalty=missing_eos_penalty,
            gradient_accumulation_steps=gradient_accumulation_steps,
            torch_empty_cache_steps=None,
            optim="adamw_torch",
            n_gpu=1,
        ),
    )
    trainer.accelerator.backward = lambda loss, **_: backward.append(loss)
    value = OnlineDPOTrainer.training_step(trainer, trainer.model, {"prompt": ["w"] * pairs})
    if logged is not None:
        logged.append(value)
    return backward[0]


def tpo(
    logits: Tensor,
    tokens: Tensor,
    completion_mask: Tensor,
    *,
    loss_type: str = "sigmoid",
    beta: float = 0.01,
    tpo_alpha: float = 1.0,
    label_smoothing: float = 0.0,
    tpo_l_gamma: float = 0.5,
) -> Tensor:
    """Call `TPOTrainer._compute_loss`; returns a 0-d tensor with its graph.

    logits            (3B, T, V)  any dtype and device; logits[b, t] predict tokens[b, t]
    tokens            (3B, T)
    completion_mask   (3B, T)
    """
    import torch
    from trl.experimental.tpo import TPOTrainer

    pad = torch.nn.functional.pad
    branches = len(tokens) // 3 * (3 if tpo_alpha else 2)  # its collator leaves the gold ones out
    logits, tokens = pad(logits, (0, 0, 0, 1))[:branches], pad(tokens, (1, 0))[:branches]
    trainer = stubs.trainer(
        logits.device,
        model=stubs.model(lambda **_: None),
        loss_type=loss_type,
        beta=beta,
        tpo_alpha=tpo_alpha,
        label_smoothing=label_smoothing,
        tpo_l_gamma=tpo_l_gamma,
    )
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    inputs["completion_mask"] = pad(completion_mask, (1, 0)).long()[:branches]
    model = stubs.model(lambda **_: SimpleNamespace(logits=logits))
    return TPOTrainer._compute_loss(trainer, model, inputs, False)


def a2po(
    per_token_logps: Tensor,
    ref_per_token_logps: Tensor,
    rewards: Tensor,
    optimal_values: Tensor,
    completion_mask: Tensor,
    *,
    beta2: float,
) -> Tensor:
    """Call `A2POTrainer.compute_loss`; returns a 0-d tensor with its graph.

    per_token_logps, ref_per_token_logps   (B, T)  any dtype and device; TRL sums them, so do we
    rewards, optimal_values                (B,)
    completion_mask                        (B, T)
    """
    from trl.experimental.a2po import A2POTrainer

    trainer = stubs.trainer(
        per_token_logps.device,
        model=stubs.model(lambda **_: None),
        args=SimpleNamespace(beta2=beta2),
        _get_sequence_logps=lambda *_: (per_token_logps * completion_mask).sum(dim=1),
    )
    inputs = dict.fromkeys(("input_ids", "attention_mask", "logits_to_keep"))
    inputs["ref_logps"] = (ref_per_token_logps * completion_mask).sum(dim=1)
    inputs |= {"rewards": rewards, "v_star": optimal_values}
    return A2POTrainer.compute_loss(trainer, trainer.model, inputs)


def a2po_values(rewards: Tensor, *, beta1: float) -> list[float]:
    """Compute V* with `A2POTrainer._estimate_optimal_values`, from rewards (P, n) of the reference."""
    import torch
    from trl.experimental.a2po import A2POTrainer

    prompts, n = rewards.shape
    names = [str(i) for i in range(prompts)]

    class Tokenizer:
        eos_token = chat_template = None

        def __call__(self, texts, **_):
            return _Batch(input_ids=torch.zeros(len(texts), 1, dtype=torch.long))

        def batch_decode(self, ids, **_):
            return [""] * len(ids)

    trainer = stubs.trainer(
        rewards.device,
        train_dataset=[{"prompt": name} for name in names],
        eval_dataset=None,
        processing_class=Tokenizer(),
        args=SimpleNamespace(
            beta1=beta1,
            num_value_samples=n,
            per_device_train_batch_size=prompts,
            max_prompt_length=None,
            filter_all_incorrect=False,
        ),
        ref_model=SimpleNamespace(generate=lambda **_: torch.zeros(prompts * n, 2).long()),
        value_generation_config=None,
        _calculate_rewards=lambda *_, **__: rewards.reshape(-1),
    )
    trainer.accelerator.prepare = lambda loader: loader
    with _plain_generation():
        A2POTrainer._estimate_optimal_values(trainer)
    return [trainer._optimal_values[name] for name in names]


def gmpo(
    per_token_logps: Tensor,
    old_per_token_logps: Tensor,
    advantages: Tensor,
    completion_mask: Tensor,
    *,
    epsilon_low: float,
    epsilon_high: float,
    beta: float = 0.0,
    ref_per_token_logps: Tensor | None = None,
    gradient_accumulation_steps: int = 1,
) -> Tensor:
    """Call `GMPOTrainer._compute_loss`; returns a 0-d tensor with its graph.

    per_token_logps, old_per_token_logps, ref_per_token_logps   (B, T)  any dtype and device
    advantages                                                  (B,)
    completion_mask                                             (B, T)
    """
    import torch
    from trl.experimental.gmpo import GMPOTrainer

    entropies = torch.zeros_like(per_token_logps)
    trainer = stubs.trainer(
        per_token_logps.device,
        model=stubs.model(lambda **_: None),
        epsilon_low=epsilon_low,
        epsilon_high=epsilon_high,
        beta=beta,
        top_entropy_quantile=1.0,
        current_gradient_accumulation_steps=gradient_accumulation_steps,
        _get_per_token_logps_and_entropies=lambda *_, **__: (per_token_logps, entropies, None),
    )
    inputs: dict[str, Any] = token_inputs(completion_mask) | {"advantages": advantages}
    inputs |= {"old_per_token_logps": old_per_token_logps}
    inputs |= {"ref_per_token_logps": ref_per_token_logps}
    return GMPOTrainer._compute_loss(trainer, trainer.model, inputs)


class _Batch(dict):
    def to(self, device):
        return self


def _plain_generation():
    """The trainer's own wrapper wants a real model; here the model is already what generates."""
    from contextlib import nullcontext
    from unittest import mock

    from trl.experimental.a2po import a2po_trainer

    name = "unwrap_model_for_generation"
    return mock.patch.object(a2po_trainer, name, lambda model, *_, **__: nullcontext(model))
