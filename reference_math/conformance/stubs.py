"""Stand in for what a trainer's loss method reads, so that it runs on plain tensors of any dtype and device.

TRL's trainers read a loss from `self`, a model and an accelerator.  A driver (`trl_dpo`, `trl_sft`,
...) passes the real, unbound method a bare namespace with just these. So TRL's own code is compared,
not a copy, without a tokenizer, a dataset or a float32 head between.
"""

from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from reference_math.conformance._types import Device, Tensor


def accelerator(device: Device | str = "cpu") -> SimpleNamespace:
    """Stand in for an accelerator of one process: gathering and reducing return their argument."""
    return SimpleNamespace(
        device=device,
        num_processes=1,
        process_index=0,
        is_main_process=True,
        sync_gradients=True,
        parallelism_config=None,
        gather=lambda x: x,
        gather_for_metrics=lambda x: x,
        reduce=lambda x, reduction="sum": x,
        pad_across_processes=lambda x, **_: x,
        unwrap_model=lambda model, **_: model,
    )


def trainer(device: Device | str = "cpu", **attributes: Any) -> Any:
    """Build a `self` for a loss method: the accelerator, the metrics' store, and what the caller adds."""
    return SimpleNamespace(
        accelerator=accelerator(device),
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        get_tp_size=lambda: 1,
        aux_loss_enabled=False,
        compute_loss_func=None,
        **attributes,
    )


def model(outputs: Callable[..., Any]) -> Any:
    """Build a module in training mode that answers every call with what `outputs(**inputs)` returns."""
    import torch

    class Stub(torch.nn.Module):
        is_gradient_checkpointing = False

        def forward(self, **inputs):
            return outputs(**inputs)

    return Stub()


def fused_output(labels: Tensor, per_token_logps: Tensor, **statistics: Tensor | None) -> Any:
    """Build what TRL's fused LM head returns for shifted `labels`: all 0 where the label is -100.

    labels            (B, T)
    per_token_logps   (B, T)
    statistics        entropy, log_sum_sq_probs, mean_logits, is_top1: (B, T), 0 if not given
    """
    import torch
    from trl.trainer.utils import FusedCausalLMOutput

    counted = labels != -100
    zeros = torch.zeros_like(per_token_logps)
    fields = {"entropy": zeros, "log_sum_sq_probs": zeros, "mean_logits": zeros, "is_top1": counted}
    fields |= {name: x for name, x in statistics.items() if x is not None}
    fields = {name: x.masked_fill(~counted, 0) for name, x in fields.items()}
    logps = per_token_logps.masked_fill(~counted, 0)
    return FusedCausalLMOutput(log_probs=logps, label_mask=counted, **fields)
