"""Call TRL's own losses that distil at sampled or chosen tokens: SDPO, IW-OPD, servers."""

from functools import partial
from types import SimpleNamespace
from typing import Any

from reference_math.conformance import stubs
from reference_math.conformance._types import Tensor
from reference_math.conformance.trl_grpo import token_inputs


def sdpo(
    logits: Tensor,
    tokens: Tensor,
    old_per_token_logps: Tensor | None,
    teacher_per_token_logps: Tensor,
    advantages: Tensor,
    completion_mask: Tensor,
    *,
    is_clip: float | None,
    has_teacher: Tensor | None = None,
    reduction: str,
    **options: Any,
) -> Tensor:
    """Call `SDPOTrainer.compute_loss` in mode "sampled_token"; returns a 0-d tensor with its graph.

    logits                    (B, T, V)  any dtype and device; logits[b, t] predict tokens[b, t]
    tokens                    (B, T)
    old_per_token_logps       (B, T)     None: TRL takes the policy's own, without their gradient
    teacher_per_token_logps   (B, T)
    advantages                (B,) or (B, T)
    completion_mask           (B, T)
    reduction                 its loss_type
    options                   distillation_weight, epsilon_low, ...: fields of SDPOConfig
    """
    teacher_logits = logits_of(teacher_per_token_logps, tokens, logits.shape[-1])
    more = {"distillation_mode": "sampled_token", "distillation_alpha": 1.0}
    more |= {"distillation_is_clip": is_clip, "loss_type": reduction}
    return _sdpo(
        logits,
        teacher_logits,
        tokens,
        old_per_token_logps,
        advantages,
        completion_mask,
        has_teacher=has_teacher,
        **more,
        **options,
    )


def sdpo_of_logits(
    student_logits: Tensor,
    teacher_logits: Tensor,
    completion_mask: Tensor,
    *,
    alpha: float,
    topk: int | None = None,
    add_tail: bool = False,
    has_teacher: Tensor | None = None,
    tokens: Tensor | None = None,
    old_per_token_logps: Tensor | None = None,
    is_clip: float | None = None,
) -> Tensor:
    """Call `SDPOTrainer.compute_loss` at distillation_weight 1, in mode "full_logits" or "topk_logits".

    student_logits, teacher_logits   (B, T, V)
    completion_mask                  (B, T)
    tokens, old_per_token_logps      (B, T)  needed for `is_clip`
    """
    if tokens is None:
        tokens = completion_mask.long() * 0
    return _sdpo(
        student_logits,
        teacher_logits,
        tokens,
        old_per_token_logps,
        None,
        completion_mask,
        has_teacher=has_teacher,
        distillation_mode="full_logits" if topk is None else "topk_logits",
        distillation_alpha=alpha,
        distillation_topk=topk,
        distillation_add_tail=add_tail,
        distillation_is_clip=is_clip,
        distillation_weight=1.0,
    )


def sdpo_of_server(
    student_logits: Tensor,
    support_ids: Tensor,
    teacher_support_logps: Tensor,
    tokens: Tensor,
    teacher_per_token_logps: Tensor,
    completion_mask: Tensor,
    *,
    alpha: float,
    add_tail: bool,
    mode: str = "topk_logits",
) -> Tensor:
    """Call `SDPOTrainer.compute_loss` at distillation_weight 1 with the teacher on the generation server.

    student_logits            (B, T, V)
    support_ids               (B, T, K)  the teacher's likeliest tokens
    teacher_support_logps     (B, T, K)
    tokens                    (B, T)     that the policy sampled
    teacher_per_token_logps   (B, T)     of them
    completion_mask           (B, T)
    mode                      distillation_mode: "topk_logits" or "sampled_token"
    """
    result = {"actual_logprobs": teacher_per_token_logps, "topk_token_ids": support_ids}
    result["topk_logprobs"] = teacher_support_logps
    return _sdpo(
        student_logits,
        None,
        tokens,
        None,
        None,
        completion_mask,
        has_teacher=None,
        server=result,
        distillation_mode=mode,
        distillation_alpha=alpha,
        distillation_topk=support_ids.shape[-1],
        distillation_add_tail=add_tail,
        distillation_is_clip=None,
        distillation_weight=1.0,
    )


def _sdpo(
    student_logits,
    teacher_logits,
    tokens,
    old,
    advantages,
    mask,
    *,
    has_teacher,
    server=None,
    **options,
):
    from contextlib import nullcontext

    from trl.experimental.sdpo.sdpo_trainer import SDPOTrainer

    trainer = stubs.trainer(
        student_logits.device,
        args=SimpleNamespace(**options),
        model=stubs.model(lambda **_: None),
        teacher_model=None if server else _before_shift(teacher_logits),
        use_teacher_server=server is not None,
        state=SimpleNamespace(global_step=0),
        _last_loaded_step=0,
        _get_teacher_token_logprobs_from_server=lambda *_: server,
        temperature=1.0,
        model_kwarg_keys=(),
        current_gradient_accumulation_steps=1,
        _get_teacher_context_for_self_distillation=nullcontext,
        _log_self_distillation_metric=lambda *_: None,
        **options,
    )
    for name in (
        "_compute_policy_loss",
        "_compute_self_distillation_loss",
        "_compute_server_distillation_loss",
        "_compute_teacher_student_logits",
        "_forward_logits",
    ):
        setattr(trainer, name, partial(getattr(SDPOTrainer, name), trainer))
    inputs = token_inputs(mask) | {"completion_ids": tokens, "completion_mask": mask}
    inputs |= {"advantages": advantages, "old_per_token_logps": old}
    inputs |= dict.fromkeys(("teacher_input_ids", "teacher_attention_mask"), tokens)
    inputs["self_distillation_mask"] = has_teacher
    return SDPOTrainer.compute_loss(trainer, _before_shift(student_logits), inputs)


def iw_opd(
    logits: Tensor,
    tokens: Tensor,
    old_per_token_logps: Tensor | None,
    teacher_per_token_logps: Tensor,
    completion_mask: Tensor,
    *,
    gamma: float,
    num_items_in_batch: Tensor | int | None = None,
    epsilon: float = 1e-8,
) -> Tensor:
    """Call `IWOPDTrainer.compute_loss` with distillation_objective "iw_opd"; returns a 0-d tensor.

    The arguments are those of `sdpo`; old_per_token_logps may be None.
    """
    import torch

    teacher_logits = logits_of(teacher_per_token_logps, tokens, logits.shape[-1])
    inputs = _labelled(tokens, completion_mask)
    if old_per_token_logps is not None:
        inputs["rollout_logprobs"] = torch.nn.functional.pad(old_per_token_logps, (1, 0))
    options: dict[str, Any] = {"iw_opd_gamma": gamma, "iw_opd_epsilon": epsilon, "temperature": 1.0}
    options |= {"distillation_objective": "iw_opd"}
    return _iw_opd_trainer(logits, teacher_logits, inputs, num_items_in_batch, **options)


def iw_opd_jsd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    tokens: Tensor,
    completion_mask: Tensor,
    *,
    beta: float,
    top_k: int,
    add_tail: bool,
    temperature: float = 1.0,
    top_1_mode: str = "sampled",
    num_items_in_batch: Tensor | int | None = None,
) -> Tensor:
    """Call `IWOPDTrainer.compute_loss` with distillation_objective "jsd" and a local teacher.

    student_logits, teacher_logits   (B, T, V)
    tokens                           (B, T)
    completion_mask                  (B, T)
    top_k, add_tail                  loss_top_k (0: all tokens), loss_add_tail
    top_1_mode                       reverse_kl_top_1_mode, where top_k is 1
    """
    options: dict[str, Any] = {"beta": beta, "loss_top_k": top_k, "loss_add_tail": add_tail}
    options |= {"temperature": temperature, "reverse_kl_top_1_mode": top_1_mode}
    options |= {"distillation_objective": "jsd"}
    inputs = _labelled(tokens, completion_mask)
    args = student_logits, teacher_logits, inputs, num_items_in_batch
    return _iw_opd_trainer(*args, **options)


def _iw_opd_trainer(student_logits, teacher_logits, inputs, num_items_in_batch, **options):
    from trl.experimental.iw_opd import IWOPDTrainer

    trainer = stubs.trainer(
        student_logits.device,
        model=stubs.model(lambda **_: None),
        teacher_model=_before_shift(teacher_logits),
        use_teacher_server=False,
        _local_teacher_tokenizer_matches_student=True,
        generalized_jsd_loss=IWOPDTrainer.generalized_jsd_loss,
        _reduce_divergence_loss=IWOPDTrainer._reduce_divergence_loss,
        **options,
    )
    for name in (
        "_raise_if_local_teacher_tokenizer_mismatch",
        "_compute_prompt_length",
        "_get_teacher_logits",
        "_compute_iw_opd_loss",
        "_compute_local_sparse_top_1_divergence_loss",
        "_compute_sparse_top_1_divergence_loss",
        "_get_reverse_kl_top_1_tokens",
    ):
        setattr(trainer, name, partial(getattr(IWOPDTrainer, name), trainer))
    return IWOPDTrainer.compute_loss(
        trainer, _before_shift(student_logits), inputs, num_items_in_batch=num_items_in_batch
    )


def server_distillation(
    student_logits: Tensor,
    support_ids: Tensor,
    teacher_support_logps: Tensor,
    completion_mask: Tensor,
    *,
    beta: float,
    add_tail: bool,
    temperature: float = 1.0,
    gradient_accumulation_steps: int = 1,
) -> Tensor:
    """Call `ServerDistillationTrainer.compute_loss`; returns a 0-d tensor with its graph.

    student_logits          (B, T, V)  any dtype and device
    support_ids             (B, T, K)  beta 0: the teacher's likeliest, -1 = none.  beta 1: the sampled
                                       token.  Else the teacher's likeliest and the sampled token, or
                                       -1 where they are the same
    teacher_support_logps   (B, T, K)
    completion_mask         (B, T)     no holes
    """
    import torch
    from trl.experimental.server_distillation import ServerDistillationTrainer

    missing = support_ids < 0
    ids = torch.where(missing, torch.zeros_like(support_ids), support_ids)
    logps = teacher_support_logps.masked_fill(missing, float("-inf"))
    last = torch.where(missing[..., -1], 0, support_ids.shape[-1] - 1)[..., None]
    sampled = ids.gather(-1, last)[..., 0]
    result = {"topk_logprobs": logps, "topk_token_ids": ids}
    if beta > 0:
        result = {"topk_logprobs": logps[..., :1], "topk_token_ids": ids[..., :1]}
    result["actual_logprobs"] = logps.gather(-1, last)[..., 0]
    trainer = stubs.trainer(
        student_logits.device,
        model=stubs.model(lambda **_: None),
        beta=beta,
        loss_add_tail=add_tail,
        temperature=temperature,
        reverse_kl_top_1_mode="sampled",
        current_gradient_accumulation_steps=gradient_accumulation_steps,
        _get_teacher_token_logprobs_from_server=lambda *_: result,
        _reduce_divergence_loss=ServerDistillationTrainer._reduce_divergence_loss,
    )
    for name in (
        "_compute_prompt_length",
        "_compute_server_sparse_top_1_divergence_loss",
        "_compute_server_forward_kl_loss",
        "_compute_sparse_top_1_divergence_loss",
        "_get_reverse_kl_top_1_tokens",
    ):
        setattr(trainer, name, partial(getattr(ServerDistillationTrainer, name), trainer))
    inputs = token_inputs(completion_mask) | {"completion_ids": sampled}
    model = _before_shift(student_logits)
    return ServerDistillationTrainer.compute_loss(trainer, model, inputs)


def logits_of(per_token_logps: Tensor, tokens: Tensor, vocab_size: int) -> Tensor:
    """Build (B, T, V) logits that give each token its log-probability; all others share the rest alike."""
    import torch

    p = per_token_logps
    others = torch.log(-torch.expm1(p)) - torch.log(torch.tensor(vocab_size - 1.0, dtype=p.dtype))
    logits = others[..., None].expand(*p.shape, vocab_size)
    return logits.scatter(-1, tokens[..., None], p[..., None])


def _before_shift(logits):
    """A model of one prompt token and T more: its last position predicts nothing."""
    import torch

    return stubs.model(
        lambda **_: SimpleNamespace(logits=torch.nn.functional.pad(logits, (0, 0, 0, 1)))
    )


def _labelled(tokens, completion_mask):
    """One prompt token, then the completion: ids, attention and labels, (B, 1 + T)."""
    import torch

    ids = torch.nn.functional.pad(tokens, (1, 0))
    counts = torch.nn.functional.pad(completion_mask.long(), (1, 0))
    labels = ids.masked_fill(counts == 0, -100)
    return {"input_ids": ids, "attention_mask": _attended(counts), "labels": labels}


def _attended(counts):
    """1 on the prompt token, too, and no further than the last token that counts."""
    ends = counts.flip(1).cummax(dim=1).values.flip(1)
    ends[:, 0] = 1
    return ends
