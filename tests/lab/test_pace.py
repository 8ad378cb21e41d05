"""lab.pace: every second of a step is in one part, and the processor is named beside the figures."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lab import chain, pace, ready, recipes


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_part_is_without_the_parts_that_it_calls():
    clock = Clock()

    class Trainer:
        def outer(self):
            clock.now += 1.0
            self.inner()
            self.inner()

        def inner(self):
            clock.now += 4.0

    outer, parts = Trainer.outer, pace.Parts(clock)
    with parts.watch({"outer": [(Trainer, "outer")], "inner": [(Trainer, "inner")]}):
        Trainer().outer()
    assert parts.seconds == {"outer": 1.0, "inner": 8.0}
    assert Trainer.outer is outer  # watched no longer


def test_a_part_that_raises_is_counted_too():
    clock = Clock()

    class Trainer:
        def fails(self):
            clock.now += 2.0
            raise KeyError

    parts = pace.Parts(clock)
    with parts.watch({"it": [(Trainer, "fails")]}), pytest.raises(KeyError):
        Trainer().fails()
    assert parts.seconds == {"it": 2.0} and parts.inner == []


def test_the_processor_is_named_with_what_torch_makes_of_it():
    found = pace.processor()
    assert found["processor"] and found["threads"] == torch.get_num_threads()
    assert set(found["features"]) <= set(pace.FEATURES)
    if found["torch"] == "AVX512":
        assert "AVX-512" in found["features"]


@pytest.mark.vllm
def test_bench_cpu_splits_every_stage_into_parts_that_add_up(tmp_path):
    out = tmp_path / "pace.json"
    command = [sys.executable, "-m", "lab.bench", "--cpu", "--steps", "2", "--out", str(out)]
    env = os.environ | {"LAB_RUNS": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert {"base", "sft", "dpo", "grpo"} <= set(found["stages"])
    for row in found["stages"].values():
        assert all(seconds >= 0 for seconds in row.values())
        # What no part names is small, or a part is missing from the table.
        assert row["the rest"] < 0.3 * sum(row.values())
    assert found["stages"]["grpo"]["sampling"] > found["stages"]["grpo"]["weight sync"] > 0
    assert found["processor"] in done.stdout and f"{found['steps']['grpo']} steps" in done.stdout


def test_the_name_tells_a_processor_that_computes_as_a_smaller_one():
    code = "from lab import pace; print(pace.named())"
    smaller = {"ATEN_CPU_CAPABILITY": "default"}
    names = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | env,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for env in ({}, smaller)
    ]
    name = pace.processor()["processor"]
    assert names[0] == pace.named() and names[1] == f"{name}, DEFAULT"


def test_the_forecast_goes_with_the_pace_of_the_processor():
    lessons = ["00_start_here.ipynb", "03_grpo.ipynb"]
    usual = pace.forecast(lessons, now=lambda: pace.PACE_S)
    slow = pace.forecast(lessons, now=lambda: 3 * pace.PACE_S)
    minutes = [int(line.split()[1]) for line in (usual, slow)]
    assert minutes[0] == round((pace.LESSON_S["00"] + pace.LESSON_S["03"]) / 60)
    assert minutes[1] == pytest.approx(3 * minutes[0], abs=2)
    assert "3.0 times what the README says" in slow and pace.MEASURED_ON in slow
    assert "times" not in usual


@pytest.mark.parametrize("way", ["ready", "made before"])
def test_a_base_that_need_not_be_trained_is_left_out_of_the_forecast(monkeypatch, tmp_path, way):
    """In minutes of a machine as fast as the table's: those of the five lessons, less the base's."""
    monkeypatch.setenv("LAB_RUNS", str(tmp_path))
    monkeypatch.setattr(pace, "forecast", functools.partial(pace.forecast, now=lambda: pace.PACE_S))
    lessons = [f"{number}.ipynb" for number in pace.LESSON_S]

    def minutes(names):
        return int(chain.expected(names).split()[1])

    usual = sum(pace.LESSON_S.values()) / 60
    assert minutes(lessons) == round(usual)
    later = minutes(lessons[1:])
    if way == "ready":
        monkeypatch.setenv("LAB_READY", "1")
    else:
        ready.restore("base", say=lambda line: None)
    assert minutes(lessons) == round(usual - pace.BASE_S / 60) < round(usual)
    assert minutes(lessons[1:]) == later  # the other lessons never make it


def test_every_lesson_of_the_chain_has_its_seconds(capsys):
    assert set(pace.LESSON_S) == set(chain.STAGES_OF)
    chain.announce(chain.notebooks())
    said = capsys.readouterr().out
    assert "To run: 00_start_here" in said and " minutes on " in said


def test_a_profile_that_was_not_timed_says_so(monkeypatch, capsys):
    monkeypatch.setenv("LAB_PROFILE", "t4")
    chain.announce(chain.notebooks())
    assert chain.UNKNOWN in capsys.readouterr().out
    chain.announce([])
    assert capsys.readouterr().out == ""


# --- a GPU ------------------------------------------------------------------------------------------

KEPT = Path(__file__).parent.parent / "parity" / "gpu" / "h200.json"


def measured():
    steps = {step["label"]: step for step in json.loads(KEPT.read_text())["steps"]}
    figures = steps["stages-a100"]["figures"]
    assert figures["gpu"] == pace.ON_A_GPU
    return figures["rows"]


@pytest.mark.parametrize("row", measured(), ids=lambda row: f"{row['stage']}, {row['way']}")
def test_the_seconds_of_a_step_on_a_gpu_are_those_that_were_kept(row):
    tokens = row["log"][1]["num_tokens"] - row["log"][0]["num_tokens"]
    key = row["stage"], row["args"]["gradient_checkpointing"]
    assert pace.GPU_STEP[key] == (row["step_s"], tokens)


@pytest.mark.parametrize("row", measured(), ids=lambda row: f"{row['stage']}, {row['way']}")
def test_the_minutes_of_the_timed_recipe_are_its_steps_times_their_seconds(row):
    recipe = recipes.load(row["stage"], "a100")
    steps = recipe["args"]["max_steps"]
    recipe["args"] = row["args"] | {"max_steps": steps}
    said = pace.on_a_gpu(recipe)
    assert f"about {round(steps * row['step_s'] / 60)} minutes" in said
    assert pace.ON_A_GPU in said and "not measured on this card" in said


def test_a_stage_that_was_timed_on_no_card_gets_no_minutes():
    said = pace.on_a_gpu(recipes.load("grpo", "a100"))
    assert "not been measured on any card" in said and "about" not in said
