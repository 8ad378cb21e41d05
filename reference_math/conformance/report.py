"""Runs every row in every place there is, and writes the matrix down.

relative error   the largest |theirs - ours| over the largest |ours|, of the value and of the gradient
"""

import html
import importlib.metadata
import importlib.util
import json
from types import SimpleNamespace

import numpy as np

from reference_math.conformance.departures import DEPARTURES


def places():
    """Every device there is with its dtypes: where a comparison can run."""
    import torch

    found = [("cpu", torch.float64), ("cpu", torch.float32)]
    if torch.cuda.is_available():
        found += [("cuda", x) for x in (torch.float64, torch.float32, torch.bfloat16)]
    return [place(device, dtype) for device, dtype in found]


def place(device, dtype):
    """tensor(x) there; rounded(x), the same numbers in float64; numpy(tensor)."""
    import torch

    def tensor(x, requires_grad=False):
        x = torch.as_tensor(x)
        x = x.to(device, dtype if x.is_floating_point() else x.dtype, copy=True)
        return x.requires_grad_(requires_grad)

    def numpy(x):
        x = x.detach().cpu()
        return (x.double() if x.is_floating_point() else x).numpy()

    return SimpleNamespace(
        device=device,
        dtype=str(dtype).removeprefix("torch."),
        tensor=tensor,
        numpy=numpy,
        rounded=lambda x: numpy(tensor(x)),
    )


def missing(every):
    """Libraries that rows ask for and that are not installed."""
    names = {row.library for row in every} - {"torch twin"}
    return sorted(name for name in names if importlib.util.find_spec(name) is None)


def measure(every, everywhere):
    """One record a row and place; a library that refuses the case is recorded with its words."""
    absent = missing(every)
    return [_record(row, at) for row in every if row.library not in absent for at in everywhere]


def _record(row, at):
    library = "torch" if row.library == "torch twin" else row.library
    record = {
        "objective": row.objective,
        "option": row.option,
        "library": row.library,
        "version": importlib.metadata.version(library),
        "device": at.device,
        "dtype": at.dtype,
    }
    try:
        errors = {what: relative_error(*pair) for what, pair in row.run(at).items()}
    except Exception as error:  # noqa: BLE001 - whatever theirs raises is the finding
        return record | {"refused": f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"}
    return record | errors


def relative_error(theirs, ours):
    """Largest difference over the largest number; NaN against a number is infinitely wrong."""
    theirs, ours = np.asarray(theirs, dtype=float), np.asarray(ours, dtype=float)
    if theirs.shape != ours.shape or not np.isfinite(theirs).all():
        return float("inf")
    scale = np.abs(ours).max(initial=0.0)
    return float(np.abs(theirs - ours).max(initial=0.0) / (scale or 1.0))


# Writing it down -------------------------------------------------------------------------------


def table(records):
    """(columns, lines): a line an objective and option, a column a library and place."""
    columns = sorted({_column(r) for r in records})
    cells = {}
    for r in records:
        cells.setdefault((r["objective"], r["option"]), {})[_column(r)] = _cell(r)
    return columns, cells


def _column(record):
    return " ".join(record[key] for key in ("library", "version", "device", "dtype"))


def _cell(record):
    if "refused" in record:
        return record["refused"].split(":")[0]
    errors = [record[key] for key in ("value", "gradient") if key in record]
    return " / ".join(f"{error:.0e}" if error else "0" for error in errors)


def as_text(records):
    """The worst of each objective, library and place, then what the libraries refused."""
    worst = {}
    for r in records:
        for what in ("value", "gradient"):
            key = (r["objective"], _column(r), what)
            if what in r:
                worst[key] = max(worst.get(key, 0.0), r[what])
    lines = [f"{'objective':10s} {'library, version, device, dtype':44s} {'value':>8s} gradient"]
    for objective, column in sorted({key[:2] for key in worst}):
        value, gradient = (worst.get((objective, column, what)) for what in ("value", "gradient"))
        shown = "-" if gradient is None else f"{gradient:8.0e}"
        lines.append(f"{objective:10s} {column:44s} {value:8.0e} {shown:>8s}")
    refused = [r for r in records if "refused" in r]
    lines += [
        f"refused: {r['objective']}, {r['option']} by {_column(r)}: {r['refused']}" for r in refused
    ]
    return "\n".join(lines)


def as_json(records):
    return json.dumps({"records": records, "departures": DEPARTURES}, indent=1)


def as_html(records):
    columns, cells = table(records)
    head = "".join(f"<th>{html.escape(c)}" for c in ["objective", "option", *columns])
    body = "".join(
        f"<tr><td>{html.escape(objective)}<td>{html.escape(option)}"
        + "".join(
            f"<td class={_shade(line.get(c))}>{html.escape(line.get(c, ''))}" for c in columns
        )
        for (objective, option), line in cells.items()
    )
    departures = "".join(
        f"<tr><td>{html.escape(d['objective'])}<td>{html.escape(d['option'])}"
        f"<td>{html.escape(d['departure'])}<td>{html.escape(d['source'])}"
        for d in DEPARTURES
    )
    return f"""<!doctype html><meta charset=utf-8><title>Conformance</title><style>
body{{font:14px sans-serif}} table{{border-collapse:collapse}} td,th{{padding:2px 8px;
border-bottom:1px solid #ddd;text-align:left}} .fine{{color:#063}} .loose{{color:#850}}
.wrong{{color:#a00;font-weight:bold}}</style>
<h1>What the libraries compute, against reference_math</h1>
<p>Relative error of value / gradient: the largest difference over the largest number.</p>
<table><tr>{head}{body}</table>
<h1>Where TRL departs from the paper, or from what a name suggests</h1>
<table><tr><th>objective<th>option<th>departure<th>paper{departures}</table>
"""


def _shade(cell):
    """fine: float64's digits; loose: float32's, the most a float32 computation can give."""
    try:
        worst = max(float(x) for x in cell.split(" / "))
    except (AttributeError, ValueError):
        return "none" if cell is None else "wrong"
    return "fine" if worst < 1e-10 else "loose" if worst < 1e-2 else "wrong"
