"""The chain of every profile, from the first lesson to the report, on stand-ins for what the hub has.

`lab.standins` says what differs from a GPU's run: where model and data come from, the dtype, and the
numbers of steps and rows. A process of its own runs each chain, as `make lab` does.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from lab import recipes, runs, standins

ROOT = Path(__file__).parent.parent.parent
LESSONS = [path.name for path in sorted((ROOT / "notebooks").glob("0[0-4]*.ipynb"))]
PROFILES = ["t4", "a100"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The stand-ins, and runs with the tiny base of the first lesson if it stands already."""
    folder = tmp_path_factory.mktemp("standins")
    standins.make(folder)
    if runs.is_current(recipes.load("base", "tiny")):
        (folder / "runs").mkdir()
        (folder / "runs" / "base").symlink_to(runs.path("base", "tiny").absolute())
    return folder


def start(profile, home):
    """`make lab` of a profile in a process of its own, on one of the cores."""
    own = {"LAB_PROFILE": profile, "LAB_STANDINS": str(home), "LAB_RUNS": str(home / "runs")}
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with open(home / f"{profile}.log", "w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "lab.chain"],
            env=os.environ | own | offline,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


@pytest.fixture(scope="module")
def chain(home):
    """chain(profile): what `python -m lab.chain` printed; each profile is run once, all at a time."""
    started = {}

    def run(profile):
        # Where the tiny base is missing the first chain makes it, and the next one finds it.
        together = PROFILES if (home / "runs" / "base").exists() else [profile]
        for name in together:
            started[name] = started.get(name) or start(name, home)
        code, said = started[profile].wait(), (home / f"{profile}.log").read_text()
        assert code == 0, said[-9000:]
        return said

    yield run
    for process in started.values():
        process.kill()  # one that a failed test left behind


@pytest.mark.parametrize("profile", PROFILES)
def test_make_lab_goes_from_the_first_lesson_to_the_table(chain, home, profile):
    said = chain(profile)
    for stage in recipes.STAGES:
        assert re.search(rf"^\| {stage} ", said, re.MULTILINE), said[-3000:]
    assert f"{len(LESSONS)} notebooks run" in said
    assert (home / "runs" / "report.html").exists()


@pytest.mark.parametrize("profile", PROFILES)
def test_every_stage_is_scored_strictly_and_leniently_on_the_same_held_out_problems(
    chain, home, profile
):
    chain(profile)
    problems = set()
    for stage in recipes.STAGES:
        folder = home / "runs" / f"{stage}_{profile}"
        found = json.loads((folder / "manifest.json").read_text())
        problems.add(found["heldout_hash"])
        n = standins.EVALUATED["n"]
        assert found["profile"] == profile and found["heldout_n"] == n
        assert found["heldout_ci95"][0] <= found["heldout_accuracy"] <= found["heldout_ci95"][1]
        assert 0 <= found["lenient_accuracy"] <= 1 and found["ended_rate"] > 0.5
        verdicts = json.loads((folder / "verdicts.json").read_text())
        assert len(verdicts) == n and sum(verdicts) == found["greedy_correct"]
        assert "verdicts" not in found
    assert len(problems) == 1


def sections(notebook):
    """(heading, code cells) of each section."""
    heading, found = "", {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            titles = re.findall(r"^##? (.*)", cell.source, re.MULTILINE)
            heading = titles[-1] if titles else heading
        else:
            found.setdefault(heading, []).append(cell)
    return found.items()


@pytest.mark.parametrize("lesson", LESSONS)
@pytest.mark.parametrize("profile", PROFILES)
def test_no_section_of_a_lesson_stays_empty(chain, home, profile, lesson):
    chain(profile)
    copy = nbformat.read(home / "runs" / f"notebooks_{profile}" / lesson, 4)
    empty = [title for title, cells in sections(copy) if not any(cell.outputs for cell in cells)]
    assert empty == []


@pytest.mark.parametrize("profile", PROFILES)
def test_dpo_is_measured_on_pairs_that_it_was_not_trained_on(chain, home, profile):
    chain(profile)
    copy = (home / "runs" / f"notebooks_{profile}" / "02_dpo.ipynb").read_text()
    won, n = map(int, re.search(r"held-out pairs won: (\d+) of (\d+)", copy).groups())
    assert 0 <= won <= n and 50 <= n <= 200


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_section_that_a_gpu_s_profile_leaves_out_says_so_in_its_heading(lesson):
    notebook = nbformat.read(ROOT / "notebooks" / lesson, 4)
    left_out = [
        title
        for title, cells in sections(notebook)
        if any("LAB_PROFILE=tiny runs" in cell.source for cell in cells)
    ]
    assert [title for title in left_out if "Of the built-in task" not in title] == []
    assert len(left_out) == (2 if lesson.startswith("02") else 0)


@pytest.mark.parametrize("profile", PROFILES)
def test_the_standins_change_only_what_they_say(home, monkeypatch, profile):
    for stage in recipes.STAGES:
        monkeypatch.delenv("LAB_STANDINS", raising=False)
        own = recipes.load(stage, profile)
        monkeypatch.setenv("LAB_STANDINS", str(home))
        small = recipes.load(stage, profile)
        changed = {key for key in own if own[key] != small[key]}
        assert changed <= {"model", "dtype", "quantization", "args", "evaluate"}
        args = {k for k, v in own.get("args", {}).items() if small["args"][k] != v}
        assert args <= {*standins.ON_A_CPU, *standins.SMALL[stage], "save_strategy"}
        assert standins.SMALL[stage].keys() <= {"max_steps", "warmup_steps", "logging_steps"}


def test_the_tiny_profile_has_no_standins(home, monkeypatch):
    own = recipes.load("grpo", "tiny")
    monkeypatch.setenv("LAB_STANDINS", str(home))
    assert recipes.load("grpo", "tiny") == own


def test_the_files_have_what_is_known_to_stand_in_the_hubs(home, monkeypatch, capsys):
    from lab import loaders

    monkeypatch.setenv("LAB_STANDINS", str(home))
    rows = loaders.load("trl-lib/ultrafeedback_binarized", "dpo")
    assert "4 pairs with twice the same answer and 4 with an empty one" in capsys.readouterr().out
    assert len(rows) == 592
    chats = loaders.load("trl-lib/Capybara", "sft")
    assert max(len(m["content"]) for row in chats for m in row["messages"]) >= 1500
    train, test = (loaders.load("openai/gsm8k", "grpo", split=s) for s in ("train", "test"))
    asked = [{row["prompt"][-1]["content"] for row in part} for part in (train, test)]
    assert len(asked[0]) == 600 and len(asked[1]) == 100 and not asked[0] & asked[1]


def test_standins_that_are_not_there_are_named_with_the_command_that_makes_them(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("LAB_STANDINS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"Qwen--Qwen2.*python -m lab\.standins"):
        recipes.load("base", "t4")
    with pytest.raises(FileNotFoundError, match=r"openai--gsm8k-train\.jsonl is not there"):
        standins.file("openai/gsm8k", "train")
