"""The code that makes a stage is found by its imports; a stage made by other code says so."""

import subprocess
import sys

import pytest
from lab import recipes, runs, sources, train


def test_every_module_that_training_loads_is_reached():
    code = "import sys, lab.train, lab.engine.colocated, lab.engine.adapter_sync, rewards.verdicts; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name for name in ran.stdout.split() if name.partition(".")[0] in sources.PACKAGES}
    reached = set(sources.reached())
    assert {"lab.tasks", "rewards.accuracy", "reference_math.logprobs"} <= reached & loaded
    drawn = {"lab.puzzles", "lab.puzzles.picture"}  # by lab.plots
    assert loaded - sources.ASIDE - drawn <= reached


def test_a_module_imported_inside_a_function_or_by_a_string_is_reached(tmp_path, monkeypatch):
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "one.py").write_text(
        "def f():\n    from lab import two\n    g('lab.three', 'lab.')\n"
    )
    (tmp_path / "two.py").write_text("import lab.plots, numpy\n")
    for name in ("three", "four", "plots"):
        (tmp_path / f"{name}.py").write_text("")
    monkeypatch.setitem(sources.PACKAGES, "lab", tmp_path)
    assert list(sources.reached("lab.one")) == ["lab", "lab.one", "lab.three", "lab.two"]


@pytest.mark.parametrize(
    ("added", "counts"),
    [("# a comment\n", False), ("\n\n", False), ("ANOTHER = 1\n", True)],
    ids=["comment", "blank lines", "code"],
)
@pytest.mark.parametrize("name", ["lab.tasks", "rewards.accuracy"])
def test_what_runs_counts_and_a_comment_does_not(tmp_path, name, added, counts):
    files = sources.reached()
    changed = tmp_path / "changed.py"
    changed.write_text(files[name].read_text() + added)
    assert (sources.digest(files | {name: changed}) != sources.digest(files)) == counts


def test_a_docstring_does_not_count():
    one = 'def f():\n    """One."""\n    return 1'
    assert sources.what_runs(one) == sources.what_runs(one.replace("One", "Two"))
    assert sources.what_runs(one) != sources.what_runs(one.replace("return 1", "return 2"))


@pytest.mark.parametrize("profile", ["tiny", "t4"])
def test_a_long_stage_that_other_code_made_stands_and_says_so(tmp_path, monkeypatch, profile):
    monkeypatch.setenv("LAB_RUNS", str(tmp_path))
    recipe = recipes.load("base", profile)
    runs.clear(recipe)
    runs.save_manifest(recipe, "a model", [], 1.0, {})
    said = []
    train.ensure("base", profile, say=said.append)
    assert len(said) == 1 and "other code" not in said[0]
    monkeypatch.setattr(sources, "of_a_stage", lambda: "changed")
    monkeypatch.setattr(train, "make", lambda recipe: said.append("made anew"))
    train.ensure("base", profile, say=said.append)
    if profile == "tiny":
        assert said[2:] == ["made anew"]
    else:
        assert "made by other code" in said[1] and "python -m lab.train base" in said[1]
