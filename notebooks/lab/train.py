"""Train one stage of the chain from its recipe: base, sft, dpo or grpo.

python -m lab.train grpo                                  the profile of this machine
python -m lab.train sft --config recipes/sft_tiny.yaml    a recipe of your own
accelerate launch --multi_gpu --num_processes 2 -m lab.train sft --config recipes/sft_tiny.yaml
"""

import argparse
import importlib
import os
import time
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PrinterCallback,
    set_seed,
)

from lab import (
    callbacks,
    evaluate,
    guards,
    hub,
    model,
    pace,
    pairs,
    ready,
    recipes,
    runs,
    sharded,
    smollm,
    sources,
    tasks,
    validate,
    verified,
    vllm,
)

# How the engine of GRPO gets the policy's weights: merged into plain ones, or as base and adapter.
SYNCS = {"merged": "lab.engine.colocated", "adapter": "lab.engine.adapter_sync"}


def classes(stage):
    """Return the trainer of a stage and its configuration. Each imports what it needs: GRPO's takes seconds."""
    import trl

    kind = stage.upper()
    trainer = vllm.GRPOTrainer if stage == "grpo" else getattr(trl, f"{kind}Trainer")
    return trainer, getattr(trl, f"{kind}Config")


MISSING = (
    "{stage}: no run of this recipe stands in {folder}, and to train it takes longer than a lesson ({minutes}). Ways on: run "
    "the lesson of this stage first; or set LAB_RUNS to a folder that holds it and outlasts this machine, as on "
    "Google Drive; or name its adapter, a folder or a hub id, as `adapter` in the recipe of the next stage; or set "
    "LAB_TRAIN=1 to train it here, with the stages before it."
)


def base_model(recipe, files=hub.FILES):
    """Find the base: a folder, the hub's at the recipe's `revision` and the wheel's too, or a hub id.

    files    patterns of the files that are wanted of a model on the hub

    Raises ConnectionError for a model of the hub that cannot be had.
    """
    named = _names_the_base(recipe)
    if "model" not in named:
        return str(runs.folder(named))
    pinned = _pin(recipe)
    return hub.snapshot(*pinned, files) if pinned else smollm.found(named["model"])


def base_name(recipe):
    """Return the base as a manifest names it: a hub id with its commit, or where it is."""
    pinned = _pin(recipe)
    return "@".join(pinned) if pinned else base_model(recipe)


def _pin(recipe):
    """(hub id, commit) of the base, or None for a folder, a wheel's model and a hub id that nothing pins."""
    named = _names_the_base(recipe)
    if "revision" not in named or Path(named["model"]).is_dir():
        return None
    return named["model"], named["revision"]


def _names_the_base(recipe):
    """The recipe, of this stage or one before it, that says which model the chain starts from."""
    while "model" not in recipe and recipe["stage"] != "base":
        recipe = recipes.parent(recipe)
    return recipe


def load(recipe):
    """Load the model as this stage starts to train it, and its tokenizer.

    The base in NF4 under the adapter of the stage before, which goes on training; a fresh
    adapter where there is none. Without `quantization` and `lora` in the recipe, plain weights.
    A recipe's own `adapter`, a folder or a hub id, stands in for the one of the stage before.
    """
    set_seed(recipe["seed"])
    base = base_model(recipe)
    tok = AutoTokenizer.from_pretrained(base)
    quantization = sharded.storage(recipe) | (recipe.get("quantization") or {})
    recipes.known_fields(quantization, BitsAndBytesConfig, "quantization")
    recipes.known_fields(recipe.get("lora") or {}, LoraConfig, "lora")
    loaded = AutoModelForCausalLM.from_pretrained(
        base,
        dtype=getattr(torch, recipe.get("dtype", "float32")),
        quantization_config=BitsAndBytesConfig(**quantization) if quantization else None,
        device_map=device_map(recipe),
    )
    before = recipes.parent(recipe)
    if recipe.get("adapter") or (before and before["stage"] != "base"):
        adapter = recipe.get("adapter") or runs.folder(before)
        return PeftModel.from_pretrained(loaded, adapter, is_trainable=True), tok
    if recipe.get("lora"):
        loaded = get_peft_model(loaded, LoraConfig(task_type="CAUSAL_LM", **recipe["lora"]))
        if _pin(recipe):
            hub.name_base(loaded, *_pin(recipe))
    return loaded, tok


def device_map(recipe):
    """Choose where this process loads its weights: the CPU if the recipe says so, else its own GPU.

    Left to transformers, a 4-bit model goes to the first GPU: in a run with `use_cpu` too, and in
    every process of `accelerate launch`.
    """
    if recipe.get("args", {}).get("use_cpu") or not torch.cuda.is_available():
        return {"": "cpu"}
    return {"": int(os.environ.get("LOCAL_RANK", "0"))}


def dataset(recipe, policy, tok):
    """Return the rows that this stage trains on, in TRL's format: those that fit, and validated."""
    stage, args = recipe["stage"], recipe["args"]
    # 1024 is TRL's own max_length where a recipe names none.
    length = args.get("vllm_max_model_length") if stage == "grpo" else args.get("max_length", 1024)
    settings = {name: args[name] for name in validate.Settings._fields if name in args}
    rows = validate.fitting(_rows(recipe, policy, tok), stage, tok, length, **settings)
    unverifiable = verified.of(recipe["data"].get("name")).why_unverifiable
    validate.validate(rows, stage, tok, length, unverifiable=unverifiable, **settings)
    return apart(rows, recipe)


def apart(rows, recipe):
    """Return the rows that ask nothing of the split that the stage is scored on; the others are counted aloud.

    A fresh draw of a lesson may ask any question of that split.

    Raises ValueError if a question that the stage itself is scored on is one that it trains on.
    """
    if "name" not in recipe.get("evaluate", {}):
        return rows  # the built-in task parts its own problems, by a hash
    asked = [_question(row) for row in rows]
    meets = {_question(row) for row in evaluate.heldout(recipe)} & set(asked)
    if meets:
        raise ValueError(
            f"{recipe['stage']}: {len(meets)} questions are trained on and scored on, as "
            f"{min(meets)[:60]!r}; take another split in `evaluate`, or leave them out of `data`"
        )
    others = {_question(row) for row in evaluate.askable(recipe)}
    apart_from_all = [i for i, question in enumerate(asked) if question not in others]
    if len(apart_from_all) == len(asked):
        return rows
    print(
        f"{recipe['stage']}: {len(asked) - len(apart_from_all)} rows left out, whose questions a fresh draw of "
        "the held-out problems may ask"
    )
    return rows.select(apart_from_all)


def _question(row):
    """What the user asks first; the whole prompt where it is plain text."""
    messages = row.get("prompt") or row.get("messages")
    if isinstance(messages, str):
        return messages.strip()
    return next((m["content"].strip() for m in messages if m["role"] == "user"), "")


def _rows(recipe, policy, tok):
    stage, data = recipe["stage"], recipe["data"]
    if data.get("name"):
        from lab import loaders

        if stage == "dpo" and "samples" in data:
            asked = loaders.load(data["name"], "grpo", **data.get("options", {}))
            reward, length = verified.rewards(recipe)[0], recipe["evaluate"]["max_new_tokens"]
            drawn = data["samples"], recipe["seed"], length
            return pairs.told_apart(vllm.served(policy), tok, asked, reward, *drawn)
        return loaders.load(data["name"], stage, **data.get("options", {}))
    if stage == "sft":
        return tasks.sft_dataset(data["n"], data["carry_error"], recipe["seed"])
    if stage == "dpo":
        drawn = pairs.draw(vllm.served(policy), tok, data["n"], recipe["seed"], data["samples"])
        return pairs.styled(drawn)
    return tasks.grpo_dataset(data["n"], recipe["seed"])


def trainer(recipe, policy=None, tok=None, rows=None, **options):
    """Build TRL's trainer for a recipe, ready to train.

    policy, tok, rows   what `load` and `dataset` give, unless a lesson passes its own
    options             go to the trainer as they stand
    """
    stage = recipe["stage"]
    Trainer, Config = classes(stage)
    recipes.known_fields(recipe["args"], Config, "args")
    if policy is None:
        policy, tok = load(recipe)
    if rows is None:
        rows = dataset(recipe, policy, tok)
    args = dict(recipe["args"], seed=recipe["seed"], output_dir=str(runs.folder(recipe)))
    if stage == "grpo":
        args["use_vllm"] = args.get("use_vllm", True) and vllm.available()
        options.setdefault("reward_funcs", verified.rewards(recipe))
        recipes.known([sync := recipe.get("sync", "merged")], SYNCS, "sync")
        options.setdefault("generation", importlib.import_module(SYNCS[sync]).Generation)
    # One bar, and trackio by our own callback (lab.callbacks), unless the recipe asks for more.
    config = Config(**({"report_to": [], "disable_tqdm": True} | args))
    exact = {param: param.data for param in policy.parameters() if param.requires_grad}
    built = Trainer(model=policy, args=config, train_dataset=rows, processing_class=tok, **options)
    # peft#2889: TRL rounds the adapters of a 4-bit base to bfloat16, whatever the run computes in.
    # Under bf16 autocast too the weights that AdamW moves belong in float32: an update below 2^-8
    # of a weight rounds to nothing.
    for param, data in exact.items():
        param.data = data
    sharded.refuse_dropped(built.accelerator)
    built.remove_callback(PrinterCallback)  # one dict per step, between the bar and the reader
    built.add_callback(callbacks.Progress(stage))
    built.add_callback(callbacks.Trackio(recipe))
    built.add_callback(guards.Guards())
    return built


def run(built, recipe, began=None):
    """Train, keep the adapter (or the weights), score it on held-out problems; returns the manifest.

    A run of the same recipe that was interrupted goes on from its newest complete checkpoint.
    """
    began = began or time.perf_counter()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()  # the manifest holds the peak of this stage
    chief = built.accelerator.is_main_process
    folder = runs.begin(recipe) if chief else runs.folder(recipe)
    built.accelerator.wait_for_everyone()
    guards.resume(built) if any(folder.glob("checkpoint-*")) else built.train()
    weights = sharded.whole(built.model) if sharded.is_sharded(built.model) else None
    manifest = _save(built, recipe, folder, began, weights) if chief else None
    # The next stage reads, in every process, what the chief has written.
    built.accelerator.wait_for_everyone()
    return manifest


def _save(built, recipe, folder, began, weights=None):
    """Save the adapter (or the weights) and score it: the manifest.

    weights    {name: tensor} of a sharded model, gathered from all processes
    """
    policy, tok = built.accelerator.unwrap_model(built.model), built.processing_class
    adapters = {"selected_adapters": ["default"]} if isinstance(policy, PeftModel) else {}
    policy.save_pretrained(folder, state_dict=weights, **adapters)
    tok.save_pretrained(folder)
    if built.args.push_to_hub:
        built.push_to_hub()
    if weights:  # this process holds a part of the model: score what stands on the disk
        again = {"adapter": str(folder)} if adapters else {"model": str(folder), "start_from": ""}
        policy, tok = load(recipe | again)
    plain = vllm.served(policy, dtype=getattr(torch, recipe.get("dtype", "float32")))
    scores = evaluate.score(plain, tok, recipe)
    wall_s = time.perf_counter() - began
    return runs.save_manifest(recipe, base_name(recipe), built.state.log_history, wall_s, scores)


def make_base(recipe):
    """Pre-train the tiny model, score it, keep it."""
    began = time.perf_counter()
    folder = runs.clear(recipe)
    tok = model.tokenizer()
    tiny = model.build(tok, **recipe["architecture"], seed=recipe["seed"])
    losses = model.pretrain(tiny, tok, **recipe["pretrain"], seed=recipe["seed"])
    tiny.eval().save_pretrained(folder)
    tok.save_pretrained(folder)
    scores = evaluate.score(tiny, tok, recipe)
    history = [{"step": i + 1, "loss": loss} for i, loss in enumerate(losses)]
    wall_s = time.perf_counter() - began
    return runs.save_manifest(recipe, "made from scratch", history, wall_s, scores)


def score_base(recipe):
    """Score the model that the chain starts from, as it comes: every later stage is compared with it."""
    began = time.perf_counter()
    runs.clear(recipe)
    base, tok = load(recipe)
    scores = evaluate.score(base.eval(), tok, recipe)
    return runs.save_manifest(recipe, base_name(recipe), [], time.perf_counter() - began, scores)


def is_chief():
    """Tell whether this process makes what one process makes: the only one, or the first of several."""
    return int(os.environ.get("RANK", "0")) == 0


def await_manifest(recipe, every_s=1.0, at_most_s=3600):
    """Wait for the manifest of a stage that another process is making."""
    began = time.perf_counter()
    while not runs.is_current(recipe):
        if time.perf_counter() - began > at_most_s:
            raise TimeoutError(
                f"{recipe['stage']}: no manifest in {runs.folder(recipe)} after {at_most_s} s; "
                f"make it first, with one process: python -m lab.train {recipe['stage']}"
            )
        time.sleep(every_s)
    return runs.manifest(recipe["stage"], recipe["profile"])


def make(recipe):
    """Train one stage from its recipe, even if a finished one is on disk. The stage before it must exist."""
    if recipe["stage"] == "base":
        if not is_chief():
            return await_manifest(recipe)
        return make_base(recipe) if "pretrain" in recipe else score_base(recipe)
    began = time.perf_counter()
    built = trainer(recipe)
    manifest = run(built, recipe, began)
    if getattr(built, "use_vllm", False):
        vllm.release(built)
    return manifest


def _other_code(manifest):
    """What to say of a stage that stands, where other code made it: a quick profile makes it anew."""
    if manifest["profile"] in recipes.QUICK or manifest.get("code_hash") == sources.of_a_stage():
        return ""
    return (
        f", made by other code (commit {manifest['commit']}). To make it with today's: "
        f"python -m lab.train {manifest['stage']}"
    )


def ensure(stage, of=None, seed=None, say=print, long_runs=None):
    """Return the manifest of an up-to-date stage: found if it exists, else trained, parents first.

    long_runs    whether to train a stage of a GPU profile, which takes more than minutes; by default
                 only where LAB_TRAIN=1 says so

    Raises RuntimeError, with the ways on, for a stage that stands nowhere and may not be trained.
    """
    recipe = recipes.load(stage, of, seed)
    before = recipes.parent(recipe)
    long_runs = os.environ.get("LAB_TRAIN") == "1" if long_runs is None else long_runs
    if (
        recipe["profile"] in recipes.LONG
        and "args" in recipe
        and not (long_runs or runs.is_current(recipe))
    ):
        raise RuntimeError(
            MISSING.format(
                stage=stage, folder=runs.shown(runs.folder(recipe)), minutes=pace.on_a_gpu(recipe)
            )
        )
    ensure_parents(recipe, say, long_runs)
    if runs.is_current(recipe):
        manifest = runs.manifest(stage, recipe["profile"])
        say(f"{stage}: found in {runs.shown(runs.folder(recipe))}{_other_code(manifest)}")
        return manifest
    if ready.wanted(recipe):
        return ready.restore(stage, recipe["seed"], say)
    say(f"{stage}: making it, from {before['stage'] if before else base_name(recipe)}")
    if recipe["profile"] in recipes.LONG and "args" in recipe:
        say(pace.on_a_gpu(recipe))
    return make(recipe)


def ensure_parents(recipe, say=print, long_runs=None):
    """Return the manifest of the stage before, made first if it is missing; None where nothing has to be made.

    A recipe's own `adapter` stands in for the stages before it. What is left is a base that is made here.
    """
    before = recipes.parent(recipe)
    if before and recipe.get("adapter"):
        base = _names_the_base(recipe)
        if "model" not in base:
            ensure(base["stage"], base["profile"], base["seed"], say, long_runs)
        return None
    if not before:
        return None
    return ensure(before["stage"], before["profile"], before["seed"], say, long_runs)


def before(recipe):
    """Return the scores of the model that a stage starts from, with the `verdicts` on each problem.

    They stand in the manifest of the stage before, which is made if it is missing. Those of a recipe's own
    `adapter` are measured now, on the problems that the stage is scored on afterwards.
    """
    manifest = ensure_parents(recipe)
    if manifest:
        return manifest | {"verdicts": runs.verdicts(manifest["stage"], manifest["profile"])}
    policy, tok = load(recipe)
    return evaluate.score(
        vllm.served(policy, dtype=getattr(torch, recipe.get("dtype", "float32"))), tok, recipe
    )


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m lab.train", description=__doc__.split("\n")[0])
    parser.add_argument("stage", choices=recipes.STAGES)
    parser.add_argument(
        "--config", help="a YAML recipe; default: the one of this machine's profile"
    )
    parser.add_argument("--seed", type=int, help="instead of the recipe's own")
    args = parser.parse_args(argv)
    recipe = recipes.load(args.stage, args.config, args.seed)
    ensure_parents(recipe, long_runs=True)
    manifest = make(recipe)
    if is_chief():
        print(manifest)
    if torch.distributed.is_initialized():
        # Together: gloo may abort a process whose peer has gone while it still evaluates.
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
