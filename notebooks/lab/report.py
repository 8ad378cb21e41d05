"""Report what was learnt, stage by stage: a table for the terminal and runs/report.html.

python -m lab.report                                       what stands in the profile of this machine
LAB_PROFILE=laptop python -m lab.report --train            first every stage that is not up to date
... --train --out laptop.json                              and its scores, with processor and versions
"""

import argparse
import base64
import html
import io
import json
import shlex
import sys
from pathlib import Path

import matplotlib

from lab import recipes, runs

COLUMNS = ("stage", "accuracy", "95% interval", "last number right", "greedy", "greedy, with a carry",
           "pass@16", "format", "terse style", "seconds", "peak MiB")  # fmt: skip
CURVES = {
    "base": ["loss"],
    "sft": ["loss", "mean_token_accuracy"],
    "dpo": ["loss", "rewards/margins", "rewards/accuracies"],
    "grpo": ["reward", "entropy", "frac_reward_zero_std", "sampling/gap_mean"],
}


def rows():
    """Make one row per finished stage, in the chain's order, without the columns that none of them fills."""
    found = [_row(m) for stage in recipes.STAGES if (m := runs.manifest(stage))]
    filled = [column for column in COLUMNS if any(column in row for row in found)]
    return [{column: row.get(column, "-") for column in filled} for row in found]


def _row(m):
    row = {"stage": m["stage"], "seconds": f"{m['wall_s']:.0f}", "peak MiB": f"{m['peak_rss_mb']}"}
    rates = {
        "accuracy": m.get("heldout_accuracy"),
        "last number right": m.get("lenient_accuracy"),
        "greedy": m.get("greedy_accuracy"),
        "pass@16": m["pass_at_k"] if m.get("pass_k") == 16 else None,
        "format": m.get("format_rate"),
        "terse style": m.get("preference_rate"),
    }
    if "heldout_ci95" in m:
        row["95% interval"] = "{:.1%} to {:.1%}".format(*m["heldout_ci95"])
    if carry := m.get("greedy_carry", {}).get("n"):
        rates["greedy, with a carry"] = m["greedy_carry"]["correct"] / carry
    return row | {name: f"{rate:.1%}" for name, rate in rates.items() if rate is not None}


def table():
    """Return the rows as Markdown, which a terminal shows as well."""
    found = rows()
    cells = [tuple(found[0]) if found else COLUMNS, *(tuple(row.values()) for row in found)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def curves(stage):
    """Return the stage's logged metrics as one PNG, or None if it logged none of them."""
    from lab import plots

    history = runs.history(stage)
    logged = [key for key in CURVES[stage] if any(key in entry for entry in history)]
    if not logged:
        return None
    import matplotlib.pyplot as plt

    with matplotlib.rc_context({"figure.dpi": 90}):
        plots.curves(history, logged, ncols=len(logged))
        image = io.BytesIO()
        plt.savefig(image, format="png", bbox_inches="tight")
        plt.close()
    return image.getvalue()


def write():
    """Write runs/report.html, one file with everything in it; returns its path."""
    matplotlib.use("Agg")
    parts = [_table_html(), "<h2>Curves</h2>"]
    for stage in recipes.STAGES:
        if runs.manifest(stage) and (image := curves(stage)):
            data = base64.b64encode(image).decode()
            parts.append(f'<h3>{stage}</h3><img alt="{stage}" src="data:image/png;base64,{data}">')
    parts.append("<h2>Lessons, executed</h2><ul>")
    for copy in sorted(runs.path("notebooks").glob("*.ipynb")):
        parts.append(f'<li><a href="notebooks/{copy.name}">{html.escape(copy.stem)}</a></li>')
    parts.append("</ul><h2>Manifests</h2>")
    for stage in recipes.STAGES:
        file = runs.path(stage) / "manifest.json"
        if file.exists():
            text = html.escape(file.read_text())
            parts.append(f"<details><summary>{stage}</summary><pre>{text}</pre></details>")
    target = runs.root() / "report.html"
    target.write_text(PAGE.format(body="\n".join(parts)))
    return target


def _table_html():
    found = rows()
    head = "".join(f"<th>{html.escape(c)}</th>" for c in (found[0] if found else COLUMNS))
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(v)}</td>" for v in row.values()) + "</tr>"
        for row in found
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def record(command):
    """Return the scores of every finished stage, with the command, processor and versions that gave them."""
    from lab import pace

    kept = (
        "recipe_hash",
        "base_model",
        "wall_s",
        "peak_rss_mb",
        "gpu",
        "peak_gpu_mb",
        "commit",
        "seed",
    )
    stages = {}
    for stage in recipes.STAGES:
        if m := runs.manifest(stage):
            scores = {k: v for k, v in m.items() if k.startswith(("heldout", "greedy", "pass_"))}
            scores |= {k: m[k] for k in ("lenient_accuracy", "format_rate", *kept) if k in m}
            stages[stage] = scores
    found = {"command": command, "profile": recipes.profile(), **pace.processor()}
    return found | {"versions": runs.versions(), "stages": stages}


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m lab.report", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--train", action="store_true", help="first make what is not up to date")
    parser.add_argument("--seed", type=int, help="with --train: instead of the recipes' own")
    parser.add_argument("--out", type=Path, help="write the scores as JSON too")
    args = parser.parse_args(argv)
    if args.train:
        from lab import train

        for stage in recipes.STAGES:
            train.ensure(stage, seed=args.seed, long_runs=True)
    print(f"\n{table()}\n\nreport: {runs.shown(write())}")
    if args.out:
        command = shlex.join(["python", "-m", "lab.report", *(argv or sys.argv[1:])])
        args.out.write_text(json.dumps(record(command), indent=1) + "\n")
        print(f"scores: {args.out}")


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>posttraining-lab: what was learnt</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse }} th, td {{ padding: .3rem .8rem; border-bottom: 1px solid #ccc }}
th {{ text-align: left }} td {{ font-variant-numeric: tabular-nums }} img {{ max-width: 100% }}
</style></head><body>
<h1>What was learnt</h1>
<p>Held-out problems that nothing trained on, one completion each. Accuracy, format and style: sampled at
temperature 1, with the Wilson 95% interval. Greedy: the same problems at temperature 0, all of them and those
with a carry. pass@16: a right answer among 16 samples, on 100 of the problems.</p>
{body}
</body></html>
"""


if __name__ == "__main__":
    main()
