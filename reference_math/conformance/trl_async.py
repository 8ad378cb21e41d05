"""Call TRL's own losses of the trainers that generate beside the training: AsyncGRPO, AsyncDistillation.

Both pack the rows of a micro-batch into one long row per process.  The drivers let TRL's collator
pack, pass the real loss method what a model would return at the packed places, and average over the
processes as DDP averages gradients.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

from reference_math.conformance import stubs
from reference_math.conformance._types import Tensor

COUNTERS = ("forward_tokens", "trained_tokens", "seq_len_weighted", "samples", "forward_s")


def grpo(
    per_token_logps: Tensor,
    old_per_token_logps: Tensor,
    advantages: Tensor,
    completion_mask: Tensor,
    *,
    epsilon_low: float,
    epsilon_high: float,
    num_processes: int = 1,
    gradient_accumulation_steps: int = 1,
    metrics: dict[str, Any] | None = None,
    **_: Any,
) -> Tensor:
    """Call `AsyncGRPOTrainer.compute_loss`; returns a 0-d tensor with its graph.

    per_token_logps, old_per_token_logps   (B, T)  any dtype and device
    advantages                             (B,)
    completion_mask                        (B, T)
    num_processes                          row b goes to process b % num_processes
    metrics                                a dict to fill with what process 0 would log
    _                                      options of our loss that TRL has no name for
    """
    import torch
    from trl.experimental.async_grpo.async_grpo_trainer import (
        AsyncGRPOTrainer,
        DataCollatorForRollout,
    )
    from trl.experimental.async_grpo.packing import TreeRow

    rows = [TreeRow() for _ in range(num_processes)]
    for b, sample in enumerate(_samples(completion_mask)):
        old = torch.nn.functional.pad(old_per_token_logps[b], (1, 0))
        rows[b % num_processes].add(sample | {"old_log_probs": old, "advantage": advantages[b]})
    batch = DataCollatorForRollout(pad_token_id=0, num_processes=num_processes).torch_call([rows])
    losses = []
    for rank in range(num_processes):
        given = {name: x[rank : rank + 1].to(per_token_logps.device) for name, x in batch.items()}
        mask = completion_mask[rank::num_processes] != 0
        of_row = torch.arange(len(mask), device=mask.device)[:, None].expand_as(mask)[mask]
        count = len(of_row)  # TRL keeps these in float32; in the caller's dtype the digits show
        for name, x in [
            ("old_log_probs", old_per_token_logps[rank::num_processes][mask]),
            ("advantages", advantages[rank::num_processes][of_row]),
        ]:
            given[name] = given[name].to(x.dtype)
            given[name][0, :count] = x
        at = given["token_index"][0, :count]
        packed = per_token_logps.new_zeros(int(given["attention_mask"].sum()))
        packed = packed.index_copy(0, at, per_token_logps[rank::num_processes][mask])
        output = SimpleNamespace(log_probs=packed[None], entropy=torch.zeros_like(packed)[None])
        trainer = _trainer(per_token_logps.device, num_processes, gradient_accumulation_steps)
        trainer.epsilon_low, trainer.epsilon_high = epsilon_low, epsilon_high
        model = stubs.model(lambda output=output, **_: output)
        losses.append(AsyncGRPOTrainer.compute_loss(trainer, model, given))
        if metrics is not None and rank == 0:
            metrics |= {name: x[-1] for name, x in trainer._metrics["train"].items()}
    return sum(losses) / num_processes


def grpo_advantages(rewards: Sequence[float | None]) -> list[float]:
    """Compute one group's advantages, (G,), with AsyncGRPO's rollout worker; None = missing."""
    import asyncio

    from accelerate import PartialState
    from trl.experimental.async_grpo.async_rollout_worker import _AsyncRolloutLoop

    worker: Any = SimpleNamespace(
        reward_funcs=[lambda **_: list(rewards)],
        reward_func_names=["one"],
        _env_reward_types=[],
        _provides_rollout_reward=False,
    )
    n, sequence = len(rewards), SimpleNamespace(input_ids=[0], completion_mask=[1])
    sequence.old_log_probs = [0.0]
    group: Any = SimpleNamespace(
        completions=[""] * n,
        prompts=[""] * n,
        completions_ids=[[]] * n,
        completions_sequences=[[sequence]] * n,
        reward_kwargs={},
        tool_call_counts=[0] * n,
        tool_failure_counts=[0] * n,
        model_version=0,
        group_id=0,
    )
    PartialState()  # TRL's logger asks for it
    samples = asyncio.run(_AsyncRolloutLoop._score_group(worker, group))
    return [sample.advantage for sample in samples]


def distillation(
    student_logits: Tensor,
    support_ids: Tensor,
    teacher_support_logps: Tensor,
    completion_mask: Tensor,
    *,
    beta: float,
    add_tail: bool,
    temperature: float = 1.0,
    tokens: Tensor | None = None,
    num_processes: int = 1,
    gradient_accumulation_steps: int = 1,
) -> Tensor:
    """Call `AsyncDistillationTrainer._compute_loss`; returns a 0-d float32 tensor with its graph.

    The hidden states are the logits and the LM head is the identity.

    student_logits          (B, T, V)
    support_ids             (B, T, K)  what the teacher scored, its likeliest first; -1 = none
    teacher_support_logps   (B, T, K)
    completion_mask         (B, T)
    tokens                  (B, T)     that the student sampled; None: the last candidate, as
                                       `server_distillation.narrow_support` puts it
    num_processes           row b goes to process b % num_processes
    """
    import torch
    from trl.experimental.async_distillation.async_distillation_trainer import (
        AsyncDistillationTrainer,
        DataCollatorForRollout,
    )

    pad = torch.nn.functional.pad
    if tokens is None:
        last = torch.where(support_ids[..., -1] < 0, 0, support_ids.shape[-1] - 1)
        tokens = support_ids.gather(-1, last[..., None])[..., 0].clamp(min=0)
    logps = teacher_support_logps.float().masked_fill(support_ids < 0, float("-inf"))
    groups: list[list[Any]] = [[] for _ in range(num_processes)]
    for b, sample in enumerate(_samples(completion_mask)):
        sample |= {"input_ids": pad(tokens[b], (1, 0)).cpu(), "prompt_id": b}
        sample["teacher_topk_ids"] = pad(support_ids[b], (0, 0, 1, 0), value=-1).cpu()
        minus_inf = float("-inf")
        sample["teacher_topk_logprobs"] = pad(logps[b], (0, 0, 1, 0), value=minus_inf).cpu()
        groups[b % num_processes].append(sample)
    batch = DataCollatorForRollout(pad_token_id=0, num_processes=num_processes).torch_call([groups])
    args = SimpleNamespace(beta=beta, teacher_temperature=temperature, add_tail_bucket=add_tail)
    losses = []
    for rank in range(num_processes):
        given = {name: x[rank : rank + 1].to(student_logits.device) for name, x in batch.items()}
        hidden = pad(student_logits[rank::num_processes], (0, 0, 0, 1)).flatten(0, 1)[None]
        trainer = _trainer(student_logits.device, num_processes, gradient_accumulation_steps)
        trainer.args, trainer._teacher_ids = args, ["the teacher"]
        trainer.accelerator.autocast = nullcontext
        losses.append(AsyncDistillationTrainer._compute_loss(trainer, _headed(hidden), given))
    return sum(losses) / num_processes


def _headed(hidden):
    """A model that gives these hidden states, under an LM head that hands them on."""
    import torch

    weight = torch.eye(hidden.shape[-1], dtype=hidden.dtype, device=hidden.device)
    model = stubs.model(lambda **_: None)
    model.base_model = lambda **_: SimpleNamespace(last_hidden_state=hidden)
    model.get_output_embeddings = lambda: SimpleNamespace(weight=weight, bias=None)
    model.config = SimpleNamespace(get_text_config=SimpleNamespace)
    return model


def _samples(completion_mask):
    """One prompt token per row, then the completion; no two rows share a token, so none is folded."""
    import torch

    rows, tokens = completion_mask.shape
    for b in range(rows):
        yield {
            "input_ids": 1 + torch.arange(b * (tokens + 1), (b + 1) * (tokens + 1)),
            "completion_mask": torch.nn.functional.pad(completion_mask[b].long().cpu(), (1, 0)),
            "group_id": b,
            "metrics": {},
        }


def _trainer(device, num_processes, gradient_accumulation_steps, **attributes):
    trainer = stubs.trainer(
        device,
        current_gradient_accumulation_steps=gradient_accumulation_steps,
        **{f"_step_{name}": 0.0 for name in COUNTERS},
        **attributes,
    )
    trainer.accelerator.num_processes = num_processes
    return trainer
