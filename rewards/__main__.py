"""Score completions from a file and say why: `python -m rewards FILE.jsonl`.

Each line is an object with `completion` (a string or a chat) and `solution` (the gold);
`prompt` is optional. The names of the columns can be given.
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Sequence

from tqdm import tqdm

from rewards.completions import text_of
from rewards.format import format_reward
from rewards.verdicts import explain


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line per row that did not score, or per row with --all, then a summary."""
    parser = argparse.ArgumentParser(prog="python -m rewards", description=__doc__)
    parser.add_argument("file", help="JSON lines; - reads standard input")
    parser.add_argument("--completion", default="completion", help="column of the completions")
    parser.add_argument("--gold", default="solution", help="column of the golds")
    parser.add_argument("--prompt", default="prompt", help="column of the prompts, if there is one")
    parser.add_argument("--all", action="store_true", help="show the rows that scored 1.0 too")
    options = parser.parse_args(arguments)

    rows = _rows(options)
    if not rows:
        raise SystemExit(f"{options.file}: no rows; each line is a JSON object.")
    why: Counter[str] = Counter()
    right = in_form = 0
    for number, row in enumerate(tqdm(rows, unit="row", disable=None), start=1):
        completion, gold = row[options.completion], row[options.gold]
        (verdict,) = explain([completion], [gold], [row.get(options.prompt)])
        (form,) = format_reward([completion])
        why[verdict.reason] += 1
        right += verdict.reward == 1.0
        in_form += int(form)
        if options.all or verdict.reward != 1.0:
            score = "none" if verdict.reward is None else f"{verdict.reward:.1f}"
            reason = verdict.reason + _special_tokens(completion)
            line = f"row {number:<6} accuracy {score:<5} format {form:.1f}  {reason}"
            tqdm.write(f"{line}  [gold {_short(gold)}]")
    scored = len(rows) - sum(n for reason, n in why.items() if reason.startswith("gold"))
    print(f"\n{len(rows)} rows, {in_form:.0f} in form, {right} of {scored} with a gold are right")
    for reason, count in why.most_common():
        print(f"{count:8}  {reason}")


def _rows(options):
    rows = []
    for number, line in enumerate(_lines(options.file), start=1):
        if not line.strip():
            continue
        where = f"{options.file}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # a huge integer, a tower of brackets
            raise SystemExit(_not_json(where, line, error)) from None
        if isinstance(row, list):
            raise SystemExit(
                f"{where}: a JSON array; write one object per line, as `jq -c '.[]' FILE` does."
            )
        if not isinstance(row, dict):
            raise SystemExit(
                f"{where}: not an object but a value of type {type(row).__name__}; each line is "
                f'{{"{options.completion}": ..., "{options.gold}": ...}}.'
            )
        missing = [c for c in (options.completion, options.gold) if c not in row]
        if missing:
            raise SystemExit(
                f"{where}: no column {missing[0]!r} among {sorted(row)}; "
                "name yours with --completion and --gold."
            )
        rows.append(_checked(row, options, where))
    return rows


def _lines(path):
    """The lines of the file or of standard input, or one line that says why there are none."""
    try:
        if path == "-":
            return list(sys.stdin)
        with open(path, encoding="utf-8-sig") as file:
            return list(file)
    except UnicodeDecodeError:
        raise SystemExit(f"{path}: not a text in UTF-8; it has to be JSON lines.") from None
    except OSError as error:
        raise SystemExit(f"{path}: {error.strerror}; give a file of JSON lines.") from None


def _not_json(where, line, error):
    if line.strip() in ("[", "{"):
        return (
            f"{where}: not JSON, but one document over several lines; write one object per line, "
            "as `jq -c '.[]' FILE` does."
        )
    return f"{where}: not JSON ({str(error)[:200]})"


def _checked(row, options, where):
    """The row, if its completion is one completion; several of one prompt are several rows."""
    completion = row[options.completion]
    if isinstance(completion, list) and not all(isinstance(m, dict) for m in completion):
        raise SystemExit(
            f"{where}: {options.completion!r} is a list of {len(completion)} completions; "
            "write one row per completion, each with its gold."
        )
    return row


_SPECIAL = re.compile(r"(?:<\|[^<>|\s]{1,40}\|>|</s>|<eos>|<pad>|<end_of_turn>|\[/INST\])\s*")


def _special_tokens(completion):
    """Name the special tokens that a saved rollout ends with: they are text outside the blocks."""
    found = re.search(rf"(?:{_SPECIAL.pattern})+$", text_of(completion)[-400:])
    if not found:
        return ""
    tokens = ", ".join(sorted(set(found[0].split())))
    return f" (it ends with the special tokens {tokens}: decode with skip_special_tokens=True)"


def _short(gold):
    text = str(gold).replace("\n", " ")
    return text if len(text) <= 40 else text[:37] + "..."


if __name__ == "__main__":
    main()
