"""The pages for people: what they name exists."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["CONTRIBUTING.md", "README.md"]
MADE = ("build/", "notebooks/runs", "docs/")  # by a command
FILE = r"(?:reference_math|rewards|notebooks|tests|\.github|\.ci)/|[A-Za-z]+\.(?:md|toml|txt|cff)$"
HOLDS = re.compile(r"[<>*]")  # a pattern, not a name


def paths(text):
    """Files and folders of this project that a page names in code marks."""
    for span in re.findall(r"`([^`\n]+)`", text):
        for word in span.split():
            if re.match(FILE, word):
                yield word.rstrip(".,;")


def missing(text):
    named = {p for p in paths(text) if not HOLDS.search(p) and not p.startswith(MADE)}
    return sorted(path for path in named if not (ROOT / path).exists())


@pytest.mark.parametrize("page", [*PAGES, "SECURITY.md"])
def test_each_file_that_a_page_names_exists(page):
    assert missing((ROOT / page).read_text()) == []


def test_a_page_that_names_a_lost_file_is_caught():
    assert missing("see `tests/laws/test_lost.py` and `reference_math/kl.py`") == [
        "tests/laws/test_lost.py"
    ]


@pytest.mark.parametrize("page", PAGES)
def test_each_make_target_that_a_page_names_exists(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / page).read_text(), re.MULTILINE))
    assert named and named <= targets


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
