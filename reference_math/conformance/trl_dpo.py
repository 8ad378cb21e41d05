"""Call TRL's own DPO loss on bare token log-probs."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from reference_math.conformance import stubs
from reference_math.conformance._types import Tensor

DEFAULTS = {
    "beta": 0.1,
    "label_smoothing": 0.0,
    "f_divergence_type": "reverse_kl",
    "f_alpha_divergence_coef": 0.5,
    "ld_alpha": None,
    "use_weighting": False,
    "discopop_tau": 0.05,
}


def loss(
    per_token_logps: Tensor,
    ref_per_token_logps: Tensor,
    completion_mask: Tensor,
    *,
    loss_type: str | Sequence[str] = "sigmoid",
    loss_weights: Sequence[float] | None = None,
    log_sum_sq_probs: Tensor | None = None,
    prompt_length: int = 1,
    metrics: dict[str, Any] | None = None,
    **options: Any,
) -> Tensor:
    """Call `DPOTrainer._compute_loss`; returns a 0-d tensor with its graph.

    per_token_logps       (2B, T)  any dtype and device
    ref_per_token_logps   (2B, T)
    completion_mask       (2B, T)  over the predicted tokens, as in `dpo_trainer.loss`
    log_sum_sq_probs      (2B, T)  needed with use_weighting
    prompt_length         1: the tokens follow a prompt.  0: the first token of each row, which no
                          prediction covers, belongs to the answer
    metrics               a dict to fill with what TRL would log
    options               fields of DPOConfig
    """
    import torch
    from trl import DPOTrainer

    names = [loss_type] if isinstance(loss_type, str) else list(loss_type)
    rows, _ = per_token_logps.shape
    device = per_token_logps.device
    first = torch.full((rows, 1), 0 if prompt_length else 1, device=device, dtype=torch.long)
    mask = torch.cat([first, completion_mask.to(device=device, dtype=torch.long)], dim=1)

    def policy(labels, **_):
        statistics = {"log_sum_sq_probs": log_sum_sq_probs}
        return stubs.fused_output(labels[:, 1:], per_token_logps, **statistics)

    def reference(labels, **_):
        return stubs.fused_output(labels[:, 1:], ref_per_token_logps)

    options = DEFAULTS | options
    discopop_tau = options.pop("discopop_tau")
    trainer = stubs.trainer(
        device,
        model=stubs.model(policy),
        ref_model=stubs.model(reference),
        args=SimpleNamespace(discopop_tau=discopop_tau, gradient_checkpointing_kwargs=None),
        precompute_ref_logps=False,
        loss_types=names,
        loss_weights=[1.0] * len(names) if loss_weights is None else list(loss_weights),
        **options,
    )
    inputs = {"input_ids": torch.zeros_like(mask), "attention_mask": torch.ones_like(mask)}
    inputs["completion_mask"] = mask
    value = DPOTrainer._compute_loss(trainer, trainer.model, inputs, return_outputs=False)
    if metrics is not None:
        metrics |= {name: values[-1] for name, values in trainer._metrics["train"].items()}
    return value
