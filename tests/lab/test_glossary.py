"""The glossary: the lesson that a word names uses it in its prose; the page is made from the list."""

import json
import re
from pathlib import Path

import pytest
from lab import glossary

ROOT = Path(__file__).parent.parent.parent
LESSONS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
FORMS = {  # other forms in which a lesson writes a word
    "KL": r"KL\b",
    "beta": r"\\beta\b",
    "nat": r"\bnats?\b",
    "held out": r"held[- ]out",
    "pre-training": r"pre-train",
    "Bradley-Terry": r"Bradley",
    "Wilson interval": r"Wilson",
    "format reward": r"format_reward|format_rate",
    "exact McNemar test": r"McNemar",
    "implicit reward": r"implicit reward",
    "pass@k": r"pass@k|pass_at_k",
    "displacement": r"displacement",
    "completion mask": r"completion[ _]mask",
    "gradient norm": r"grad_norm|gradient norm",
    "group": r"\bgroups?\b|within a group",
    "dequantise": r"dequantise",
    "merge": r"\bmerged?\b",
    "greedy": r"greedy|greedy_",
    "reward hacking": r"hole|hacking",
    "policy": r"\bpolicy\b",
    "on-policy": r"on-policy|on its generation",
    "distillation": r"istill",
    "importance ratio": r"importance_sampling",
    "sampling": r"sampled",
    "chat template": r"template",
}


def text_of(path):
    cells = json.loads(path.read_text())["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


TEXTS = {path.name[:2]: text_of(path) for path in LESSONS}


@pytest.mark.parametrize("word", glossary.TERMS)
def test_the_lesson_of_a_word_uses_it(word):
    form = FORMS.get(word, rf"\b{re.escape(word)}s?\b")
    used = [n for n, text in TEXTS.items() if re.search(form, text, re.IGNORECASE)]
    assert glossary.TERMS[word].lesson in used


def test_the_page_is_what_the_list_says():
    assert (ROOT / "docs" / "glossary.md").read_text() == glossary.markdown()


def test_every_row_of_the_page_has_its_cells():
    rows = [line for line in glossary.markdown().splitlines() if line.startswith("| **")]
    assert len(rows) == len(glossary.TERMS) >= 60
    assert {line.count(" | ") for line in rows} == {3}


def test_a_word_is_found_in_any_case_and_another_names_the_nearest(capsys):
    assert glossary.find("kl")[0] == "KL"
    with pytest.raises(KeyError, match="near: .*advantage"):
        glossary.find("advantge")
    glossary.term("KL", "Wilson interval")
    assert "in nats" in capsys.readouterr().out


def test_meanings_are_one_line_and_end_with_a_stop():
    for word, entry in glossary.TERMS.items():
        assert len(entry.line) <= 110 and entry.line.endswith("."), word
