"""A rehearsal counts the processor time of each cell, keeps what it timed, and is of the lessons of the schedule."""

import json
import re

import nbformat
import pytest
from lab import pace, rehearsal, runs, teach

BUSY = (
    "import time\nuntil = time.process_time() + 1.5\nwhile time.process_time() < until:\n    pass"
)
CHILD = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BUSY!r}], check=True)"


@pytest.fixture(scope="module")
def timed(tmp_path_factory, starts_kernels):
    folder = tmp_path_factory.mktemp("rehearsal")
    cells = [
        "import os, time\nassert os.environ['LAB_READY'] == '1'",
        BUSY,
        CHILD,
        "time.sleep(1.2)",
    ]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("## A"), *map(nbformat.v4.new_code_cell, cells)]
    )
    nbformat.write(notebook, folder / "00_a.ipynb")
    copy = folder / "copies" / "00_a.ipynb"
    return rehearsal.lesson(folder / "00_a.ipynb", {"LAB_READY": "1"}, copy), copy


def test_the_processor_time_of_a_cell_is_its_own_and_that_of_its_children(timed):
    cells = {cell["cell"]: cell for cell in timed[0]["cells"]}
    assert {2, 3, 4} <= set(cells)  # a cell that takes less than a second is left out
    assert (
        min(cells[2]["cpu_s"], cells[3]["cpu_s"]) >= 1.4
    )  # the clock of a process has ticks of 0.01 s
    assert cells[4]["cpu_s"] < 0.5 < cells[4]["wall_s"]
    assert cells[2]["of"] == "A" and timed[0]["wall_s"] >= sum(c["wall_s"] for c in cells.values())


def test_the_executed_lesson_is_kept(timed):
    assert [c.execution_count for c in nbformat.read(timed[1], 4).cells[1:]] == [1, 2, 3, 4]


def test_a_lesson_that_is_timed_again_replaces_its_row_and_another_machine_all(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(rehearsal, "RECORD", tmp_path / "r.json")
    found = {"processor": "P", "threads": 2}
    monkeypatch.setattr(pace, "processor", lambda: found)
    row = {"wall_s": 2.0, "cpu_s": 1.0, "cells": []}
    monkeypatch.setattr(rehearsal, "lesson", lambda path, *_: row | {"lesson": path.stem})
    rehearsal.rehearse(["07", "06"], say=lambda *_, **__: None)
    row["wall_s"] = 3.0
    kept = rehearsal.rehearse(["07"], say=lambda *_, **__: None)
    assert kept == json.loads((tmp_path / "r.json").read_text())
    assert [(r["lesson"][:2], r["wall_s"]) for r in kept["lessons"]] == [("06", 2.0), ("07", 3.0)]
    assert kept["versions"] == runs.versions() and kept["lessons"][0]["commit"]
    found["processor"] = "Q"
    assert len(rehearsal.rehearse(["06"], say=lambda *_, **__: None)["lessons"]) == 1


def test_the_lessons_are_those_of_the_schedule_in_its_order():
    schedule = (
        teach.TEMPLATE.read_text(encoding="utf-8")
        .partition("## The schedule")[2]
        .partition("\n## ")[0]
    )
    rows = [line.split("|")[3] for line in schedule.splitlines() if re.match(r"\| \d+–", line)]
    named = [number for row in rows for number in re.findall(r"`?\b(\d\d)[_ ,`]?", row)[:1]]
    assert tuple(named) == rehearsal.LESSONS
