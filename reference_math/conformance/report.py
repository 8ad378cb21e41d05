"""Run every row on every device and dtype, and write the matrix as text, HTML and JSON.

relative error   the largest |theirs - ours| over the largest |ours|, of the value and of the gradient
"""

import html
import importlib.metadata
import importlib.util
import json
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np

from reference_math._types import ArrayLike
from reference_math.conformance._types import Device, DType, Place, Record
from reference_math.conformance.departures import DEPARTURES
from reference_math.conformance.rows import Row


def places() -> list[Place]:
    """List every device there is with its dtypes: the places where a comparison can run."""
    import torch

    found = [("cpu", torch.float64), ("cpu", torch.float32)]
    if torch.cuda.is_available():
        found += [("cuda", x) for x in (torch.float64, torch.float32, torch.bfloat16)]
    return [place(device, dtype) for device, dtype in found]


def place(device: Device | str, dtype: DType) -> Place:
    """Describe one place: tensor(x) puts x there; rounded(x) has the same numbers in float64; numpy(tensor)."""
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


def missing(every: Sequence[Row]) -> list[str]:
    """List the libraries that rows ask for and that are not installed."""
    names = {row.library for row in every if not row.release} - {"torch twin"}
    return sorted(name for name in names if importlib.util.find_spec(name) is None)


def measure(every: Sequence[Row], everywhere: Sequence[Place]) -> list[Record]:
    """Make one record per row and place; a library's refusal of the case is recorded with its message."""
    absent = missing(every)
    return [
        _record(row, at)
        for row in every
        if row.release or row.library not in absent
        for at in everywhere
        if not row.release or (at.device, at.dtype) == ("cpu", "float64")
    ]


def _record(row, at):
    library = "torch" if row.library == "torch twin" else row.library
    record = {
        "objective": row.objective,
        "option": row.option,
        "library": row.library,
        "version": row.release or importlib.metadata.version(library),
        "device": at.device,
        "dtype": at.dtype,
    }
    try:
        errors = {what: relative_error(*pair) for what, pair in row.run(at).items()}
    except Exception as error:  # noqa: BLE001 - whatever theirs raises is the finding
        return record | {"refused": f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"}
    return record | errors


def relative_error(theirs: ArrayLike, ours: ArrayLike) -> float:
    """Compute the largest difference over the largest number; NaN against a number counts as infinity."""
    theirs, ours = np.asarray(theirs, dtype=float), np.asarray(ours, dtype=float)
    if theirs.shape != ours.shape or not np.isfinite(theirs).all():
        return float("inf")
    scale = np.abs(ours).max(initial=0.0)
    return float(np.abs(theirs - ours).max(initial=0.0) / (scale or 1.0))


# Writing it down -------------------------------------------------------------------------------


def table(records: Sequence[Record]) -> tuple[list[str], dict[tuple[str, str], dict[str, str]]]:
    """Return (columns, lines): one line per objective and option, one column per library and place."""
    columns = sorted({_column(r) for r in records})
    cells: dict[tuple[str, str], dict[str, str]] = {}
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


def as_text(records: Sequence[Record]) -> str:
    """Return the matrix, one line per objective, option and library; refusals and departures; the worst."""
    places = sorted({_place(r) for r in records}, reverse=True)
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for r in records:
        by = f"{r['library']} {r['version']}"
        lines.setdefault((r["objective"], r["option"], by), {})[_place(r)] = _cell(r)
    found = [["objective", "option", "library", *places]]
    found += [[*key, *(cells.get(at, "") for at in places)] for key, cells in lines.items()]
    refused = [r for r in records if "refused" in r]
    said = [
        f"refused: {r['objective']}, {r['option']} by {_column(r)}: {r['refused']}" for r in refused
    ]
    said += [f"departs: {d['objective']}, {d['option']}: {d['departure']}" for d in DEPARTURES]
    parts = [_aligned(found), "\n".join(said), _aligned(_worst(records))]
    return "\n\n".join(["value / gradient: the largest difference over the largest number", *parts])


def _worst(records):
    """Yield one line per objective, library and place, with its worst options."""
    worst = {}
    for r in records:
        for what in ("value", "gradient"):
            key = (r["objective"], _column(r))
            if what in r:
                errors = worst.setdefault(key, {})
                errors[what] = max(errors.get(what, 0.0), r[what])
    yield ["objective", "library, version, device, dtype", "worst"]
    for (objective, column), errors in sorted(worst.items()):
        yield [objective, column, _cell(errors)]


def _place(record):
    return f"{record['device']} {record['dtype']}"


def _aligned(lines):
    lines = [list(line) for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines
    )


def as_json(records: Sequence[Record]) -> str:
    return json.dumps({"records": records, "departures": DEPARTURES}, indent=1)


def as_html(records: Sequence[Record]) -> str:
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
        f"<td>{'<br>'.join(d['proof'])}"
        for d in DEPARTURES
    )
    return f"""<!doctype html><meta charset=utf-8><title>Conformance</title><style>
body{{font:14px sans-serif}} table{{border-collapse:collapse}} td,th{{padding:2px 8px;
border-bottom:1px solid #ddd;text-align:left}} .fine{{color:#063}} .loose{{color:#850}}
.wrong{{color:#a00;font-weight:bold}}</style>
<h1>What the libraries compute, against reference_math</h1>
<p>Relative error of value / gradient: the largest difference over the largest number.</p>
<table><tr>{head}{body}</table>
<h1>Where a library departs from the paper, or from what a name suggests</h1>
<table><tr><th>objective<th>option<th>departure<th>paper<th>tests, in tests/parity{departures}</table>
"""


def _shade(cell):
    """fine: float64's digits; loose: float32's, the most a float32 computation can give."""
    try:
        worst = max(float(x) for x in cell.split(" / "))
    except (AttributeError, ValueError):
        return "none" if cell is None else "wrong"
    return "fine" if worst < 1e-10 else "loose" if worst < 1e-2 else "wrong"
