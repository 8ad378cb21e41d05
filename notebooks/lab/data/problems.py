"""Collect what `lab.validate` can find wrong in a row, and list it."""

from typing import NamedTuple

SHOWN = 5  # rows named for each problem
CUT = 80  # characters of a row that are shown


class Problem(NamedTuple):
    """One kind of fault. Rows with the same `what` and `level` are listed together.

    what      str   the fault and the way out; the same words for every row that has it
    example   str   what it looks like in this row; the report shows the first row's
    level     str   "refused": always an error. "truncated", "dropped", "unverifiable": an error
                    above the tolerated share. "noted": never an error
    """

    what: str
    example: str = ""
    level: str = "refused"


class Found:
    """The problems of a data set, each with its rows and the example of its first row."""

    def __init__(self):
        self.rows, self.examples = {}, {}

    def add(self, row, problem):
        key = problem._replace(example="")
        rows = self.rows.setdefault(key, [])
        if not rows or rows[-1] != row:
            rows.append(row)
        self.examples.setdefault(key, problem.example)

    def count(self, level):
        """Return the number of rows with a problem of this level."""
        return len(
            {row for problem, where in self.rows.items() if problem.level == level for row in where}
        )

    def above(self, allowed):
        """Return the problems that are errors: refused ones, and tolerated ones in more rows than `allowed`."""
        return [
            problem
            for problem, rows in self.rows.items()
            if problem.level == "refused" or (problem.level != "noted" and len(rows) > allowed)
        ]

    def notes(self):
        """Return one line for each problem that is no error, with its rows."""
        return [self.line(problem) for problem in self.rows if problem.level == "noted"]

    def line(self, problem):
        where, example = self.rows[problem], self.examples[problem]
        shown = ", ".join(map(str, where[:SHOWN])) + (", ..." if len(where) > SHOWN else "")
        line = f"{len(where)} rows ({shown}): {problem.what}."
        return f"{line} Row {where[0]}: {example}." if example else line


def report(found, serious, kind, rows):
    """Return the text of the ValueError: one numbered line for each problem."""
    lines = [f"validate: not fit for {kind}, {len(serious)} problems in {rows} rows:"]
    lines += [f"{n}. {found.line(problem)}" for n, problem in enumerate(serious, start=1)]
    return "\n".join(lines)


def cut(text, at=CUT):
    """Return a text in quotes on one line, cut in the middle if it is long."""
    text = str(text)
    return repr(text if len(text) <= at else f"{text[: at // 2]} ... {text[-at // 2 :]}")
