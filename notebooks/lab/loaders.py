"""The field's data sets, mapped to TRL's formats: what `data: {name: ...}` of a recipe loads.

    trl-lib/Capybara                    sft    `messages` as they stand
    trl-lib/ultrafeedback_binarized     dpo    `chosen`, `rejected`: chats that share their prompt
    openai/gsm8k                        grpo   `question`, `answer` ending in "#### 42"

They come from the Hugging Face hub, or from a local JSON or Parquet file of the same columns.
"""

from pathlib import Path

from datasets import load_dataset

SYSTEM = (
    "Reason step by step between <think> and </think>, then give the final answer alone, "
    "without units, between <answer> and </answer>."
)


def sft(row):
    """Chats as they stand; TRL's loss counts the assistant's turns with assistant_only_loss."""
    return {"messages": row["messages"]}


def dpo(row):
    """The turns that both chats share as the prompt, and the last one of each."""
    chosen, rejected = row["chosen"], row["rejected"]
    if chosen[:-1] != rejected[:-1]:
        raise ValueError(f"chosen and rejected must share their prompt, got {chosen}, {rejected}")
    return {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}


def grpo(row):
    """The question under a system prompt that names the tags, and the gold.

    >>> grpo({"question": "6 times 7?", "answer": "6*7=42\\n#### 1,042"})["solution"]
    '1042'
    """
    asked = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": row["question"]}]
    return {"prompt": asked, "solution": gold(row["answer"])}


def gold(answer):
    """What stands after "####", without the commas of thousands."""
    _, mark, after = answer.rpartition("####")
    if not mark or not after.strip():
        raise ValueError(f'expected an answer that ends in "#### <gold>", got {answer!r}')
    return after.strip().replace(",", "")


# stage -> {data set: (its mapping, its columns, its configuration on the hub)}
KNOWN = {
    "sft": {"trl-lib/Capybara": (sft, {"messages"}, None)},
    "dpo": {"trl-lib/ultrafeedback_binarized": (dpo, {"chosen", "rejected"}, None)},
    "grpo": {"openai/gsm8k": (grpo, {"question", "answer"}, "main")},
}


def load(name, stage, split="train", n=None, file=None):
    """The rows of a data set in the format that a stage trains on.

    name    a data set of KNOWN[stage]
    n       the first n rows only
    file    a local JSON lines or Parquet file in the same columns, instead of the hub

    ValueError for a data set or columns that are not known; ConnectionError, which names the way
    on, where the hub cannot be reached.
    """
    known = KNOWN.get(stage, {})
    if name not in known:
        raise ValueError(f"no data set {name!r} for stage {stage!r}; there are: {sorted(known)}")
    mapping, needed, configuration = known[name]
    rows = from_file(file) if file else from_hub(name, configuration, split)
    if not needed <= set(rows.column_names):
        raise ValueError(
            f"{file or name} has columns {rows.column_names}, expected {sorted(needed)}"
        )
    rows = rows.select(range(min(n, len(rows)))) if n else rows
    return rows.map(mapping, remove_columns=rows.column_names)


def from_file(file):
    if not Path(file).exists():
        raise ValueError(f"no file {file}")
    kind = "parquet" if str(file).endswith(".parquet") else "json"
    return load_dataset(kind, data_files=str(file), split="train")


def from_hub(name, configuration, split):
    try:
        return load_dataset(name, configuration, split=split)
    except (OSError, RuntimeError, ValueError) as error:  # which of them depends on what is cut off
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConnectionError(
            f"{name} could not be loaded from the Hugging Face hub ({reason}). Way on: the built-in "
            "task needs no network, LAB_PROFILE=tiny; or connect, and unset HF_HUB_OFFLINE."
        ) from error
