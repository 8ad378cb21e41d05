"""Write the matrix on the terminal, in HTML and JSON: python -m reference_math.conformance [--out DIR]."""

import argparse
import importlib.util
import sys
from pathlib import Path

from reference_math.conformance import rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m reference_math.conformance")
    parser.add_argument("--out", type=Path, default=Path("build/conformance"))
    out = parser.parse_args().out
    if importlib.util.find_spec("torch") is None:
        sys.exit("torch is not installed: every comparison needs it (pip install torch)")
    from reference_math.conformance import report

    every = rows.every_row()
    for name in report.missing(every):
        print(f"not installed, its rows are left out: {name}")
    records = report.measure(every, report.places())
    print(report.as_text(records))
    out.mkdir(parents=True, exist_ok=True)
    (out / "conformance.json").write_text(report.as_json(records))
    (out / "conformance.html").write_text(report.as_html(records))
    print(f"{len(records)} comparisons; written: {out}/conformance.json, {out}/conformance.html")


if __name__ == "__main__":
    main()
