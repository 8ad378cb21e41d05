"""Show what a notebook shows besides pictures: its set-up, a function's source, a table, texts."""

import html
import inspect
import logging
import os
import sys
import warnings
from pathlib import Path

from IPython.display import HTML, display
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

STYLE = "font-family: monospace; white-space: pre-wrap; text-align: left"


def setup(seed=0):
    """Quiet the libraries, seed every generator, say what runs here; returns the profile's name.

    On Colab it installs what the kit needs first, before anything of that is imported.
    """
    if "google.colab" in sys.modules:
        from lab import install

        install.install_here()
    quiet()
    from transformers import set_seed

    from lab import recipes, runs, vllm

    set_seed(seed)
    profile = recipes.profile()
    found = [f"{name} {version}" for name, version in runs.versions().items()]
    print(f"profile {profile}, seed {seed}, vLLM: {'yes' if vllm.available() else 'no'}")
    print(", ".join(found))
    return profile


def quiet():
    """Allow one progress bar at a time, and no warning that a reader of a lesson cannot act on."""
    import datasets
    import transformers

    warnings.filterwarnings("ignore")
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("accelerate", "trl", "peft", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)


def source(*functions):
    """Show functions as they are in the package: never retyped, so never out of date."""
    blocks = []
    for function in functions:
        lines, first = inspect.getsourcelines(function)
        file = Path(inspect.getsourcefile(function))
        header = f"# {file.parent.name}/{file.name}, line {first}\n"
        blocks.append(header + inspect.cleandoc("\n" + "".join(lines)))
    code = "\n\n".join(blocks)
    display_both(highlight(code, PythonLexer(), HtmlFormatter(noclasses=True)), code)


def table(rows, columns=None, title=None):
    """Show a list of dicts as a table.

    rows      one dict per row; floats are shown with three digits, (low, high) as an interval
    columns   {key: heading}, in order; default: the first row's own keys
    """
    rows = list(rows)
    columns = columns or {key: key for key in rows[0]}
    cells = [[_cell(row.get(key)) for key in columns] for row in rows]
    display_both(_html_table(columns.values(), cells, title), _text_table(columns.values(), cells))


def markdown(rows):
    """Return a list of dicts with the same keys as a table in Markdown."""
    cells = [list(rows[0]), ["---"] * len(rows[0]), *(map(str, row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def texts(samples, title=None):
    """Show texts side by side, with their line breaks: {heading: text}, or a list of such dicts."""
    samples = [samples] if isinstance(samples, dict) else list(samples)
    columns = list(samples[0])
    cells = [[str(sample[key]) for key in columns] for sample in samples]
    display_both(_html_table(columns, cells, title), _text_table(columns, cells))


def rows(dataset, n=4):
    """Show the first rows of a data set for SFT, DPO or GRPO: whatever texts they have."""
    texts([_row_texts(dataset[i]) for i in range(min(n, len(dataset)))])


def _row_texts(row):
    if "messages" in row:
        return {"messages": "\n".join(f"[{m['role']}] {m['content']}" for m in row["messages"])}
    parts = [
        key for key in ("prompt", "completion", "chosen", "rejected", "solution") if key in row
    ]
    return {
        key: row[key] if isinstance(row[key], str) else row[key][-1]["content"] for key in parts
    }


def interval(scores):
    """Return the held-out accuracy of a manifest or of `evaluate`, as people write it.

    >>> interval({"heldout_accuracy": 0.5, "heldout_ci95": [0.46, 0.54]})
    '50.0% [46.0%, 54.0%]'
    """
    low, high = scores["heldout_ci95"]
    return f"{scores['heldout_accuracy']:.1%} [{low:.1%}, {high:.1%}]"


def scores(named, title=None):
    """Show scores side by side: {name: a manifest, or what `lab.evaluate.score` returns}."""
    rates = {
        "lenient_accuracy": "last number right",
        "greedy_accuracy": "greedy",
        "format_rate": "format",
        "preference_rate": "terse style",
    }
    table(
        [
            {"": name, "held-out accuracy [95%]": interval(score)}
            | {title: f"{score[rate]:.1%}" for rate, title in rates.items() if rate in score}
            | {"problems": score["heldout_n"]}
            for name, score in named.items()
        ],
        title=title,
    )


def paired(**verdicts):
    """Show what changed between two models on the same problems: paired(SFT=(N,) bools, DPO=(N,) bools)."""
    from lab import intervals

    (old, before), (new, after) = verdicts.items()
    found = intervals.paired(before, after)
    low, high = found["ci95"]
    row = {
        "right at temperature 0, only": f"{old}: {found['lost']}, {new}: {found['gained']}",
        "of": found["n"],
        f"{new} - {old} [95%]": f"{found['difference']:+.1%} [{low:+.1%}, {high:+.1%}]",
        "p (McNemar)": found["p"],
    }
    table([row])


def display_both(as_html, as_text):
    """Show HTML in a notebook, text in a terminal."""
    if "ipykernel" in sys.modules:
        display(HTML(as_html))
    else:
        print(as_text)


def _cell(value):
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, tuple):
        return "[" + ", ".join(_cell(v) for v in value) + "]"
    return "" if value is None else str(value)


def _html_table(headings, cells, title):
    def row(tag, values):
        inner = "".join(f'<{tag} style="{STYLE}">{html.escape(v)}</{tag}>' for v in values)
        return f"<tr>{inner}</tr>"

    caption = f"<caption><b>{html.escape(title)}</b></caption>" if title else ""
    body = "".join(row("td", values) for values in cells)
    return f"<table>{caption}<thead>{row('th', headings)}</thead><tbody>{body}</tbody></table>"


def _text_table(headings, cells):
    lines = [list(headings)] + [[cell.replace("\n", "\\n") for cell in row] for row in cells]
    widths = [max(len(row[i]) for row in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in lines)
