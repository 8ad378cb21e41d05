"""The diagrams stand as they are drawn, can be read by everybody, and each is shown in a lesson."""

import re
from xml.etree import ElementTree

import pytest
from lab import diagrams

NOTEBOOKS = diagrams.FOLDER.parent
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("name", diagrams.DIAGRAMS)
def test_the_file_is_what_is_drawn_today(name):
    text = (diagrams.FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    assert text == diagrams.DIAGRAMS[name]().svg(), "run python -m lab.diagrams"


@pytest.mark.parametrize("name", diagrams.DIAGRAMS)
def test_a_diagram_has_a_title_a_description_and_letters_of_eight_points(name):
    root = ElementTree.fromstring(diagrams.DIAGRAMS[name]().svg())
    assert len(root.find(f"{SVG}title").text) > 10 and len(root.find(f"{SVG}desc").text) > 80
    sizes = [float(text.get("font-size")) for text in root.iter(f"{SVG}text")]
    assert sizes and min(sizes) >= 11  # pixels: 8 points are 10.7


@pytest.mark.parametrize("name", diagrams.DIAGRAMS)
def test_nothing_is_drawn_outside_the_sheet(name):
    root = ElementTree.fromstring(diagrams.DIAGRAMS[name]().svg())
    width, height = float(root.get("width")), float(root.get("height"))
    for box in root.iter(f"{SVG}rect"):
        x, y = float(box.get("x", 0)), float(box.get("y", 0))
        assert 0 <= x <= x + float(box.get("width")) <= width
        assert 0 <= y <= y + float(box.get("height")) <= height
    for text in root.iter(f"{SVG}text"):
        assert 0 <= float(text.get("x")) <= width and 0 < float(text.get("y")) <= height


def test_every_diagram_is_shown_in_a_lesson_with_a_text_beside_it():
    lessons = "".join(path.read_text() for path in NOTEBOOKS.glob("*.ipynb"))
    shown = dict(re.findall(r"!\[([^\]]{40,})\]\(diagrams/(\w+)\.svg\)", lessons))
    assert set(shown.values()) == set(diagrams.DIAGRAMS)
