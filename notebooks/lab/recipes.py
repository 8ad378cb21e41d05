"""Recipes: one YAML a stage and profile, read by the notebook, the terminal and the cluster.

    recipes/sft_tiny.yaml   a CPU, minutes, the built-in model and task
    recipes/sft_t4.yaml     a Colab T4, Qwen2.5-0.5B-Instruct and the field's data sets
    recipes/sft_a100.yaml   the same on an A100

`args` holds TRL's own names and goes to SFTConfig, DPOConfig or GRPOConfig as it stands.
"""

import hashlib
import json
import os
from pathlib import Path

import torch
import yaml

# In a checkout beside lab/; an installed wheel has them inside the package.
FOLDERS = Path(__file__).parent.parent / "recipes", Path(__file__).parent / "recipe_files"
FOLDER = next((folder for folder in FOLDERS if folder.is_dir()), FOLDERS[0])
STAGES = ("base", "sft", "dpo", "grpo")
PROFILES = ("tiny", "t4", "a100")
# What a stage of the tiny profile is made of besides its recipe: a change here makes it anew.
SOURCES = [Path(__file__).parent / name for name in ("tasks.py", "model.py")]


def profile():
    """LAB_PROFILE if set; else by the machine: tiny on a CPU, t4 below 30 GiB of GPU, a100 above."""
    chosen = os.environ.get("LAB_PROFILE")
    if chosen:
        if chosen not in PROFILES:
            raise ValueError(f"LAB_PROFILE is {chosen!r}; expected one of {PROFILES}")
        return chosen
    if not torch.cuda.is_available():
        return "tiny"
    return "a100" if torch.cuda.get_device_properties(0).total_memory > 30 * 2**30 else "t4"


def load(stage, of=None, seed=None):
    """The recipe of a stage, by profile name or from a YAML file, as a plain dict."""
    path = Path(of) if of and str(of).endswith((".yaml", ".yml")) else None
    path = path or FOLDER / f"{stage}_{of or profile()}.yaml"
    if not path.exists():
        have = ", ".join(sorted(p.name for p in FOLDER.glob("*.yaml")))
        raise ValueError(f"no recipe {path}; there are: {have}")
    recipe = yaml.safe_load(path.read_text())
    if recipe.get("stage") != stage:
        raise ValueError(f"{path} is a recipe for {recipe.get('stage')!r}, not for {stage!r}")
    if seed is not None:
        recipe["seed"] = seed
    return recipe


def parent(recipe):
    """The recipe of the stage that this one starts from, or None for the first of a profile."""
    if not recipe.get("start_from"):
        return None
    return load(recipe["start_from"], recipe["profile"], recipe["seed"])


def fingerprint(recipe):
    """A hash of all that makes a stage: its recipe, the stages before it, the task's source."""
    before = parent(recipe)
    content = json.dumps([recipe, fingerprint(before) if before else None], sort_keys=True)
    digest = hashlib.sha256(content.encode())
    if recipe["profile"] == "tiny":
        for source in SOURCES:
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]
