"""Measure what a GRPO step costs with colocated vLLM and with model.generate, and how far both differ.

    python -m lab.bench --out bench.json                        the tiny model, any machine
    python -m lab.bench --model Qwen/Qwen2.5-0.5B-Instruct      a GPU: sleep levels 1 and 2 as well
    python -m lab.bench --cpu                                   where the seconds of each stage go

    python -m lab.bench --shape smollm2-135m --batch 16         a random model of that size, in float32 on a CPU

One row per way of generating: `generate` is transformers', `vllm` sends merged weights after each step,
`adapter` the adapter alone (lab.engine.adapter_sync). start_s, then medians over the steps after the first, which warms up:
step_s, sync_s (seconds), and the worst gap_mean and gap_max (nats per token).
"""

import argparse
import datetime
import functools
import json
import platform
import shlex
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, set_seed
from trl import GRPOConfig

from lab import model, pace, runs, show, tasks, vllm
from lab.engine import adapter_sync

SHAPES = {  # config.json of SmolLM2-135M; the embedding has the tiny tokenizer's 320 rows
    "smollm2-135m": {"hidden_size": 576, "intermediate_size": 1536, "layers": 30, "heads": 9},
}


def ways():
    """Return the ways of generating that this machine has."""
    found = ["generate"]
    if vllm.available():
        found += ["vllm", "adapter"] + ["sleep 1", "sleep 2"] * torch.cuda.is_available()
    return found


def measure(folder, way, steps=5, batch=64, completion=32, engine=None):
    """Make one short QLoRA run of GRPO from the model in `folder`; returns its row."""
    gpu = torch.cuda.is_available()
    kind = vllm.sixteen_bits() if gpu else torch.float32
    set_seed(0)
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=kind,
    )
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=kind, quantization_config=nf4)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    args = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=not gpu,
        bf16=kind is torch.bfloat16,
        fp16=kind is torch.float16,
        gradient_checkpointing=False,
        report_to=[],
        disable_tqdm=True,
        logging_steps=1,
        save_strategy="no",
        max_steps=steps + 1,
        learning_rate=1e-4,
        per_device_train_batch_size=batch,
        num_generations=8,
        max_completion_length=completion,
        use_vllm=way != "generate",
        vllm_mode="colocate",
        vllm_max_model_length=128 + completion,
        vllm_gpu_memory_utilization=0.3,
        vllm_enable_sleep_mode=way.startswith("sleep"),
    )
    level = {"sleep 1": 1}.get(way, 2)
    backend = adapter_sync.Generation if way == "adapter" else vllm.Generation
    began = time.perf_counter()
    trainer = vllm.GRPOTrainer(
        get_peft_model(base, lora),
        lambda completions, **_: [float(len(set(str(text)))) for text in completions],
        args=args,
        train_dataset=tasks.grpo_dataset(batch * 8),
        processing_class=AutoTokenizer.from_pretrained(folder),
        engine=engine,
        generation=functools.partial(backend, sleep_level=level),
    )
    row = {"way": way, "start_s": round(time.perf_counter() - began, 2)}
    trainer.train()
    if trainer.use_vllm:
        vllm.release(trainer)
    log = [entry for entry in trainer.state.log_history if "step_time" in entry][1:]
    for name, key, summary in [
        ("step_s", "step_time", median),
        ("sync_s", "sampling/sync_s", median),
        ("gap_mean", "sampling/gap_mean", max),
        ("gap_max", "sampling/gap_max", max),
    ]:
        values = [entry[key] for entry in log if key in entry]
        row[name] = float(f"{summary(values):.3g}") if values else None
    return row


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m lab.bench", description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="a folder or a hub id; default: an untrained tiny model")
    parser.add_argument("--shape", choices=SHAPES, help="a random model of this size instead")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64, help="completions per step")
    parser.add_argument("--completion", type=int, default=32, help="tokens a completion, at most")
    parser.add_argument("--out", help="where to write the JSON")
    parser.add_argument(
        "--cpu", action="store_true", help="seconds per step of each stage, by part"
    )
    args = parser.parse_args(argv)
    if args.cpu:
        show.quiet()
        found = pace.measure(args.steps)
        print(pace.table(found))
        if args.out:
            Path(args.out).write_text(json.dumps(found, indent=2) + "\n")
        return
    folder = args.model or model.save_untrained(tempfile.mkdtemp(), **SHAPES.get(args.shape, {}))
    rows = [measure(folder, way, args.steps, args.batch, args.completion) for way in ways()]
    gpu = torch.cuda.is_available()
    result = {
        "command": shlex.join(["python", "-m", "lab.bench", *(argv or sys.argv[1:])]),
        "device": torch.cuda.get_device_name() if gpu else platform.processor() or "CPU",
        "cores": torch.get_num_threads(),
        "date": datetime.date.today().isoformat(),
        "commit": runs.commit(),
        "versions": runs.versions(),
        "rows": rows,
    }
    print(json.dumps(result, indent=2))
    if args.out:
        Path(args.out).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
