"""Score completions from a file and say why: `python -m rewards FILE.jsonl`.

Each line is an object with `completion` (a string or a chat) and `solution` (the gold);
`prompt` is optional. The names of the columns can be given.
"""

import argparse
import json
import sys
from collections import Counter

from tqdm import tqdm

from rewards.format import format_reward
from rewards.verdicts import explain


def main(arguments=None):
    """Print one line per row that did not score, or per row with --all, then a summary."""
    parser = argparse.ArgumentParser(prog="python -m rewards", description=__doc__)
    parser.add_argument("file", help="JSON lines; - reads standard input")
    parser.add_argument("--completion", default="completion", help="column of the completions")
    parser.add_argument("--gold", default="solution", help="column of the golds")
    parser.add_argument("--prompt", default="prompt", help="column of the prompts, if there is one")
    parser.add_argument("--all", action="store_true", help="show the rows that scored 1.0 too")
    options = parser.parse_args(arguments)

    rows = _rows(options)
    why, right, in_form = Counter(), 0, 0
    for number, row in enumerate(tqdm(rows, unit="row", disable=None), start=1):
        completion, gold = row[options.completion], row[options.gold]
        (verdict,) = explain([completion], [gold], [row.get(options.prompt)])
        (form,) = format_reward([completion])
        why[verdict.reason] += 1
        right += verdict.reward == 1.0
        in_form += form
        if options.all or verdict.reward != 1.0:
            score = "none" if verdict.reward is None else f"{verdict.reward:.1f}"
            line = f"row {number:<6} accuracy {score:<5} format {form:.1f}  {verdict.reason}"
            tqdm.write(f"{line}  [gold {_short(gold)}]")
    scored = len(rows) - sum(n for reason, n in why.items() if reason.startswith("gold"))
    print(f"\n{len(rows)} rows, {in_form:.0f} in form, {right} of {scored} with a gold are right")
    for reason, count in why.most_common():
        print(f"{count:8}  {reason}")


def _rows(options):
    with sys.stdin if options.file == "-" else open(options.file, encoding="utf-8") as file:
        lines = [line for line in file if line.strip()]
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # a huge integer, a tower of brackets
            raise SystemExit(f"{options.file}, line {number}: not JSON ({error})") from None
        missing = [c for c in (options.completion, options.gold) if c not in row]
        if missing:
            raise SystemExit(
                f"{options.file}, line {number}: no column {missing[0]!r} among {sorted(row)}; "
                "name yours with --completion and --gold."
            )
        rows.append(row)
    return rows


def _short(gold):
    text = str(gold).replace("\n", " ")
    return text if len(text) <= 40 else text[:37] + "..."


if __name__ == "__main__":
    main()
