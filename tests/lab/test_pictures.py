"""Pictures read in grey and at the size of a page: nothing differs by its colour alone, no letter is below 8 points."""

import ast
import itertools
import json
import re

import lab
import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from lab import (
    clinic,
    diagrams,
    distil,
    gallery,
    late,
    leaks,
    plots,
    programs,
    puzzles,
    ready,
    rlhf,
    small_numbers,
    three_ways,
)
from lab.intervals import wilson
from lab.puzzles import picture
from matplotlib.colors import to_rgb
from matplotlib.text import Text

LESSONS = sorted(diagrams.FOLDER.parent.glob("*.ipynb"))
SMALLEST = 8.0  # points
APART = 20.0  # of L*, which goes from 0 to 100: such greys are told apart at a glance


def grey(colour):
    """CIE L* of a colour: how light it is, all that a print in grey keeps of it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 116 * np.cbrt(np.dot((0.2126, 0.7152, 0.0722), linear)) - 16


def named(ax):
    """Whatever a legend of these axes could name: [(label, what it looks like without colour, colour)]."""
    found = [
        (
            line.get_label(),
            (line.get_linestyle(), line._dash_pattern, line.get_marker()),
            line.get_color(),
        )
        for line in ax.get_lines()
    ]
    for bars in ax.containers:
        if hasattr(bars, "patches"):
            patch = bars.patches[0]
            found.append((bars.get_label(), patch.get_hatch() or "", patch.get_facecolor()))
    for points in ax.collections:
        shape = points.get_paths()[0].vertices.tolist() if points.get_paths() else ()
        if len(points.get_facecolor()):
            found.append((points.get_label(), str(shape), points.get_facecolor()[0]))
    return [look for look in found if not look[0].startswith("_")]


def unreadable(figure, drawn=True):
    """What somebody cannot read who prints the figure in grey, as wide as a page."""
    if drawn:
        figure.canvas.draw()  # the labels of the axes come with it
    shrunk = min(1.0, picture.PAGE / figure.get_figwidth())
    faults = [
        f"{text.get_text()!r} has {text.get_fontsize() * shrunk:.1f} points"
        for text in figure.findobj(Text)
        if text.get_text().strip() and text.get_fontsize() * shrunk < SMALLEST
    ]
    for ax in figure.axes:
        for (one, its, a), (other, of_other, b) in itertools.combinations(named(ax), 2):
            if its == of_other and abs(grey(a) - grey(b)) < APART:
                faults.append(f"{one!r} and {other!r} differ by their colour alone")
    return faults


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is drawn meanwhile, those too that would be shown or saved at once."""
    plt.close("all")
    kept = []
    monkeypatch.setattr(plots, "show_with_alt", lambda figure, words: kept.append(figure))
    monkeypatch.setattr(plt, "savefig", lambda *args, **options: None)
    monkeypatch.setattr(plt, "close", lambda *args: None)
    yield lambda: kept or [plt.figure(number) for number in plt.get_fignums()]
    monkeypatch.undo()
    plt.close("all")


SCORE = {"heldout_n": 400, "heldout_ci95": wilson(100, 400), "heldout_accuracy": 0.25}
SCORE |= {"format_rate": 1.0, "preference_rate": 0.5}
SIX = {f"line {i}": [0.1 * i, 1.0] for i in range(6)}
LOG = [{"step": step, "reward": 1.0 * step, "entropy": 0.1} for step in range(3)]
TOKENS = (list("a long text of more than fifty tokens, each in its own cell"), [0.5] * 59)
ROWS = [
    {"step": step, "temperature": t, "proxy": 1.0, "right": 0.5}
    for step, t in itertools.product(leaks.STEPS, leaks.TEMPERATURES)
]
POINT = distil.Point(0, 0, 0, {1.0: [True, False], 0.0: [True, True]}, [True, False], 0.5)
END = {"kl": 1.0, "reward": 2.0}
DRAWN = {
    "lines": lambda: plots.lines([0, 1], SIX, "six"),
    "lines with markers": lambda: plots.lines([0, 1], SIX, "six", marker="o"),
    "curves": lambda: plots.curves(LOG, ["reward", "entropy"]),
    "bars": lambda: plots.bars({"before": (30, 100), "after": (0, 100)}, "two"),
    "scores": lambda: plots.scores(dict.fromkeys(("base", "SFT", "DPO", "GRPO"), SCORE), "four"),
    "beside": lambda: plots.beside({"one": LOG, "two": LOG}, ["reward", "entropy"], "two runs"),
    "crossing": lambda: plots.crossing(
        [{"parameters": p, "generate_s": p / 1e6, "vllm_s": 1.0} for p in (1e6, 1e7)], 3e6
    ),
    "strip": lambda: plots.strip({"a": TOKENS, "b": TOKENS}, "a strip"),
    "where each ends": lambda: gallery.ends_picture(
        {source: (source, END) for source in gallery.LOOKS}, {"a": [(0, 0), (1, 1)]}, "ends"
    ),
    "what moved": lambda: gallery.moved_picture({"DPO": {"chosen": 1, "rejected": -1}}, "moved"),
    "proxy and truth": lambda: leaks.draw({"naive": (ROWS, 2), "kit": (ROWS, 2)}, "leaks"),
    "worlds over the updates": lambda: late.draw_runs(
        dict.fromkeys("abcd", late.Run([0, 10], np.ones((2, 3)), np.ones((2, 3)))), "runs"
    ),
    "bias and spread": lambda: late.draw_errors(
        [1, 4],
        {way: [dict.fromkeys(("bias", "spread", "error"), 1.0)] * 2 for way in late.WAYS},
        "errors",
    ),
    "the clinic": lambda: clinic.sheet(
        dict.fromkeys(clinic.CASES, (clinic.Finding(1.0, {}, []), clinic.Finding(0.5, {}, []))),
        "ten",
    ),
    "errors of four bits": lambda: small_numbers.draw_errors(small_numbers.drawn(640), "errors"),
    "nats of four bits": lambda: small_numbers.draw_bits(
        {"NF4": (4.5, [1.0, 2.0]), "equal steps": (4.5, [1.0]), "5 bits": (5.5, [0.1])}, "bits"
    ),
    "rates of ranks": lambda: small_numbers.draw_rates(
        [{"rank": r, "rate": x, "kl": x} for r in small_numbers.RATES for x in (1e-3, 1e-2)],
        "rates",
    ),
    "distillation": lambda: distil.draw(
        {way: [POINT, POINT._replace(completions=320)] for way in distil.RATES}, POINT, "four"
    ),
    "proxy and gold": lambda: rlhf.draw_curves(
        dict.fromkeys("abc", rlhf.Curve((1, 2), *3 * (np.ones((4, 2)),))),
        "curves",
        {key: [{"temperature": 1.0, "kl": 1.0, "proxy": 1.0, "gold": 0.5}] for key in "de"},
    ),
    "programs": lambda: programs.draw(
        {name: {"advantage": 1, "push": 2} for name in programs.LIBRARIES}
    ),
    "the README's stages": ready.draw,
    "the README's three ways": lambda: three_ways.draw(json.loads(three_ways_record()), None),
}


def three_ways_record():
    return (diagrams.FOLDER.parent / "lab" / "three_ways.json").read_text()


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_reads_in_grey_and_on_a_page(name, figures):
    DRAWN[name]()
    assert figures() and not [fault for figure in figures() for fault in unreadable(figure)]


@pytest.mark.parametrize("fault", ["colour", "bars", "letters", "width"])
def test_a_picture_that_does_not_is_found(fault):
    figure, ax = plt.subplots(figsize=(20 if fault == "width" else 6, 3))
    if fault == "bars":
        for x, colour in enumerate(plots.COLOURS[:2]):
            ax.bar(x, 1, color=colour, label=str(x))
    ax.plot([0, 1], color="#0072B2", label="one")
    ax.plot([1, 0], "-" if fault == "colour" else "--", color="#D55E00", label="two")
    ax.set_title("a title", fontsize=7 if fault == "letters" else 10)
    assert unreadable(figure)
    plt.close(figure)


@pytest.mark.parametrize("puzzle", puzzles.ALL.values(), ids=list(puzzles.ALL))
def test_the_heat_maps_of_a_puzzle_fit_on_a_page(puzzle, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(picture, "show", lambda panels, title="": asked.append((panels, title)))
    puzzle.show()
    for panels, title in asked:
        shown = [
            (name, rows) for name, array in panels if (rows := picture._rows(array)) is not None
        ]
        if shown:
            figure = picture.figure_of(shown, title)
            assert figure.get_figwidth() <= picture.PAGE and not unreadable(figure, drawn=False)


def test_shades_of_a_heat_map_and_kinds_of_a_diagram_differ_in_grey():
    steps = [grey(shade) for shade in matplotlib.colormaps["cividis"](np.linspace(0, 1, 9))]
    assert min(np.diff(steps)) > 5  # lighter with every step, so the order is read in grey too
    for one, other in itertools.combinations(map(grey, diagrams.FILL.values()), 2):
        assert abs(one - other) > 8


def test_whoever_draws_loads_what_gives_a_picture_its_text():
    """`lab.plots` describes each figure that a notebook shows, once it is loaded."""
    modules = [*(diagrams.FOLDER.parent / "lab").rglob("*.py"), *LESSONS]
    drawing = {p.name: p.read_text(encoding="utf-8") for p in modules if p.name != "plots.py"}
    drawing = {name: text for name, text in drawing.items() if "plt.subplots(" in text}
    assert len(drawing) >= 5
    assert [name for name, text in drawing.items() if not re.search(r"\bplots\b", text)] == []


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_what_a_lesson_draws_by_itself_keeps_to_the_size_of_a_page(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    assert all(float(width) <= picture.PAGE for width in re.findall(r"figsize=\(([\d.]+)", text))
    assert all(float(size) >= SMALLEST for size in re.findall(r"fontsize=([\d.]+)", text))


def drawing_cell(name, word):
    """The one code cell of a lesson that has a word in it."""
    cells = json.loads((diagrams.FOLDER.parent / name).read_text(encoding="utf-8"))["cells"]
    (code,) = [s for c in cells if c["cell_type"] == "code" and word in (s := "".join(c["source"]))]
    ast.parse(code)
    return code


class Guess:
    options = ("nearly all", "some")

    def reveal(self, *said):
        pass


def test_the_two_pictures_that_lessons_draw_line_by_line_read_in_grey(figures):
    runs = {how: [[0.3, 0.9]] * 3 for how in ("no baseline", "with a baseline")}
    way = np.full((2, 3), 1 / 3)
    ways = dict.fromkeys(("k1", "k2", "k3"), way)
    scopes = {
        "06_policy_gradient.ipynb": {"lab": lab, "runs": runs, "without": Guess()},
        "07_kl.ipynb": {"lab": lab, "np": np, "ways": ways, "reference": way[0]},
    }
    for name, scope in scopes.items():
        exec(drawing_cell(name, "plt.subplots"), scope)  # noqa: S102 - the notebook's own cell
    assert len(figures()) == 2 and not [fault for f in figures() for fault in unreadable(f)]
