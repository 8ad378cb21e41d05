"""Call TRL's own GRPO-family loss on bare token log-probs, and its three helpers."""

from types import SimpleNamespace
from typing import Any

from reference_math import grpo_trainer
from reference_math.conformance import stubs
from reference_math.conformance._types import Tensor

DEFAULTS = grpo_trainer.DEFAULTS | {
    "use_adaptive_entropy": False,
    "entropy_coef_min": 0.0,
    "entropy_coef_max": 1.0,
    "entropy_coef_delta": 0.005,
    "entropy_target": 0.2,
}


def loss(
    per_token_logps: Tensor,
    old_per_token_logps: Tensor | None,
    advantages: Tensor,
    completion_mask: Tensor,
    *,
    loss_type: str,
    ref_per_token_logps: Tensor | None = None,
    sampling_per_token_logps: Tensor | None = None,
    importance_sampling_ratio: Tensor | None = None,
    entropies: Tensor | None = None,
    num_items_in_batch: Tensor | int | None = None,
    gradient_accumulation_steps: int = 1,
    steps_per_generation: int = 1,
    training: bool = True,
    last_entropy: float = float("inf"),
    metrics: dict[str, Any] | None = None,
    **options: Any,
) -> Tensor:
    """Call `GRPOTrainer._compute_loss`; returns a 0-d tensor with its graph.

    per_token_logps             (B, T)  any dtype and device
    old_per_token_logps         (B, T)  None: TRL takes the policy's own, without their gradient
    advantages                  (B,) or (B, T)
    completion_mask             (B, T)
    ref_per_token_logps, sampling_per_token_logps, entropies   (B, T)
    importance_sampling_ratio   (B, T) or (B, 1); given, TRL believes that vLLM sampled
    num_items_in_batch          tokens of the generation batch; those of this mask if not given
    last_entropy                what the adaptive controller saw a step ago
    metrics                     a dict to fill with what TRL would log
    options                     fields of GRPOConfig; see DEFAULTS
    """
    import torch
    from trl import GRPOTrainer

    trainer = _trainer(per_token_logps.device, loss_type, training, DEFAULTS | options)
    trainer.current_gradient_accumulation_steps = gradient_accumulation_steps
    trainer.args.steps_per_generation = steps_per_generation
    trainer._last_world_entropy = last_entropy
    trainer.use_vllm = importance_sampling_ratio is not None
    if entropies is None:
        entropies = torch.zeros_like(per_token_logps)
    if num_items_in_batch is None:
        num_items_in_batch = completion_mask.sum()
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (per_token_logps, entropies, None)
    inputs = token_inputs(completion_mask) | {
        "advantages": advantages,
        "old_per_token_logps": old_per_token_logps,
        "ref_per_token_logps": ref_per_token_logps,
        "sampling_per_token_logps": sampling_per_token_logps,
        "importance_sampling_ratio": importance_sampling_ratio,
        "num_items_in_batch": torch.as_tensor(num_items_in_batch),
    }
    inputs = {name: x for name, x in inputs.items() if x is not None}
    value = GRPOTrainer._compute_loss(trainer, trainer.model, inputs)
    if metrics is not None:
        logged = trainer._metrics["train" if training else "eval"]
        metrics |= {name: values[-1] for name, values in logged.items()}
    return value


def token_inputs(completion_mask: Tensor) -> dict[str, Tensor]:
    """Build inputs that a loss method only passes on: one prompt token, then the rest."""
    import torch

    mask = completion_mask.long()
    prompt = torch.ones_like(mask[:, :1])
    ids = {"prompt_ids": prompt, "completion_ids": torch.zeros_like(mask)}
    return ids | {"prompt_mask": prompt, "completion_mask": mask}


def high_entropy_mask(
    entropies: Tensor, completion_mask: Tensor, *, top_entropy_quantile: float
) -> Tensor:
    """Call `GRPOTrainer.get_high_entropy_mask` with the arguments of `entropy_control`."""
    from trl import GRPOTrainer

    trainer = stubs.trainer(entropies.device)
    threshold = 1 - top_entropy_quantile
    return GRPOTrainer.get_high_entropy_mask(trainer, entropies, completion_mask, threshold)


def _trainer(device, loss_type, training, options):
    from functools import partial

    from trl import GRPOTrainer

    trainer = stubs.trainer(
        device,
        model=stubs.model(lambda **_: None).train(training),
        args=SimpleNamespace(**options),
        loss_type=loss_type,
        vllm_importance_sampling_correction=True,
        get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
        get_gamma_weights=GRPOTrainer.get_gamma_weights,
        _entropy_bonus_enabled=options["entropy_coef"] != 0 or options["use_adaptive_entropy"],
        _entropy_window_stats=None,
        **options,
    )
    trainer.get_high_entropy_mask = partial(GRPOTrainer.get_high_entropy_mask, trainer)
    return trainer
