"""Make one deck of slides of each lesson, from its executed notebook: one HTML file that needs no network.

    make site                       the decks come with it: build/site/slides
    make bundle                     and with the bundle
    python -m lab.slides            from the executed copies of `make lab` into build/slides

What is on a slide is chosen by the tag `slide` of a cell (JupyterLab: property inspector, cell tags). No text
and no picture is written twice:

- of a tagged Markdown cell each heading begins a slide, with the equations, pictures, tables and lists below
  it, or its first paragraph where there are none; the other prose, and that of cells without the tag, is for
  the notes of the slide before;
- of a tagged code cell every picture and table is a slide, and so is the question of `lab.predict`, before
  the slide with what it reveals. The code itself is not shown.

Keys: arrows and space turn the pages, n shows the notes, Home and End go to the ends. A slide that is too
long is made smaller until it fits. Printed, each slide is a page. Formulas are set by MathJax, which is
copied beside the decks if the package sphinx-mathjax-offline is there (`make site` installs it); else they
stay as they are typed.

Proof     tests/lab/test_slides.py
"""

import argparse
import base64
import html
import importlib.metadata
import json
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from lab import runs

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
TAG = "slide"
MATHJAX = "tex-svg.js"  # in one file, without fonts of its own
HOW = "Write it in place of"  # how an exercise is done is no slide
MOST = 900  # letters of a list that stays on a slide
TEMPLATE = Path(__file__).with_name("slides.html")
KINDS = {".svg": "image/svg+xml", ".png": "image/png"}


class Slide(NamedTuple):
    """One slide: what everybody sees, and the notes below it, both HTML."""

    shown: str
    notes: str = ""


def slides_of(notebook):
    """Return the slides of a notebook, given as its JSON."""
    slides, heading = [], ""
    for cell in notebook["cells"]:
        tagged = TAG in cell["metadata"].get("tags", [])
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts = _parts(text) if tagged else [("", [], _blocks(text))]
            for title, shown, prose in parts:
                if title and not shown and prose and not prose[0].startswith(HOW):
                    shown, prose = prose[:1], prose[1:]  # it introduces what comes next
                if title and not shown:
                    heading = rendered(title)  # of the slide that comes next
                elif shown:
                    slides.append(Slide(rendered("\n\n".join([title, *shown]))))
                if prose and slides:
                    notes = slides[-1].notes + rendered("\n\n".join(prose))
                    slides[-1] = slides[-1]._replace(notes=notes)
        elif tagged:
            for shown in _outputs(cell):
                slides.append(Slide(heading + shown))
                heading = ""
    return slides


def _parts(text):
    """[(heading, what is shown below it, prose)] of a Markdown cell."""
    parts = [("", [], [])]
    for block in _blocks(text):
        if block.startswith("#"):
            parts.append((block, [], []))
        elif _is_shown(block):
            parts[-1][1].append(block)
        elif "colab-badge" not in block:
            parts[-1][2].append(block)
    return [part for part in parts if any(part)]


def _blocks(text):
    """The blocks of a Markdown text; a list and the line that introduces it are two."""
    return [
        block.strip("\n") for block in re.split(r"\n\s*\n|\n(?=- )(?<!\n- )", text) if block.strip()
    ]


def _is_shown(block):
    """Whether a block stays on its slide: an equation, a picture, a table, a short list, a lesson's question."""
    if re.match(r"[-*] |\d+\. ", block):
        return len(block) <= MOST
    return block.startswith(("$$", "![", "|", "**The question.**", "**When you are done"))


def _outputs(cell):
    """The HTML of what a code cell showed: pictures and tables, questions, and what they revealed."""
    found, exercise = [], ""
    for output in cell.get("outputs", []):
        data = {
            kind: "".join(part)
            for kind, part in output.get("data", {}).items()
            if isinstance(part, str | list)
        }
        if "text/markdown" in data:
            exercise = rendered(data["text/markdown"])  # its picture comes next
        elif "text/html" in data:
            found.append(exercise + data["text/html"])
            exercise = ""
        elif "image/png" in data:
            found.append(picture(data["image/png"], output.get("metadata", {}).get("alt", "")))
        elif output.get("output_type") == "stream":
            found += _predictions("".join(output["text"]))
    return [*found, exercise] if exercise else found


def _predictions(printed):
    """The questions and reveals among the lines that a cell printed."""
    lines = printed.splitlines()
    for i, line in enumerate(lines):
        if asked := re.match(r"Predict: (.*?)  (a\) .*)", line):
            options = re.split(r", (?=[b-h]\) )", asked[2])
            listed = "".join(f"<li>{html.escape(option)}</li>" for option in options)
            yield f"<h2>Predict</h2><p>{html.escape(asked[1])}</p><ul class='options'>{listed}</ul>"
        elif line.startswith("It is: ") and i:
            yield f"<p>{html.escape(lines[i - 1])}</p><p class='reveal'>{html.escape(line)}</p>"


def picture(png, alt=""):
    """An image from its base64 text."""
    return f'<img alt="{html.escape(alt, quote=True)}" src="data:image/png;base64,{png.strip()}">'


def rendered(markdown):
    """Markdown as HTML, its pictures inside; formulas stay for MathJax."""
    from nbconvert.filters import markdown2html_mistune

    text = re.sub(r"(!\[[^\]]*\]\()([^):]+)(\))", _inside, markdown)
    text = re.sub(
        r"(?<!!)\[([^\]]+)\]\((?!https?:)[^)]+\)", r"\1", text
    )  # a link that leads nowhere here
    return re.sub(r'<a class="anchor-link".*?</a>', "", markdown2html_mistune(text))


def _inside(found):
    """A picture of the project as data, in the place of its path."""
    file = NOTEBOOKS / found[2]
    data = base64.b64encode(file.read_bytes()).decode()
    return f"{found[1]}data:{KINDS[file.suffix]};base64,{data}{found[3]}"


def deck(notebook, title):
    """Return a lesson's deck as one HTML page."""
    sections = [
        f'<section aria-label="slide {i}"><div class="page">{slide.shown}</div>'
        f'<aside class="notes">{slide.notes}</aside></section>'
        for i, slide in enumerate(slides_of(notebook), 1)
    ]
    page = TEMPLATE.read_text(encoding="utf-8").replace("{{title}}", html.escape(title))
    return page.replace("{{slides}}", "\n".join(sections))


def mathjax():
    """Find MathJax in the package sphinx-mathjax-offline; None where that is not installed."""
    try:
        files = importlib.metadata.files("sphinx-mathjax-offline") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(file.locate()) for file in files if file.name == MATHJAX), None)


def make(folder, lessons, say=print):
    """Write the decks and a page that lists them into a folder.

    lessons   {name: the notebook's JSON, executed}; one without a tagged cell gets no deck
    returns   the names of the decks
    """
    folder = Path(folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    made = {}
    for name, notebook in lessons.items():
        if any(TAG in cell["metadata"].get("tags", []) for cell in notebook["cells"]):
            title = re.search(r"^# (.*)", "".join(notebook["cells"][0]["source"]), re.MULTILINE)[1]
            (folder / f"{name}.html").write_text(deck(notebook, title), encoding="utf-8")
            made[name] = title
    listed = "".join(f'<li><a href="{n}.html">{html.escape(t)}</a></li>' for n, t in made.items())
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>Slides</title>'
    (folder / "index.html").write_text(f"{head}<h1>Slides</h1><ul>{listed}</ul>", encoding="utf-8")
    if file := mathjax():
        shutil.copyfile(file, folder / MATHJAX)
    else:
        say("slides: sphinx-mathjax-offline is not installed, so formulas stay as they are typed")
    return list(made)


def executed(folder):
    """The executed lessons of a folder, as `make` takes them; of one that is not there, the lesson itself."""
    found = {}
    for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        copy = Path(folder) / path.name
        notebook = json.loads((copy if copy.exists() else path).read_text(encoding="utf-8"))
        tags = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for cell, today in zip(notebook["cells"], tags):  # an older copy gets the tags of today
            cell["metadata"] = cell["metadata"] | {"tags": today["metadata"].get("tags", [])}
        found[path.stem] = notebook
    return found


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m lab.slides", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "slides")
    parser.add_argument("--notebooks", type=Path, help="a folder of executed lessons")
    args = parser.parse_args(argv)
    made = make(args.out, executed(args.notebooks or runs.path("notebooks", "tiny")))
    print(f"{len(made)} decks: {args.out / 'index.html'}")


if __name__ == "__main__":
    main()
