"""Compute TRL's own advantages and sampler weights from rewards and log-probs.

`_generate_and_score_completions` of the real trainer, on a bare `self`: its generation, forward
passes and reward functions hand out what the caller gives, in any dtype (TRL's own are float32).
"""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

from reference_math.conformance import stubs
from reference_math.conformance._types import Tensor


def grpo(
    rewards_per_func: Tensor,
    reward_weights: Tensor,
    num_generations: int,
    *,
    scale_rewards: str = "group",
    multi_objective_aggregation: str = "sum_then_normalize",
    completion_mask: Tensor | None = None,
    per_token_logps: Tensor | None = None,
    sampling_per_token_logps: Tensor | None = None,
    vllm_importance_sampling_mode: str = "sequence_mask",
    vllm_importance_sampling_clip_min: float | None = None,
    vllm_importance_sampling_clip_max: float = 3.0,
    **options: Any,
) -> dict[str, Any]:
    """Return the batch that GRPOTrainer passes to its loss: a dict with "advantages" (B,) and others.

    rewards_per_func           (B, K), NaN = missing
    reward_weights             (K,)
    completion_mask            (B, T), rows of ones, then zeros; all ones if not given
    per_token_logps            (B, T) of the policy, with
    sampling_per_token_logps   (B, T) of vLLM, adds "importance_sampling_ratio". float32: TRL reads
                               them from lists
    options                    training, mask_truncated_completions, metrics
    """
    from trl import GRPOTrainer

    trainer = _trainer(rewards_per_func, reward_weights, num_generations, **options)
    trainer.scale_rewards = scale_rewards
    trainer.multi_objective_aggregation = multi_objective_aggregation
    trainer.use_vllm = sampling_per_token_logps is not None
    trainer.vllm_importance_sampling_correction = True
    trainer.vllm_importance_sampling_mode = vllm_importance_sampling_mode
    trainer.vllm_importance_sampling_clip_min = vllm_importance_sampling_clip_min
    trainer.vllm_importance_sampling_clip_max = vllm_importance_sampling_clip_max
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (per_token_logps, None, None)
    prompts, completions = _token_ids(rewards_per_func, completion_mask)
    sampled = _rows(sampling_per_token_logps, completions)
    texts = [""] * len(prompts)
    trainer._generate = lambda _: (prompts, completions, None, texts, sampled, {}, None, [])
    return _run(GRPOTrainer, trainer, prompts, options.get("metrics"))


def rloo(
    rewards_per_func: Tensor,
    reward_weights: Tensor,
    num_generations: int,
    *,
    per_token_logps: Tensor,
    ref_per_token_logps: Tensor | None = None,
    completion_mask: Tensor | None = None,
    beta: float = 0.0,
    reward_clip_range: tuple[float, float] | None = None,
    normalize_advantages: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Return the batch that RLOOTrainer passes to its loss: "advantages", "old_logps" and others.

    per_token_logps, ref_per_token_logps   (B, T)
    the other arguments                    as in `grpo`
    """
    from trl import RLOOTrainer

    trainer = _trainer(rewards_per_func, reward_weights, num_generations, **options)
    trainer.beta, trainer.ref_model = beta, "the reference"
    trainer.reward_clip_range, trainer.normalize_advantages = (
        reward_clip_range,
        normalize_advantages,
    )
    prompts, completions = _token_ids(rewards_per_func, completion_mask)
    trainer._generate = lambda _: (prompts, completions, [""] * len(prompts))

    def logps(model, *_, **__):
        return (ref_per_token_logps if model == "the reference" else per_token_logps), None, None

    trainer._get_per_token_logps_and_entropies = logps
    return _run(RLOOTrainer, trainer, prompts, options.get("metrics"))


def _trainer(
    rewards_per_func,
    reward_weights,
    num_generations,
    training=True,
    mask_truncated_completions=False,
    metrics=None,
):
    device, functions = rewards_per_func.device, rewards_per_func.shape[1]
    names = [f"f{k}" for k in range(functions)]
    args = {"per_device_train_batch_size": None, "per_device_eval_batch_size": None}
    args |= {"steps_per_generation": 1, "gradient_accumulation_steps": 1}
    return stubs.trainer(
        device,
        model=stubs.model(lambda **_: None).train(training),
        args=SimpleNamespace(gradient_checkpointing_kwargs=None, **args),
        _tokenizer=SimpleNamespace(pad_token_id=0),
        eos_token_ids=[1],
        pad_to_multiple_of=None,
        mask_truncated_completions=mask_truncated_completions,
        environment_factories=None,
        environments=None,
        tools=None,
        num_iterations=1,
        beta=0.0,
        num_generations=num_generations,
        num_generations_eval=num_generations,
        reward_weights=reward_weights,
        reward_funcs=names,
        reward_func_names=names,
        _calculate_rewards=lambda *_: rewards_per_func,
        _logs={"rewards": defaultdict(list), "extra": defaultdict(list)}
        | {name: [] for name in ("prompt", "completion", "advantages", "images")},
        _pending_extra_logs={},
        _pending_metrics={},
        log_multimodal=False,
    )


def _token_ids(rewards_per_func, completion_mask):
    """One prompt token each, and completions of the mask's lengths that end (1)."""
    import torch

    if completion_mask is None:
        completion_mask = torch.ones(len(rewards_per_func), 1)
    lengths = completion_mask.sum(dim=1).int().tolist()
    return [[5]] * len(lengths), [[7] * (n - 1) + [1] for n in lengths]


def _rows(values, completions):
    if values is None:
        return None
    return [row[: len(ids)].tolist() for row, ids in zip(values, completions, strict=True)]


def _run(trainer_class, trainer, prompts, metrics):
    from accelerate import PartialState

    PartialState()  # TRL gathers the logs with it
    batch = trainer_class._generate_and_score_completions(
        trainer, [{"prompt": ""} for _ in prompts]
    )
    if metrics is not None:
        logged = trainer._metrics["train" if trainer.model.training else "eval"]
        metrics |= {name: values[-1] for name, values in logged.items()}
    return batch
