"""Arrays beside each other as heat maps, every number written out: inputs, target, yours."""

import base64
import html
import io
import sys

import numpy as np

CELL = (0.66, 0.36)  # inches of one number, across and down
LARGEST = 240  # numbers in one panel: more cannot be read
PAGE = 10.0  # inches across a page: what is wider is shrunk to it, and its letters with it


def is_number(value):
    """Whether a value is one number, which a title can hold."""
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def show(panels, title=""):
    """Draw the panels that can be drawn, in a notebook; print the small ones elsewhere.

    panels   [(name, array)]; an array of three axes is laid out as rows; texts are left out
    """
    shown = [(name, flat) for name, array in panels if (flat := _rows(array)) is not None]
    if not shown:
        return
    if "ipykernel" not in sys.modules:
        print(title)
        for name, rows in shown:
            print(f"{name}:\n{np.array2string(np.squeeze(rows), precision=4, threshold=60)}")
        return
    from IPython.display import HTML, display

    words = "; ".join(f"{name} has shape {np.shape(rows)}" for name, rows in shown)
    png = base64.b64encode(_png(shown, title)).decode()
    alt = html.escape(f"Heat maps of {title}. {words}.", quote=True)
    display(HTML(f'<img style="max-width: 100%" alt="{alt}" src="data:image/png;base64,{png}">'))


def _rows(array):
    """An array as rows of numbers, or None for what has no picture."""
    try:
        array = np.asarray(array, float)
    except (TypeError, ValueError):
        return None
    if array.size == 0 or array.size > LARGEST:
        return None
    return array.reshape(-1, array.shape[-1]) if array.ndim > 1 else array.reshape(1, -1)


def _png(panels, title):
    file = io.BytesIO()
    figure_of(panels, title).savefig(file, format="png", dpi=100)
    return file.getvalue()


def figure_of(panels, title):
    """Return the figure of `show`: as many panels beside each other as a page has room for."""
    from matplotlib.figure import Figure

    lines = _lines(panels)
    across = max(sum(width for *_, width in line) for line in lines)
    heights = [CELL[1] * max(len(rows) for _, rows, _ in line) + 0.5 for line in lines]
    figure = Figure(figsize=(across, sum(heights) + 0.3), layout="constrained")
    parts = figure.subfigures(len(lines), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, line in zip(parts, lines):
        widths = [width for *_, width in line]
        widths += [across - sum(widths)] if sum(widths) < across else []
        axes = part.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
        for ax, (name, rows, _) in zip(axes, line):
            _heat(ax, name, rows)
        for ax in axes[len(line) :]:
            ax.set_axis_off()
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure


def _lines(panels):
    """[[(name, rows, inches)]]: the panels line by line, no line wider than a page."""
    lines = [[]]
    for name, rows in panels:
        width = max(1.4, _across(rows) * rows.shape[1]) + 0.6
        if lines[-1] and sum(w for *_, w in lines[-1]) + width > PAGE:
            lines.append([])
        lines[-1].append((name, rows, width))
    return lines


def _across(rows):
    """Inches of one number; a long row of short numbers gets less."""
    return CELL[0] if rows.shape[1] <= 12 else CELL[0] / 2


def _heat(ax, name, rows):
    from matplotlib import colormaps

    seen = rows[np.isfinite(rows)]
    low, high = (seen.min(), seen.max()) if seen.size else (0.0, 1.0)
    within = np.clip(
        np.nan_to_num(rows, nan=low), low, high
    )  # an infinite one has the end's colour
    shades = colormaps["cividis"]((within - low) / ((high - low) or 1.0))
    ax.imshow(shades, aspect=CELL[1] / _across(rows))
    ax.set_anchor("NW")
    for (y, x), value in np.ndenumerate(rows):
        ax.text(
            x,
            y,
            f"{value:.3g}",
            ha="center",
            va="center",
            fontsize=8,
            color=readable_on(shades[y, x]),
        )
    heavy = "bold" if name in ("target", "yours") else "normal"
    ax.set_title(name, fontsize=9, fontweight=heavy, loc="left")
    ax.set(xticks=[], yticks=[])


def readable_on(shade):
    """Black or white text, whichever has the higher contrast on a colour (WCAG's luminance)."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in shade[:3]]
    luminance = sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear))
    return "black" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "white"
