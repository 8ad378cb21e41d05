"""Call TRL's own SFT loss on bare logits."""

from types import SimpleNamespace
from typing import Any

from reference_math.conformance import stubs
from reference_math.conformance._types import Tensor


def loss(
    logits: Tensor,
    tokens: Tensor,
    completion_mask: Tensor,
    *,
    loss_type: str = "nll",
    label_smoothing_factor: float = 0.0,
    num_items_in_batch: Tensor | int | None = None,
    metrics: dict[str, Any] | None = None,
) -> Tensor:
    """Call `SFTTrainer.compute_loss`; returns a 0-d tensor with its graph.

    logits            (B, T, V)  any dtype and device; they predict `tokens`
    tokens            (B, T)
    completion_mask   (B, T)     over the predicted tokens
    metrics           a dict to fill with what TRL would log
    """
    import torch
    from transformers.trainer_pt_utils import LabelSmoother
    from trl import SFTTrainer

    log_probs = logits.log_softmax(-1)

    def outputs(labels=None, fused_lm_head=False, **_):
        if (
            not fused_lm_head
        ):  # the label smoother's way: all the logits, one more for the last token
            return {"logits": torch.cat([logits, logits[:, -1:]], dim=1)}
        return stubs.fused_output(
            labels[:, 1:],
            log_probs.gather(-1, tokens[..., None])[..., 0],
            entropy=-(log_probs.exp() * log_probs).sum(-1),
            is_top1=logits.argmax(-1) == tokens,
        )

    smoother = LabelSmoother(epsilon=label_smoothing_factor) if label_smoothing_factor else None
    args = SimpleNamespace(loss_type=loss_type, average_tokens_across_devices=True)
    model = stubs.model(outputs)
    trainer = stubs.trainer(logits.device, model=model, args=args, label_smoother=smoother)
    labels = tokens.masked_fill(completion_mask == 0, -100)
    labels = torch.cat([torch.full_like(labels[:, :1], -100), labels], dim=1)
    inputs = {"labels": labels, "attention_mask": torch.ones_like(labels)}
    value = SFTTrainer.compute_loss(trainer, model, inputs, num_items_in_batch=num_items_in_batch)
    if metrics is not None:
        metrics |= {name: values[-1] for name, values in trainer._metrics["train"].items()}
    return value
