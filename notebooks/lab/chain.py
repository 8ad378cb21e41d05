"""Run the whole chain as a reader would: every notebook, executed in order.

    python -m lab.chain            what `make lab` runs
    python -m lab.chain --fresh    make everything again

Each notebook makes its stage under runs/<stage>/; its executed copy goes to runs/notebooks/. What
is up to date is reused, and said to be. At the end: a table of what was learnt, and a report.
"""

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from tqdm.auto import tqdm
from traitlets.config import Config

from lab import bars, pace, ready, recipes, report, runs

FOLDER = Path(__file__).parent.parent
UNKNOWN = "How long this profile takes has not been measured; each lesson shows the time left"
# The stages that each lesson makes; the profile instructions has one lesson for all of its own.
STAGES_OF = {"00": ["base"], "01": ["sft"], "02": ["dpo"], "03": ["grpo"], "04": ["grpo"]}
OWN_LESSONS = {"instructions": {"09": ["base", "sft", "dpo", "grpo"]}}


def stages_of():
    """Return {the first two digits of a lesson: the stages that it makes} in this machine's profile."""
    return OWN_LESSONS.get(recipes.profile(), STAGES_OF)


def notebooks():
    """Return the lessons of the chain, in order."""
    return [path for path in sorted(FOLDER.glob("*.ipynb")) if path.name[:2] in stages_of()]


def state_of(path):
    """Hash what an executed copy depends on: the lesson, and the recipe of its stage."""
    stages = "".join(recipes.fingerprint(recipe) for recipe in _made_by(path))
    return hashlib.sha256(path.read_bytes() + stages.encode()).hexdigest()[:16]


def _made_by(path):
    """The recipes of what a lesson makes: the first one trains the tiny base on every machine."""
    own = [recipes.load("base", "tiny")] if path.name[:2] == "00" else []
    return [*own, *map(recipes.load, stages_of()[path.name[:2]])]


def is_current(path):
    copy = runs.path("notebooks") / path.name
    if not copy.exists() or not all(map(runs.is_current, _made_by(path))):
        return False
    return nbformat.read(copy, 4).metadata.get("lab", {}).get("state") == state_of(path)


def execute(path):
    """Run one notebook from top to bottom and keep its executed copy, also when a cell fails."""
    notebook, state = nbformat.read(path, 4), state_of(path)  # of the lesson that is run now
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    copy = runs.path("notebooks") / path.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, Watch(path.stem, len(code), scratch) as watch:
        client = NotebookClient(
            notebook,
            timeout=None,
            config=transport(scratch),
            resources={"metadata": {"path": str(FOLDER)}},
            on_cell_start=lambda cell, cell_index: watch.begin(_heading(notebook, cell_index)),
            on_cell_executed=lambda **_: watch.done(),
        )
        try:
            client.execute(env=os.environ | {"LAB_PROGRESS": str(watch.file)})
            notebook.metadata["lab"] = {"state": state}
        finally:
            nbformat.write(notebook, copy)


def transport(scratch):
    """Choose how to reach a kernel: by sockets in a folder of our own; on Windows, which has none, by TCP.

    ipykernel warns of TCP, which every user of the machine can read.
    """
    config = Config()
    if sys.platform != "win32":
        config.KernelManager.transport = "ipc"
        config.KernelManager.ip = str(Path(scratch) / "kernel")
    return config


def _heading(notebook, index):
    """The last heading above a cell."""
    lines = [
        line.lstrip("# ")
        for cell in notebook.cells[:index]
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("#")
    ]
    return lines[-1][:48] if lines else ""


class Watch:
    """Shows how far a notebook is: its cells, and inside a long cell the training's own steps.

    The time left is that of the training (lab.bars); that of the cells would say nothing, for
    one of them takes most of the time. A terminal gets a bar with a clock, other output a line
    every 20 seconds at most.
    """

    def __init__(self, name, cells, scratch, say=print, clock=time.monotonic):
        self.name, self.cells, self.say, self.clock = name, cells, say, clock
        self.file = Path(scratch) / "progress.json"
        self.count, self.heading, self.said = 0, "", clock()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self):
        self.bar = None
        if sys.stderr.isatty():
            shape = "{desc}: cell {n_fmt} of {total_fmt} [{elapsed}{postfix}]"
            self.bar = tqdm(total=self.cells, desc=self.name, bar_format=shape)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        if self.bar is not None:
            self.bar.close()

    def begin(self, heading):
        self.heading = heading
        self.file.unlink(missing_ok=True)  # a training that failed left its last news

    def done(self):
        self.count += 1
        if self.bar is not None:
            self.bar.update()

    def show(self):
        """Renew the bar, or print a line if the last one is old enough."""
        beside = ", ".join(filter(None, [self.heading, bars.news(self.file)]))
        if self.bar is not None:
            self.bar.set_postfix_str(beside)
        elif self.clock() - self.said >= bars.EVERY_S:
            self.said = self.clock()
            at = min(self.count + 1, self.cells)  # the last one is done, its copy not yet written
            self.say(f"{self.name}: cell {at} of {self.cells}, {beside}", flush=True)

    def _tick(self):
        while not self.stop.wait(1.0):
            self.show()


def announce(lessons):
    """Say what is to be run, and how long it takes where that is known."""
    if not lessons:
        return
    names = ", ".join(path.stem for path in lessons)
    print(f"To run: {names}. {expected([path.name for path in lessons])}.", flush=True)


def expected(lessons):
    """Return what is known of the time that these lessons take in this machine's profile."""
    if recipes.profile() == "tiny":
        return pace.forecast(lessons, base_stands=base_stands())
    if recipes.profile() == "instructions":
        from lab import three_ways

        return three_ways.expect()
    return UNKNOWN


def base_stands():
    """Tell whether the tiny base need not be trained: it is up to date, or it comes ready (READY=1)."""
    recipe = recipes.load("base", "tiny")
    return runs.is_current(recipe) or ready.wanted(recipe)


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m lab.chain", description=__doc__.split("\n")[0])
    parser.add_argument("--fresh", action="store_true", help="make every stage again")
    args = parser.parse_args(argv)
    if args.fresh:
        for folder in (*recipes.STAGES, "notebooks"):
            shutil.rmtree(runs.path(folder), ignore_errors=True)
    began, made = time.perf_counter(), 0
    announce([path for path in notebooks() if not is_current(path)])
    for path in notebooks():
        if is_current(path):
            print(f"{path.stem}: found, up to date; nothing to do")
            continue
        try:
            execute(path)
        except CellExecutionError as error:
            copy = runs.shown(runs.path("notebooks") / path.name)
            print(f"\n{error}\n{path.name} stopped at the cell above; as far as it got: {copy}")
            return 1
        made += 1
    minutes = (time.perf_counter() - began) / 60
    print(f"\n{report.table()}\n")
    print(
        f"{made} notebooks run in {minutes:.1f} minutes; executed copies in "
        f"{runs.shown(runs.path('notebooks'))}"
    )
    print(f"report: {runs.shown(report.write())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
