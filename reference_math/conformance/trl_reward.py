"""Call TRL's own reward model loss on bare rewards."""

from types import SimpleNamespace
from typing import Any

from reference_math.conformance import stubs
from reference_math.conformance._types import Tensor


def loss(
    chosen_rewards: Tensor,
    rejected_rewards: Tensor,
    margin: Tensor | None = None,
    *,
    center_rewards_coefficient: float | None = None,
    metrics: dict[str, Any] | None = None,
) -> Tensor:
    """Call `RewardTrainer.compute_loss`; returns a 0-d tensor with its graph.

    chosen_rewards, rejected_rewards   (B,)  any dtype and device
    margin                             (B,) or None
    metrics                            a dict to fill with what TRL would log
    """
    import torch
    from trl import RewardTrainer

    scores = torch.cat([chosen_rewards, rejected_rewards])[:, None]  # one output of the head
    trainer = stubs.trainer(
        scores.device,
        model=stubs.model(lambda **_: SimpleNamespace(logits=scores)),
        args=SimpleNamespace(center_rewards_coefficient=center_rewards_coefficient),
    )
    inputs = {"attention_mask": torch.ones_like(scores)}
    if margin is not None:
        inputs["margin"] = margin
    value = RewardTrainer.compute_loss(trainer, trainer.model, inputs)
    if metrics is not None:
        metrics |= {name: values[-1] for name, values in trainer._metrics["train"].items()}
    return value


def prm(logits: Tensor, labels: Tensor) -> Tensor:
    """Call the process reward model's loss, transformers' `ForTokenClassification`; returns a 0-d tensor.

    logits   (B, T, C)  any dtype and device
    labels   (B, T)     -100 where nothing is judged
    """
    from transformers.loss.loss_utils import ForTokenClassification

    config = SimpleNamespace(num_labels=logits.shape[-1])
    return ForTokenClassification(logits, labels, config)
