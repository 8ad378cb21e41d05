"""Write every notebook with its exercises filled in, for a run of all of them.

    python tests/lab/solved_notebooks.py FOLDER --with solutions

    --with solutions    each exercise has its solution
    --with mistakes     each exercise has one of the mistakes that its puzzle names; the notebook goes on with
                        the reference

`make test-solved` runs both with nbmake (.github/workflows/solved.yml). The short form, every exercise's own
cell, is tests/lab/test_puzzles.py.
"""

import argparse
import json
import re
import shutil
from pathlib import Path

import lab
from lab import puzzles

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
MISTAKE = """
from lab import puzzles as _puzzles

{name} = list(_puzzles.ALL[{number!r}].wrong().values())[{which}]
"""


def filled(source, kind, which=0):
    """A cell with what was asked for in the place of its stub; a cell without an exercise as it is."""
    found = re.search(r'^puzzle = lab\.puzzle\("([\d.]+)"\)\.show\(\)$', source, re.MULTILINE)
    if not found:
        return source
    puzzle = lab.puzzle(found[1])
    name = f"my_{puzzle.answer.__name__}"
    stub = re.compile(rf"^def {name}\([^)]*\):\n    raise NotImplementedError\n", re.MULTILINE)
    if kind == "mistakes":
        code = MISTAKE.format(name=name, number=puzzle.number, which=which % len(puzzle.mistakes))
    else:
        code = puzzle.source().replace(f"def {puzzle.answer.__name__}(", f"def {name}(")
    changed, count = stub.subn(lambda _: code, source)
    if count != 1:
        raise ValueError(f"{puzzle.number}: {count} stubs {name} in its cell")
    return changed


def write(folder, kind, which=0):
    """Write the notebooks into a folder; returns how many exercises were filled in."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if path.name.startswith("09_"):  # it has no exercise, and takes an hour
            continue
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                source = "".join(cell["source"])
                cell["source"] = filled(source, kind, which)
                count += cell["source"] != source
        (folder / path.name).write_text(json.dumps(notebook), encoding="utf-8")
    shutil.copytree(NOTEBOOKS / "diagrams", folder / "diagrams", dirs_exist_ok=True)
    return count


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--with", dest="kind", choices=["solutions", "mistakes"], required=True)
    parser.add_argument("--which", type=int, default=0, help="which mistake of each puzzle")
    args = parser.parse_args(argv)
    count = write(args.folder, args.kind, args.which)
    print(f"{count} cells filled in: {len(puzzles.ALL)} puzzles, most in two notebooks")


if __name__ == "__main__":
    main()
