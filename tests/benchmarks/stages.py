"""Seconds and memory of SFT, DPO and GRPO steps by the recipes of a profile, on a model of real size.

    python tests/benchmarks/stages.py a100                 Qwen2.5-0.5B's shape, random weights, one GPU
    python tests/benchmarks/stages.py t4 --steps 4 --json stages.json
    python tests/benchmarks/stages.py tiny --small         the tiny model: any machine, to try the script
    LAB_RUNS=/tmp/r python tests/benchmarks/stages.py a100 --stages grpo --ways vllm    after a first run there

Nothing is downloaded: how fast a model is and how much memory it takes do not depend on what it has
learnt. The rows fill the recipe's max_length, so that the peak is the largest that its data can cause.
Only the number of steps, what is logged and what is saved differ from the recipe.

One row a stage and way, in the order of the chain, each adapter going on into the next stage:
    loaded_mb, built_mb      MiB on the GPU with the base in 4 bits; with the adapters
    peak_mb                  the most while it trained (torch.cuda.max_memory_allocated)
    step_s                   median over the steps after the first, which warms up
    tokens                   trained on in a step, padding left out
    adapters                 dtypes of what the optimizer moves
    moved                    share of lora_A's entries that a step moved, the least of any layer
    compute                  autocast's dtype
    gap_mean, sync_s         GRPO with vLLM: nats per token between engine and trainer, the worst of the
                             steps; seconds of a sync, the median
"sleep 1" and "sleep 2" are vLLM with its sleep mode between generations: weights parked, or dropped.
"""

import argparse
import functools
import gc
import json
import os
import statistics
import tempfile
import time

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("profile", choices=("tiny", "t4", "a100"))
parser.add_argument("--small", action="store_true", help="the tiny model, a few short rows")
parser.add_argument("--steps", type=int, default=4)
parser.add_argument("--stages", default="sft,dpo,grpo")
parser.add_argument(
    "--ways",
    default="recipe,generate",
    help="also: no-checkpointing, this card, vllm, sleep 1, sleep 2",
)
parser.add_argument(
    "--dtype", choices=("float32", "bfloat16", "float16"), help="instead of the recipe's"
)
parser.add_argument("--batch", type=int, help="rows of a micro-batch, instead of the recipe's")
parser.add_argument("--accumulation", type=int, help="micro-batches of a step")
parser.add_argument("--completion", type=int, help="tokens of a completion at most, GRPO")
parser.add_argument("--json", help="write the rows to this file after each stage")
OPTIONS = parser.parse_args() if __name__ == "__main__" else None
CHANGES = ("dtype", "batch", "accumulation", "completion")

if OPTIONS:
    # Set it to measure one stage in a process of its own over the adapters that others left.
    os.environ.setdefault("LAB_RUNS", tempfile.mkdtemp())
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

from lab import vllm  # first: lab sets what torch and vLLM read when they load

import torch  # isort: skip
from datasets import Dataset
from lab import model, recipes, runs, show, train
from transformers import Qwen2Config, Qwen2ForCausalLM, TrainerCallback

# config.json of Qwen2.5-0.5B-Instruct.
HALF_A_BILLION = {
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32_768,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}


def save_base(folder, small):
    """A random model under the kit's own tokenizer, whose tokens are the first of its vocabulary."""
    tok = model.tokenizer()
    if small:
        model.build(tok).save_pretrained(folder)
    else:
        torch.manual_seed(0)
        ends = {"eos_token_id": tok.eos_token_id, "pad_token_id": tok.pad_token_id}
        config = Qwen2Config(**HALF_A_BILLION, **ends, bos_token_id=None)
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            base = Qwen2ForCausalLM(config)
        base.to(torch.bfloat16).save_pretrained(folder)
        del base
    tok.save_pretrained(folder)
    return tok


def recipe_of(stage, profile, folder, steps, small, way="recipe"):
    """The recipe of a stage with this base and these few steps, and nothing saved or evaluated.

    Its sizes are those of the card that the profile is named after, on a larger card too: what the kit
    says of a T4's memory is measured. By the way "this card" they are those of the card that is here.
    """
    recipe = recipes.load(stage, profile, card_gib=None if way == "this card" else 0)
    recipe["model"] = str(folder)
    recipe["args"] |= {
        "max_steps": steps,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "warmup_steps": 0,
    }
    if stage == "sft":  # prompt and completion: the loss is on the completion alone
        recipe["args"].pop("assistant_only_loss", None)
    if small and not torch.cuda.is_available():
        recipe["args"] |= {
            "use_cpu": True,
            "fp16": False,
            "bf16": recipe["args"].get("bf16", False),
        }
    if small:
        recipe["args"] |= {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
        recipe["args"] |= (
            {"max_length": 64}
            if stage != "grpo"
            else {
                "num_generations": 4,
                "steps_per_generation": 1,
                "max_completion_length": 8,
                "vllm_max_model_length": 160,  # the tiny model has 256 positions
            }
        )
    return recipe


def changed(recipe, dtype=None, batch=None, accumulation=None, completion=None):
    """The recipe in another dtype, and with other sizes; what is None stays."""
    args, stage = dict(recipe["args"]), recipe["stage"]
    if dtype:
        args |= {"fp16": dtype == "float16", "bf16": dtype == "bfloat16"}
        four = recipe["quantization"] | {"bnb_4bit_compute_dtype": dtype}
        recipe = recipe | {"dtype": dtype, "quantization": four}
    args["per_device_train_batch_size"] = batch or args["per_device_train_batch_size"]
    if accumulation:
        args["gradient_accumulation_steps"] = accumulation
        args |= {"steps_per_generation": accumulation} if stage == "grpo" else {}
    if completion and stage == "grpo":
        args["vllm_max_model_length"] += completion - args["max_completion_length"]
        args["max_completion_length"] = completion
    return recipe | {"args": args}


def rows_of(recipe, tok):
    """Rows of exactly max_length tokens (one a byte), enough for the steps."""
    stage, args = recipe["stage"], recipe["args"]
    a_step = args["per_device_train_batch_size"] * args.get("gradient_accumulation_steps", 1)
    n = max(a_step * args["max_steps"], 64)
    if stage == "grpo":
        length = args.get("vllm_max_model_length", 128) - args["max_completion_length"]
        prompt = "7" * min(length, 128)
        return Dataset.from_dict({"prompt": [prompt] * n, "solution": ["7"] * n})
    prompt = "12+34="
    answer = "7" * (args.get("max_length", 1024) - len(tok(prompt).input_ids) - 1)  # and its end
    if stage == "sft":
        return Dataset.from_dict({"prompt": [prompt] * n, "completion": [answer] * n})
    chosen, rejected = [answer] * n, [answer[:-1] + "8"] * n
    return Dataset.from_dict({"prompt": [prompt] * n, "chosen": chosen, "rejected": rejected})


def spread(completions, **_):
    """A reward that differs within a group."""
    return [float(sum(map(ord, str(text))) % 7) for text in completions]


class Clock(TrainerCallback):
    """Seconds of each step, the GPU's work included."""

    def __init__(self):
        self.seconds = []

    def on_step_begin(self, args, state, control, **kwargs):
        synchronise()
        self.began = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        synchronise()
        self.seconds.append(time.perf_counter() - self.began)


def synchronise():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def allocated_mb():
    """What tensors take on the GPU now; None on a machine without one."""
    return round(torch.cuda.memory_allocated() / 2**20) if torch.cuda.is_available() else None


def measure(recipe, way, tok):
    """Train a few steps, keep the adapter for the next stage, and return the row."""
    stage = recipe["stage"]
    recipe["args"]["gradient_checkpointing"] &= way != "no-checkpointing"
    options = {}
    if stage == "grpo":
        recipe["args"]["use_vllm"] = way != "generate"
        options["reward_funcs"] = [spread]
        if OPTIONS.dtype:
            options["engine"] = {"dtype": OPTIONS.dtype}
        if way.startswith("sleep"):
            recipe["args"]["vllm_enable_sleep_mode"] = True
            level = int(way.removeprefix("sleep "))
            options["generation"] = functools.partial(vllm.Generation, sleep_level=level)
    policy, tok = train.load(recipe)
    row = {"stage": stage, "way": way, "loaded_mb": allocated_mb()}
    built = train.trainer(recipe, policy, tok, rows_of(recipe, tok), **options)
    clock = Clock()
    built.add_callback(clock)
    row["built_mb"] = allocated_mb()
    adapters = {n: p for n, p in policy.named_parameters() if p.requires_grad}
    before = {n: p.detach().clone() for n, p in adapters.items()}
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    built.train()
    row["peak_mb"] = runs.gpu()["peak_gpu_mb"]
    row["step_s"] = round(statistics.median(clock.seconds[1:] or clock.seconds), 4)
    row["first_step_s"] = round(clock.seconds[0], 4)
    row["adapters"] = sorted({str(p.dtype).removeprefix("torch.") for p in adapters.values()})
    moved = [(p != before[n]).float().mean().item() for n, p in adapters.items() if "lora_A" in n]
    row["moved"] = round(min(moved), 4)
    row["compute"] = built.accelerator.mixed_precision
    log = built.state.log_history
    gaps, syncs = (
        [entry[f"sampling/{name}"] for entry in log if f"sampling/{name}" in entry]
        for name in ("gap_mean", "sync_s")
    )
    if gaps:
        row |= {"gap_mean": float(f"{max(gaps):.2g}"), "sync_s": round(statistics.median(syncs), 4)}
    row["args"] = recipe["args"]
    row["log"] = [entry for entry in built.state.log_history if "loss" in entry]
    policy.save_pretrained(runs.folder(recipe))
    if getattr(built, "use_vllm", False):
        vllm.release(built)
    return row


def ways_of(stage):
    """Of the ways asked for, those that this stage has: GRPO samples, the others do not."""
    sampled = ("generate", "vllm", "sleep 1", "sleep 2")
    has = sampled if stage == "grpo" else ("recipe", "no-checkpointing", "this card")
    return [way for way in OPTIONS.ways.split(",") if way in has]


def main():
    show.quiet()
    folder = runs.root() / "start"
    tok = save_base(folder, OPTIONS.small)
    card = runs.gpu()["gpu"]
    total = torch.cuda.get_device_properties(0).total_memory / 2**20 if card else None
    result = {"profile": OPTIONS.profile, "small": OPTIONS.small, "gpu": card, "total_mb": total}
    result |= {name: getattr(OPTIONS, name) for name in CHANGES}
    result |= {"versions": runs.versions(), "commit": runs.commit(), "rows": []}
    for stage in OPTIONS.stages.split(","):
        for way in ways_of(stage):
            sizes = (OPTIONS.steps, OPTIONS.small, way)
            recipe = recipe_of(stage, OPTIONS.profile, folder, *sizes)
            recipe = changed(recipe, **{name: getattr(OPTIONS, name) for name in CHANGES})
            try:
                row = measure(recipe, way, tok)
            except Exception as error:  # noqa: BLE001 - a stage that fails must not hide the next one's figures
                row = {
                    "stage": stage,
                    "way": way,
                    "error": f"{type(error).__name__}: {error}"[:2000],
                }
            result["rows"].append(row)
            shown = {k: v for k, v in row.items() if k not in ("args", "log")}
            print(json.dumps(shown), flush=True)
            gc.collect()
            if card:
                torch.cuda.empty_cache()
            if OPTIONS.json:
                with open(OPTIONS.json, "w") as file:
                    json.dump(result, file, indent=1)
    return 1 if any("error" in row for row in result["rows"]) else 0


if __name__ == "__main__":
    raise SystemExit(main())
