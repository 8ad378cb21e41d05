"""Say what a library computes, or what differs between two, by how much on one seeded batch.

    python -m reference_math.rosetta                    the libraries, their releases and the tables
    python -m reference_math.rosetta verl               each of its ways: call, file and release, proof
    python -m reference_math.rosetta verl ms-swift      what differs, by how much, the call that reproduces each
    python -m reference_math.rosetta --html PAGE.html   the same for every pair, as a page of its own

    from reference_math import rosetta
    rosetta.evaluate("advantages.group(R, G, ddof=1, eps=1e-06)")    a call of the tables, on the batch

The rows and their proofs: `reference_math.conformance.tables`; the letters of a call: `conformance.rosetta`.

Source    the libraries' own code, at the release or commit that a row names
Torch     none     Lesson   none
Proof     tests/parity/test_tables.py
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def evaluate(call: str, letters: dict[str, Any] | None = None) -> Any:
    """Compute a call of the tables on the seeded batch.

    letters   arrays in place of the batch's: {"A": evaluate("advantages.dr_grpo(R, G)")}

    >>> A = evaluate("advantages.dr_grpo([1.0, 0, 0, 0, 0, 0, 0, 0], 8)")
    >>> float(A[0]), float(evaluate("A[0] * G", {"A": A}))
    (0.875, 3.5)
    """
    from reference_math.conformance import tables

    return tables.evaluate(call, letters)


def overview() -> Iterator[str]:
    """Yield lines about the libraries and the tables."""
    from reference_math.conformance import tables

    for key, said in tables.libraries().items():
        rows = tables.rows(key)
        yield f"{said['name']:24s} {len(rows):3d} rows  {said['version']}"
    yield ""
    for table in tables.tables():
        yield f"{table.title}: {len(table.topics)} topics"
    yield ""
    yield "python -m reference_math.rosetta LIBRARY [OTHER]"


def one(name: str) -> Iterator[str]:
    """Yield lines about each row of a library."""
    from reference_math.conformance import tables

    key = tables.find(name)
    said = tables.libraries()[key]
    yield f"{said['name']}    {said['version']}"
    if "measured" in said:
        yield (f"Compared at that commit, not made again here: {said['arrays']} arrays, "
               f"at most {said['measured']:.1e} from the calls.")  # fmt: skip
    last = None
    for row in tables.rows(key):
        if row.table != last:
            last = row.table
            yield f"\n{next(t.title for t in tables.tables() if t.key == last)}"
        yield f"  {row.topic}{'  (default)' if row.default else ''}"
        yield f"      {row.call}"
        yield f"      {row.place}; {row.proof}"
        if row.departs:
            yield f"      expected instead: {row.departs}"
        if row.note:
            yield f"      {row.note}"


def two(name: str, other: str) -> Iterator[str]:
    """Yield lines about what differs between two libraries, on every topic that both have."""
    from reference_math.conformance import libraries, tables

    pair = tables.find(name), tables.find(other)
    mine, theirs = (tables.libraries()[key] for key in pair)
    yield f"{mine['name']} ({mine['version']}) | {theirs['name']} ({theirs['version']})"
    yield "Differences are shares of the largest entry of both, on one seeded batch; the loss is given the rewards."
    if "grpo" in mine and "grpo" in theirs:
        columns, gaps = libraries.compare(mine["grpo"], theirs["grpo"])
        yield "\nGRPO by default"
        for column, (a, b) in columns.items():
            yield f"  {column:14s} {a} | {b}"
        for part, gap in gaps.items():
            yield f"  {part:14s} {gap:.1e} apart"
    for table, topic, rows, gaps in common(*pair):
        yield f"\n{table.title}: {topic}: {verdict(rows, gaps)}"
        for row in rows:
            yield f"  {row.name:20s} {row.call}"
            if row.note:
                yield f"  {'':20s} {row.note}"


def common(one: str, other: str) -> Iterator[tuple[Any, str, list[Any], dict[str, float] | None]]:
    """Yield (table, topic, both rows, differences or None) of each topic that two libraries have, by their keys."""
    from reference_math.conformance import tables

    for table in tables.tables():
        for topic, rows in table.topics.items():
            found = [row for key in (one, other) for row in rows if row.library == key]
            if len(found) == 2:
                gaps = [gaps for _, _, gaps in tables.compared(found, table)]
                yield table, topic, found, gaps[0] if gaps else None


def verdict(rows: Sequence[Any], gaps: dict[str, float] | None) -> str:
    """Return the differences in words: the same call, apart, or not apart on this batch."""
    if gaps is None:
        return "not compared: other inputs"
    if rows[0].call == rows[1].call and rows[0].grads == rows[1].grads:
        return "the same"
    if max(gaps.values()) < 1e-12:
        return "not apart on this batch"
    return ", ".join(f"{key} {gap:.1e}" for key, gap in gaps.items()) + " apart"


def main(argv: Sequence[str] | None = None) -> None:
    import argparse  # reference_math is loaded whole by `find`, and needs it here alone

    first = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m reference_math.rosetta", description=first)
    parser.add_argument("libraries", nargs="*", metavar="LIBRARY", help="none, one or two")
    parser.add_argument("--html", type=Path, help="write every pair as a page")
    given = parser.parse_args(argv)
    if given.html:
        from reference_math.conformance import rosetta_page

        given.html.write_text(rosetta_page.page(), encoding="utf-8")
        print(f"written: {given.html}")
        return
    if len(given.libraries) > 2:
        parser.error("at most two libraries")
    try:
        said: Any = (overview, one, two)[len(given.libraries)]
        print("\n".join(said(*given.libraries)))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
