"""Healthy data over every chat template of TRL: no error, and no note but what is true of each."""

from pathlib import Path

import pytest
import trl
from lab import validate


def user(content="How are you today?"):
    return {"role": "user", "content": content}


def assistant(content="I am fine, thank you."):
    return {"role": "assistant", "content": content}


CODE = "```html\n<b>hi</b> {{ x }} [INFO] None null <|> 5 < 6\n```\n\n天空是蓝色的。  \n- item"
SETS = {
    "messages": ("sft", [{"messages": [user(), assistant()]}, {"messages": [user(CODE), assistant(CODE)]}]),
    "turns": ("sft", [{"messages": [user(), assistant(), user("And you?"), assistant("Good.")]}]),
    "completion": ("sft", [{"prompt": [user()], "completion": [assistant()], "source": "web"}]),
    "history": ("sft", [{"prompt": [user(), assistant("Hm."), user(CODE)], "completion": [assistant(CODE)]}]),
    "pairs": ("dpo", [{"prompt": [user()], "chosen": [assistant()], "rejected": [assistant("No.")]}]),
    "whole pairs": ("dpo", [{"chosen": [user(), assistant()], "rejected": [user(), assistant("No.")]}]),
    "prompts": ("grpo", [{"prompt": [user("1+1=?")], "solution": "2", "level": "easy"}]),
}  # fmt: skip
TRUE = ("train on the user's words too", "does not read the columns ['source']")
OPENS = ("an open <think>", "ends a prompt otherwise")  # what the template itself does
BLOCKS = ("idefics3", "llava_next", "smolvlm")  # read content as blocks only
NO_END = ("glm4moe",)  # write nothing after the last answer
NAMES = sorted(path.stem for path in Path(trl.__file__).parent.glob("chat_templates/*.jinja"))


def as_blocks(value):
    if isinstance(value, list):
        return [as_blocks(item) for item in value]
    if isinstance(value, dict):
        return {**value, "content": [{"type": "text", "text": value["content"]}]}
    return value


def said(name, kind, rows, tokenizer_of):
    """What validate says of the rows: the lines of its error, or its notes."""
    try:
        return validate.validate(rows, kind, tokenizer_of(name), None)["notes"]
    except ValueError as error:
        return str(error).splitlines()[1:]


@pytest.mark.parametrize("merges", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_healthy_data_pass(name, merges, tokenizer_of, merging_of):
    tokenizer_of = merging_of if merges else tokenizer_of
    model = name.removesuffix("_training")
    for kind, rows in SETS.values():
        if model in BLOCKS:
            rows = [{key: as_blocks(value) for key, value in row.items()} for row in rows]
        lines = [
            line
            for line in said(name, kind, rows, tokenizer_of)
            if not any(t in line for t in TRUE)
        ]
        if model in NO_END and kind != "grpo":
            assert all("learn to stop" in line for line in lines)
        elif model not in BLOCKS or kind == "grpo":  # their EOS is not looked for here
            assert all(any(words in line for words in OPENS) for line in lines), lines
