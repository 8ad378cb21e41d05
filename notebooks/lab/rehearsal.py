"""Time the half day of docs/teach on this machine: every lesson of it, from ready stages, cell by cell.

    make rehearsal                       what a workshop runs, into docs/teach/rehearsal.json
    python -m lab.rehearsal --only 06    some lessons again; the record keeps the others

Every lesson is executed from top to bottom as in a workshop (LAB_READY=1), in a folder of runs that holds
nothing. Of each cell the wall time and the processor time of its kernel are kept, that of its child
processes too. On a machine where other programs run the wall time is theirs as well;
processor time over the number of threads is the least that the cell takes where nothing else runs.

Proof     tests/lab/test_rehearsal.py
"""

import argparse
import contextlib
import json
import os
import tempfile
import time
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient

from lab import chain, pace, runs

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "docs" / "teach" / "rehearsal.json"
LESSONS = ("00", "01", "02", "06", "03", "10", "07", "08")  # of the half day, in its order
WORKSHOP = {"LAB_READY": "1", "LAB_PROFILE": "tiny", "CI": "1"}
SHORT_S = 1.0  # cells that take less are left out of the record


def processor_s(pid):
    """Return the processor seconds of a process and of its children, running or ended."""
    try:
        process = psutil.Process(pid)
        own, kids = process.cpu_times(), process.children(recursive=True)
    except psutil.Error:
        return 0.0
    total = sum(own[:4])  # user, system, and both of children that have ended
    for kid in kids:
        with contextlib.suppress(psutil.Error):
            total += sum(kid.cpu_times()[:4])
    return total


def lesson(path, environment, copy=None):
    """Execute a notebook; returns its times: wall_s, cpu_s, and the same for each longer cell.

    copy    where the executed notebook goes, also when a cell fails
    """
    notebook, cells, at = nbformat.read(path, 4), [], {}
    with tempfile.TemporaryDirectory() as scratch:
        client = NotebookClient(
            notebook,
            timeout=None,
            config=chain.transport(scratch),
            resources={"metadata": {"path": str(path.parent)}},
            on_cell_start=lambda **_: at.update(wall=time.perf_counter(), cpu=used()),
            on_cell_executed=lambda cell, cell_index, **_: cells.append(
                {
                    "cell": cell_index,
                    "of": chain._heading(notebook, cell_index),
                    "wall_s": round(time.perf_counter() - at["wall"], 1),
                    "cpu_s": round(used() - at["cpu"], 1),
                }
            ),
        )

        def used():
            return processor_s(client.km.provisioner.pid)

        began = time.perf_counter()
        try:
            client.execute(env=os.environ | environment)
        finally:
            if copy:
                copy.parent.mkdir(parents=True, exist_ok=True)
                nbformat.write(notebook, copy)
    row = {"lesson": path.stem, "wall_s": round(time.perf_counter() - began, 1)}
    row["cpu_s"] = round(sum(cell["cpu_s"] for cell in cells), 1)
    return row | {"cells": [cell for cell in cells if cell["wall_s"] >= SHORT_S]}


def rehearse(lessons=LESSONS, copies=None, say=print):
    """Time some lessons; the record has them after each, and those of before that are not timed now.

    copies   a folder for the executed notebooks
    """
    found = json.loads(RECORD.read_text()) if RECORD.exists() else {"lessons": []}
    here = {"command": "make rehearsal", **pace.processor(), "versions": runs.versions()}
    if any(found.get(key) != here[key] for key in ("processor", "threads", "versions")):
        found["lessons"] = []  # of another machine or other packages
    for number in lessons:
        path = next((ROOT / "notebooks").glob(f"{number}_*.ipynb"))
        began = {"commit": runs.commit(), "load": round(os.getloadavg()[0], 1)}
        with tempfile.TemporaryDirectory() as folder:
            copy = copies and Path(copies) / path.name
            row = lesson(path, WORKSHOP | {"LAB_RUNS": folder}, copy) | began
        longest = max(row["cells"], key=lambda cell: cell["wall_s"], default=None)
        slow = f"; {longest['of']}: {longest['wall_s']:.0f} s" if longest else ""
        say(f"{path.stem}: {row['wall_s']:.0f} s, {row['cpu_s']:.0f} s CPU{slow}", flush=True)
        rows = {row["lesson"][:2]: row for row in [*found["lessons"], row]}
        found = here | {"lessons": [rows[n] for n in LESSONS if n in rows]}
        RECORD.write_text(json.dumps(found, indent=1) + "\n")
    return found


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m lab.rehearsal", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--only", nargs="+", choices=LESSONS, help="these lessons, the others stay")
    parser.add_argument("--copies", type=Path, help="a folder for the executed lessons")
    args = parser.parse_args(argv)
    rehearse(args.only or LESSONS, args.copies)
    print(f"kept in {runs.shown(RECORD)}")


if __name__ == "__main__":
    main()
