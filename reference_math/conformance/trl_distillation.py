"""Call TRL's own distillation losses on bare logits and hidden states: GKD, Distillation, GOLD, SDFT."""

from types import SimpleNamespace
from typing import Any

from reference_math.conformance import stubs
from reference_math.conformance._types import Tensor


def gkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    completion_mask: Tensor,
    *,
    beta: float,
    temperature: float = 1.0,
    num_items_in_batch: Tensor | int | None = None,
) -> Tensor:
    """Call `GKDTrainer.generalized_jsd_loss`; returns a 0-d tensor with its graph.

    student_logits, teacher_logits   (B, T, V)  any dtype and device
    completion_mask                  (B, T)
    """
    from trl.experimental.gkd import GKDTrainer

    labels = (completion_mask != 0).long() - 1  # 0 where counted, -1 elsewhere
    return GKDTrainer.generalized_jsd_loss(
        student_logits,
        teacher_logits,
        labels.masked_fill(completion_mask == 0, -100),
        beta=beta,
        temperature=temperature,
        num_items_in_batch=num_items_in_batch,
    )


def gkd_compute_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    completion_mask: Tensor,
    *,
    beta: float,
    temperature: float,
    num_items_in_batch: Tensor | int | None = None,
) -> Tensor:
    """Call `GKDTrainer.compute_loss` of a trainer with this temperature."""
    import torch
    from trl.experimental.gkd import GKDTrainer

    def padded(logits):  # the last position predicts nothing
        return torch.nn.functional.pad(logits, (0, 0, 0, 1))

    def model(logits):
        return stubs.model(lambda **_: SimpleNamespace(logits=padded(logits)))

    trainer = stubs.trainer(
        student_logits.device,
        teacher_model=model(teacher_logits),
        beta=beta,
        temperature=temperature,
        generalized_jsd_loss=GKDTrainer.generalized_jsd_loss,
    )
    ids = torch.zeros_like(padded(student_logits)[..., 0]).long()
    labels = torch.nn.functional.pad(completion_mask.long(), (1, 0))
    labels = labels.masked_fill(labels == 0, -100)
    inputs = {"input_ids": ids, "attention_mask": ids + 1, "labels": labels}
    return GKDTrainer.compute_loss(
        trainer, model(student_logits), inputs, num_items_in_batch=num_items_in_batch
    )


def distillation(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    student_weight: Tensor,
    teacher_weight: Tensor,
    *,
    beta: float,
    temperature: float = 1.0,
    num_items_in_batch: Tensor | int | None = None,
    vocab_chunk: int | None = None,
) -> Tensor:
    """Call DistillationTrainer's `_chunked_divergence_loss`; every position counts.

    student_hidden, teacher_hidden   (N, H), (N, H')
    student_weight, teacher_weight   (V, H), (V, H')
    vocab_chunk                      tokens of a tile; None: TRL's 32,768
    """
    from unittest import mock

    import torch
    from trl.kernels import chunked_divergence
    from trl.trainer import distillation_trainer

    size = vocab_chunk or chunked_divergence.VOCAB_CHUNK_SIZE
    with mock.patch.object(chunked_divergence, "VOCAB_CHUNK_SIZE", size):
        loss, _, _ = distillation_trainer._chunked_divergence_loss(
            student_hidden[None],
            teacher_hidden[None],
            student_weight,
            teacher_weight,
            torch.ones_like(student_hidden[None, :, 0]),
            beta,
            num_items_in_batch=num_items_in_batch,
            temperature=temperature,
        )
    return loss


def uld(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    strategy: str = "bayesian",
) -> Tensor:
    """Call GOLD's `ULDLoss` on one row of both models, whose tokens stand at the same places.

    student_logits   (T, V)    "bayesian": logits[t] predict token t; "observed": t + 1 (its default)
    teacher_logits   (T, V')
    """
    import torch
    from trl.experimental.gold.gold_trainer import ULDLoss

    config: Any = SimpleNamespace(
        uld_crossentropy_weight=0.0,
        uld_distillation_weight=1.0,
        uld_student_temperature=temperature,
        uld_teacher_temperature=temperature,
        uld_skip_student_eos=False,
        uld_skip_teacher_eos=False,
        use_extended_uld=False,
        uld_token_merge_strategy=strategy,
    )
    ids = torch.zeros(1, len(student_logits) + 1, dtype=torch.long)  # a prompt of one token
    labels = ids.clone()
    labels[:, 0] = -100
    student, teacher = [
        torch.nn.functional.pad(z[None], (0, 0, 0, 1)) for z in (student_logits, teacher_logits)
    ]
    return ULDLoss(config)(student, teacher, labels, labels, ids, ids)


def sdft(
    student_logits: Tensor,
    teacher_logits: Tensor,
    completion_mask: Tensor,
    *,
    alpha: float,
    topk: int | None = None,
    add_tail: bool = False,
    tokens: Tensor | None = None,
    old_per_token_logps: Tensor | None = None,
    clip: float | None = None,
) -> Tensor:
    """Call `SDFTTrainer._compute_self_distillation_loss`; returns a 0-d tensor with its graph.

    student_logits, teacher_logits   (B, T, V)
    completion_mask                  (B, T)
    tokens, old_per_token_logps      (B, T)  needed for `clip`
    """
    import torch
    from trl.experimental.sdft.sdft_trainer import DistillationLogits, SDFTTrainer

    args = SimpleNamespace(
        distillation_mode="full_logits" if topk is None else "topk_logits",
        distillation_alpha=alpha,
        distillation_topk=topk,
        distillation_add_tail=add_tail,
        distillation_is_clip=clip,
    )
    trainer = stubs.trainer(
        student_logits.device, args=args, _log_self_distillation_metric=lambda *_: None
    )
    if tokens is None:
        tokens = torch.zeros_like(completion_mask).long()
    logits = DistillationLogits(tokens, completion_mask, student_logits, teacher_logits)
    inputs = {"old_per_token_logps": old_per_token_logps}
    model = stubs.model(lambda **_: None)
    return SDFTTrainer._compute_self_distillation_loss(trainer, model, inputs, logits)
