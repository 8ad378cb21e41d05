"""Load the data sets of the field in TRL's format, by the names they have on the hub.

    load("openai/gsm8k", n=1000)                        from the hub, or its cache
    load("openai/gsm8k", path="my/copy/train.jsonl")    from files in the same schema

name                             for    columns on the hub                              here
trl-lib/Capybara                 sft    source, messages, num_turns                     messages
trl-lib/ultrafeedback_binarized  dpo    chosen, rejected, score_chosen, score_rejected  prompt,
                                                                                        chosen, rejected
AI-MO/NuminaMath-TIR             grpo   problem, solution, messages                     prompt, solution
trl-lib/DeepMath-103K            grpo   prompt, solution                                prompt, solution
openai/gsm8k                     grpo   question, answer                                prompt, solution
openai/gsm8k                     sft    question, answer                                prompt, completion
HuggingFaceH4/MATH-500           grpo   problem, solution, answer, subject, level,      prompt, solution
                                        unique_id; a test split alone
reasoning-gym/<task>             grpo   made by the package of that name                prompt, solution,
                                                                                        task

Pairs that teach nothing are dropped, and their number is printed: UltraFeedback has pairs whose two
answers are the same, and answers that are empty.

For GRPO the system prompt asks for the two tags that `rewards` reads. The answers of Capybara and
UltraFeedback have no tags: a system prompt that asks for them would teach to ignore it, so none is
added there unless `system` is given.
"""

import re
from pathlib import Path

from datasets import load_dataset
from trl import extract_prompt

from lab import standins, word_problems

SYSTEM = (
    "Reason step by step between <think> and </think>. Then give the final answer, and nothing "
    "else, between <answer> and </answer>."
)


def load(
    name,
    stage=None,
    split="train",
    n=None,
    seed=0,
    path=None,
    system=None,
    revision=None,
    say=print,
    **options,
):
    """Load one data set of the field, ready for its trainer.

    name     str         a name of the table above
    stage    str         optional: the stage it is wanted for, to be told when it is another's
    split    str         "train" or "test"
    n        int         optional: so many rows, drawn with `seed`
    path     str, Path   optional: a JSON lines or Parquet file in the data set's own schema; or
                         "generated:word-problems" (`lab.word_problems`), in GSM8K's
    system   str         optional: the system prompt; where answers have the tags SYSTEM, else none
    revision str         optional: a commit of the data set on the hub, so that rows stay the same
    say      function    called with a line that says how many pairs were dropped
    options              of a task that the kit generates, as "instructions/1" (`lab.instructions`), and of
                         a task of reasoning-gym (`lab.gym`)
    returns  datasets.Dataset

    Raises ValueError for another name, stage or schema; ConnectionError, with the way on, when
    the hub cannot be reached.
    """
    if name.startswith("instructions/"):
        from lab import instructions

        return instructions.load(name, stage, split, n or 500, seed, **options)
    if name.startswith("reasoning-gym/"):
        from lab import gym

        return gym.load(name, stage, split, n or 500, seed, system, **options)
    if options:
        raise ValueError(f"loaders: {name} has no options {sorted(options)}")
    if name not in DATASETS:
        raise ValueError(f"loaders: no data set {name!r}; there are {', '.join(DATASETS)}")
    of, convert, columns, config = DATASETS[name]
    if (name, stage) in ALSO:
        of, convert = stage, ALSO[name, stage]
    if stage is not None and stage != of:
        names = [other for other, (kind, *_) in DATASETS.items() if kind == stage]
        names += [other for other, kind in ALSO if kind == stage]
        raise ValueError(f"loaders: {name} is for {of}; for {stage} there are {names}")
    if name == "HuggingFaceH4/MATH-500" and split != "test":
        raise ValueError(f"loaders: {name} has a test split alone, to score on: split: test")
    path = word_problems.found(path, split) if path else standins.file(name, split)
    rows = _from_file(path) if path else _from_hub(name, config, split, revision)
    missing = set(columns) - set(rows.column_names)
    if missing:
        raise ValueError(
            f"loaders: {path or name} has the columns {rows.column_names}, without "
            f"{sorted(missing)}; {name} has {list(columns)}"
        )
    if of == "dpo":
        rows = _that_differ(rows, path or name, say)
    if n is not None:
        rows = rows.shuffle(seed=seed).select(range(min(n, len(rows))))
    system = SYSTEM if system is None and (of == "grpo" or convert is worked) else system
    keep = {"system": system}
    return rows.map(convert, fn_kwargs=keep, remove_columns=rows.column_names, desc=name)


def capybara(row, system):
    """Return chats of several turns, as they are."""
    return {"messages": _with_system(row["messages"], system)}


def ultrafeedback(row, system):
    """Split the two chats as TRL does into what they share and what they do not."""
    parts = extract_prompt({"chosen": row["chosen"], "rejected": row["rejected"]})
    return {**parts, "prompt": _with_system(parts["prompt"], system)}


def numina(row, system):
    """Take the worked solution as the gold: rewards reads its last box."""
    return {"prompt": _asked(row["problem"], system), "solution": row["solution"]}


def math_500(row, system):
    """Take the short answer as the gold, in LaTeX: what the box of the worked solution holds."""
    return {"prompt": _asked(row["problem"], system), "solution": row["answer"]}


def deepmath(row, system):
    """Return rows that are in TRL's format already, with the system prompt."""
    return {"prompt": _with_system(row["prompt"], system), "solution": row["solution"]}


def gsm8k(row, system):
    """Take the reasoning with its last line, #### 42, as the gold: rewards reads that line."""
    return {"prompt": _asked(row["question"], system), "solution": row["answer"]}


def worked(row, system):
    """Put GSM8K's worked solution into the two tags, without the calculator's marks: <<48/2=24>>.

    >>> row = {"question": "Half of 48?", "answer": "It is 48/2 = <<48/2=24>>24.\\n#### 24"}
    >>> worked(row, None)["completion"][0]["content"]
    '<think>It is 48/2 = 24.</think><answer>24</answer>'
    """
    reasoning, mark, answer = row["answer"].rpartition("####")
    if not mark:
        raise ValueError(
            f"loaders: an answer without its last line, #### 42: {row['answer'][-60:]!r}"
        )
    reasoning = re.sub(r"<<[^<>]*>>", "", reasoning).strip()
    said = f"<think>{reasoning}</think><answer>{answer.strip()}</answer>"
    prompt = _asked(row["question"], system)
    return {"prompt": prompt, "completion": [{"role": "assistant", "content": said}]}


DATASETS = {  # name: stage, conversion, columns on the hub, configuration on the hub
    "trl-lib/Capybara": ("sft", capybara, ("messages",), None),
    "trl-lib/ultrafeedback_binarized": ("dpo", ultrafeedback, ("chosen", "rejected"), None),
    "AI-MO/NuminaMath-TIR": ("grpo", numina, ("problem", "solution"), None),
    "trl-lib/DeepMath-103K": ("grpo", deepmath, ("prompt", "solution"), None),
    "HuggingFaceH4/MATH-500": ("grpo", math_500, ("problem", "answer"), None),
    "openai/gsm8k": ("grpo", gsm8k, ("question", "answer"), "main"),
}

# A second use of the same rows.
ALSO = {("openai/gsm8k", "sft"): worked}


def _that_differ(rows, name, say):
    """The pairs that teach something: two answers that differ, neither of them empty."""

    def kind(row):
        sides = [row[side][-1]["content"].strip() for side in ("chosen", "rejected")]
        return "empty" if not all(sides) else "same" if sides[0] == sides[1] else "sound"

    kinds = [kind(row) for row in rows]
    same, empty = kinds.count("same"), kinds.count("empty")
    if not same + empty:
        return rows
    say(
        f"{name}: {same} pairs with twice the same answer and {empty} with an empty one dropped, "
        f"of {len(rows)}"
    )
    return rows.select([i for i, k in enumerate(kinds) if k == "sound"])


def _asked(question, system):
    return _with_system([{"role": "user", "content": question}], system)


def _with_system(messages, system):
    if system is None:
        return messages
    others = [message for message in messages if message["role"] != "system"]
    return [{"role": "system", "content": system}, *others]


def _from_file(path):
    kind = "parquet" if Path(path).suffix == ".parquet" else "json"
    return load_dataset(kind, data_files=str(path), split="train")


def _from_hub(name, config, split, revision=None):
    try:
        return load_dataset(name, config, split=split, revision=revision)
    except Exception as error:  # offline is told in a dozen ways, from socket to cache
        at = f" at revision {revision} (leave it out for the newest)" if revision else ""
        raise ConnectionError(
            f"loaders: {name}{at} is neither on the hub as seen from here nor in the cache "
            f"({type(error).__name__}). Without a network train on the built-in task: "
            "LAB_PROFILE=tiny, or lab.tasks.sft_dataset, grpo_dataset; with a copy of the data "
            "set on this machine: loaders.load(name, path=...)."
        ) from error
