"""Call TRL's own RLOO loss on bare token log-probs."""

from typing import Any

from reference_math.conformance import stubs
from reference_math.conformance._types import Tensor
from reference_math.conformance.trl_grpo import token_inputs


def loss(
    per_token_logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    completion_mask: Tensor,
    *,
    epsilon_low: float = 0.2,
    epsilon_high: float = 0.2,
    metrics: dict[str, Any] | None = None,
) -> Tensor:
    """Call `RLOOTrainer._compute_loss`; returns a 0-d tensor with its graph.

    per_token_logps   (B, T)  any dtype and device
    old_logps         (B,)    of whole completions
    advantages        (B,)
    completion_mask   (B, T)
    metrics           a dict to fill with what TRL would log
    """
    import torch
    from trl import RLOOTrainer

    trainer = stubs.trainer(
        per_token_logps.device,
        model=stubs.model(lambda **_: None),
        epsilon_low=epsilon_low,
        epsilon_high=epsilon_high,
    )
    entropies = torch.zeros_like(per_token_logps)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (per_token_logps, entropies, None)
    inputs = token_inputs(completion_mask) | {"old_logps": old_logps, "advantages": advantages}
    value = RLOOTrainer._compute_loss(trainer, trainer.model, inputs)
    if metrics is not None:
        metrics |= {name: values[-1] for name, values in trainer._metrics["train"].items()}
    return value
