"""The site: `make site` builds build/site from the pages of the project and the executed lessons.

    python docs/site/build.py [--out build/site]

What is gathered: README, the lessons and puzzles, glossary and teaching pages, the index of methods, a
page for each module of reference_math (the torch twins and the drivers of the libraries too), rewards and
lab, the page that compares two libraries, a deck of slides for each lesson, and the conformance report.
Lessons are taken from notebooks/runs/notebooks, where `make lab` leaves
its executed copies; one that is not there is run here if it needs no stage or finds its stages, and shown
without outputs else. Nothing is fetched, and nothing in the site points
to a host for what a page needs: it reads offline from the file system.

Afterwards every link and picture is looked up; a broken one stops the build.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lab import slides

from reference_math._renamed import MODULES as RENAMED
from reference_math.conformance import rosetta_page

ROOT = Path(__file__).resolve().parents[2]
GITHUB = "https://github.com/posttraining-lab/posttraining-lab"
PAGES = {  # file: page
    "README.md": "index.md",
    "docs/teach/README.md": "teach.md",
    "docs/glossary.md": "glossary.md",
    "docs/cluster.md": "cluster.md",
    "reference_math/README.md": "methods.md",
    "rewards/POLICY.md": "rewards.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
PACKAGES = {  # heading of the navigation: package, each of whose modules gets a page
    "Methods": "reference_math",
    "Torch twins": "reference_math.torch",
    "Conformance": "reference_math.conformance",
    "Rewards": "rewards",
    "Lab": "lab",
    "Lab: data": "lab.data",
    "Lab: engine": "lab.engine",
    "Lab: puzzles": "lab.puzzles",
}
ROSETTA = "rosetta.md"  # made here: reference_math.conformance.rosetta_page
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#|data:)([^)\s#]+)(#[^)]*)?(\))")


def lessons():
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def pictures():
    """What the pages show besides the outputs of the lessons."""
    folders = (ROOT / "notebooks/diagrams", ROOT / "notebooks/ready", ROOT / "docs")
    return [path for folder in folders for path in folder.glob("*.svg")]


def modules():
    """{heading of the navigation: {module: its file}}, of all that get a page; an old name gets none."""
    found = {}
    for heading, package in PACKAGES.items():
        top = ROOT / "notebooks" if package.startswith("lab") else ROOT
        folder = top / package.replace(".", "/")
        inside = {f"{package}.{p.stem}": p for p in sorted(folder.glob("[a-z]*.py"))}
        found[heading] = {package: folder / "__init__.py"} | {
            name: p for name, p in inside.items() if name.rpartition(".")[2] not in RENAMED
        }
    return found


def pages():
    """{file of the project: page of the site}."""
    found = dict(PAGES)
    found |= {f"notebooks/{p.name}": f"lessons/{p.name}" for p in lessons()}
    for of_package in modules().values():
        for name, file in of_package.items():
            found[file.relative_to(ROOT).as_posix()] = f"api/{name}.md"
    return found


def relinked(text, file):
    """A page's text with its links into the project turned into links of the site.

    file   the page's own path in the project; a target that has no page goes to the repository
    """
    known, here = pages(), Path(file).parent

    def turn(found):
        target = os.path.normpath(here / unquote(found[2]))
        if target in known:
            start = Path(known[file]).parent
            new = os.path.relpath(known[target], start)
        elif ROOT / target in pictures():
            new = os.path.relpath(f"pictures/{Path(target).name}", Path(known[file]).parent)
        elif (ROOT / target).exists():
            new = f"{GITHUB}/{'tree' if (ROOT / target).is_dir() else 'blob'}/main/{target}"
        else:
            raise ValueError(f"{file} links to {found[2]}, which does not exist")
        return found[1] + new + (found[3] or "") + found[4]

    return LINK.sub(turn, text)


def executed(path):
    """A lesson with its outputs if there is a way to them, and a line that says so if not."""
    copy = ROOT / "notebooks" / "runs" / "notebooks" / path.name
    if copy.exists():
        return json.loads(copy.read_text(encoding="utf-8"))
    if can_run(path):
        import nbformat
        from nbclient import NotebookClient

        print(f"running {path.name}")
        notebook = nbformat.read(path, 4)
        where = {"metadata": {"path": str(path.parent)}}
        NotebookClient(notebook, timeout=900, resources=where).execute()
        return json.loads(nbformat.writes(notebook))
    notebook = json.loads(path.read_text(encoding="utf-8"))
    note = "*Shown without outputs: `make lab` had not run it where this page was built.*"
    notebook["cells"][0]["source"] += ["\n\n", note]
    return notebook


def can_run(path):
    """Whether a lesson runs here in minutes: no stage is trained for a page.

    05 to 07, 10 and the puzzles read no stage or one that comes with the kit; 08 reads those of `make lab`.
    """
    if path.stem[:2] in ("05", "06", "07", "10") or path.stem == "puzzles":
        return True
    from lab import recipes, runs

    return path.stem[:2] == "08" and runs.is_current(recipes.load("grpo"))


def gather(source):
    """Write every page into the folder that Sphinx reads."""
    shutil.rmtree(source, ignore_errors=True)
    (source / "lessons").mkdir(parents=True)
    (source / "api").mkdir()
    for file, page in PAGES.items():
        text = relinked((ROOT / file).read_text(encoding="utf-8"), file)
        (source / page).write_text(text, encoding="utf-8")
    notebooks = {path: executed(path) for path in lessons()}
    (source / "_extra").mkdir()
    slides.make(source / "_extra" / "slides", {p.stem: n for p, n in notebooks.items()})
    for path, notebook in notebooks.items():
        notebook["metadata"].pop("widgets", None)
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = relinked("".join(cell["source"]), f"notebooks/{path.name}")
            else:  # a progress bar of a live notebook would be fetched from a host
                cell["outputs"] = [with_alt(o) for o in cell["outputs"] if not _is_widget(o)]
        (source / "lessons" / path.name).write_text(json.dumps(notebook), encoding="utf-8")
    (source / "pictures").mkdir()
    for path in pictures():
        shutil.copy(path, source / "pictures")
    for name in [name for of_package in modules().values() for name in of_package]:
        page = f"# {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n```\n"
        (source / "api" / f"{name}.md").write_text(page, encoding="utf-8")
    raw = f"```{{raw}} html\n{rosetta_page.fragment()}\n```\n"
    (source / ROSETTA).write_text("# Two libraries, side by side\n\n" + raw, encoding="utf-8")
    shutil.copy(Path(__file__).with_name("conf.py"), source / "conf.py")
    with (source / "conf.py").open("a", encoding="utf-8") as conf:
        conf.write('html_extra_path = ["_extra"]\n')
    _contents(source)


def _is_widget(output):
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def with_alt(output):
    """An output with the text of its picture in the page: `lab.plots` keeps it in the metadata."""
    alt = output.get("metadata", {}).get("alt")
    if not alt or "image/png" not in output.get("data", {}):
        return output
    shown = {"text/html": slides.picture("".join(output["data"]["image/png"]), alt)}
    return output | {"data": shown, "metadata": {}}


def _contents(source):
    """The navigation, at the end of the first page."""
    groups = {
        "Lessons": [f"lessons/{path.stem}" for path in lessons()],
        "Pages": [Path(p).stem for p in (*PAGES.values(), ROSETTA) if p != "index.md"],
    }
    groups |= {heading: [f"api/{name}" for name in of] for heading, of in modules().items()}
    trees = [
        f"```{{toctree}}\n:hidden:\n:caption: {caption}\n:maxdepth: 1\n\n"
        + "\n".join(names)
        + "\n```\n"
        for caption, names in groups.items()
    ]
    report = '\nThe <a href="conformance.html">conformance report</a> has every comparison. '
    report += 'Of each lesson there is a <a href="slides/index.html">deck of slides</a>.\n'
    with (source / "index.md").open("a", encoding="utf-8") as index:
        index.write(report + "\n" + "\n".join(trees))


def conformance(source):
    """The conformance report, measured now, as a page of its own."""
    command = [sys.executable, "-m", "reference_math.conformance", "--out", str(source / "_extra")]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


class Links(HTMLParser):
    """What a page points to, what it needs, and which names it has."""

    def __init__(self):
        super().__init__()
        self.to, self.needs, self.names = [], [], set()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.names |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "a" and given.get("href"):
            self.to.append(given["href"])
        if tag in ("img", "script", "source") and given.get("src"):
            self.needs.append(given["src"])
        if tag == "link" and given.get("href") and "stylesheet" in (given.get("rel") or ""):
            self.needs.append(given["href"])


def broken(site):
    """Lines about links that lead nowhere and about what a page would have to fetch."""
    read = {}
    for page in sorted(site.rglob("*.html")):
        read[page] = Links()
        read[page].feed(page.read_text(encoding="utf-8"))
    for page, links in read.items():
        shown = page.relative_to(site)
        for target in links.needs:
            parts = urlsplit(target)
            badge = "colab-badge" in target  # a badge is a picture of its host's
            if parts.scheme in ("http", "https") and not badge:
                yield f"{shown} fetches {target}"
            elif not parts.scheme and not (page.parent / unquote(parts.path)).exists():
                yield f"{shown} misses {target}"
        for target in links.to:
            parts = urlsplit(target)
            if parts.scheme:
                continue
            other = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not other.exists():
                yield f"{shown} links to {target}"
            elif (
                parts.fragment
                and other in read
                and unquote(parts.fragment) not in read[other].names
            ):
                yield f"{shown} links to {target}: no such place there"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site")
    out = parser.parse_args(argv).out.resolve()
    source = out.with_name("site-source")
    gather(source)
    conformance(source)
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", str(source), str(out)]
    subprocess.run(command, check=True, cwd=ROOT)
    lines = list(broken(out))
    print("\n".join(lines))
    if lines:
        sys.exit(f"{len(lines)} broken links")
    print(f"{sum(1 for _ in out.rglob('*.html'))} pages, no broken link: {out / 'index.html'}")


if __name__ == "__main__":
    main()
