"""A bundle holds what is installed, says what it cannot get, and is all that pip then looks at."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from lab import bundle, install

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A folder with one wheel, and nothing else where pip looks."""
    folder = tmp_path / "store"
    folder.mkdir()
    with zipfile.ZipFile(folder / "thing-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("thing.py", "answer = 42\n")
        wheel.writestr(
            "thing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n"
        )
        wheel.writestr(
            "thing-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr("thing-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_what_is_downloaded_installs_with_nothing_else(store, tmp_path, monkeypatch):
    bundle.download(["thing==1.0"], tmp_path / "wheels")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    target = tmp_path / "installed"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target), "thing"]
    subprocess.run(command, check=True)
    assert (target / "thing.py").read_text() == "answer = 42\n"


def test_a_package_that_pip_finds_nowhere_is_named(store, tmp_path):
    with pytest.raises(RuntimeError, match=r"no lost==2\.0 where it looks.*PIP_FIND_LINKS"):
        bundle.download(["thing==1.0", "lost==2.0"], tmp_path / "wheels")
    assert [path.name for path in (tmp_path / "wheels").iterdir()] == ["thing-1.0-py3-none-any.whl"]


def test_the_packages_are_those_of_the_environment_without_the_kit_itself():
    found = bundle.packages()
    names = {install.name_of(line) for line in found}
    assert {"torch", "trl", "numpy"} <= names and bundle.OWN not in names
    assert all("==" in line for line in found)


def test_a_lesson_for_live_teaching_has_its_headings_and_code_and_no_prose():
    markdown = {
        "cell_type": "markdown",
        "id": "0",
        "metadata": {},
        "source": ["# A\n", "words\n", "## B"],
    }
    prose = markdown | {"source": ["words alone"]}
    code = {"cell_type": "code", "id": "1", "source": "1 + 1", "outputs": [2], "execution_count": 3}
    found = bundle.bare({"cells": [markdown, prose, code], "nbformat": 4})
    assert [cell["source"] for cell in found["cells"]] == ["# A\n\n## B", "1 + 1"]
    assert found["cells"][1]["outputs"] == [] and found["nbformat"] == 4


def test_make_looks_at_the_bundle_alone():
    show = "--eval=show:;@echo $$PIP_NO_INDEX $$PIP_FIND_LINKS"
    for given, said in (([], ""), (["BUNDLE=some/where"], f"1 {ROOT}/some/where/wheels")):
        done = subprocess.run(
            ["make", "--no-print-directory", show, "show", *given],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            env={"PATH": "/usr/bin:/bin"},
        )
        assert done.stdout.strip() == said


def test_a_bundle_says_how_it_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "download", lambda wanted, folder: folder.mkdir(parents=True))
    monkeypatch.setenv("LAB_RUNS", str(tmp_path / "runs"))
    (tmp_path / "runs" / "notebooks").mkdir(parents=True)
    (tmp_path / "runs" / "notebooks" / "00.ipynb").write_text("{}")
    assert bundle.make(tmp_path / "out") > 0
    said = (tmp_path / "out" / "README.md").read_text()
    assert "make lab BUNDLE=FOLDER READY=1" in said and str(tmp_path) not in said  # it is moved
    assert (tmp_path / "out" / "notebooks" / "00.ipynb").exists()
    assert (tmp_path / "out" / "live" / "03_grpo.ipynb").exists()
