"""Call TRL's own KTO loss on bare token log-probs."""

from types import SimpleNamespace
from typing import Any

from reference_math.conformance import stubs
from reference_math.conformance._types import Tensor

DEFAULTS = {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0}


def loss(
    per_token_logps: Tensor,
    ref_per_token_logps: Tensor,
    completion_mask: Tensor,
    label: Tensor,
    kl_per_token_logps: Tensor,
    ref_kl_per_token_logps: Tensor,
    kl_completion_mask: Tensor,
    *,
    loss_type: str = "kto",
    metrics: dict[str, Any] | None = None,
    **options: Any,
) -> Tensor:
    """Call `KTOTrainer._compute_loss`; returns a 0-d tensor with its graph.

    per_token_logps, ref_per_token_logps         (B, T)  any dtype and device
    completion_mask                              (B, T)
    label                                        (B,)    1 = desirable
    kl_per_token_logps, ref_kl_per_token_logps   (B, S)  of the mismatched pairs; "kto" alone reads
    kl_completion_mask                           (B, S)  them
    options                                      fields of KTOConfig
    metrics                                      a dict to fill with what TRL would log
    """
    import torch
    from trl import KTOTrainer

    device = per_token_logps.device

    def behind_a_prompt(mask):  # one token that no prediction covers
        first = torch.zeros(len(mask), 1, device=device, dtype=torch.long)
        return torch.cat([first, mask.to(device=device, dtype=torch.long)], dim=1)

    def answering(logps, kl_logps):
        def outputs(input_ids, labels, **_):
            mismatched = bool(input_ids[0, 0])
            return stubs.fused_output(labels[:, 1:], kl_logps if mismatched else logps)

        return stubs.model(outputs)

    mask, kl_mask = behind_a_prompt(completion_mask), behind_a_prompt(kl_completion_mask)
    trainer = stubs.trainer(
        device,
        model=answering(per_token_logps, kl_per_token_logps),
        ref_model=answering(ref_per_token_logps, ref_kl_per_token_logps),
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        precompute_ref_logps=False,
        loss_type=loss_type,
        calculate_KL=loss_type == "kto",
        **DEFAULTS | options,
    )
    trainer._compute_kl_logps = lambda *given: KTOTrainer._compute_kl_logps(trainer, *given)
    inputs = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "KL_input_ids": torch.ones_like(kl_mask),
        "KL_attention_mask": torch.ones_like(kl_mask),
        "KL_completion_mask": kl_mask,
        "label": label.to(torch.bool),
    }
    value = KTOTrainer._compute_loss(trainer, trainer.model, inputs, return_outputs=False)
    if metrics is not None:
        metrics |= {name: values[-1] for name, values in trainer._metrics["train"].items()}
    return value
