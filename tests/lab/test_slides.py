"""A deck has what is tagged, asks before it reveals, gives each picture a text, and fetches nothing."""

import json
import re

import nbformat
import pytest
from lab import slides
from nbclient import NotebookClient

LESSONS = sorted(slides.NOTEBOOKS.glob("[0-9]*.ipynb"))
PNG = "iVBORw0KGgo="


def cell(kind, source, outputs=None, tags=("slide",)):
    made = {"cell_type": kind, "metadata": {"tags": list(tags)}, "source": source}
    return made | ({"outputs": outputs or []} if kind == "code" else {})


def printed(text):
    return {"output_type": "stream", "name": "stdout", "text": text}


def shown(**data):
    return {"output_type": "display_data", "metadata": {}, "data": data}


def of(*cells):
    return slides.slides_of({"cells": list(cells)})


def test_each_heading_of_a_tagged_cell_is_a_slide_and_its_prose_is_for_the_notes():
    first, second = of(
        cell(
            "markdown",
            "## One\n\nBefore it.\n\n$$x^2$$\n\n- a list\n\n## Two\n\nA sentence.\n\nAnother.",
        )
    )
    assert "One" in first.shown and "$$x^2$$" in first.shown and "a list" in first.shown
    assert "Before it." in first.notes and "Before it." not in first.shown
    assert "A sentence." in second.shown and "Another." in second.notes


def test_a_cell_without_the_tag_is_for_the_notes_and_its_outputs_are_left_out():
    (only,) = of(
        cell("markdown", "# Title\n\n- a point"),
        cell("markdown", "Read this aloud.", tags=()),
        cell("code", "1", [shown(**{"text/html": "<table></table>"})], tags=()),
    )
    assert "Read this aloud." in only.notes and "table" not in only.shown


def test_a_question_is_a_slide_of_its_own_before_what_reveals_it():
    asked = printed("check: right\nPredict: Will it rise?  a) yes, it will, b) no\n")
    told = printed("Will it rise?\nIt is: no. It falls.\n")
    question, picture, answer = of(
        cell("code", "", [asked]), cell("code", "", [shown(**{"image/png": PNG}), told])
    )
    assert re.findall("<li>(.*?)</li>", question.shown) == ["a) yes, it will", "b) no"]
    assert "It is" not in question.shown + picture.shown and "It is: no. It falls." in answer.shown
    assert "check: right" not in question.shown


def test_a_heading_alone_is_that_of_the_slide_that_comes_next():
    (only,) = of(
        cell("markdown", "## 8. The real run"),
        cell("code", "", [shown(**{"text/html": "<table></table>"})]),
    )
    assert "The real run" in only.shown and "<table>" in only.shown


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_every_lesson_has_a_deck_that_needs_nothing_from_elsewhere(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    made = slides.slides_of(notebook)
    assert len(made) >= 4 and "<h1" in made[0].shown
    page = slides.deck(notebook, path.stem)
    assert set(re.findall(r'(?:src|href)="(?!data:|https?://)([^"]*)"', page)) <= {slides.MATHJAX}
    assert not re.search(r'<(?:img|script|link|source)[^>]*(?:src|href)="https?:', page)
    assert "colab-badge" not in page and "@import" not in page
    assert all(re.search(r'alt="[^"]{20,}"', img) for img in re.findall("<img[^>]*>", page))


def test_the_decks_are_listed_and_one_without_tags_is_left_out(tmp_path):
    notebook = {"cells": [cell("markdown", "# A & B\n\n- one")]}
    bare = {"cells": [cell("markdown", "# C", tags=())]}
    assert slides.make(tmp_path / "s", {"01_a": notebook, "02_c": bare}, say=lambda line: None) == [
        "01_a"
    ]
    assert 'href="01_a.html">A &amp; B<' in (tmp_path / "s" / "index.html").read_text()


def test_mathjax_comes_with_the_decks_where_it_is_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(slides, "mathjax", lambda: slides.TEMPLATE)  # any file
    slides.make(tmp_path / "s", {})
    assert (tmp_path / "s" / slides.MATHJAX).read_bytes() == slides.TEMPLATE.read_bytes()
    said = []
    monkeypatch.setattr(slides, "mathjax", lambda: None)
    slides.make(tmp_path / "s", {}, say=said.append)
    assert (
        "formulas stay as they are typed" in said[0]
        and not (tmp_path / "s" / slides.MATHJAX).exists()
    )


def test_an_older_copy_gets_the_tags_of_today(tmp_path):
    lesson = json.loads(LESSONS[0].read_text(encoding="utf-8"))
    for each in lesson["cells"]:
        each["metadata"] = {}
    (tmp_path / LESSONS[0].name).write_text(json.dumps(lesson))
    found = slides.executed(tmp_path)
    assert set(found) == {path.stem for path in LESSONS}
    assert "slide" in found[LESSONS[0].stem]["cells"][0]["metadata"]["tags"]


def test_a_picture_of_a_notebook_has_a_text_and_it_reaches_the_slide(starts_kernels):
    code = "import lab\nlab.plots.lines(range(3), {'loss': [3, 2, 1], 'log V': [2, 2, 2]}, 'It falls', ylabel='nats')"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=300).execute()
    (output,) = [o for o in notebook.cells[0].outputs if "image/png" in o.get("data", {})]
    said = "It falls; step to the right; nats upwards; loss from 3 to 1; log V from 2 to 2."
    assert output.metadata["alt"] == said
    notebook.cells[0].metadata["tags"] = ["slide"]
    (made,) = slides.slides_of(json.loads(nbformat.writes(notebook)))
    assert f'alt="{said}"' in made.shown


@pytest.mark.parametrize("name", ["06_policy_gradient", "07_kl"])
def test_every_picture_of_an_executed_lesson_has_a_text(
    name, starts_kernels, tmp_path, monkeypatch
):
    monkeypatch.setenv("LAB_RUNS", str(tmp_path))
    notebook = nbformat.read(slides.NOTEBOOKS / f"{name}.ipynb", 4)
    where = {"metadata": {"path": str(slides.NOTEBOOKS)}}
    NotebookClient(notebook, timeout=300, resources=where).execute()
    page = slides.deck(json.loads(nbformat.writes(notebook)), name)
    found = re.findall("<img[^>]*>", page)
    assert len(found) >= 5 and all(re.search(r'alt="[^"]{20,}"', img) for img in found)
