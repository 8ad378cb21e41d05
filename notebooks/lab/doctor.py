"""Check whether this machine is ready for the lessons, and say what to do where it is not.

    python -m lab.doctor        one line per check; ends with 1 if a check found a problem
    lab.doctor.show()           the same in a notebook

`ok` needs nothing, a `note` is worth knowing, a `problem` stops a run and names the way out. Nothing is
changed, downloaded or trained. A check that fails itself is a problem with its error.

Proof     tests/lab/test_doctor.py
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

from lab import install, memory, pace, recipes, runs, vllm

OK, NOTE, PROBLEM = "ok", "note", "problem"
MEMORY_GB = {"tiny": 2, "laptop": 8, "instructions": 8}  # peaks of their stages, with room
DISK_GB = 2.0  # for the runs and executed lessons of a chain, with room


class Line(NamedTuple):
    """One finding: OK, NOTE or PROBLEM, what was looked at, and what was found with its way out."""

    verdict: str
    what: str
    said: str


def python():
    found = sys.version_info[:2]
    said = f"Python {sys.version.split()[0]}"
    if found < install.OLDEST_PYTHON:
        return Line(PROBLEM, "Python", install.problem(found, None, None, 0, True))
    return Line(OK, "Python", said)


def packages():
    """Compare the versions in use with those that were resolved together."""
    if not os.path.exists(install.CONSTRAINTS):
        return Line(NOTE, "packages", "no constraints.txt here: versions are not compared")
    pins = dict(
        line.split("==") for line in Path(install.CONSTRAINTS).read_text().split() if "==" in line
    )
    found = {name: v.partition("+")[0] for name, v in runs.versions().items() if name in pins}
    apart = [f"{n} {v} (tested: {pins[n]})" for n, v in found.items() if v != pins[n]]
    if apart:
        return Line(NOTE, "packages", f"other versions than tested: {', '.join(apart)}")
    return Line(OK, "packages", f"{len(found)} of the main ones, each as tested")


def processor():
    found = pace.processor()
    features = ", ".join(found["features"]) or "no vector unit that torch names"
    return Line(OK, "processor", f"{found['processor']}, {found['threads']} threads, {features}")


def memory_of_the_machine():
    found = install.memory_gb()
    if found is None:
        return Line(NOTE, "memory", "this system does not say how much there is")
    if reason := install.problem(install.OLDEST_PYTHON, found, None, 0, True):
        return Line(PROBLEM, "memory", reason)
    return Line(OK, "memory", f"{found:.1f} GB")


def disk():
    folder = runs.root() if runs.root().exists() else runs.root().parent
    free = install.free_disk_gb(folder if folder.exists() else tempfile.gettempdir())
    if free < DISK_GB:
        said = f"{free:.1f} GB free; a chain's runs need {DISK_GB:g}. Way out: free some, or set LAB_RUNS"
        return Line(PROBLEM, "disk", said)
    return Line(OK, "disk", f"{free:.0f} GB free for the runs")


def gpu():
    if not torch.cuda.is_available():
        if install.device() == "cuda":
            said = (
                f"an NVIDIA driver is here ({driver()}), and this torch does not see the card. Way out: "
                "`make lab` with DEVICE=auto installs the CUDA build, which may need a newer driver; or "
                "LAB_PROFILE=tiny leaves the card alone"
            )
            return Line(PROBLEM, "GPU", said)
        return Line(OK, "GPU", "none; the tiny profile needs none")
    card = torch.cuda.get_device_properties(0)
    half = str(vllm.sixteen_bits()).removeprefix("torch.")
    size = f"{card.total_memory / 2**30:.0f} GiB"
    return Line(OK, "GPU", f"{card.name}, {size}, computes in {half}, driver {driver()}")


def driver():
    """Return the version of the NVIDIA driver, or "unknown" where nvidia-smi does not say it."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return said.split()[0] if said.split() else "unknown"


def engine():
    if vllm.available(say=lambda line: None):
        return Line(OK, "vLLM", next(v for k, v in runs.versions().items() if "vllm" in k))
    return Line(NOTE, "vLLM", "not here: GRPO samples with model.generate, which is slower")


def profile():
    chosen = recipes.profile()
    why = "LAB_PROFILE" if os.environ.get("LAB_PROFILE") else "this machine"
    return Line(OK, "profile", f"{chosen}, by {why}; runs in {runs.shown(runs.root())}")


def hub():
    """Check whether models and data sets of a GPU profile can be reached."""
    if recipes.profile() not in recipes.LONG or os.environ.get("LAB_STANDINS"):
        return Line(OK, "hub", "not needed")
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return Line(NOTE, "hub", "HF_HUB_OFFLINE=1: only what is in the cache can be used")
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception as error:  # noqa: BLE001 - a proxy, a name server, a certificate: all the same here
        said = (
            f"{constants.ENDPOINT} cannot be reached ({type(error).__name__}). Way out: a network, a filled "
            "cache with HF_HUB_OFFLINE=1, LAB_STANDINS for a try, or LAB_PROFILE=tiny"
        )
        return Line(PROBLEM, "hub", said)
    return Line(OK, "hub", constants.ENDPOINT)


def stages():
    """List which stages exist, and how long the lessons that make the others take."""
    found = {stage: recipes.load(stage) for stage in recipes.STAGES}
    missing = [stage for stage, recipe in found.items() if not runs.is_current(recipe)]
    if not missing:
        return Line(OK, "stages", "all stand and are up to date")
    said = f"to be made: {', '.join(missing)}"
    if recipes.profile() == "tiny":
        numbers = [f"{recipes.STAGES.index(stage):02d}" for stage in missing]
        said += f". {pace.forecast(numbers)}"
    elif recipes.profile() == "instructions":
        from lab import three_ways

        said += f". {three_ways.expect()}"
    else:
        said = "; ".join([said, *(pace.on_a_gpu(found[s]) for s in missing if "args" in found[s])])
    return Line(OK, "stages", said)


def room():
    """Check whether the recipes of a GPU profile fit the card, by lab.memory's arithmetic."""
    chosen = recipes.profile()
    if chosen in MEMORY_GB or not torch.cuda.is_available():
        most = MEMORY_GB.get(chosen)
        return Line(
            OK, "room", f"the profile {chosen} takes {most} GB of memory" if most else "no GPU"
        )
    from transformers import AutoConfig

    from lab import hub, train

    card = torch.cuda.get_device_properties(0).total_memory / 2**20
    needs = {}
    for stage in recipes.STAGES[1:]:
        recipe = recipes.load(stage)
        config = AutoConfig.from_pretrained(train.base_model(recipe, hub.CONFIG))
        needs[stage] = memory.of(recipe, config, card)
    tight = [stage for stage, parts in needs.items() if not memory.fits(parts, card)]
    said = ", ".join(f"{stage} {sum(parts.values()) / 1024:.1f}" for stage, parts in needs.items())
    if tight:
        said += (
            f" GiB of {card / 1024:.0f}: halve per_device_train_batch_size of {', '.join(tight)}"
        )
        return Line(PROBLEM, "room", said)
    return Line(OK, "room", f"{said} GiB of {card / 1024:.0f}")


CHECKS = (
    *(python, packages, processor, memory_of_the_machine, disk, gpu, engine),
    *(profile, hub, stages, room),
)


def examine(checks=CHECKS):
    """Return a Line for each check; one that raises is a problem with its error."""
    return [_safely(check) for check in checks]


def _safely(check):
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - a doctor that dies helps nobody
        said = re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:300]
        return Line(PROBLEM, check.__name__.replace("_", " "), said)


def text(lines):
    """Return the findings as text, and what follows from them."""
    shown = [f"{line.verdict:8}{line.what:12}{line.said}" for line in lines]
    problems = sum(line.verdict == PROBLEM for line in lines)
    return "\n".join([*shown, f"{problems} to mend first." if problems else "Ready."])


def show():
    """Print the findings."""
    print(text(examine()))


def main():
    lines = examine()
    print(text(lines))
    return int(any(line.verdict == PROBLEM for line in lines))


if __name__ == "__main__":
    sys.exit(main())
