"""Stop a run that teaches nothing, and go on after one that was interrupted.

    trainer.add_callback(Guards())        stops with the reason
    resume(trainer)                       trains on from the newest complete checkpoint

TRL trains to the end with NaN weights (the loss is logged as 0.0), with rewards that are all the
same (no gradient) and with rewards that are all None. transformers resumes without a word with a
fresh optimizer when optimizer.pt is missing, and from the wrong adapter when the model has two
(DPO after SFT). Lesson: notebooks/03_grpo.ipynb.
"""

import json
import math
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import TrainerCallback

# ---------------------------------------------------------------- stop


class Stopped(RuntimeError):
    """Raised out of `trainer.train()` by `Guards`, with the reason."""


class Guards(TrainerCallback):
    """Stops a run on what makes it worthless.

    patience        steps in a row that show it; a loss or gradient that is not finite stops at once
    entropy_floor   nats per token: below it a GRPO group is one completion, several times
    sampler_gap     nats per token between the log-probs of the sampler and of the trainer; rounding
                    to bfloat16 gives up to 0.02, a stale output head 0.07 after eight steps

    Turns transformers' NaN filter off, which would log a NaN loss as 0.0, and logs before each
    checkpoint, so that none is saved with NaN. With fp16 a gradient may be infinite for `patience`
    steps: the gradient scaler skips such a step and halves its scale.
    Raises Stopped from the log that completes the evidence, in every rank alike: what is logged
    has been gathered from all of them.
    """

    def __init__(self, patience=5, entropy_floor=0.005, sampler_gap=0.02):
        self.patience, self.entropy_floor, self.sampler_gap = patience, entropy_floor, sampler_gap

    def on_train_begin(self, args, state, control, **kwargs):
        args.logging_nan_inf_filter = False
        self.healthy = {}  # ailment: the last step before it began
        self.logged = state.global_step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_log |= control.should_save

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in (logs or {}):  # an evaluation, or the summary at the end
            return
        reasons = []
        for ailment, reason in examine(logs, self.entropy_floor, self.sampler_gap).items():
            if not reason:
                self.healthy.pop(ailment, None)
                continue
            # The gradient is that of the last step, everything else a mean since the last log.
            before = state.global_step - 1 if "gradient" in ailment else self.logged
            steps = state.global_step - self.healthy.setdefault(ailment, before)
            at_once = ailment == "loss" or (ailment == "gradient" and not args.fp16)
            if at_once or steps >= self.patience:
                lasting = "" if at_once else f" (for {steps} steps)"
                reasons.append(f"{reason}{lasting}.")
        self.logged = state.global_step
        if reasons:
            raise Stopped(f"step {state.global_step}: " + " Also: ".join(reasons))


def examine(logs, entropy_floor=0.005, sampler_gap=0.02):
    """What one log of a trainer says: {ailment: reason, "" where it is healthy}.

    An ailment whose metric is not in the log is left out: GRPO logs its rewards when it generates,
    which need not be in every step.

    >>> examine({"loss": 0.0, "grad_norm": 0.3})  # SFT, or GRPO between two generations
    {'loss': '', 'gradient': ''}
    >>> examine({"loss": float("nan")})["loss"].partition(".")[0]
    'the loss is nan'
    """
    checks = [
        ("loss", "loss", _not_finite, f"the loss is {{:g}}. {LOWER}"),
        ("gradient", "grad_norm", _not_finite, f"the norm of the gradient is {{:g}}. {LOWER}"),
    ]
    if "reward" in logs:  # a loss of 0.0 is healthy here; a gradient of 0.0 is not
        checks += [
            ("no gradient", "grad_norm", (0.0).__eq__, "the gradient is exactly zero"),
            ("no spread", "frac_reward_zero_std", (1.0).__eq__, ALIKE),
            ("entropy", "entropy", lambda entropy: entropy < entropy_floor, COLLAPSED),
            ("sampler", GAP, lambda gap: gap > sampler_gap, STALE),
        ]
        checks += [
            (key, key, math.isnan, f"{key.split('/')[1]} gave None to every completion: {NO_GOLD}")
            for key in logs
            if key.startswith("rewards/") and key.endswith("/mean")
        ]
    return {
        ailment: reason.format(_number(logs[key])) if sick(_number(logs[key])) else ""
        for ailment, key, sick, reason in checks
        if key in logs
    }


GAP = "sampling/sampling_logp_difference/mean"
LOWER = (
    "Lower the learning rate, clip the gradient (max_grad_norm), or look for a batch without a "
    "trained token (lab.batch.show_batch)"
)
ALIKE = (
    "in every group all rewards are the same: too easy, too hard, or a constant reward. Change the "
    "difficulty, or look at the reasons (rewards.explain)"
)
NO_GOLD = "golds that cannot be verified (rewards.check_golds names the rows)"
COLLAPSED = (
    "the entropy has collapsed to {:.2g} nats a token: the completions of a group are all the "
    "same. Lower the learning rate, or start from an earlier checkpoint"
)
STALE = (
    "sampler and trainer differ by {:.2g} nats a token: the completions come from another model "
    "than the one that learns (stale weights; lab.vllm.GRPOTrainer mends TRL's sync)"
)


def _not_finite(value):
    return not math.isfinite(value)


def _number(value):
    """None is how TRL logs a NaN metric."""
    return math.nan if value is None else float(value)


# ---------------------------------------------------------------- go on


def resume(trainer, say=print):
    """Train from the newest complete checkpoint, from the start when there is none; say which.

    Returns what `trainer.train` returns. On one machine SFT, DPO and GRPO with `generate` go on
    exactly as if they had never been interrupted, with plain weights and with adapters
    (tests/lab/test_guards.py). Two things do not:

    vLLM    its sampler has a random state of its own that no checkpoint holds: two runs left alone
            are equal, after a resume the completions are other ones, from the same model
    GRPO with completions that serve several steps (num_iterations, steps_per_generation), from a
            checkpoint between two generations: it generates anew
    """
    say = say if trainer.is_world_process_zero() else lambda line: None
    found, passed_over = newest_complete(trainer.args.output_dir)
    for folder, why in passed_over.items():
        say(f"passed over {folder.name}: {why}")
    if found is None:
        say(f"no complete checkpoint in {trainer.args.output_dir}: from the start")
        return trainer.train()
    say(f"resuming from {found.name}")
    before = torch.load(found / "scheduler.pt", weights_only=True).get("base_lrs", [])
    if before and not math.isclose(before[0], trainer.args.learning_rate):
        say(f"its learning rate goes on, {before[0]:g}; {trainer.args.learning_rate:g} is ignored")
    _load_first_adapter(trainer, found)
    return trainer.train(resume_from_checkpoint=str(found))


def _load_first_adapter(trainer, folder):
    """Beside a reference adapter, transformers 5.17 loads that one and leaves "default" as built.

    PEFT saves "default" in the checkpoint itself and others in folders below; where transformers
    finds such a folder it loads the folders alone. The optimizer then moves the wrong weights, in
    silence: DPO's loss is back at log 2.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    weights = folder / "adapter_model.safetensors"
    if weights.exists() and len(getattr(model, "peft_config", {})) > 1:
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(model, load_file(weights), adapter_name=model.active_adapter)


def newest_complete(output_dir):
    """The newest checkpoint that can be resumed from, or None, and {checkpoint: why not}."""
    folders = [f for f in Path(output_dir).glob("checkpoint-*") if f.name[11:].isdecimal()]
    passed_over = {}
    for folder in sorted(folders, key=lambda f: int(f.name[11:]), reverse=True):
        why = why_incomplete(folder)
        if not why:
            return folder, passed_over
        passed_over[folder] = why
    return None, passed_over


def why_incomplete(folder):
    """What a checkpoint lacks to be resumed from, "" when it is complete.

    One process's checkpoint as transformers writes it; those of DeepSpeed and FSDP hold their
    optimizer elsewhere and count as incomplete.
    """
    folder = Path(folder)
    read = {}
    for file in (folder / "trainer_state.json", *folder.glob("model.safetensors.index.json")):
        try:
            read[file.name] = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            return f"{file.name} cannot be read ({type(error).__name__})"
    if "global_step" not in read["trainer_state.json"]:
        return "trainer_state.json has no global_step"
    parts = read.get("model.safetensors.index.json", {}).get("weight_map", {}).values()
    weights = [folder / part for part in sorted(set(parts))]
    weights = weights or sorted(folder.glob("**/*model*.safetensors"))
    if not weights:
        return "no weights"
    for file in weights:
        try:
            with safe_open(file, framework="pt") as tensors:
                tensors.keys()
        except (OSError, SafetensorError):
            return f"{file.name} is missing or cut off"
    states = [folder / "optimizer.pt", folder / "scheduler.pt", *folder.glob("scaler.pt")]
    states += sorted(folder.glob("rng_state*.pth")) or [folder / "rng_state.pth"]
    for file in states:
        if not file.exists():
            return f"{file.name} is missing"
        if not _is_whole_zip(file):
            return f"{file.name} is cut off"
    return ""


def _is_whole_zip(file):
    """torch.save writes a zip with a checksum for every tensor: no need to unpickle it."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False
