"""The glossary: each word is defined in bold where a lesson first uses it; page and flashcards are made from the list."""

import csv
import json
import re
from pathlib import Path

import lab
import pytest
from lab import glossary

ROOT = Path(__file__).parent.parent.parent
LESSONS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
FORMS = {  # where a word has another form in a lesson, or another meaning too
    "beta": r"\\beta\b|\bbeta\b",
    "Bradley-Terry": r"Bradley",
    "chat template": r"\btemplates?\b",
    "displacement": r"displacement",
    "distillation": r"\bdistill",
    "entropy": r"(?<!-)\bentropy",
    "exact McNemar test": r"McNemar",
    "gradient": r"(?<!policy )\bgradients?\b",
    "group": r"\bgroups?\b(?! relative)",
    "held out": r"\bheld[- ]out\b",
    "k3": r"\bk_3|\bk3\b",
    "KL": r"\bKL\b|\{KL\}",
    "merge": r"\bmerged?\b",
    "pre-training": r"\bpre-train",
    "reference": r"p_\{ref\}|\breference policy",  # not the reference solution of an exercise
    "sampling": r"\bsampl(?:es?|ed|ing)\b",
    "sync": r"\bsync\b",
    "Wilson interval": r"Wilson",
}
BOLD = {"reference": r"^reference$", "entropy": r"^entropy$"}  # what the definition has in bold


def form(word):
    return FORMS.get(word, rf"\b{re.escape(word)}s?\b")


def prose(cell):
    """What a reader reads in a Markdown cell: no heading, code, link or alt text, nor what the lesson will show."""
    text = re.sub(r"\*\*(When you are done|Read next)\b.*", "", cell, flags=re.DOTALL)
    text = re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
    return re.sub(r"!\[[^\]]*\]\([^)]*\)|\]\([^)]*\)|`[^`]*`", "", text)


def cells(path):
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [prose("".join(c["source"])) for c in found if c["cell_type"] == "markdown"]


READ = [(path.name[:2], text) for path in LESSONS for text in cells(path)]  # in reading order


def defines(word, text):
    """Whether a cell has the word in bold: alone, or with a word or two beside it."""
    bold = [b for b in re.findall(r"\*\*(.+?)\*\*", text) if len(b.split()) <= 4]
    return any(re.search(BOLD.get(word, form(word)), b, re.IGNORECASE) for b in bold)


def first_use(word, read):
    """(the lesson, the cell) that uses a word first, in reading order; None if no lesson does."""
    return next((at for at in read if re.search(form(word), at[1], re.IGNORECASE)), None)


@pytest.mark.parametrize("word", glossary.TERMS)
def test_a_word_is_defined_where_a_lesson_uses_it_first(word):
    found = first_use(word, READ)
    assert found, "no lesson uses it"
    lesson, cell = found
    assert defines(word, cell), f"lesson {lesson} uses it without a definition: {cell[:200]}"
    assert glossary.TERMS[word].lesson == lesson


def test_a_word_that_is_used_before_its_definition_is_found():
    read = [("00", "The reward rises."), ("01", "A **reward** is a number.")]
    assert not defines("reward", first_use("reward", read)[1])
    assert defines("reward", first_use("reward", read[1:])[1])
    assert not defines("reward", "**The reward that nobody wrote down rises.**")
    assert first_use("reward", [("00", prose("# Rewards\n`reward` [a](reward.md)"))]) is None


def test_the_page_is_what_the_list_says():
    made = {"glossary.md": glossary.markdown(), "flashcards.csv": glossary.flashcards()}
    for name, text in made.items():
        assert (ROOT / "docs" / name).read_text() == text, "run python -m lab.glossary"


def test_a_flashcard_has_the_word_in_front_and_its_meaning_and_formula_behind():
    cards = list(csv.DictReader(glossary.flashcards().splitlines()))
    assert [card["front"] for card in cards] == list(glossary.TERMS)
    behind = {card["front"]: card["back"] for card in cards}
    assert behind["KL"].startswith("The distance") and r"\(\sum_v p_v" in behind["KL"]
    assert "&lt;think>" in behind["format reward"] and "\\(" not in behind["token"]


def test_every_row_of_the_page_has_its_cells():
    rows = [line for line in glossary.markdown().splitlines() if line.startswith("| **")]
    assert len(rows) == len(glossary.TERMS) >= 60
    assert {line.count(" | ") for line in rows} == {3}


def test_a_word_is_found_in_any_case_and_another_names_the_nearest(capsys):
    assert glossary.find("kl")[0] == "KL"
    with pytest.raises(KeyError, match="near: .*advantage"):
        glossary.find("advantge")
    lab.term("KL", "Wilson interval")
    assert "in nats" in capsys.readouterr().out


def test_meanings_are_one_line_and_end_with_a_stop():
    for word, entry in glossary.TERMS.items():
        assert len(entry.line) <= 110 and entry.line.endswith("."), word
