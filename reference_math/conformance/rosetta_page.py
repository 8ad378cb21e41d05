"""Write the tables as a page: choose two libraries, see what differs, by how much, and the call that reproduces each.

    python -m reference_math.rosetta --html PAGE.html     a page of its own
    fragment()                                            what the site puts into its own page

The page needs no network: its data, style and script stand in it. Colours are those of the site's theme where there
is one, light or dark. Without a script it still shows every row.

Proof   tests/parity/test_rosetta_page.py
"""

import html
import json
from pathlib import Path
from typing import Any

from reference_math import rosetta
from reference_math.conformance import libraries, tables

HERE = Path(__file__).with_name("rosetta_page")
FIRST = ("verl", "swift")


def data() -> dict[str, Any]:
    """Return what the page's script reads: libraries, topics with their rows, and differences of each pair."""
    known = tables.libraries()
    return {
        "first": FIRST,
        "libraries": {
            key: {"name": said["name"], "version": said["version"], "again": "release" in said}
            for key, said in known.items()
        },
        "grpo": _grpo({key: said["grpo"] for key, said in known.items() if "grpo" in said}),
        "tables": [
            {
                "title": table.title,
                "said": table.said,
                "topics": [_topic(table, *t) for t in table.topics.items()],
            }
            for table in tables.tables()
        ],
    }


def _topic(table, name, rows):
    gaps = {}
    for one, other, found in tables.compared(rows, table):
        said = {
            "words": rosetta.verdict([one, other], found),
            **{k: _number(v) for k, v in found.items()},
        }
        gaps[f"{one.library},{other.library}"] = said
    shown = ("library", "call", "grads", "place", "proof", "default", "departs", "note")
    return {
        "name": name,
        "gaps": gaps,
        "rows": [{k: getattr(row, k) for k in shown} for row in rows],
    }


def _grpo(names):
    """The defaults of each library's GRPO, and how far they are from each other on the batch."""
    rows = {key: libraries.find(name) for key, name in names.items()}
    gaps = {}
    for one, name in names.items():
        for other, to in names.items():
            if one < other:
                columns, found = libraries.compare(name, to)
                apart = {k: _number(v) for k, v in found.items()}
                gaps[f"{one},{other}"] = {"columns": list(columns), "apart": apart}
    shown = (*libraries.COMPARED, "note", "source")
    return {
        "rows": {
            key: {k: row[k] for k in shown} | {"calls": libraries.calls(row)}
            for key, row in rows.items()
        },
        "gaps": gaps,
    }


def _number(x):
    return float(f"{x:.2g}") if x < float("inf") else "inf"  # JSON has no infinity


def fragment() -> str:
    """Return the page's content, without a head: style, choice, comparison, and every row."""
    found = data()
    text = json.dumps(found, separators=(",", ":")).replace("</", "<\\/")
    options = "".join(
        f'<option value="{key}">{html.escape(said["name"])}</option>'
        for key, said in found["libraries"].items()
    )
    choice = "".join(
        f'<label>{label} <select id="ros-{place}">{options}</select></label>'
        for place, label in (("one", "One library"), ("other", "and another"))
    )
    return f"""<style>{_file("style.css")}</style>
<div id="ros">
<p>What the training libraries compute, held against <code>reference_math</code> on one seeded batch of 8 completions and 6 pairs.
Each call goes into <code>rosetta.evaluate("…")</code> after <code>from reference_math import rosetta</code>.
A difference is a share of the largest entry of both. With advantages of your own: <code>rosetta.evaluate("…", {{"A": A}})</code>.</p>
<div class="ros-choice">{choice}<label class="ros-only"><input type="checkbox" id="ros-only"> only what differs</label></div>
<div id="ros-out" aria-live="polite"></div>
<noscript><p>The choice of two needs JavaScript; every row stands below.</p></noscript>
<h2>Every row</h2>
{"".join(_static(table, found["libraries"]) for table in found["tables"])}
</div>
<script type="application/json" id="ros-data">{text}</script>
<script>{_file("script.js")}</script>
"""


def _static(table, known):
    topics = "".join(
        f"<h4>{html.escape(topic['name'])}</h4><div class=ros-wide><table>{''.join(_line(row, known) for row in topic['rows'])}</table></div>"
        for topic in table["topics"]
    )
    title, said = html.escape(table["title"]), html.escape(table["said"])
    return f"<details><summary>{title}</summary><p>{said}</p>{topics}</details>"


def _line(row, known):
    name = html.escape(known[row["library"]]["name"]) + (
        " <b>default</b>" if row["default"] else ""
    )
    said = [
        f"<code>{html.escape(row['call'])}</code>",
        f"<small>{html.escape(row['place'])}; {html.escape(row['proof'])}</small>",
    ]
    if row["departs"]:
        said.append(f"<small>expected instead: <code>{html.escape(row['departs'])}</code></small>")
    if row["note"]:
        said.append(html.escape(row["note"]))
    return f"<tr><th scope=row>{name}</th><td>{'<br>'.join(said)}</td></tr>"


def page() -> str:
    """Return a whole page that stands alone."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Two libraries, side by side</title><style>{_file("alone.css")}</style></head>
<body><h1>Two libraries, side by side</h1>
{fragment()}</body></html>
"""


def _file(name):
    return (HERE / name).read_text(encoding="utf-8")
