"""Call TRL's own CPO loss (SimPO and AlphaPO with it) and ORPO loss on bare logits."""

import os
from types import SimpleNamespace
from typing import Any

from reference_math.conformance import stubs
from reference_math.conformance._types import Tensor

CPO_DEFAULTS = {
    "beta": 0.1,
    "label_smoothing": 0.0,
    "loss_type": "sigmoid",
    "cpo_alpha": 1.0,
    "simpo_gamma": 0.5,
    "alpha": 0.0,
}


def cpo(
    logits: Tensor,
    tokens: Tensor,
    completion_mask: Tensor,
    *,
    metrics: dict[str, Any] | None = None,
    **options: Any,
) -> Tensor:
    """Call `CPOTrainer.get_batch_loss_metrics`; returns a 0-d tensor with its graph.

    logits            (2B, T, V)  the B chosen rows first; any dtype and device
    tokens            (2B, T)     that the logits predict
    completion_mask   (2B, T)
    options           fields of CPOConfig
    metrics           a dict to fill with what TRL would log
    """
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # no warning for each import
    from trl.experimental.cpo import CPOTrainer

    options = CPO_DEFAULTS | options
    return _value(CPOTrainer, "cpo_loss", options, metrics, logits, tokens, completion_mask)


def orpo(
    logits: Tensor,
    tokens: Tensor,
    completion_mask: Tensor,
    attention_mask: Tensor | None = None,
    *,
    beta: float = 0.1,
    metrics: dict[str, Any] | None = None,
) -> Tensor:
    """Call `ORPOTrainer.get_batch_loss_metrics` in the same way.

    attention_mask   (2B, T)  what is not padding: the tokens of TRL's nll.  None: completion_mask
    """
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.orpo import ORPOTrainer

    given = (logits, tokens, completion_mask, attention_mask)
    return _value(ORPOTrainer, "odds_ratio_loss", {"beta": beta}, metrics, *given)


def _value(theirs, loss, options, metrics, logits, tokens, completion_mask, attention_mask=None):
    import torch

    def in_front(x, first):  # the first token, which no prediction covers
        return torch.cat([torch.full_like(x[:, :1], first), x], dim=1)

    attention_mask = completion_mask if attention_mask is None else attention_mask
    ids = in_front(tokens, 0)
    batch = {
        "concatenated_input_ids": ids,
        "concatenated_attention_mask": in_front(attention_mask, 1),
        "concatenated_labels": ids.masked_fill(in_front(completion_mask, 0) == 0, -100),
    }
    # the last position predicts a token that is not there
    outputs = torch.cat([logits, torch.zeros_like(logits[:, :1])], dim=1)

    def model(*_, **__):
        return SimpleNamespace(logits=outputs)

    trainer = stubs.trainer(
        logits.device, is_encoder_decoder=False, padding_value=0, pad_token_id=0, **options
    )
    trainer.concatenated_inputs = lambda *_, **__: batch
    trainer.get_batch_logps = theirs.get_batch_logps
    for name in ("concatenated_forward", loss):
        method = getattr(theirs, name)
        setattr(trainer, name, lambda *given, method=method: method(trainer, *given))
    chosen = {"chosen_labels": batch["concatenated_labels"][: len(ids) // 2]}
    value, logged = theirs.get_batch_loss_metrics(trainer, model, chosen)
    if metrics is not None:
        metrics |= logged
    return value
