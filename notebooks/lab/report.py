"""What was learnt, stage by stage: a table for the terminal and runs/report.html."""

import base64
import html
import io

import matplotlib

from lab import recipes, runs

COLUMNS = ("stage", "accuracy", "95% interval", "greedy", "greedy, with a carry", "pass@16", "format",
           "terse style", "seconds", "peak MiB")  # fmt: skip
CURVES = {
    "base": ["loss"],
    "sft": ["loss", "mean_token_accuracy"],
    "dpo": ["loss", "rewards/margins", "rewards/accuracies"],
    "grpo": ["reward", "entropy", "frac_reward_zero_std", "sampling/gap_mean"],
}


def rows():
    """One row a finished stage, in the chain's order; stages without scores leave them out."""
    found = [m for stage in recipes.STAGES if (m := runs.manifest(stage))]
    return [dict(zip(COLUMNS, _row(manifest))) for manifest in found]


def _row(m):
    scores = ["-"] * 7
    if "heldout_accuracy" in m:
        low, high = m["heldout_ci95"]
        scores = [f"{m['heldout_accuracy']:.1%}", f"{low:.1%} to {high:.1%}"]
        carry = m.get("greedy_carry", {"n": 0})
        scores += [f"{m['greedy_accuracy']:.1%}" if "greedy_accuracy" in m else "-"]
        scores += [f"{carry['correct'] / carry['n']:.1%}" if carry["n"] else "-"]
        scores += [f"{m['pass_at_k']:.1%}" if m.get("pass_k") == 16 else "-"]
        scores += [f"{m['format_rate']:.1%}", f"{m['preference_rate']:.1%}"]
    return [m["stage"], *scores, f"{m['wall_s']:.0f}", f"{m['peak_rss_mb']}"]


def table():
    """The rows as Markdown, which a terminal shows as well."""
    cells = [COLUMNS, *(tuple(row.values()) for row in rows())]
    widths = [max(len(row[i]) for row in cells) for i in range(len(COLUMNS))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def curves(stage):
    """The stage's logged metrics as one PNG, or None if it logged none of them."""
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
    head = "".join(f"<th>{html.escape(c)}</th>" for c in COLUMNS)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(v)}</td>" for v in row.values()) + "</tr>"
        for row in rows()
    )
    return f"<table><tr>{head}</tr>{body}</table>"


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
