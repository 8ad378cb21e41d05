"""The site's pages are gathered from what exists, and a broken link stops the build."""

import importlib.util
import json
import re
import runpy
import tomllib
from pathlib import Path

import pytest
from lab import runs

from reference_math import _renamed

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("site_build", ROOT / "docs/site/build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_lesson_has_a_page(build):
    pages = build.pages()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert pages[f"notebooks/{path.name}"] == f"lessons/{path.name}"
    assert all((ROOT / file).exists() for file in pages)


def test_every_module_of_every_package_has_a_page_and_no_old_name_has_one(build):
    """What pyproject.toml packs, each in its own group of the navigation; a module with _ is private."""
    packed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = set(packed["packages"]) - {"lab.recipe_files"}  # YAML
    assert packages == set(build.PACKAGES.values())
    pages, expected = build.pages(), set()
    for package in packages:
        folder = package.replace("lab", packed["package-dir"]["lab"]).replace(".", "/")
        expected |= {p.relative_to(ROOT).as_posix() for p in (ROOT / folder).glob("[!_]*.py")}
        assert pages[f"{folder}/__init__.py"] == f"api/{package}.md"
    old = {f"reference_math/{name}.py" for name in _renamed.MODULES}
    assert old < expected and expected - set(pages) == old
    of_modules = [page for page in pages.values() if page.startswith("api/")]
    assert len(set(of_modules)) == len(of_modules) == len(expected) - len(old) + len(packages)


def test_readme_links_to_pages_that_the_site_has(build):
    owner, name = build.GITHUB.split("/")[-2:]
    host = rf"https://{owner}\.github\.io/{name}/"
    linked = re.findall(rf"\({host}([^)#]+)", (ROOT / "README.md").read_text())
    there = {str(Path(page).with_suffix(".html")) for page in build.pages().values()}
    assert len(linked) >= 3 and set(linked) <= there | {"conformance.html", "rosetta.html"}


def test_every_picture_of_a_page_comes_with_the_site(build):
    """One that is left at the repository would be fetched, and the build stops at it."""
    shown = set()
    for file in build.pages():
        if file.endswith(".md"):
            for target in re.findall(
                r"!\[[^]]*\]\((?!https?:)([^)]+)\)", (ROOT / file).read_text()
            ):
                shown.add((ROOT / file).parent / target)
    assert len(shown) >= 2 and {path.resolve() for path in shown} <= set(build.pictures())


def test_formulas_in_the_outputs_of_puzzles_are_set():
    """By default an output's Markdown is plain, and $p$ stays as it is typed."""
    conf = runpy.run_path(str(ROOT / "docs/site/conf.py"))
    assert conf["nb_render_markdown_format"] == "myst"
    assert "dollarmath" in conf["myst_enable_extensions"]


def test_a_signature_shows_types_by_their_names():
    names = runpy.run_path(str(ROOT / "docs/site/conf.py"))["autodoc_type_aliases"]
    assert {"ArrayLike", "Array", "Completions", "Tensor"} <= set(names)


@pytest.mark.parametrize(
    "file, text, turned",
    [
        ("notebooks/02_dpo.ipynb", "[next](03_grpo.ipynb)", "[next](03_grpo.ipynb)"),
        ("README.md", "[math](reference_math/kl.py)", "[math](api/reference_math.kl.md)"),
        (
            "reference_math/README.md",
            "[01](../notebooks/01_sft.ipynb)",
            "[01](lessons/01_sft.ipynb)",
        ),
        ("README.md", "[x](https://arxiv.org/abs/1)", "[x](https://arxiv.org/abs/1)"),
        ("README.md", "[s](#set-up)", "[s](#set-up)"),
        (
            "notebooks/00_start_here.ipynb",
            "![a](diagrams/chain.svg)",
            "![a](../pictures/chain.svg)",
        ),
    ],
)
def test_a_link_into_the_project_becomes_one_into_the_site(build, file, text, turned):
    assert build.relinked(text, file) == turned


def test_a_link_to_a_file_without_a_page_goes_to_the_repository(build):
    text = build.relinked("[laws](../tests/laws/test_kl.py)", "reference_math/README.md")
    assert text == f"[laws]({build.GITHUB}/blob/main/tests/laws/test_kl.py)"
    with pytest.raises(ValueError, match="links to lost.md, which does not exist"):
        build.relinked("[x](lost.md)", "README.md")


def test_every_page_of_the_project_can_be_gathered(build):
    for file in build.PAGES:
        build.relinked((ROOT / file).read_text(), file)
    for path in build.lessons():
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "markdown":
                build.relinked("".join(cell["source"]), f"notebooks/{path.name}")


@pytest.mark.parametrize("found", [False, True])
def test_a_lesson_is_run_for_its_page_only_where_nothing_has_to_be_trained(
    build, monkeypatch, found
):
    monkeypatch.setattr(runs, "is_current", lambda recipe: found and recipe["stage"] == "grpo")
    ran = [path.stem[:2] for path in build.lessons() if build.can_run(path)]
    assert ran == ["05", "06", "07", *(["08"] if found else []), "10", "pu"]


def page(folder, name, body):
    (folder / name).write_text(f"<html><body>{body}</body></html>")


@pytest.mark.parametrize(
    "body, said",
    [
        ('<a href="b.html">b</a><img src="p.svg"><a href="b.html#here">c</a>', None),
        ('<a href="https://example.org">out</a>', None),
        ('<a href="lost.html">x</a>', "links to lost.html"),
        ('<a href="b.html#there">x</a>', "no such place"),
        ('<img src="lost.png">', "misses lost.png"),
        ('<script src="https://host/x.js"></script>', "fetches https://host/x.js"),
        ('<link rel="stylesheet" href="https://host/x.css">', "fetches https://host/x.css"),
    ],
)
def test_a_broken_link_and_a_page_that_would_fetch_are_named(build, tmp_path, body, said):
    page(tmp_path, "a.html", body)
    page(tmp_path, "b.html", '<h1 id="here">b</h1>')
    (tmp_path / "p.svg").write_text("<svg/>")
    lines = list(build.broken(tmp_path))
    assert (lines == []) if said is None else (len(lines) == 1 and said in lines[0])


def test_a_live_progress_bar_is_left_out_and_text_stays(build):
    assert build._is_widget({"data": {"application/vnd.jupyter.widget-view+json": {}}})
    assert not build._is_widget({"data": {"text/plain": "x"}}) and not build._is_widget(
        {"text": "x"}
    )


def test_what_the_site_needs_is_pinned():
    text = (ROOT / "pyproject.toml").read_text()
    named = re.search(r"^site = \[(.*)\]", text, re.MULTILINE)[1].replace('"', "").split(", ")
    pins = (ROOT / "constraints.txt").read_text()
    assert named and all(f"\n{name}==" in pins for name in named)
