"""Eight data sets with a fault each, to be repaired; a repair is right if TRL then trains on what was meant.

    repairs.task(1)                    what is asked of data set 1, its first row, and what `lab.validate` says
    rows = repairs.check(1, repair)    repair(rows) -> rows: yours if it is right, else those of the reference
    repairs.solution(1)                the reference, after a try

Nothing compares your rows with ours: both are tokenised and masked by TRL's own functions (`lab.data.rendered`),
and every token, and whether it is trained, has to be the same as in the data set before it was broken.

Lesson    notebooks/12_data.ipynb        Proof    tests/lab/test_repairs.py
"""

import copy
import functools
import inspect
import re
from collections.abc import Callable
from typing import NamedTuple

from lab import model, show, tasks, validate
from lab.data.columns import names
from lab.data.rendered import Reader, Settings

LENGTH = 128  # tokens: what two turns of the task take, with room
COLUMNS = {
    "sft": ("prompt", "completion"),
    "dpo": ("prompt", "chosen", "rejected"),
    "grpo": ("prompt",),
}


class Broken(NamedTuple):
    """A data set with a fault."""

    kind: str  # "sft", "dpo" or "grpo"
    task: str  # what came, and what is meant
    fault: Callable  # rows as they were meant -> rows as they came
    repair: Callable  # the way back
    meant: Callable  # which of the rows are left after a right repair


@functools.cache
def tokenizer():
    return model.tokenizer()


def clean(kind, n=8):
    """The rows as they were meant, in TRL's format, as plain dicts."""
    pairs, rows = tasks.sample(n, "train", seed=3), []
    for a, b in pairs:
        answer, other = (
            [_says("assistant", tasks.completion(a, b, style))] for style in tasks.STYLES
        )
        row = {"prompt": tasks.prompt(a, b)}
        row |= {"sft": {"completion": answer}, "dpo": {"chosen": answer, "rejected": other}}.get(
            kind, {}
        )
        rows.append(row | ({"solution": str(a + b)} if kind == "grpo" else {}))
    return rows


def _says(role, content):
    return {"role": role, "content": content}


# ---------------------------------------------------------------- the faults, and the way back


def other_names(rows):
    names = {"user": "human", "assistant": "gpt"}
    return [
        {
            "conversations": [
                {"from": names[m["role"]], "value": m["content"]}
                for m in r["prompt"] + r["completion"]
            ]
        }
        for r in rows
    ]


def roles_and_columns(rows):
    roles, repaired = {"human": "user", "gpt": "assistant"}, []
    for row in rows:
        chat = [{"role": roles[m["from"]], "content": m["value"]} for m in row["conversations"]]
        repaired.append({"prompt": chat[:-1], "completion": chat[-1:]})
    return repaired


def one_chat(rows):
    return [{"messages": r["prompt"] + r["completion"]} for r in rows]


def parted(rows):
    return [{"prompt": r["messages"][:-1], "completion": r["messages"][-1:]} for r in rows]


def two_turns(rows):
    return [
        {"prompt": r["prompt"], "completion": r["completion"] + s["prompt"] + s["completion"]}
        for r, s in zip(rows[::2], rows[1::2])
    ]


def row_per_answer(rows):
    repaired = []
    for row in rows:
        chat = row["prompt"] + row["completion"]
        for i, message in enumerate(chat):
            if message["role"] == "assistant":
                repaired.append({"prompt": chat[:i], "completion": [message]})
    return repaired


def turns_meant(rows):
    both = [
        (r, s, r["prompt"] + r["completion"] + s["prompt"]) for r, s in zip(rows[::2], rows[1::2])
    ]
    return [
        row
        for r, s, before in both
        for row in (r, {"prompt": before, "completion": s["completion"]})
    ]


SYSTEM = "Add the columns one by one."


def system_apart(rows):
    return [r | {"system": SYSTEM} for r in rows]


def system_in_prompt(rows):
    return [
        {
            "prompt": [{"role": "system", "content": r["system"]}, *r["prompt"]],
            "completion": r["completion"],
        }
        for r in rows
    ]


def typed_ends(rows):
    return [_with_answer(r, r["completion"][0]["content"] + "<|im_end|>") for r in rows]


def _with_answer(row, text):
    return row | {"completion": [_says("assistant", text)]}


def ends_left_to_the_template(rows):
    return [
        {
            **r,
            "completion": [
                {
                    "role": "assistant",
                    "content": r["completion"][0]["content"].removesuffix("<|im_end|>"),
                }
            ],
        }
        for r in rows
    ]


def long_rows(rows):
    return [
        _with_answer(r, "Well, " * 16 + r["completion"][0]["content"]) if i % 3 == 0 else r
        for i, r in enumerate(rows)
    ]


def without_long_rows(rows):
    chats = [r["prompt"] + r["completion"] for r in rows]
    lengths = [len(tokenizer().apply_chat_template(c, return_dict=False)) for c in chats]
    return [r for r, length in zip(rows, lengths) if length <= LENGTH]


def same_sides(rows):
    return [r | {"rejected": r["chosen"]} if i % 4 == 1 else r for i, r in enumerate(rows)]


def pairs_that_differ(rows):
    return [r for r in rows if r["chosen"] != r["rejected"]]


def golds_in_words(rows):
    return [r | {"solution": f"so we get {r['solution']}, and that is it"} for r in rows]


def numbers_alone(rows):
    return [{**r, "solution": re.search(r"-?\d+", r["solution"])[0]} for r in rows]


def _all(rows):
    return rows


ALL = {
    1: Broken("sft", "A chat of another project: its messages have `from` and `value`. Train on the answers alone.",
              other_names, roles_and_columns, _all),
    2: Broken("sft", "Whole chats in `messages`. Nothing is refused here, but see what is trained. Train on the answers alone.",
              one_chat, parted, _all),
    3: Broken("sft", "Each row has two questions and two answers, the second question inside `completion`. Train on both answers and on no question.",
              two_turns, row_per_answer, turns_meant),
    4: Broken("sft", "The system prompt stands in a column of its own. It belongs into the prompt.",
              system_apart, system_in_prompt, lambda rows: system_in_prompt(system_apart(rows))),
    5: Broken("sft", "Somebody typed the end of the turn into the answers, and the chat template writes it as well. Once is meant.",
              typed_ends, ends_left_to_the_template, _all),
    6: Broken("sft", f"Some rows are longer than max_length = {LENGTH}, and their end would be cut off. Leave them out, and no other.",
              long_rows, without_long_rows, lambda rows: [r for i, r in enumerate(rows) if i % 3]),
    7: Broken("dpo", "In some pairs both answers are the same. Leave them out, and no other.",
              same_sides, pairs_that_differ, lambda rows: [r for i, r in enumerate(rows) if i % 4 != 1]),
    8: Broken("grpo", "The golds are sentences, which no reward can verify. Give the number alone.",
              golds_in_words, numbers_alone, _all),
}  # fmt: skip


# ---------------------------------------------------------------- the check


def broken(number):
    """The rows of a data set as they came.

    Raises ValueError for a number that does not exist.
    """
    if number not in ALL:
        raise ValueError(f"there is no data set {number!r}; there are: {', '.join(map(str, ALL))}")
    found = ALL[number]
    return copy.deepcopy(found.fault(clean(found.kind)))


def refusal(rows, kind):
    """What `lab.validate` refuses in some rows, or notes; "" if nothing."""
    try:
        told = validate.validate(rows, kind, tokenizer(), LENGTH, tolerated=0.0)
    except ValueError as error:
        return str(error)
    return " ".join(told["notes"])


def trained(rows, kind):
    """What TRL makes of rows: [(ids, whether each is trained, the gold)], in their order."""
    columns = next(c for c in (COLUMNS[kind], ("messages",)) if set(c) <= set(names(rows)))
    reader = Reader(kind, columns, tokenizer(), Settings())
    return [
        (tuple(s.ids), tuple(s.trained), row.get("solution"))
        for row in rows
        for s in reader.sequences(row)
    ]


def spans(row, kind="sft"):
    """The texts of one row as TRL trains on it: [(text, whether it is trained)]."""
    ids, marks, _ = trained([row], kind)[0]
    parts = []
    for token, mark in zip(ids, marks):
        if not parts or parts[-1][1] != mark:
            parts.append(([], mark))
        parts[-1][0].append(token)
    return [(tokenizer().decode(tokens), mark) for tokens, mark in parts]


def wrong_with(number, rows):
    """What is still wrong with a repair of a data set, "" if it is right."""
    found = ALL[number]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows) or not rows:
        return "a repair returns a list of rows, each a dict"
    meant = found.meant(clean(found.kind))
    if len(rows) != len(meant):
        return f"{len(rows)} rows are left; {len(meant)} are meant"
    said = refusal(rows, found.kind)
    if said.startswith("validate:"):
        return said
    try:
        got, wanted = (trained(each, found.kind) for each in (rows, meant))
    except Exception as error:  # noqa: BLE001 - rows may be anything
        return f"TRL cannot read these rows: {type(error).__name__}: {error}"
    if got == wanted:
        return ""
    i = next(i for i, (one, other) in enumerate(zip(got, wanted)) if one != other)
    decode = tokenizer().decode
    if got[i][0] != wanted[i][0]:
        return f"sequence {i} is {decode(got[i][0])!r}; meant is {decode(wanted[i][0])!r}"
    if got[i][2] != wanted[i][2]:
        return f"the gold of row {i} is {got[i][2]!r}; meant is {wanted[i][2]!r}"
    marks = [[t for t, on in zip(ids, counts) if on] for ids, counts, _ in (got[i], wanted[i])]
    return f"the words are right; trained is {decode(marks[0])!r}, meant is {decode(marks[1])!r}"


def task(number):
    """Show what is asked of a data set, its first row, and what `lab.validate` says of it."""
    rows, found = broken(number), ALL[number]
    print(f"Data set {number}, {found.kind}, {len(rows)} rows. {found.task}")
    show.texts(
        {"its first row": _pretty(rows[0]), "lab.validate": refusal(rows, found.kind) or "nothing"}
    )


def _pretty(row):
    return "\n".join(f"{key}: {value}" for key, value in row.items())


_tried = set()


def check(number, repair):
    """Say whether a repair is right, and if not, what is still wrong; returns the rows to go on with.

    repair    rows -> rows, a list of dicts. It gets a copy; what it raises is shown, not raised.
    """
    rows, why = None, ""
    try:
        rows = repair(broken(number))
    except NotImplementedError:
        print(f"Data set {number}: not repaired yet. Going on with the reference.")
        return ALL[number].repair(broken(number))
    except Exception as error:  # noqa: BLE001 - a learner's code may raise anything
        why = f"{type(error).__name__}: {error}"
    _tried.add(number)
    why = why or wrong_with(number, rows)
    print(f"Data set {number}: {'repaired.' if not why else f'not repaired yet. {why}'}")
    return ALL[number].repair(broken(number)) if why else rows


def solution(number):
    """Print the reference, once a repair was tried."""
    print(
        inspect.getsource(ALL[number].repair)
        if number in _tried
        else f"Try it first: repairs.check({number}, my_repair)"
    )
