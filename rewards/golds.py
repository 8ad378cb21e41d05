"""Check the golds once, before training: a gold that cannot be verified gives no reward."""

from typing import Any

from rewards.verdicts import why_unverifiable

SHOWN = 10  # rows named in the error; all of them are returned


def check_golds(
    golds: Any, column: str = "solution", tolerated: float = 0.01
) -> list[tuple[int, object, str]]:
    """Find the golds that cannot be verified, and stop when there are too many.

    golds       list of golds, or a dataset with `column`
    tolerated   float   share of the rows that may be unverifiable: they are skipped in training
    returns     list of (row, gold, reason), empty when all can be verified

    Raises ValueError, with the rows named, when more than `tolerated` cannot be.

    >>> check_golds(["#### 42", r"\\boxed{\\frac{1}{2}}"])
    []
    """
    if hasattr(golds, "column_names"):
        if column not in golds.column_names:
            raise ValueError(
                f"check_golds: no column {column!r} among {golds.column_names}; "
                "pass column=... or rename it with dataset.rename_column(...)."
            )
        golds = golds[column]
    if isinstance(golds, str):
        raise ValueError(  # noqa: TRY004  one kind of error for every wrong argument
            "check_golds: golds is a list or a dataset; got a single string. Put it in brackets."
        )
    golds = list(golds)
    found = [(row, gold, why) for row, gold in enumerate(golds) if (why := why_unverifiable(gold))]
    if len(found) > tolerated * len(golds):
        rows = "\n".join(f"  row {row}: {_shown(gold)} ({why})" for row, gold, why in found[:SHOWN])
        more = f"\n  and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise ValueError(
            f"check_golds: {len(found)} of {len(golds)} golds cannot be verified, more than "
            f"{tolerated:.0%}:\n{rows}{more}\nDrop these rows or correct them: every completion "
            "of such a prompt would be skipped."
        )
    return found


def _shown(gold):
    try:
        return f"{gold!r:.80}"
    except ValueError:  # Python prints no integer of more than 4300 digits
        return f"a huge {type(gold).__name__}"
