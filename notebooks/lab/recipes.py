"""Load recipes: one YAML file per stage and profile, for the notebook, the terminal and the cluster.

    recipes/sft_tiny.yaml   a CPU, minutes, the built-in model and task
    recipes/sft_laptop.yaml a CPU, SmolLM2-135M-Instruct from a wheel, generated word problems
    recipes/sft_instructions.yaml   the same model and lesson 09's task: each stage from the untouched model
    recipes/sft_t4.yaml     a Colab T4, Qwen2.5-0.5B-Instruct and the field's data sets
    recipes/sft_a100.yaml   the same on an A100

`args` holds TRL's own names and goes to SFTConfig, DPOConfig or GRPOConfig as it stands.
"""

import hashlib
import inspect
import json
import os
from difflib import get_close_matches
from pathlib import Path

import torch
import yaml

from lab import sources, standins

# In a checkout beside lab/; an installed wheel has them inside the package.
FOLDERS = Path(__file__).parent.parent / "recipes", Path(__file__).parent / "recipe_files"
FOLDER = next((folder for folder in FOLDERS if folder.is_dir()), FOLDERS[0])
STAGES = ("base", "sft", "dpo", "grpo")
PROFILES = ("tiny", "laptop", "instructions", "t4", "a100")
QUICK = ("tiny",)  # profiles whose stages take minutes: one is made anew when its code changes
LONG = ("t4", "a100")  # profiles whose stages take longer than a lesson: trained only when asked to
# The kit's own keys, and their types. `args`, `lora` and `quantization` are other libraries':
# lab.train holds their keys against the classes that take them (`known_fields`).
KEYS = {
    **dict.fromkeys(
        ("stage", "profile", "start_from", "model", "revision", "adapter", "dtype", "sync"), str
    ),
    "seed": int,
    **dict.fromkeys(("args", "cards", "lora", "quantization"), dict),
    "data": {"n": int, "samples": int, "carry_error": float, "name": str, "options": dict},
    "evaluate": {
        **dict.fromkeys(("n", "pass_n", "k", "max_new_tokens"), int),
        **dict.fromkeys(("name", "split", "revision", "path"), str),
        "options": dict,
    },
    "architecture": dict.fromkeys(("hidden_size", "intermediate_size", "layers", "heads"), int),
    "pretrain": {
        **dict.fromkeys(("steps", "batch_size", "length"), int),
        **dict.fromkeys(("muon_rate", "adamw_rate", "wrong", "chat_share"), float),
    },
}


def profile():
    """Return LAB_PROFILE if set; else by the machine: tiny on a CPU, t4 below 30 GiB of GPU, a100 above."""
    chosen = os.environ.get("LAB_PROFILE")
    if chosen:
        if chosen not in PROFILES:
            raise ValueError(f"LAB_PROFILE is {chosen!r}; expected one of {PROFILES}")
        return chosen
    if not torch.cuda.is_available():
        return "tiny"
    return "a100" if torch.cuda.get_device_properties(0).total_memory > 30 * 2**30 else "t4"


def load(stage, of=None, seed=None, card_gib=None):
    """Return the recipe of a stage, by profile name or from a YAML file, as a plain dict.

    card_gib    take the sizes for a card of so much memory; by default for the one of this machine
    """
    path = Path(of) if of and str(of).endswith((".yaml", ".yml")) else None
    path = path or FOLDER / f"{stage}_{of or profile()}.yaml"
    if not path.exists():
        have = ", ".join(sorted(p.name for p in FOLDER.glob("*.yaml")))
        raise ValueError(f"no recipe {path}; there are: {have}")
    recipe = yaml.safe_load(path.read_text())
    check(recipe, path)
    if recipe.get("stage") != stage:
        raise ValueError(f"{path} is a recipe for {recipe.get('stage')!r}, not for {stage!r}")
    if seed is not None:
        recipe["seed"] = seed
    recipe = for_a_server(sized(for_this_card(recipe), card_gib))
    return standins.into(recipe) if recipe["profile"] in standins.PROFILES else recipe


def for_a_server(recipe):
    """Return the recipe with `sync: adapter` where vLLM is a server, which can get nothing else."""
    mode = recipe.get("args", {}).get("vllm_mode", "colocate")
    known([mode], ("colocate", "server"), "args, vllm_mode")
    if mode == "colocate":
        return recipe
    if recipe.get("sync", "adapter") != "adapter":
        raise ValueError(
            f"vllm_mode: server gets the adapter alone: sync is {recipe['sync']!r}; leave it out, or "
            "take vllm_mode: colocate"
        )
    return recipe | {"sync": "adapter"}


def for_this_card(recipe):
    """Return the recipe in the 16 bits that the card has: bfloat16 from compute capability 8 on, else float16.

    float16 overflows above 65,504, and its loss has to be scaled; bfloat16 has neither trouble. So an L4
    takes the T4's recipe in bfloat16. A V100 of 32 GiB gets the A100's recipe, and has no bfloat16.
    """
    if recipe.get("dtype") not in ("float16", "bfloat16") or not torch.cuda.is_available():
        return recipe
    half = "bfloat16" if torch.cuda.get_device_capability() >= (8, 0) else "float16"
    if recipe["dtype"] == half:
        return recipe
    other = recipe | {"dtype": half}
    if "quantization" in recipe:
        other["quantization"] = recipe["quantization"] | {"bnb_4bit_compute_dtype": half}
    if "args" in recipe:
        other["args"] = recipe["args"] | {"fp16": half == "float16", "bf16": half == "bfloat16"}
    return other


def sized(recipe, card_gib=None):
    """Return the recipe with the sizes that its `cards` give for a card: the last entry that is no larger.

    cards       {GiB of memory: {arguments of TRL's}}; a step of the optimizer has as many rows on each
    card_gib    the card's memory; by default that of this machine's, and no entry where there is none

    Raises ValueError for an entry under a name that is no number.
    """
    for gib in recipe.get("cards", ()):
        if not isinstance(gib, (int, float)):
            raise ValueError(  # noqa: TRY004  one kind of error for every recipe that is unfit
                f"cards: {gib!r} is no number of GiB, as in `cards: {{70: {{...}}}}`"
            )
    plain = {key: value for key, value in recipe.items() if key != "cards"}
    if card_gib is None and torch.cuda.is_available():
        card_gib = torch.cuda.get_device_properties(0).total_memory / 2**30
    if "cards" not in recipe or card_gib is None:
        return plain
    least = max((gib for gib in recipe["cards"] if gib <= card_gib), default=None)
    return plain if least is None else plain | {"args": plain["args"] | recipe["cards"][least]}


def exact(recipe):
    """Tell whether a stage computes in float32: its loss agrees with float64 to some six digits."""
    return recipe.get("dtype", "float32") == "float32"


def check(recipe, where, keys=None):
    """Raise ValueError, with the nearest known name, for a key or a type that no recipe has."""
    keys = KEYS if keys is None else keys
    if not isinstance(recipe, dict):
        raise ValueError(  # noqa: TRY004  one kind of error for every recipe that is unfit
            f"{where}: expected `key: value` lines, got {recipe!r:.60}"
        )
    known(recipe, keys, where)
    for key, value in recipe.items():
        of = keys[key]
        if isinstance(of, dict):
            check(value, f"{where}, {key}", of)
        elif not isinstance(value, (int, float) if of is float else of) or (
            isinstance(value, bool) and of is not bool
        ):
            raise ValueError(f"{where}: {key} is {value!r}; expected {of.__name__}")


def known(given, names, where):
    """Raise ValueError for a key of `given` that is none of `names`."""
    for key in given:
        if key not in names:
            near = get_close_matches(str(key), names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(names))}"
            raise ValueError(f"{where}: {key}: {hint}")


def known_fields(given, cls, where):
    """Compare the keys of `given` with the fields of a configuration class of another library.

    A rate written 2e-3 is text to YAML, which wants the point: 2.0e-3.

    Raises ValueError for an unknown key, and for text where the field holds a number.
    """
    defaults = {name: p.default for name, p in inspect.signature(cls).parameters.items()}
    known(given, defaults, where)
    for key, value in given.items():
        number = isinstance(defaults[key], (int, float)) and not isinstance(defaults[key], bool)
        if isinstance(value, str) and number:
            raise ValueError(f"{where}: {key} is the text {value!r}; write a number, as in 2.0e-3")


def parent(recipe):
    """Return the recipe of the stage that this one starts from, or None for the first of a profile."""
    if not recipe.get("start_from"):
        return None
    return load(recipe["start_from"], recipe["profile"], recipe["seed"])


def settings(recipe):
    """Hash a recipe and those before it, whatever the code is."""
    before = parent(recipe)
    content = json.dumps([recipe, settings(before) if before else None], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def fingerprint(recipe, code=None):
    """Hash all that makes a stage anew: its recipe, the stages before it, the code that makes it.

    code    the hash of other code, as a manifest has it; by default of today's

    The code counts in a quick profile, whose stages take minutes. A stage that takes an hour is not
    thrown away for a changed line: its manifest keeps the hash of its code, and `lab.train.ensure`
    says when the code of today is another.
    """
    code = (code or sources.of_a_stage()) if recipe["profile"] in QUICK else ""
    return hashlib.sha256((settings(recipe) + code).encode()).hexdigest()[:16]
