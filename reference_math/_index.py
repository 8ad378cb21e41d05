"""Write README.md: a table of every method, made from the catalogue and the modules' headers.

python -m reference_math._index      write reference_math/README.md
"""

import importlib.util
from pathlib import Path

from reference_math import catalogue

README = Path(__file__).with_name("README.md")
HEAD = """\
# Every method, by all its names

Made by `python -m reference_math._index` from `catalogue.py`; a test keeps it up to date. In Python:
`reference_math.find("GSPO")`.

The formula stands in the function of the second column. A loss returns a float; its gradient is the
function of the same name with `_grad`. "laws" and "parity" are the tests that prove it: by hand,
enumeration and limits, and against the libraries and the torch twin. "nearest" is a lesson on the methods
beside it, where none uses the method itself.
"""


def text() -> str:
    """Return the whole file as one string."""
    families = dict.fromkeys(objective.family for objective in catalogue.OBJECTIVES)
    return HEAD + "".join(_section(family) for family in families) + _absent() + _rest()


def _section(family):
    rows = [_row(objective) for objective in catalogue.OBJECTIVES if objective.family == family]
    columns = ["method", "formula", "loss", "paper", "proof", "torch", "lesson"]
    lines = [columns, ["---"] * len(columns), *rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"\n## {family[0].upper()}{family[1:]}\n\n{table}\n"


def _row(objective):
    entry = catalogue.describe(objective)
    names = ", ".join([f"**{entry.names[0]}**", *entry.names[1:]])
    return [
        names,
        _link(entry.formula),
        _link(objective.loss) if objective.loss else "",
        entry.paper,
        " ".join(f"[{path.split('/')[1]}](../{path})" for path in entry.proof),
        f"[twin](torch/{entry.torch.rpartition('.')[2]}.py)" if entry.torch else "",
        _lesson(entry.lesson) or _lesson(entry.nearest, "nearest: "),
    ]


def _lesson(path, said=""):
    return f"{said}[{path[10:12]}](../{path})" if path else ""


def _link(name):
    return f"[`{name}`]({name.partition('.')[0]}.py)"


def _absent():
    """What other libraries have and this package has not."""
    rows = [[", ".join(a.names), a.what, a.libraries, a.paper] for a in catalogue.NOT_HERE]
    lines = [["method", "what it is", "who has it", "paper"], ["---"] * 4, *rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"\n## Not here\n\n{table}\n"


def _rest():
    """Modules that no method of the list stands in: what the others are built from."""
    named = {o.formula.partition(".")[0] for o in catalogue.OBJECTIVES}
    named |= {o.loss.partition(".")[0] for o in catalogue.OBJECTIVES}
    import reference_math

    others = [
        name
        for name in dir(reference_math)
        if name not in named and name not in ("find", "catalogue")
    ]
    lines = [f"- `{name}`: {_first_line(name)}" for name in others]
    return "\n## Around the methods\n\n" + "\n".join(lines) + "\n"


def _first_line(name):
    origin = importlib.util.find_spec(f"reference_math.{name}").origin
    return Path(origin).read_text().split('"""')[1].splitlines()[0]


if __name__ == "__main__":
    README.write_text(text())
