"""What a lesson's titles say is asserted: each that states a result names the assertions that would fail without it.

claims.toml has a table for each lesson: a title, and pieces of the assertions of that lesson, or a test. Its list
`names` has the titles that state no result. Titles are: what the first cell promises, headings, the titles of
pictures and tables, and the bold words that begin a paragraph. A question and an exercise state nothing.
"""

import ast
import inspect
import json
import re
import tomllib
from pathlib import Path

import pytest
from lab import clinic, distil, gallery, late, leaks, plots, rlhf, show, small_numbers

ROOT = Path(__file__).resolve().parents[2]
LESSONS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
FOUND = tomllib.loads(Path(__file__).with_name("claims.toml").read_text(encoding="utf-8"))
NAMES, CLAIMS = set(FOUND.pop("names")), FOUND
MODULES = {
    "lab.plots": plots,
    "lab.show": show,
    "clinic": clinic,
    "distil": distil,
    "gallery": gallery,
    "late": late,
    "leaks": leaks,
    "rlhf": rlhf,
    "small": small_numbers,
}
PROMISES = re.compile(r"\*\*When you are done you have shown that\*\*\n((?:- .*\n?)+)")


def plain(title):
    return re.sub(r"^#* ?(?:\d+\. )?", "", title).strip().rstrip(".:;")


def of_prose(text):
    """The titles of a Markdown cell."""
    found = [line[2:] for block in PROMISES.findall(text) for line in block.splitlines()]
    found += [line for line in text.splitlines() if line.startswith("#")]
    leads = re.findall(r"(?:^|\n\n)\*\*(.+?)\*\*", text)
    return [*found, *(lead for lead in leads if len(lead.split()) >= 4)]


def of_code(code):
    """The titles that a code cell gives to pictures and tables; of one with figures in it, the words around them."""
    tree = ast.parse(code)
    texts = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            texts[node.targets[0].id] = node.value
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and (title := _title(call)) is not None:
            title = texts.get(title.id) if isinstance(title, ast.Name) else title
            yield from _written(title, texts)


def _title(call):
    """What a call passes as the title of what it draws, or None."""
    owner, _, name = ast.unparse(call.func).rpartition(".")
    if name in ("set_title", "suptitle"):
        return call.args[0]
    function = getattr(MODULES.get(owner), name, None)
    parameters = list(inspect.signature(function).parameters) if callable(function) else []
    if "title" not in parameters:
        return None
    given = dict(zip(parameters, call.args)) | {word.arg: word.value for word in call.keywords}
    return given.get("title")


def _written(node, texts):
    """The texts that a title may be: a constant, one with figures in it, or either of two."""
    if isinstance(node, ast.IfExp):
        for side in (node.body, node.orelse):
            yield from _written(texts.get(side.id) if isinstance(side, ast.Name) else side, texts)
    elif isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    elif isinstance(node, ast.Constant):
        yield node.value


def titles(path):
    """Every title of a lesson, without its number and its last stop."""
    found = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        found += of_prose(source) if cell["cell_type"] == "markdown" else of_code(source)
    found = map(plain, found)
    return [
        t for t in found if t and "?" not in t and not re.match(r"Exercises?\b|Case [A-J]\b", t)
    ]


def assertions(path):
    """The source of every assertion of a lesson, in one line each."""
    found = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            for node in ast.walk(ast.parse(source)):
                call = getattr(getattr(node, "value", None), "func", None)
                if isinstance(node, ast.Assert) or "testing.assert" in ast.unparse(
                    call or ast.Pass()
                ):
                    found.append(" ".join(ast.unparse(node).split()))
    return found


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_every_title_that_states_a_result_has_its_assertions(path):
    there, claims = titles(path), CLAIMS.get(path.stem, {})
    assert [t for t in there if t not in NAMES and t not in claims] == [], "see claims.toml"
    assert [t for t in claims if t not in there] == [], "the lesson says so no more"


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_each_assertion_that_a_title_names_is_there(path):
    asserted = assertions(path)
    for title, pieces in CLAIMS.get(path.stem, {}).items():
        assert pieces, title
        for piece in pieces:
            if piece.startswith("tests/"):
                file, _, name = piece.partition("::")
                assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), piece
            else:
                assert any(piece in one for one in asserted), f"{title!r}: {piece!r}"


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_says_what_it_takes_and_what_to_read_next(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    first, last = ("".join(cells[i]["source"]) for i in (0, -1))
    assert re.search(r"\*\*Time\.\*\* [^\n]*\b(?:minutes?|seconds)\b", first)
    links = re.findall(
        r"^- \[[^\]]+\]\(https?://[^)]+\)", last.partition("**Read next**")[2], re.MULTILINE
    )
    assert len(links) >= 3


def test_no_name_is_left_over():
    assert NAMES <= {title for path in LESSONS for title in titles(path)}


def test_titles_are_found_wherever_a_lesson_writes_them():
    prose = "## 3. It rises\n\n**And it stays so:** words\n\n**One** word\n"
    assert list(map(plain, of_prose(prose))) == ["It rises", "And it stays so"]
    promise = "**When you are done you have shown that**\n- it rises;\n- it stays.\n\nMore"
    assert list(map(plain, of_prose(promise)))[:2] == ["it rises", "it stays"]
    code = """
tiny = "It rises"
lab.plots.scores(s, title=tiny if PROFILE == "tiny" else "Before")
leaks.draw(runs, f"At {n} it falls")
ax.set_title("A panel")
lab.plots.lines(x, y, "A line", "step")
print("no title")
"""
    assert list(of_code(code)) == ["It rises", "Before", "At … it falls", "A panel", "A line"]
