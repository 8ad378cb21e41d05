"""Run the gallery's notebook again with other seeds, and record where each trainer ended.

    python -m lab.gallery_worlds     measures gallery_worlds.json again, a minute

A seed draws the pairs, the labels, the judge's errors and every sample. One seed ranks the trainers by
luck as well; five say which differences stay.

Proof     tests/lab/test_gallery.py
"""

import contextlib
import io
import json
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_suffix(".json")
NOTEBOOK = Path(__file__).parent.parent / "05_gallery.ipynb"
SEEDS = range(5)
SEEDED = "rng = np.random.default_rng(0)"


def known():
    """Return {trainer: (5,) true rewards at the end, one for each seed}, as measured; {} before."""
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}


def rows(here):
    """Return the lesson's table: {trainer: reward in this run} beside mean and range of the five worlds."""
    for name, reward in here.items():
        others = known().get(name, [reward])
        low, high = min(others), max(others)
        yield {"trainer": name, "here": reward, "mean of 5": np.mean(others), "range": (low, high)}


def run(seed):
    """Run the notebook's code with another seed, its last assertions too: {trainer: reward}."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    import lab
    from lab import gallery, show

    cells = [
        "".join(cell["source"])
        for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    ][1:]
    assert sum(SEEDED in cell for cell in cells) == 1
    scope = {"lab": lab, "np": np, "gallery": gallery, "show": show}
    with contextlib.redirect_stdout(io.StringIO()):
        for cell in cells:
            exec(cell.replace(SEEDED, SEEDED.replace("0", str(seed))), scope)  # noqa: S102
            plt.close("all")
    return {name: float(end["reward"]) for name, (_, end) in scope["ends"].items()}


def main():
    found = [run(seed) for seed in SEEDS]
    text = {name: [round(world[name], 4) for world in found] for name in found[0]}
    FILE.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
    print(f"{len(text)} trainers on {len(found)} worlds: {FILE}")


if __name__ == "__main__":
    main()
