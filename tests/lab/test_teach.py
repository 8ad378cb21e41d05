"""The teacher's page is what its template and the measured figures make, and no figure in it is typed."""

import json
import re

import pytest
from lab import intervals, ready, recipes, rehearsal, teach

TEMPLATE = teach.TEMPLATE.read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (\d\d) [^\n]*\n(.*?)(?=^#)", TEMPLATE, re.MULTILINE | re.DOTALL))
PARTS = ("Aim", "To remember", "Predictions", "Expect", "Where people get stuck", "Skip if late")


def test_the_page_is_what_the_command_makes():
    assert teach.PAGE.read_text(encoding="utf-8") == teach.page(), "run python -m lab.teach"


def test_the_readmes_table_is_of_the_chains_that_the_kit_has():
    assert teach.README.read_text(encoding="utf-8") == teach.readme(), "run python -m lab.teach"
    rows = [line.split(" | ") for line in teach.table().splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 4 * len(teach.chains())
    last = teach.chains()[-1]
    right = round(last["stages"]["grpo"]["heldout_accuracy"] * 600)
    low, high = (f"{end:.1%}" for end in intervals.wilson(right, 600))
    assert f"| {last['seed']}" == rows[-1][0] and rows[-1][4] == f"{low} to {high}"


def test_a_readme_without_a_place_for_the_table_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(teach, "README", tmp_path / "README.md")
    (tmp_path / "README.md").write_text("no table")
    with pytest.raises(ValueError, match="0 places"):
        teach.readme()


@pytest.mark.parametrize("number", SECTIONS)
def test_a_lesson_says_what_a_teacher_needs(number):
    found = re.findall(r"^- \*\*([^*]+)\.\*\*", SECTIONS[number], re.MULTILINE)
    assert [part for part in found if part in PARTS] == list(PARTS)


@pytest.mark.parametrize("number", SECTIONS)
def test_every_question_of_a_lesson_stands_once_with_the_usual_wrong_answer(number):
    lines = [line for line in SECTIONS[number].splitlines() if "{{prediction" in line]
    asked = [
        re.search(r"\{\{prediction \d\d (.*?)\}\} Usual wrong answer: ", line)[1] for line in lines
    ]
    assert asked == list(teach.asked(teach.lesson(number))) and len(asked) >= 3


def test_no_measured_figure_is_typed():
    """What a class should see is filled in: a line of `Expect` has no digits but those of names and settings."""
    for number, section in SECTIONS.items():
        expected = re.search(r"^- \*\*Expect\.\*\*(.*?)^- ", section, re.MULTILINE | re.DOTALL)[1]
        typed = re.sub(
            r"\{\{.*?\}\}|`[^`]*`|temperatures? [01]|[Ss]ections? [\d, and]+", "", expected
        )
        typed = re.sub(r"pass@\d+|Majority of 16|40 fixed seeds|of [24]\b|95% intervals", "", typed)
        assert not re.search(r"\d", typed), f"{number}: {typed}"


def test_a_range_holds_every_chain_and_is_no_wider_than_rounding():
    shares = [c["stages"]["sft"]["heldout_accuracy"] for c in teach.chains()]
    low, high = map(int, re.findall(r"\d+", teach.share("sft", "heldout_accuracy")))
    assert low <= 100 * min(shares) < low + 1 and high - 1 < 100 * max(shares) <= high


@pytest.mark.parametrize(
    "low, high, said",
    [
        (0.123, 0.123, "0.12 to 0.13"),
        (-11.89, -1.57, "−12 to −1"),
        (2.0, 2.0, "2"),
        (0.0, 0.0, "0"),
        (0.0371, 0.0399, "0.037 to 0.04"),
    ],
)
def test_a_range_of_numbers_is_rounded_outwards(low, high, said):
    assert teach._range(low, high) == said


def test_every_chain_is_of_todays_recipe_and_its_shares_are_counts():
    for chain in teach.chains():
        for stage, found in chain["stages"].items():
            recipe = recipes.load(stage, "tiny", chain["seed"])
            assert found["settings"] == recipes.settings(recipe), "make its chain anew"
            n = round(found["heldout_accuracy"] * found["heldout_n"])
            assert found["heldout_accuracy"] == n / found["heldout_n"]
            low, high = intervals.wilson(n, found["heldout_n"])
            assert low <= found["heldout_accuracy"] <= high
    where = [(chain["made_on"], chain["seed"]) for chain in teach.chains()[1:]]
    assert len(set(where)) == len(where)


def test_a_chain_is_kept_and_one_of_the_same_seed_and_processor_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(teach, "CHAINS", tmp_path / "chains.json")
    teach.keep([ready.FOLDER])
    teach.keep([ready.FOLDER])
    (kept,) = json.loads((tmp_path / "chains.json").read_text())
    assert kept == teach.of_folder(ready.FOLDER) == teach.chains()[0]


def test_a_chain_of_another_recipe_or_without_a_stage_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"base.manifest\.json is not there"):
        teach.of_folder(tmp_path)
    for stage in recipes.STAGES:
        (tmp_path / stage).mkdir()
        found = ready.manifest(stage) | {"settings": "0" * 16}
        (tmp_path / stage / "manifest.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match="another recipe"):
        teach.of_folder(tmp_path)


def test_an_unknown_figure_or_question_is_named():
    with pytest.raises(ValueError, match="no figure 'shares'; there are: share"):
        teach.filled("{{shares sft format_rate}}")
    with pytest.raises(ValueError, match="lesson 02 does not ask 'Why\\?'"):
        teach.filled("{{prediction 02 Why?}}")


def test_each_run_of_the_half_day_takes_less_than_three_minutes():
    """By processor time over the threads: the wall time of the record is that of other programs too."""
    found = json.loads((teach.FOLDER / "rehearsal.json").read_text())
    there = {row["lesson"][:2] for row in found["lessons"]}
    assert (
        there <= set(rehearsal.LESSONS) and len(there) >= 7
    )  # the page names those that are not there
    for row in found["lessons"]:
        for cell in row["cells"]:
            assert cell["cpu_s"] / found["threads"] < 180, (row["lesson"], cell["of"])
        assert 0 < row["cpu_s"] <= found["threads"] * row["wall_s"] * 1.05
