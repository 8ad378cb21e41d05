"""Fill the teacher's page with what was measured, docs/teach/README.md from its template, and the README's table.

    python -m lab.teach                  docs/teach/template.md with every {{figure}} filled in, and the README's
                                         lines between <!-- chains --> and <!-- /chains -->
    python -m lab.teach keep FOLDER...   keep the figures of chains that stand in these folders (as LAB_RUNS)

A figure is a range over the chains that the kit has: the ready stages, and those of docs/teach/chains.json,
of other seeds and processors. A range is rounded outwards, so every chain lies in it.

    {{share sft greedy_accuracy}}      a share of the stage's manifest, in percent
    {{number dpo last logps/chosen}}   a logged number, the first or the last of the run
    {{seconds grpo}}                   the wall time of the stage
    {{worlds GRPO, checked}}           the true reward of a trainer of lesson 05, over five worlds
    {{ways grpo greedy}}               a share of lesson 09, with its interval
    {{laptop minutes}}                 how long the stages of lesson 09 took, and where
    {{rehearsal times}}                how long the lessons of the half day took, from ready stages
    {{chains all}}                         the chains themselves, one line for each
    {{prediction 02 QUESTION}}         a question that a cell of the lesson asks, with its options
    {{minutes 02}}                     the minutes of its exercises

Proof     tests/lab/test_teach.py
"""

import argparse
import ast
import json
import math
import re
from pathlib import Path

from lab import intervals, pace, puzzles, ready, recipes, show
from lab import rehearsal as timed

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "teach"
PAGE, TEMPLATE, CHAINS = (FOLDER / name for name in ("README.md", "template.md", "chains.json"))
README = ROOT / "README.md"
BLOCK = re.compile(r"(<!-- chains[^>]*-->\n).*?(<!-- /chains -->)", re.DOTALL)
FIGURE = re.compile(r"\{\{(\w+) ([^{}]+)\}\}")
SHARES = [
    "heldout_accuracy",
    "greedy_accuracy",
    "format_rate",
    "preference_rate",
    "pass_at_1",
    "pass_at_k",
    "majority",
]
KEPT = ("heldout_n", "pass_k", "pass_n", "wall_s", *SHARES)
LOGGED = (
    *("loss", "reward", "entropy", "sampling/gap_mean", "frac_reward_zero_std"),
    *("rewards/margins", "logps/chosen", "logps/rejected"),
)


def of_folder(folder):
    """Return the figures of the chain that stands in a folder, and where they come from.

    folder   has a folder for each stage of the tiny profile, with its manifest.json and history.json

    Raises ValueError for a stage that is not there or that another recipe than today's made.
    """
    stages, seen = {}, {}
    for stage in recipes.STAGES:
        file = Path(folder) / stage / "manifest.json"
        if not file.exists():
            raise ValueError(
                f"{file} is not there: python -m lab.train grpo --seed N makes a chain"
            )
        found = json.loads(file.read_text())
        recipe = recipes.load(stage, "tiny", found["seed"])
        settings = recipes.settings(recipe)
        if "settings" in found:  # a ready stage; the hash of a run has the code in it as well
            fits = found["settings"] == settings
        else:
            fits = found["recipe_hash"] == recipes.fingerprint(recipe, found["code_hash"])
        if not fits:
            raise ValueError(f"{file} is of another recipe than today's")
        seen = {key: found[key] for key in ("seed", "versions", "commit")}
        seen["made_on"] = found.get("made_on") or pace.named()
        carry = found["greedy_carry"]
        stages[stage] = {key: found[key] for key in KEPT}
        stages[stage] |= {"settings": settings, "greedy_carry": carry["correct"] / carry["n"]}
        history = json.loads((Path(folder) / stage / "history.json").read_text())
        stages[stage] |= {"first": _ends(history, 0), "last": _ends(history, -1)}
    return seen | {"stages": stages}


def _ends(history, at):
    """The first or last logged value of each of LOGGED."""
    logged = {key: [entry[key] for entry in history if key in entry] for key in LOGGED}
    return {key: round(values[at], 9) for key, values in logged.items() if values}


def chains():
    """Return the figures of every chain that the kit has: the ready stages first."""
    kept = json.loads(CHAINS.read_text()) if CHAINS.exists() else []
    return [of_folder(ready.FOLDER), *kept]


def keep(folders):
    """Add the chains of these folders to docs/teach/chains.json; one of the same seed and processor is replaced."""
    kept = json.loads(CHAINS.read_text()) if CHAINS.exists() else []
    for folder in folders:
        new = of_folder(folder)
        same = ("seed", "made_on")
        kept = [old for old in kept if any(old[key] != new[key] for key in same)] + [new]
    kept.sort(key=lambda chain: (chain["made_on"], chain["seed"]))
    CHAINS.write_text(json.dumps(kept, indent=1) + "\n")


def table():
    """Return the README's table: a line for each stage of each chain, and where the chains were made."""
    lines, made = [], {}
    for chain in chains():
        name = chain["made_on"].replace("(R)", "")
        versions = (name, chain["versions"]["torch"], chain["versions"]["trl"])
        made.setdefault(versions, []).append((chain["seed"], chain["commit"]))
        for stage, found in chain["stages"].items():
            row = {"seed": chain["seed"], "processor": name, "stage": stage}
            n, accuracy = found["heldout_n"], found["heldout_accuracy"]
            low, high = intervals.wilson(round(n * accuracy), n)
            row |= {"accuracy": f"{accuracy:.1%}", "95% interval": f"{low:.1%} to {high:.1%}"}
            row["greedy"] = f"{found['greedy_accuracy']:.1%}"
            row["greedy, with a carry"] = f"{found['greedy_carry']:.1%}"
            row[f"pass@{found['pass_k']}"] = f"{found['pass_at_k']:.0%}"
            row["format"] = f"{found['format_rate']:.1%}"
            lines.append(row | {"terse style": f"{found['preference_rate']:.1%}"})
    said = [
        show.markdown(lines),
        "",
        "Each chain was made by `LAB_RUNS=FOLDER .venv/bin/python -m lab.train grpo --seed N`:",
        "",
    ]
    for (name, torch, trl), runs in made.items():
        seeds = ", ".join(f"seed {seed} at commit `{commit}`" for seed, commit in runs)
        said.append(f"- {name}, torch {torch}, trl {trl}: {seeds}")
    return "\n".join(said)


def readme():
    """Return the project's README with the table of today's chains. Raises ValueError where its place is not marked."""
    text, count = BLOCK.subn(
        lambda found: f"{found[1]}\n{table()}\n\n{found[2]}", README.read_text(encoding="utf-8")
    )
    if count != 1:
        raise ValueError(
            f"{README} has {count} places between <!-- chains --> and <!-- /chains -->"
        )
    return text


def share(stage, key):
    """The range of a share of a stage's manifest over the chains, as '56 to 61%'."""
    values = [100 * chain["stages"][stage][key] for chain in chains()]
    low, high = math.floor(round(min(values), 6)), math.ceil(round(max(values), 6))
    return f"{low}%" if low == high else f"{low} to {high}%"


def number(stage, end, key):
    """The range of a logged number, the first or the last of the runs, to two digits."""
    values = [chain["stages"][stage][end][key] for chain in chains()]
    return _range(min(values), max(values))


def _range(low, high):
    """Two numbers as a range of two significant digits, rounded outwards; one if they are the same."""
    largest = max(abs(low), abs(high))
    step = 10.0 ** (math.floor(math.log10(largest)) - 1) if largest else 1.0
    ends = [math.floor(round(low / step, 6)) * step, math.ceil(round(high / step, 6)) * step]
    shown = [f"{round(end, 12):g}".replace("-", "−") for end in ends]
    return shown[0] if shown[0] == shown[1] else " to ".join(shown)


def seconds(stage):
    """The range of a stage's wall time, scoring included."""
    values = [chain["stages"][stage]["wall_s"] for chain in chains()]
    return f"{math.floor(min(values))} to {math.ceil(max(values))} s"


def worlds(name):
    """The range of the true reward that a trainer of lesson 05 reaches in five worlds."""
    found = json.loads((Path(__file__).parent / "gallery_worlds.json").read_text())[name]
    return _range(min(found), max(found))


def ways(way, key):
    """A share of lesson 09 with its 95% interval, from the run that came with the kit."""
    found = json.loads((Path(__file__).parent / "three_ways.json").read_text())["ways"][way]
    if not isinstance(found[key], dict):
        return f"{found[key]:.0%}" if found[key] <= 1 else f"{found[key]:.1f}"
    low, high = found[key]["ci95"]
    return f"{found[key]['share']:.0%} ({low:.0%} to {high:.0%})"


def laptop():
    """The minutes in which the stages of lesson 09 were made, and where."""
    found = json.loads((Path(__file__).parent / "three_ways.json").read_text())
    made = sum(way["minutes"]["made"] for way in found["ways"].values())
    return f"{made:.0f} minutes on an {found['processor']} with {found['threads']} threads"


def listed():
    """One line for each chain: seed, processor, commit."""
    return "\n".join(
        f"- seed {chain['seed']}, {chain['made_on']}, torch {chain['versions']['torch']}, "
        f"trl {chain['versions']['trl']}, commit `{chain['commit']}`"
        for chain in chains()
    )


def rehearsal():
    """The times of the half day as a table, from `make rehearsal`, and where it was timed."""
    found = json.loads((FOLDER / "rehearsal.json").read_text())
    lines = [
        "| lesson | wall s | processor s | its longest cell | wall s | processor s | load before |"
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    for row in found["lessons"]:
        cell = max(row["cells"], key=lambda cell: cell["cpu_s"])
        of = "the set-up" if cell["cell"] == 1 else cell["of"]
        lines.append(
            f"| `{row['lesson']}` | {row['wall_s']:.0f} | {row['cpu_s']:.0f} | {of} | "
            f"{cell['wall_s']:.0f} | {cell['cpu_s']:.0f} | {row['load']} |"
        )
    left = [n for n in timed.LESSONS if n not in {row["lesson"][:2] for row in found["lessons"]}]
    lines += ["", f"Not timed yet: {', '.join(left)}."] if left else []
    commits = ", ".join(f"`{c}`" for c in sorted({row["commit"] for row in found["lessons"]}))
    lines += [
        "",
        f"By `{found['command']}` on {found['processor']}, {found['threads']} threads, torch",
    ]
    lines[-1] += (
        f" {found['versions']['torch']}, trl {found['versions']['trl']}, commits {commits}."
    )
    return "\n".join(lines)


def lessons():
    """The notebooks of the lessons, in their order."""
    return sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


def lesson(number):
    """The notebook whose name begins so."""
    return next((ROOT / "notebooks").glob(f"{number}*.ipynb"))


def asked(path):
    """Return the questions of a notebook's `lab.predict`: {question: options}, in order.

    Raises ValueError for options that are not written out in the call.
    """
    found = {}
    for cell in json.loads(Path(path).read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code" or "lab.predict(" not in "".join(cell["source"]):
            continue
        for node in ast.walk(ast.parse("".join(cell["source"]))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "predict":
                question, options = (ast.literal_eval(part) for part in node.args[:2])
                found[question] = options
    return found


def prediction(text):
    """A question of a lesson, "02 QUESTION", with its options. Raises ValueError for one that no cell asks."""
    number, question = text.split(maxsplit=1)
    options = asked(lesson(number))
    if question not in options:
        raise ValueError(f"lesson {number} does not ask {question!r}; it asks: {list(options)}")
    return f"“{question}” ({' / '.join(options[question])})"


def minutes(number):
    """The minutes of a lesson's exercises."""
    own = [p.minutes for p in puzzles.ALL.values() if p.number.split(".")[0] == str(int(number))]
    return str(sum(own))


KINDS = {
    "share": lambda text: share(*text.split()),
    "number": lambda text: number(*text.split()),
    "seconds": seconds,
    "worlds": worlds,
    "ways": lambda text: ways(*text.split()),
    "laptop": lambda text: laptop(),
    "rehearsal": lambda text: rehearsal(),
    "chains": lambda text: listed(),
    "prediction": prediction,
    "minutes": minutes,
}


def filled(text):
    """Return the template with every figure filled in. Raises ValueError for one of an unknown kind."""

    def figure(found):
        if found[1] not in KINDS:
            raise ValueError(f"no figure {found[1]!r}; there are: {', '.join(KINDS)}")
        return KINDS[found[1]](found[2])

    return FIGURE.sub(figure, text)


def page():
    """Return docs/teach/README.md as the template and the figures make it."""
    return filled(TEMPLATE.read_text(encoding="utf-8"))


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m lab.teach", description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="?", choices=["page", "keep"], default="page")
    parser.add_argument("folders", nargs="*", help="folders of runs, for keep")
    args = parser.parse_args(argv)
    try:
        keep(args.folders)
        PAGE.write_text(page(), encoding="utf-8")
        README.write_text(readme(), encoding="utf-8")
    except ValueError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
