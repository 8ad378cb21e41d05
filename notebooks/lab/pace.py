"""Measure where the seconds of each stage go on this processor, and compare it with the README's.

    python -m lab.bench --cpu                  a table: seconds per step, part by part
    python -m lab.bench --cpu --out pace.json  the same as JSON

The stages run a few steps of their tiny recipes on an untrained model: how long a step takes does
not depend on what the model has learnt, but for the length of its completions, which are here the
longest.

Proof     tests/lab/test_pace.py
"""

import contextlib
import functools
import platform
import tempfile
import time
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import torch

# Seconds of each lesson of the tiny profile, each making its stage, and of `pace()` in the same hour:
# two cores of an Intel Xeon with AVX-512 and AMX, by `python -m lab.chain` in 7.1 minutes.
MEASURED_ON = "Intel Xeon with AVX-512, 2 cores"
LESSON_S = {"00": 97, "01": 46, "02": 90, "03": 152, "04": 41}
BASE_S = 78  # of lesson 00's, the base: it may stand already, or come ready
PACE_S = 0.0084
# (seconds, tokens) of a step on a GPU at the shape of Qwen2.5-0.5B, by stage and whether activations are
# computed again: tests/parity/gpu/h200.json.
ON_A_GPU = "NVIDIA H200"
GPU_STEP = {
    ("sft", True): (1.9808, 65_536),
    ("sft", False): (1.1039, 65_536),
    ("dpo", True): (4.807, 65_536),
    ("dpo", False): (3.1698, 65_536),
}
FEATURES = {
    "AVX2": "_is_avx2_supported",
    "AVX-512": "_is_avx512_supported",
    "AVX-512 bf16": "_is_avx512_bf16_supported",
    "AMX": "_is_amx_tile_supported",
}


def processor():
    """Return the processor's name, its cores, its vector instructions, and what torch detects of them."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = models[0] if models else name
    has = [word for word, ask in FEATURES.items() if getattr(torch.cpu, ask, lambda: False)()]
    return {
        "processor": name,
        "threads": torch.get_num_threads(),
        "features": has,
        "torch": torch.backends.cpu.get_cpu_capability(),
    }


def named():
    """Return the processor's name with the widest instructions that torch uses on it.

    Under ATEN_CPU_CAPABILITY=avx2 the same processor computes another chain.
    """
    found = processor()
    return f"{found['processor']}, {found['torch']}"


class Parts:
    """Seconds spent in each part, without the parts that it calls.

    >>> parts, owner = Parts(), type("Owner", (), {"work": lambda self: time.sleep(0.01)})
    >>> with parts.watch({"the work": [(owner, "work")]}):
    ...     owner().work()
    >>> parts.seconds["the work"] > 0.009
    True
    """

    def __init__(self, clock=time.perf_counter):
        self.seconds, self.inner, self.clock = Counter(), [], clock

    @contextlib.contextmanager
    def watch(self, table):
        """table    {part: [(class, name of a method), ...]}"""
        with contextlib.ExitStack() as stack:
            for part, places in table.items():
                for owner, name in places:
                    timed = self._timed(getattr(owner, name), part)
                    stack.enter_context(patch.object(owner, name, timed))
            yield self

    def _timed(self, method, part):
        @functools.wraps(method)
        def timed(*args, **kwargs):
            self.inner.append(0.0)
            began = self.clock()
            try:
                return method(*args, **kwargs)
            finally:
                spent = self.clock() - began
                self.seconds[part] += spent - self.inner.pop()
                if self.inner:
                    self.inner[-1] += spent

        return timed


def base(steps):
    """Measure the seconds per step of the base's pre-training: {part: seconds}, and with torch's own Muon."""
    from transformers import Qwen2ForCausalLM

    from lab import model, recipes

    recipe = recipes.load("base", "tiny")
    tok = model.tokenizer()
    rows = {}
    for name, Muon in (("base", model.Muon), ("base, torch's Muon", torch.optim.Muon)):
        tiny = model.build(tok, **recipe["architecture"], seed=0)
        parts = Parts()
        table = {
            "forward": [(Qwen2ForCausalLM, "forward")],
            "backward": [(torch.Tensor, "backward")],
            "optimizer": [(Muon, "step"), (torch.optim.AdamW, "step")],
            "the rest": [(model, "pretrain")],
        }
        with patch.object(model, "Muon", Muon):
            # One step alone first, which warms up.
            model.pretrain(tiny, tok, **recipe["pretrain"] | {"steps": 1}, seed=0)
            with parts.watch(table):
                model.pretrain(tiny, tok, **recipe["pretrain"] | {"steps": steps}, seed=0)
        rows[name] = {part: parts.seconds[part] / steps for part in table}
    return rows


def stage(name, folder, steps):
    """Measure the seconds per step of SFT, DPO or GRPO: {part: seconds}."""
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import TrainerCallback

    from lab import callbacks, guards, recipes, tasks, train, vllm

    lora = recipes.load("sft", "tiny")["lora"]
    recipe = recipes.load(name, "tiny") | {"model": str(folder), "start_from": "", "lora": lora}
    small = {"logging_steps": 1, "warmup_steps": 0}
    recipe |= {"args": recipe["args"] | small | {"max_steps": 2 + steps}}
    rows = None
    if name == "dpo":
        asked = tasks.sample(300, "train", seed=0)
        kinds = dict(zip(("chosen", "rejected"), tasks.STYLES))
        rows = Dataset.from_list([_pair(tasks, a, b, kinds) for a, b in asked])
    with tempfile.TemporaryDirectory() as out:
        recipe["args"]["output_dir"] = out
        built = train.trainer(recipe, rows=rows)
        for left_out in (callbacks.Trackio, callbacks.Progress, guards.Guards):
            built.remove_callback(left_out)
        cls, parts = type(built), Parts()

        class WarmUp(TrainerCallback):
            """Two steps warm up: in GRPO one of them generates, as one in two does later."""

            def on_step_end(self, args, state, control, **kwargs):
                if state.global_step == 2:
                    parts.seconds.clear()
                    parts.since = parts.clock()
                if state.global_step == 2 + steps:
                    parts.total = parts.clock() - parts.since

        built.add_callback(WarmUp())
        table = {
            "forward and loss": [(cls, "compute_loss")],
            "backward": [(Accelerator, "backward")],
        }
        if name == "grpo":
            table |= {
                "sampling": [(cls, "_generate_single_turn")],
                "log-probs of the samples": [(cls, "_generate_and_score_completions")],
                "rewards": [(cls, "_calculate_rewards")],
            }
        if getattr(built, "use_vllm", False):
            table["weight sync"] = [(vllm.Generation, "sync_weights")]
        with parts.watch(table):
            built.train()
        if getattr(built, "use_vllm", False):
            vllm.release(built)
    row = {part: parts.seconds[part] / steps for part in table}
    return row | {"the rest": max(0.0, parts.total / steps - sum(row.values()))}


def _pair(tasks, a, b, kinds):
    return {"prompt": tasks.prompt(a, b)} | {
        side: [{"role": "assistant", "content": tasks.completion(a, b, style)}]
        for side, style in kinds.items()
    }


def measure(steps=6):
    """Measure what `python -m lab.bench --cpu` prints: the processor, and seconds per step by stage and part."""
    from lab import model, recipes, runs

    stages = base(steps)
    with tempfile.TemporaryDirectory() as folder:
        model.save_untrained(folder)
        for name in ("sft", "dpo", "grpo"):
            stages[name] = stage(name, folder, steps)
    counts = {"base": recipes.load("base", "tiny")["pretrain"]["steps"]}
    counts |= {n: recipes.load(n, "tiny")["args"]["max_steps"] for n in ("sft", "dpo", "grpo")}
    found = processor() | {"versions": runs.versions(), "commit": runs.commit(), "pace_s": pace()}
    return found | {"stages": stages, "steps": counts}


def table(found):
    """Return the measurement as text."""
    head = ", ".join(found["features"]) or "none of " + ", ".join(FEATURES)
    lines = [f"{found['processor']}, {found['threads']} threads, {head}; torch: {found['torch']}"]
    for name, row in found["stages"].items():
        total = sum(row.values())
        steps = found["steps"].get(name)
        whole = f", {steps} steps {steps * total:.0f} s" if steps else ""
        lines.append(f"{name}: {total:.3f} s per step{whole}")
        lines += [f"    {part:26}{s:8.3f} s  {s / total:4.0%}" for part, s in row.items()]
    return "\n".join(lines)


def pace(repeats=15):
    """Return the seconds for a fixed piece of a transformer's work in float32, the fastest of some runs.

    Each run is so short that some of them have the cores to themselves on a busy machine too.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 64, 128, generator=generator)
    weights = [torch.randn(128, 256, generator=generator).requires_grad_() for _ in range(3)]

    def work():
        began, y = time.perf_counter(), x
        for weight in weights:
            y = torch.nn.functional.silu(y @ weight / 16) @ weight.T / 16
            y = torch.softmax(y @ y.transpose(1, 2) / 11, -1) @ y
        y.square().mean().backward()
        return time.perf_counter() - began

    return min(work() for _ in range(1 + repeats))


def forecast(lessons, now=pace, base_stands=False):
    """Say in one line about how long these lessons of the tiny profile take on this processor.

    lessons        names, by their first two digits
    now            gives the seconds of `pace` here
    base_stands    whether lesson 00 finds the base instead of making it
    """
    slower, found = now() / PACE_S, processor()
    seconds = sum(LESSON_S[name[:2]] for name in lessons)
    if base_stands and any(name[:2] == "00" for name in lessons):
        seconds -= BASE_S
    minutes = slower * seconds / 60
    line = f"About {max(1, round(minutes))} minutes on {found['processor']}, {found['threads']} threads, as busy as it is"
    if slower > 1.3:
        line += f": {slower:.1f} times what the README says, which was measured on an {MEASURED_ON}"
    return line


def on_a_gpu(recipe):
    """Say in one line how long the steps of a GPU profile's stage take, by the one card that was timed.

    A step has as many tokens as its rows, all of max_length, can have, and takes time in proportion. Scoring
    and saving are not in it.
    """
    stage, args = recipe["stage"], recipe["args"]
    measured = GPU_STEP.get((stage, args.get("gradient_checkpointing", True)))
    if measured is None:
        return f"{stage}: its minutes have not been measured on any card"
    rows = args["per_device_train_batch_size"] * args["gradient_accumulation_steps"]
    tokens = args["max_steps"] * rows * args["max_length"] * (2 if stage == "dpo" else 1)
    seconds, of = measured
    minutes = max(1, round(tokens * seconds / of / 60))
    return (
        f"{stage}: about {minutes} minutes of steps on an {ON_A_GPU} by its seconds per token, if every row "
        "is as long as it may be; not measured on this card"
    )
