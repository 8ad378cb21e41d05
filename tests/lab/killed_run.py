"""A run that tests/lab/test_guards.py kills: python killed_run.py STAGE FOLDER plain|qlora."""

import os
import sys
from pathlib import Path

import torch
from datasets import Dataset
from lab import model, tasks
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TrainerCallback
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

STEPS, SAVE = 6, 2
TRAINERS = {
    "sft": (SFTTrainer, SFTConfig, {"max_length": 96}),
    "dpo": (DPOTrainer, DPOConfig, {"max_length": 96}),
    "grpo": (GRPOTrainer, GRPOConfig, {"num_generations": 4, "max_completion_length": 8}),
}


class Announce(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        print(f"step {state.global_step}", flush=True)


def digits_reward(completions, **columns):
    """Not the same for two random completions: there is a gradient."""
    return [float(sum(c.isdigit() for c in completion[0]["content"])) for completion in completions]


def rows(stage):
    if stage == "sft":
        return tasks.sft_dataset(24, 0.0)
    if stage == "grpo":
        return tasks.grpo_dataset(24)
    pairs = [(tasks.completion(a, b, "terse"), a, b) for a, b in tasks.sample(24, "train", 0)]
    return Dataset.from_list(
        [
            {
                "prompt": tasks.prompt(a, b),
                "chosen": [{"role": "assistant", "content": text}],
                "rejected": [{"role": "assistant", "content": "no"}],
            }
            for text, a, b in pairs
        ]
    )


def args(stage):
    own = TRAINERS[stage][2]
    every = {"max_steps": STEPS, "save_steps": SAVE, "logging_steps": 1, "learning_rate": 1e-3}
    every |= {"per_device_train_batch_size": 4, "gradient_checkpointing": False}
    return every | {"use_cpu": True, "bf16": False} | own


def build(stage, folder, **options):
    """TRL's trainer on an untrained tiny model, a few steps with a checkpoint every other one."""
    Trainer, Config, _ = TRAINERS[stage]
    tok = model.tokenizer()
    where = {"output_dir": str(folder), "seed": 3, "report_to": [], "disable_tqdm": True}
    config = Config(**(args(stage) | where | options))
    others = {
        "grpo": {"reward_funcs": digits_reward},
        "dpo": {"ref_model": model.build(tok, seed=5)},
    }
    return Trainer(
        model=model.build(tok, seed=5),
        args=config,
        train_dataset=rows(stage),
        processing_class=tok,
        **others.get(stage, {}),
    )


def build_qlora(stage, folder, **options):
    """The same as `lab.train` builds it: NF4, and an adapter that has learnt something before."""
    os.environ["LAB_RUNS"] = str(folder.parent)  # where the trainer writes: <LAB_RUNS>/<stage>
    from lab import train  # vLLM: only where it is needed

    tok = model.tokenizer()
    base = folder.parent / "base"
    model.build(tok, seed=5).save_pretrained(base)
    nf4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    nf4["bnb_4bit_compute_dtype"] = torch.float32
    loaded = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, quantization_config=BitsAndBytesConfig(**nf4)
    )
    torch.manual_seed(5)
    lora = {"task_type": "CAUSAL_LM", "r": 8, "target_modules": "all-linear"}
    policy = get_peft_model(loaded, LoraConfig(**lora, init_lora_weights=False))
    recipe = {"stage": stage, "profile": "tiny", "seed": 3, "args": args(stage) | options}
    recipe["args"] |= {"use_vllm": False} if stage == "grpo" else {}
    rewards = {"reward_funcs": digits_reward} if stage == "grpo" else {}
    return train.trainer(recipe, policy, tok, rows(stage), **rewards)


BUILD = {"plain": build, "qlora": build_qlora}

if __name__ == "__main__":
    stage, folder, weights = sys.argv[1:]
    built = BUILD[weights](stage, Path(folder))
    built.add_callback(Announce())
    built.train()
