"""Restore the ready stages of the tiny profile, which come with the kit: for a workshop that cannot wait.

    make lab READY=1           the base, and whatever a lesson needs from before it, is taken from there
    LAB_READY=1                the same for a notebook or `python -m lab.train`
    lab.runs.restore("dpo")    for a latecomer: this stage and those before it, now
    python -m lab.ready keep   makes them anew from today's runs

Without that every stage is trained. A ready stage is taken only if its recipe, and those of the stages
before it, are today's; its manifest says which processor and which commit made it.

Proof     tests/lab/test_ready.py
"""

import argparse
import json
import os
import shutil
from pathlib import Path

from lab import pace, recipes, runs

FOLDER = Path(__file__).parent.parent / "ready"
PICTURE = "learnt.svg"  # the README's first picture
BASE = "runs/base"  # how the kept files name the folder of the base, wherever it stands
KEPT = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "history.json",
    "manifest.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "verdicts.json",
)


def manifest(stage):
    """Return the manifest of a ready stage, or None."""
    file = FOLDER / stage / "manifest.json"
    return json.loads(file.read_text()) if file.exists() else None


def fits(recipe):
    """Tell whether there is a ready stage of this recipe, and of the recipes before it."""
    if recipe["profile"] != "tiny":
        return False
    found = manifest(recipe["stage"])
    return found is not None and found["settings"] == recipes.settings(recipe)


def wanted(recipe):
    """Tell whether a stage that is missing is to be restored rather than trained: asked for, and there."""
    return os.environ.get("LAB_READY") == "1" and fits(recipe)


def restore(stage, seed=None, say=print):
    """Put a ready stage, and those before it, where a trained one would be.

    What stands there and is up to date stays. Raises ValueError, with the ways on, where there is no
    ready stage of today's recipe.
    """
    recipe = recipes.load(stage, "tiny", seed)
    if not fits(recipe):
        have = ", ".join(p.name for p in sorted(FOLDER.glob("*/")) if manifest(p.name)) or "none"
        raise ValueError(
            f"there is no ready stage {stage!r} of today's recipe (ready: {have}). "
            f"Train it: python -m lab.train {stage}"
        )
    before = recipes.parent(recipe)
    if before:
        restore(before["stage"], before["seed"], say)
    if runs.is_current(recipe):
        return runs.manifest(stage, "tiny")
    where = runs.clear(recipe)
    for file in sorted((FOLDER / stage).iterdir()):
        if file.suffix == ".json":
            base = json.dumps(str(runs.path("base", "tiny").absolute()))
            (where / file.name).write_text(file.read_text().replace(json.dumps(BASE), base))
        elif file.name != "manifest.json":
            shutil.copyfile(file, where / file.name)
    found = json.loads((where / "manifest.json").read_text())
    found["recipe_hash"] = recipes.fingerprint(recipe)
    (where / "manifest.json").write_text(json.dumps(found, indent=2) + "\n")
    say(
        f"{stage}: a ready one, made on {found['made_on']} at {found['commit']}; nothing was trained"
    )
    return found


def keep(say=print):
    """Make the ready stages from the runs on this machine, all of them up to date.

    Raises ValueError for a stage that is not.
    """
    for stage in recipes.STAGES:
        recipe = recipes.load(stage, "tiny")
        if not runs.is_current(recipe):
            raise ValueError(f"{stage} is not up to date in {runs.root()}: run `make lab` first")
    shutil.rmtree(FOLDER, ignore_errors=True)
    base = json.dumps(str(runs.path("base", "tiny").absolute()))
    for stage in recipes.STAGES:
        target = FOLDER / stage
        target.mkdir(parents=True)
        for name in KEPT:
            source = runs.path(stage, "tiny") / name
            if source.exists() and source.suffix == ".json":
                (target / name).write_text(source.read_text().replace(base, json.dumps(BASE)))
            elif source.exists():
                shutil.copyfile(source, target / name)
        found = manifest(stage) | {
            "settings": recipes.settings(recipes.load(stage, "tiny")),
            "made_on": pace.named(),
        }
        (target / "manifest.json").write_text(json.dumps(found, indent=2) + "\n")
        say(f"{stage}: kept in {runs.shown(target)}")
    draw()


def draw():
    """Draw what each stage learnt, from the ready stages' manifests: `PICTURE`, the same bytes each time."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    from lab import plots

    found = {
        stage.upper() if stage != "base" else stage: manifest(stage) for stage in recipes.STAGES
    }
    rates = {
        "format_rate": "right format",
        "preference_rate": "terse style",
        "heldout_accuracy": "right, temperature 1",
        "greedy_accuracy": "right, temperature 0",
    }
    with plt.rc_context({"svg.hashsalt": "posttraining-lab", "svg.fonttype": "none"}):
        _, ax = plt.subplots(figsize=(8.5, 3.4))
        plots.scores(
            found, "SFT brings a first skill, DPO one style, GRPO the right answer", rates, ax
        )
        plt.savefig(FOLDER / PICTURE, metadata={"Date": None}, bbox_inches="tight")
        plt.close()


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m lab.ready", description=__doc__.split("\n")[0])
    parser.add_argument(
        "what", choices=["keep", *recipes.STAGES], help="keep, or a stage to restore"
    )
    what = parser.parse_args(argv).what
    try:
        keep() if what == "keep" else restore(what)
    except ValueError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
