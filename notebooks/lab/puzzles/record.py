"""What a reader has tried, solved and predicted, in runs/progress.json.

lab.progress()      a line for each lesson, and one line to paste into a workshop's chat
"""

import json
import os
from pathlib import Path

from lab import check

MARKS = {"solved": "✓", "tried": "✗", "open": "·"}
SIGN = "posttraining-lab:"  # begins the line for the chat


def file():
    """The record's place: beside the runs, notebooks/runs or LAB_RUNS."""
    runs = os.environ.get("LAB_RUNS") or Path(__file__).parents[2] / "runs"
    return Path(runs) / "progress.json"


def read():
    """The record; an empty one where the file is missing or is no record."""
    try:
        known = json.loads(file().read_text(encoding="utf-8"))
        return {"puzzles": dict(known["puzzles"]), "predictions": dict(known["predictions"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"puzzles": {}, "predictions": {}}


def write(known):
    """Keep a record; whoever reads at the same time sees the old one or the new one, whole."""
    place = file()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = place.with_suffix(f".{os.getpid()}")
        scratch.write_text(json.dumps(known, indent=1, ensure_ascii=False), encoding="utf-8")
        scratch.replace(place)
    except OSError as error:  # a full or read-only disk is no reason to stop an exercise
        print(f"(not kept in {place}: {error})")


def tried(number, verdict):
    """Note one try; a stub that was left as it is counts for nothing."""
    if verdict == check.UNSOLVED:
        return
    known = read()
    entry = known["puzzles"].setdefault(number, {"tries": 0, "solved": False, "hints": 0})
    entry["tries"] += 1
    entry["solved"] = entry["solved"] or verdict == check.SOLVED
    write(known)


def hinted(number, most):
    """Note one more hint; returns how many are to be shown now."""
    known = read()
    entry = known["puzzles"].setdefault(number, {"tries": 0, "solved": False, "hints": 0})
    entry["hints"] = min(entry["hints"] + 1, most)
    write(known)
    return entry["hints"]


def tries(number):
    return read()["puzzles"].get(number, {}).get("tries", 0)


def progress():
    """Print what is solved: a line for each lesson, then a line that can be pasted into a chat."""
    from lab.puzzles import ALL

    known = read()
    states = {number: _state(known["puzzles"].get(number)) for number in ALL}
    for lesson in dict.fromkeys(number.split(".")[0] for number in ALL):
        row = [n for n in ALL if n.split(".")[0] == lesson]
        print(f"lesson {lesson}   " + "   ".join(f"{MARKS[states[n]]} {n}" for n in row))
    done = [n for n, state in states.items() if state == "solved"]
    guesses = known["predictions"].values()
    right = sum(guess["answer"] == guess["right"] for guess in guesses)
    print(
        f"\n{SIGN} {len(done)} of {len(ALL)} puzzles solved"
        + (f" ({' '.join(done)})" if done else "")
        + f"; {right} of {len(guesses)} predictions right"
        + (
            f" ({' '.join(codes)})"
            if (codes := [g["code"] for g in guesses if "code" in g])
            else ""
        )
    )


def _state(entry):
    if not entry:
        return "open"
    return "solved" if entry["solved"] else "tried" if entry["tries"] else "open"
