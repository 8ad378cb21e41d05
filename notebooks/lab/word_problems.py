"""Make word problems of one step in GSM8K's own schema, and write them to files that `loaders.load` reads.

    python -m lab.word_problems FOLDER                              train.jsonl and test.jsonl
    loaders.load("openai/gsm8k", path="FOLDER/train.jsonl")         what reads them
    loaders.load("openai/gsm8k", path="generated:word-problems")    written to runs/models on first use

A problem is a story with two numbers and one operation. A fifth of all questions, chosen by a hash, is the
test split: no training row asks one of them.

Source    the schema of GSM8K: Cobbe et al., "Training verifiers", arXiv 2110.14168
Proof     tests/lab/test_word_problems.py

>>> print(make(STORIES[0], 12, 7, "Ana", "Ben", "pens")["answer"])
Ana has 12+7=<<12+7=19>>19 pens.
#### 19
"""

import argparse
import json
import os
import random
import zlib
from pathlib import Path

NAME = "generated:word-problems"
SIZES = {"train": 4000, "test": 1000}
NAMES = ("Ana", "Ben", "Chi", "Dina", "Emre", "Fay", "Goran", "Hana", "Ivo", "Jo", "Kofi", "Lena")
THINGS = ("pens", "eggs", "books", "coins", "shells", "cards", "apples", "stamps", "cups", "toys")
STORIES = (  # question, the sentence of the solution, operation; what a and b are is said by PAIRS
    ("{who} has {a} {what} and buys {b} more. How many {what} does {who} have now?", "{who} has {step} {what}.", "+"),
    ("There are {a} red {what} and {b} blue {what} in a box. How many {what} are in the box?", "The box has {step} {what}.", "+"),
    ("{who} made {a} {what} on Monday and {b} on Tuesday. How many {what} did {who} make in all?", "{who} made {step} {what}.", "+"),
    ("{who} has {a} {what} and {other} has {b}. How many {what} do they have together?", "Together they have {step} {what}.", "+"),
    ("{who} had {a} {what} and lost {b} of them. How many {what} are left?", "{step} {what} are left.", "-"),
    ("A shop has {a} {what} and sells {b}. How many {what} does the shop still have?", "The shop still has {step} {what}.", "-"),
    ("{who} has {a} {what} and {other} has {b}. How many more {what} does {who} have?", "{who} has {step} more {what}.", "-"),
    ("{who} needs {a} {what} and has {b}. How many {what} are missing?", "{step} {what} are missing.", "-"),
    ("{who} fills {a} boxes with {b} {what} each. How many {what} is that?", "That is {step} {what}.", "*"),
    ("One box of {what} costs {b} dollars. How many dollars do {a} boxes cost?", "They cost {step} dollars.", "*"),
    ("{who} puts {what} into {a} rows of {b}. How many {what} are there?", "There are {step} {what}.", "*"),
    ("{who} shares {a} {what} equally among {b} friends. How many {what} does each friend get?", "Each friend gets {step} {what}.", "/"),
    ("{who} packs {a} {what} into bags of {b}. How many bags does {who} need?", "{who} needs {step} bags.", "/"),
    ("{a} {what} stand in {b} equal rows. How many {what} are in each row?", "Each row has {step} {what}.", "/"),
)  # fmt: skip
RESULT = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b,
}


def numbers(sign, rng):
    """Draw the two numbers of an operation: sums below 100, products up to 108, quotients without a rest."""
    if sign == "+":
        return rng.randint(2, 50), rng.randint(2, 49)
    if sign == "-":
        low, high = sorted(rng.sample(range(2, 100), 2))
        return high, low
    few, many = rng.randint(2, 9), rng.randint(2, 12)
    return (few, many) if sign == "*" else (few * many, few)


def make(story, a, b, who, other, what):
    """Make one row in GSM8K's schema: question, and answer with a calculator mark and the last line."""
    question, sentence, sign = story
    result = RESULT[sign](a, b)
    step = f"{a}{sign}{b}=<<{a}{sign}{b}={result}>>{result}"
    said = sentence.format(who=who, what=what, step=step)
    asked = question.format(who=who, other=other, what=what, a=a, b=b)
    return {"question": asked, "answer": f"{said}\n#### {result}"}


def is_test(question):
    """Tell whether a question is of the test split: a fifth of all are, chosen by a hash."""
    return zlib.crc32(question.encode()) % 5 == 0


def rows(split, n, seed=0):
    """Make `n` different problems of a split, the four operations in equal parts: a list of dicts.

    Raises ValueError for another split than "train" and "test".
    """
    if split not in SIZES:
        raise ValueError(f"word_problems: split is {split!r}; expected one of {list(SIZES)}")
    rng, found = random.Random(f"{split}-{seed}"), {}
    while len(found) < n:
        sign = "+-*/"[len(found) % 4]
        story = rng.choice([story for story in STORIES if story[2] == sign])
        names = rng.sample(NAMES, 2)
        row = make(story, *numbers(sign, rng), *names, rng.choice(THINGS))
        if is_test(row["question"]) == (split == "test"):
            found.setdefault(row["question"], row)
    return list(found.values())


def write(folder):
    """Write train.jsonl and test.jsonl into a folder; returns {split: file}."""
    files = {split: Path(folder) / f"{split}.jsonl" for split in SIZES}
    for split, file in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows(split, SIZES[split])))
        partial.replace(file)
    return files


def found(path, split):
    """Return the file of a split for this module's own name, written anew; any other path as it stands."""
    if str(path) != NAME:
        return path
    from lab import runs

    return write(runs.root() / "models" / "word-problems")[split]


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m lab.word_problems", description=__doc__.split("\n")[0]
    )
    parser.add_argument("folder")
    for split, file in write(parser.parse_args(argv).folder).items():
        print(f"{file}: {SIZES[split]} problems")


if __name__ == "__main__":
    main()
