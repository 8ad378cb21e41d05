"""Draw the notebooks' pictures. A title states the claim; each function draws, and returns nothing.

`ax` draws into an existing axes; without it a figure of its own is made. What differs in meaning differs in more
than its colour (dashes, markers, hatches, a place on the axis), and no letter is smaller than 8 points on a page.

Proof     tests/lab/test_pictures.py, tests/lab/test_show_plots.py
"""

import base64
import html
import io
import itertools
import re
import sys

import matplotlib.pyplot as plt

from lab.intervals import wilson
from lab.puzzles.picture import PAGE, readable_on

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"]  # Okabe and Ito
DASHES = ["-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (10, 3))]
HATCHES = ["", "//", "xx", "\\\\", "||", "--"]
ACROSS = 32  # tokens on a line of `strip`
RATES = {
    "heldout_accuracy": "right answer",
    "lenient_accuracy": "last number right",
    "format_rate": "right format",
    "preference_rate": "terse style",
}


def lines(x, ys, title="", xlabel="step", ylabel="", ax=None, marker="", log=False):
    """Draw lines over one axis: ys = {label: values}; None in the values is a gap."""
    ax = _axes(ax)
    for (colour, dashes, _), (label, values) in zip(_looks(), ys.items()):
        kept = [(a, b) for a, b in zip(x, values) if b is not None]
        style = {"color": colour, "linestyle": dashes, "marker": marker, "linewidth": 1.8}
        ax.plot(*zip(*kept), label=label, **style)
    if len(ys) > 1:
        ax.legend(frameon=False, handlelength=3.5)
    if log:
        ax.set_yscale("log")
    _finish(ax, title, xlabel, ylabel)


def curves(history, keys, title="", ncols=3):
    """Draw one small panel for each metric of a run's history.

    history   a trainer's log, `lab.runs.history(stage)` or `trainer.state.log_history`
    keys      {logged name: what it is called here}; a list shows the names as they are
    """
    keys = keys if isinstance(keys, dict) else {key: key for key in keys}
    missing = [key for key in keys if not any(key in entry for entry in history)]
    if missing:
        logged = sorted({key for entry in history for key in entry})
        raise ValueError(f"the run logged no {missing}; it logged: {', '.join(logged)}")
    rows, ncols = -(-len(keys) // ncols), min(ncols, len(keys))
    across = min(4.2, PAGE / ncols)
    _, panels = plt.subplots(rows, ncols, figsize=(across * ncols, 2.5 * rows), squeeze=False)
    for ax, (key, label) in zip(panels.flat, keys.items()):
        logged = [entry for entry in history if key in entry]
        steps, values = [e["step"] for e in logged], [e[key] for e in logged]
        ax.plot(steps, values, color=COLOURS[0], linewidth=1.8)
        _finish(ax, label, "step", "", panel=True)
    for ax in panels.flat[len(keys) :]:
        ax.set_axis_off()
    plt.gcf().suptitle(title, fontweight="bold")
    plt.tight_layout()


def bars(counts, title="", ylabel="share of problems", ax=None):
    """Draw shares with Wilson 95% intervals: counts = {label: (successes, n)}."""
    ax = _axes(ax)
    for i, (successes, n) in enumerate(counts.values()):
        _bar(ax, i, 0.6, successes, n, COLOURS[i % len(COLOURS)])
    ax.set_xticks(range(len(counts)), list(counts))
    ax.set_ylim(0, 1.08)
    _finish(ax, title, "", ylabel)


def scores(named, title="", rates=RATES, ax=None):
    """Draw accuracy, format and style side by side, with Wilson 95% intervals.

    named   {name: a manifest, or what `lab.evaluate.score` returns}
    rates   {key: what it is called}; those that no score has are left out
    """
    ax = _axes(ax, width=8.5)
    rates = {key: label for key, label in rates.items() if all(key in s for s in named.values())}
    width = 0.8 / len(named)
    for i, ((colour, _, hatch), (name, score)) in enumerate(zip(_looks(), named.items())):
        for j, rate in enumerate(rates):
            n = score["heldout_n"]
            where = j + (i - (len(named) - 1) / 2) * width
            label = None if j else name
            _bar(ax, where, width * 0.9, round(score[rate] * n), n, colour, label, hatch)
    ax.set_xticks(range(len(rates)), list(rates.values()))
    ax.set_ylim(0, 1.08)
    legend = {"frameon": False, "handleheight": 1.4, "handlelength": 2.4}
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), **legend)
    _finish(ax, title, "", "share of problems, 95% interval")


def beside(runs, keys, title=""):
    """Draw some metrics of several runs, one panel per metric: runs = {label: history}."""
    across = min(4.2, PAGE / len(keys))
    _, panels = plt.subplots(1, len(keys), figsize=(across * len(keys), 3.2), squeeze=False)
    for ax, key in zip(panels.flat, keys):
        for (colour, dashes, _), (label, history) in zip(_looks(), runs.items()):
            logged = [entry for entry in history if key in entry]
            steps, values = [e["step"] for e in logged], [e[key] for e in logged]
            ax.plot(steps, values, label=label, color=colour, linestyle=dashes, linewidth=1.8)
        _finish(ax, key, "step", "", panel=True)
    panels.flat[0].legend(frameon=False, handlelength=3.5)
    plt.gcf().suptitle(title, fontweight="bold")
    plt.tight_layout()


def crossing(rows, parameters, ax=None):
    """Draw the seconds of model.generate and of vLLM by the model's size, and where they meet.

    rows         of `lab.speed.measure`
    parameters   where they meet, as `lab.speed.crossing` has it, or None
    """
    ax = _axes(ax)
    sizes = [row["parameters"] / 1e6 for row in rows]
    by_way = {"model.generate": "generate_s", "vLLM": "vllm_s"}
    if parameters:
        ax.axvline(parameters / 1e6, color="grey", linestyle=":")
        title = f"On this machine vLLM pays from about {parameters / 1e6:.1f} million parameters"
    else:
        faster = min(by_way, key=lambda way: rows[-1][by_way[way]])
        title = f"{faster} is the faster at each of these sizes: they do not cross"
    seconds = {way: [row[key] for row in rows] for way, key in by_way.items()}
    ax.set_xscale("log")
    lines(sizes, seconds, title, "million parameters", "seconds", ax=ax, marker="o", log=True)


def strip(rows, title="", label="probability", low=0.0, high=1.0, cmap="cividis"):
    """Draw a row of cells for each text: every token written out, coloured by its value.

    rows   {name: (tokens, values)}; the rows may differ in length, and a long one goes on below
    """
    lines = {
        (name, at): (tokens[at : at + ACROSS], values[at : at + ACROSS])
        for name, (tokens, values) in rows.items()
        for at in range(0, len(tokens), ACROSS)
    }
    longest = max(len(tokens) for tokens, _ in lines.values())
    _, ax = plt.subplots(figsize=(max(7.0, 0.3 * longest), 0.85 * len(lines) + 1.2))
    colours = plt.get_cmap(cmap)
    for y, (tokens, values) in enumerate(lines.values()):
        for x, (token, value) in enumerate(zip(tokens, values)):
            shade = colours((value - low) / (high - low))
            ax.add_patch(plt.Rectangle((x, y + 0.05), 1, 0.9, color=shade, linewidth=0))
            shown = token.replace("\n", "⏎").replace(" ", "·")
            shown = re.sub(r"^<\|?(.+?)\|?>$", r"‹\1", shown)  # a tag, short enough for 8 points
            style = {"fontsize": 10 if len(shown) == 1 else 8, "color": readable_on(shade)}
            style["rotation"] = 0 if len(shown) == 1 else 90
            ax.text(x + 0.5, y + 0.5, shown, ha="center", va="center", **style)
    ax.set(xlim=(0, longest), ylim=(len(lines), 0), xticks=[])
    ax.set_yticks([y + 0.5 for y in range(len(lines))], ["" if at else n for n, at in lines])
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)
    scale = plt.cm.ScalarMappable(plt.Normalize(low, high), cmap)
    plt.colorbar(scale, ax=ax, label=label, fraction=0.02, pad=0.01)
    ax.set_title(title, loc="left", fontweight="bold")
    plt.tight_layout()


def described(figure):
    """Describe a figure for whoever does not see it: of each panel its title, its axes and what is drawn, in one line."""
    said = [figure.get_suptitle()]
    for ax in figure.axes:
        if not ax.axison and not ax.get_title(loc="left"):
            continue
        titles = (ax.get_title(loc="left"), ax.get_title(), ax.get_title(loc="right"))
        parts = [next(filter(None, titles), "a panel")]
        parts += [f"{ax.get_xlabel()} to the right"] if ax.get_xlabel() else []
        parts += [f"{ax.get_ylabel()} upwards"] if ax.get_ylabel() else []
        drawn = [_of_a_line(line) for line in ax.get_lines() if line.get_marker() != "_"]
        labels = [text.get_text() for text in ax.get_xticklabels() if text.get_text()]
        shares = [text.get_text() for text in ax.texts if text.get_text().strip()]
        if ax.containers and shares:
            drawn = [f"bars over {', '.join(labels)}: {', '.join(shares)}".replace("\n", " ")]
        said.append("; ".join([*parts, *filter(None, drawn)]))
    return ". ".join(filter(None, said)) + "."


def _of_a_line(line):
    """A labelled line by its ends."""
    values = line.get_ydata()
    if line.get_label().startswith("_") or not len(values):
        return ""
    return f"{line.get_label()} from {float(values[0]):.3g} to {float(values[-1]):.3g}"


def with_alt_texts():
    """Give each figure that a notebook shows by itself the text of `described`, as `alt` in the output's metadata."""
    try:
        from matplotlib_inline import backend_inline

        fetch = backend_inline._fetch_figure_metadata
    except (
        ImportError,
        AttributeError,
    ):  # another release keeps it elsewhere: pictures without a text
        return
    if not hasattr(fetch, "with_alt"):

        def metadata(figure):
            return (fetch(figure) or {}) | {"alt": described(figure)}

        metadata.with_alt = True
        backend_inline._fetch_figure_metadata = metadata


if "ipykernel" in sys.modules:
    with_alt_texts()


def show_with_alt(figure, words):
    """Show a figure in a notebook with a text for whoever does not see it, and close it; print the text elsewhere."""
    if "ipykernel" not in sys.modules:
        print(words)
    else:
        from IPython.display import HTML, display

        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=100)
        png, alt = base64.b64encode(file.getvalue()).decode(), html.escape(words, quote=True)
        display(
            HTML(f'<img style="max-width: 100%" alt="{alt}" src="data:image/png;base64,{png}">')
        )
    plt.close(figure)


def _bar(ax, x, width, successes, n, colour, label=None, hatch=""):
    share, (low, high) = successes / n, wilson(successes, n)
    ax.bar(x, share, width, color=colour, label=label, hatch=hatch, edgecolor="white", linewidth=0)
    error = [[max(0.0, share - low)], [max(0.0, high - share)]]
    ax.errorbar(x, share, yerr=error, color="black", capsize=4, linewidth=1.2)
    ax.text(x, min(high + 0.02, 1.03), f"{share:.0%}", ha="center", va="bottom", fontsize=9)


def _axes(ax, width=6.5):
    return ax if ax is not None else plt.subplots(figsize=(width, 3.6))[1]


def _looks():
    """Colour, dashes and hatch of the first, second, ... thing: told apart without their colours too."""
    return itertools.cycle(zip(COLOURS, DASHES, HATCHES))


def _finish(ax, title, xlabel, ylabel, panel=False):
    if panel:  # one of several below a common title
        ax.set_title(title, loc="left", fontsize=9.5)
    else:
        ax.set_title(title, loc="left", fontweight="bold", fontsize=11)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(axis="y", alpha=0.3)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
