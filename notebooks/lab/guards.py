"""Stop a run that teaches nothing, and go on after one that was interrupted.

    trainer.add_callback(Guards())        stops with the reason
    resume(trainer)                       trains on from the newest complete checkpoint

TRL trains to the end with NaN weights (the loss is logged as 0.0), with a gradient of zero, with rewards
that are all the same and with rewards that are all None. transformers resumes without a warning with a
fresh optimizer when optimizer.pt is missing, and from the wrong adapter when the model has two
(DPO after SFT). What a log says is judged in `lab.health`. Lesson: notebooks/03_grpo.ipynb.
"""

import hashlib
import json
import math
import zipfile
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader
from transformers import TrainerCallback

from lab import health
from lab.health import examine

# ---------------------------------------------------------------- stop


class Stopped(RuntimeError):
    """Raised out of `trainer.train()` by `Guards`, with the reason."""


class Guards(TrainerCallback):
    """Stop a run that can no longer learn, and name trained weights that did not move.

    patience    steps in a row that must show the fault; a loss or gradient that is not finite stops
                the run at once
    groups      GRPO groups that must have shown it as well, where the evidence is about rewards: a
                model that solves 2% of its problems gets 8 wrong answers in 85% of the groups, and
                100 such groups in a row once in ten million runs
    say         called with one line at the end for the weights that did not move
    limits      the limits of `lab.health.Limits`, by name

    Turns transformers' NaN filter off, which would log a NaN loss as 0.0, and logs before each
    checkpoint, so that none is saved with NaN. With fp16 a gradient may be infinite for `patience`
    steps: the gradient scaler skips such a step and halves its scale.
    Raises Stopped from the log that completes the evidence, in every rank alike: what is logged
    has been gathered from all of them.
    """

    def __init__(self, patience=5, groups=100, say=print, **limits):
        self.patience, self.groups, self.say = patience, groups, say
        self.limits = health.Limits(**limits)

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        args.logging_nan_inf_filter = False
        self.healthy = {}  # ailment: the last step before it began
        self.began = self.logged = state.global_step
        self.start_entropy = None
        self.groups_a_step = groups_a_step(args)
        self.bits = fingerprints(model)

    def on_step_end(self, args, state, control, **kwargs):
        control.should_log |= control.should_save

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in (logs or {}):  # an evaluation, or the summary at the end
            return
        if self.start_entropy is None:
            self.start_entropy = logs.get("entropy")
        reasons = []
        for ailment, reason in examine(logs, self.limits, self.start_entropy).items():
            if not reason:
                self.healthy.pop(ailment, None)
                continue
            # The gradient is that of the last step, everything else a mean since the last log.
            before = state.global_step - 1 if "gradient" in ailment else self.logged
            steps = state.global_step - self.healthy.setdefault(ailment, before)
            at_once = ailment in health.AT_ONCE and not (ailment == "gradient" and args.fp16)
            if at_once or self.lasts(ailment, steps):
                lasting = "" if at_once else f" (for {steps} steps)"
                reasons.append(f"{reason}{lasting}.")
        self.logged = state.global_step
        if reasons:
            raise Stopped(f"step {state.global_step}: " + " Also: ".join(reasons))

    def lasts(self, ailment, steps):
        """Tell whether so many steps in a row are evidence."""
        seen = steps * self.groups_a_step
        about_rewards = ailment in health.ABOUT_REWARDS and self.groups_a_step
        return steps >= self.patience and (not about_rewards or seen >= self.groups)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        still = unmoved(model, self.bits) if state.global_step > self.began else []
        if still and state.is_world_process_zero:
            names = ", ".join(still[:3]) + (", ..." if len(still) > 3 else "")
            self.say(
                f"{len(still)} of {len(self.bits)} trained tensors did not move in "
                f"{state.global_step - self.began} steps: {names}. {STILL}"
            )

    def on_save(self, args, state, control, model=None, train_dataloader=None, **kwargs):
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            data = getattr(train_dataloader, "dataset", None)
            (folder / SETTINGS).write_text(json.dumps(settings(args, model, data), indent=1))


STILL = (
    "Is the learning rate above 0, and large enough for weights in 16 bits (below 2^-8 of a weight an "
    "update rounds to nothing: train in float32)? Do these layers take part in the loss?"
)


def groups_a_step(args):
    """Return the new GRPO groups in one optimizer step, all processes together; 0 for other trainers."""
    if not getattr(args, "num_generations", 0):
        return 0
    rows = args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
    return rows / (args.num_generations * getattr(args, "num_iterations", 1))


def fingerprints(model):
    """Return {name: the sum of the bits} of each weight that is trained; a change of any bit shows."""
    if model is None:
        return {}
    named = ((n, p) for n, p in model.named_parameters() if p.requires_grad and p.numel())
    return {name: _bits(param) for name, param in named}


@torch.no_grad()
def _bits(param):
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[param.element_size()]
    return int(param.detach().contiguous().view(whole).sum(dtype=torch.int64))


def unmoved(model, before):
    """Return the names of trained weights that are as they were, and of LoRA B's that are still zero."""
    if model is None:
        return []
    return [
        name
        for name, param in model.named_parameters()
        if name in before
        and (_bits(param) == before[name] or (".lora_B." in name and not param.any()))
    ]


# ---------------------------------------------------------------- go on


def resume(trainer, say=print):
    """Train from the newest complete checkpoint, or from the start when there is none; say which.

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
    refuse_other_parts(found, sharded=trainer.accelerator.distributed_type == "FSDP")
    say(f"resuming from {found.name}")
    step = json.loads((found / "trainer_state.json").read_text())["global_step"]
    now = settings(trainer.args, trainer.model, trainer.train_dataset)
    refuse_other_shape(found, now)
    before = torch.load(found / "scheduler.pt", weights_only=True).get("base_lrs", [])
    if before and not math.isclose(before[0], trainer.args.learning_rate):
        say(f"its learning rate goes on, {before[0]:g}; {trainer.args.learning_rate:g} is ignored")
    for line in changes(found, now):
        say(line)
    _load_first_adapter(trainer, found)
    result = trainer.train(resume_from_checkpoint=str(found))
    if trainer.state.global_step <= step:
        say(
            f"nothing left to train: {found.name} is the end of {trainer.state.max_steps} steps; "
            "raise max_steps or num_train_epochs to go on, or use another output_dir"
        )
    return result


# The folders of a checkpoint of FSDP2, as accelerate names them.
PARTS = ("pytorch_model_fsdp_0", "optimizer_0")
SETTINGS = "guards.json"  # beside a checkpoint: what it was trained with
COMPARED = {
    "seed": "the order of the rows and the sampling differ from here on",
    "data_seed": "the order of the rows differs from here on",
    "per_device_train_batch_size": "steps already counted were of another size",
    "gradient_accumulation_steps": "steps already counted were of another size",
    "world_size": "steps already counted were of another size",
    "num_generations": "the groups have another size from here on",
    "lr_scheduler_type": "the learning rate goes on by the new schedule",
    "warmup_steps": "the learning rate goes on by the new schedule",
    "max_steps": "the learning rate goes on by the new schedule",
    "num_train_epochs": "the learning rate goes on by the new schedule",
    "weight_decay": "the new value holds from here on",
    "beta": "the new value holds from here on",
    "loss_type": "the new loss holds from here on",
}


def settings(args, model=None, data=None):
    """Return what a run must share with its checkpoint, as plain JSON."""
    kept = {name: getattr(args, name) for name in COMPARED if hasattr(args, name)}
    kept |= {"optim": args.optim, "learning_rate": args.learning_rate}
    kept = {name: getattr(value, "value", value) for name, value in kept.items()}
    config = getattr(model, "peft_config", {}).get("default")
    kept["lora_r"] = getattr(config, "r", None)
    kept["data"] = rows_hash(data)
    return json.loads(json.dumps(kept, default=str))


def rows_hash(data, n=64):
    """Return {column: a hash of its length and of n rows spread over it}; {} for data without a length."""
    if data is None or not hasattr(data, "__len__") or not getattr(data, "column_names", None):
        return {}
    at = sorted({round(i * (len(data) - 1) / max(1, n - 1)) for i in range(n)}) if len(data) else []
    rows = data.select(at)
    return {
        column: hashlib.sha256(
            json.dumps([len(data), list(rows[column])], default=str).encode()
        ).hexdigest()[:16]
        for column in data.column_names
    }


def changes(folder, now):
    """Return one line for each setting that differs from the checkpoint's; none if it has no settings."""
    path = folder / SETTINGS
    before = json.loads(path.read_text()) if path.exists() else {}
    lines = [
        f"{name} was {before[name]}, is {now[name]}: {what}"
        for name, what in COMPARED.items()
        if name in before and name in now and before[name] != now[name]
    ]
    both = before.get("data", {}).keys() & now["data"].keys()
    if any(before["data"][column] != now["data"][column] for column in both):
        lines.append("the data changed: the run goes on with other rows than it began with")
    return lines


def refuse_other_shape(folder, now):
    """Raise ValueError where the checkpoint's adapter or optimizer does not fit this run's."""
    before = {}
    if (folder / SETTINGS).exists():
        before = json.loads((folder / SETTINGS).read_text())
    if (folder / "adapter_config.json").exists():
        before["lora_r"] = json.loads((folder / "adapter_config.json").read_text()).get("r")
    for name, what in {"lora_r": "LoRA rank", "optim": "optimizer"}.items():
        if name in before and before[name] != now[name]:
            raise ValueError(
                f"{folder.name} has {what} {before[name]}, this run {now[name]}: its weights and its "
                "optimizer's state do not fit. Set it back, or train from the start in another output_dir"
            )


def refuse_other_parts(folder, sharded):
    """Raise ValueError where one of checkpoint and run is in parts (FSDP2) and the other is whole.

    Also for DeepSpeed's, whose files are not known here: better aloud than again from the start.
    """
    if (folder / "latest").exists():
        raise ValueError(
            f"{folder.name} is DeepSpeed's, whose parts cannot be checked here. Go on with "
            f"trainer.train(resume_from_checkpoint={str(folder)!r}), or train from the start in another "
            "output_dir"
        )
    if (folder / PARTS[0]).is_dir() != sharded:
        now, before = ("FSDP2", "whole weights") if sharded else ("whole weights", "FSDP2")
        raise ValueError(
            f"{folder.name} was written with {before}, and this run has {now}. Start it with the "
            "configuration of accelerate that it began with, or train from the start in another output_dir"
        )


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
    """Return the newest checkpoint that can be resumed from, or None, and {checkpoint: why not}."""
    folders = [f for f in Path(output_dir).glob("checkpoint-*") if f.name[11:].isdecimal()]
    passed_over = {}
    for folder in sorted(folders, key=lambda f: int(f.name[11:]), reverse=True):
        why = why_incomplete(folder)
        if not why:
            return folder, passed_over
        passed_over[folder] = why
    return None, passed_over


def why_incomplete(folder):
    """Return what a checkpoint lacks to be resumed from, "" when it is complete.

    As transformers writes it, whole or in FSDP2's parts. DeepSpeed's counts as complete unseen:
    `refuse_other_parts` says what to do with it.
    """
    folder = Path(folder)
    if (folder / "latest").exists():
        return ""
    parted, read = (folder / PARTS[0]).is_dir(), {}
    for file in (folder / "trainer_state.json", *folder.glob("model.safetensors.index.json")):
        try:
            read[file.name] = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            return f"{file.name} cannot be read ({type(error).__name__})"
    if "global_step" not in read["trainer_state.json"]:
        return "trainer_state.json has no global_step"
    if parted and (why := _why_parts_incomplete(folder)):
        return why
    parts = read.get("model.safetensors.index.json", {}).get("weight_map", {}).values()
    weights = [folder / part for part in sorted(set(parts))]
    weights = weights or sorted(folder.glob("**/*model*.safetensors"))
    if not weights and not parted:
        return "no weights"
    for file in weights:
        try:
            with safe_open(file, framework="pt") as tensors:
                tensors.keys()
        except (OSError, SafetensorError):
            return f"{file.name} is missing or cut off"
    states = [folder / "scheduler.pt", *folder.glob("scaler.pt")]
    states += [] if parted else [folder / "optimizer.pt"]
    states += sorted(folder.glob("rng_state*.pth")) or [folder / "rng_state.pth"]
    for file in states:
        if not file.exists():
            return f"{file.name} is missing"
        if not _is_whole_zip(file):
            return f"{file.name} is cut off"
    return ""


def _why_parts_incomplete(folder):
    """Return what the folders of a sharded checkpoint lack: each lists its files and their lengths."""
    for name in PARTS:
        try:
            stored = FileSystemReader(folder / name).read_metadata().storage_data.values()
        except (OSError, EOFError, UnpicklingError) as error:
            return f"{name}/.metadata cannot be read ({type(error).__name__})"
        for part in stored:
            file = folder / name / part.relative_path
            if not file.exists() or file.stat().st_size < part.offset + part.length:
                return f"{name}/{part.relative_path} is missing or cut off"
    return ""


def _is_whole_zip(file):
    """torch.save writes a zip with a checksum for every tensor: no need to unpickle it."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False
