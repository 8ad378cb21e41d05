"""The page of two libraries holds every row and every difference, and needs no network."""

import json
import re
from html.parser import HTMLParser

import pytest

from reference_math import rosetta as command
from reference_math.conformance import libraries, rosetta_page, tables


@pytest.fixture(scope="module")
def page():
    return rosetta_page.page()


@pytest.fixture(scope="module")
def data(page):
    return json.loads(re.search(r'id="ros-data">(.*?)</script>', page, re.DOTALL)[1])


def test_the_page_holds_every_row_in_its_data_and_without_a_script(page, data):
    rows = [row for t in tables.tables() for of_topic in t.topics.values() for row in of_topic]
    shown = [row for table in data["tables"] for topic in table["topics"] for row in topic["rows"]]
    assert [row["call"] for row in shown] == [row.call for row in rows]
    assert all(row["place"] and row["proof"] for row in shown)
    assert page.count("<tr><th scope=row>") == len(rows)


def test_the_differences_are_those_of_the_command(data):
    said = {topic["name"]: topic["gaps"] for table in data["tables"] for topic in table["topics"]}
    compared = 0
    for _, topic, rows, gaps in command.common("verl", "trl"):
        if gaps is not None:
            found = next(
                said[topic][f"{a},{b}"]
                for a, b in (("verl", "trl"), ("trl", "verl"))
                if f"{a},{b}" in said[topic]
            )
            assert found["words"] == command.verdict(rows, gaps)
            assert found["value"] == pytest.approx(gaps["value"], rel=0.05, abs=1e-15)  # two digits
            compared += 1
    assert compared > 15


def test_the_defaults_are_those_of_the_conventions(data):
    grpo = data["grpo"]
    assert grpo["rows"]["verl"]["delta"] == 3.0 and grpo["rows"]["swift"]["beta"] == 0.04
    assert len(grpo["rows"]) >= 16
    pairs = len(grpo["rows"]) * (len(grpo["rows"]) - 1) // 2
    assert len(grpo["gaps"]) == pairs
    columns, gaps = libraries.compare("verl grpo", "ms-swift grpo")
    found = grpo["gaps"]["swift,verl"]
    assert set(found["columns"]) == set(columns)
    assert found["apart"]["gradient"] == pytest.approx(gaps["gradient"], rel=0.05)


class Needs(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.ids = [], set()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.found += [v for k, v in given.items() if k in ("src", "href")]
        self.ids.add(given.get("id"))


def test_nothing_is_fetched_and_the_script_finds_what_it_asks_for(page):
    needs = Needs()
    needs.feed(page)
    assert needs.found == []
    assert not re.search(
        r"@import|url\(|fetch\(|XMLHttp|https?://",
        re.sub(r'id="ros-data">.*?</script>', "", page, flags=re.DOTALL),
    )
    assert {"ros", "ros-out", "ros-data", "ros-one", "ros-other", "ros-only"} <= needs.ids
    script = (rosetta_page.HERE / "script.js").read_text()
    assert "innerHTML" not in script  # what the rows say goes in as text
    assert set(re.findall(r'getElementById\("([\w-]+)"\)', script)) <= needs.ids


def test_what_a_row_says_is_never_read_as_html():
    row = {
        "library": "x",
        "default": False,
        "call": "a < b",
        "place": "<p>",
        "proof": "&",
        "departs": "",
        "note": "<b>",
    }
    line = rosetta_page._line(row, {"x": {"name": "<x>"}})
    assert (
        "a &lt; b" in line
        and "&lt;p&gt;; &amp;" in line
        and "&lt;b&gt;" in line
        and "&lt;x&gt;" in line
    )


def test_the_command_writes_the_page(tmp_path, capsys, page):
    command.main(["--html", str(tmp_path / "p.html")])
    assert (tmp_path / "p.html").read_text() == page
