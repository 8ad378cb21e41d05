"""trackio keeps the curves on this machine, and no token of its server reaches a notebook."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

OURS = """
from lab.callbacks import Trackio
from transformers import TrainerControl, TrainerState

live, state, control = Trackio({"stage": "sft", "profile": "tiny", "seed": 0}), TrainerState(), None
live.on_train_begin(None, state, control)
for state.global_step in (1, 2):
    live.on_log(None, state, control, logs={"loss": 1 / state.global_step})
live.on_train_end(None, state, control)
"""
STOCK = """
import trackio

run = trackio.init(project="posttraining-lab")
run.log({"loss": 1.0})
run.finish()
"""


def outputs(code, folder, monkeypatch):
    """What a real kernel writes below a cell, as it would be saved in the notebook."""
    monkeypatch.setenv("TRACKIO_DIR", str(folder))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    return json.dumps(notebook.cells[0].outputs)


def test_our_callback_writes_no_token_and_no_frame_into_a_notebook(tmp_path, monkeypatch):
    written = outputs(OURS, tmp_path, monkeypatch)
    assert "token" not in written and "iframe" not in written
    command = [str(Path(sys.executable).with_name("trackio")), "get", "metric", "--json"]
    command += ["--project", "posttraining-lab", "--run", "sft-tiny-seed0", "--metric", "loss"]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    values = json.loads(found.stdout)["values"]
    assert [(entry["step"], entry["value"]) for entry in values] == [(1, 1.0), (2, 0.5)]


@pytest.mark.library_defect
def test_trackio_alone_writes_its_write_token_into_the_notebook(tmp_path, monkeypatch):
    """Why lab.callbacks.Trackio passes embed=False, which transformers' callback does not."""
    assert "write_token=" in outputs(STOCK, tmp_path, monkeypatch)
