"""What `lab.rendered` makes of a row is what TRL makes of it, over TRL's own chat templates."""

import json

import pytest
from datasets import Dataset
from lab import model
from lab.rendered import Reader, Settings
from trl import SFTConfig, SFTTrainer

# One of each make: with and without BOS, system prompts, reasoning, tools and a training template.
NAMES = ("qwen2_5", "qwen3", "deepseek_r1_distill", "gemma3", "llama3", "phi3", "lfm2_v2", "gptoss")
ADD = {
    "name": "add",
    "description": "Add two numbers.",
    "parameters": {"type": "object", "properties": {}},
}
TOOLS = json.dumps([{"type": "function", "function": ADD}])
QUIET = {"use_cpu": True, "bf16": False, "report_to": [], "max_length": None}


def user(text="1+1=?"):
    return {"role": "user", "content": text}


def assistant(text="two"):
    return {"role": "assistant", "content": text}


LONG = [user(), assistant("<think>\none\n</think>\n\ntwo"), user("3+3=?"), assistant("six")]
SFT = {
    "messages": [{"messages": LONG}, {"messages": [user(), assistant()]}],
    "chats": [{"prompt": LONG[:3], "completion": [assistant()]}],
    "text": [{"text": "one and one"}, {"text": "two<|im_end|>"}],
    "plain": [{"prompt": "1+1=", "completion": "2"}, {"prompt": "1+1=", "completion": "3<|im_end|>"}],
    "tools": [{"messages": [user(), assistant()], "tools": TOOLS}],
    "arguments": [{"messages": [user(), assistant()], "chat_template_kwargs": {"x": 1}}],
}  # fmt: skip
COLUMNS = {"messages": ("messages",), "tools": ("messages",), "arguments": ("messages",)}
COLUMNS |= {"text": ("text",)}


@pytest.mark.parametrize("shape", SFT)
@pytest.mark.parametrize("name", NAMES)
def test_sft_rows_are_read_as_trl_reads_them(name, shape, tokenizer_of, prepared):
    tok = tokenizer_of(name)
    modes = [{}, {"assistant_only_loss": True}] if "messages" in SFT[shape][0] else [{}]
    modes += [{"completion_only_loss": False}] if "completion" in SFT[shape][0] else []
    for options in modes:
        reader = Reader(
            "sft", COLUMNS.get(shape, ("prompt", "completion")), tok, Settings(**options)
        )
        theirs = prepared("sft", SFT[shape], tok, **options)
        for row, want in zip(SFT[shape], theirs, strict=True):
            (got,) = reader.sequences(row)
            assert got.ids == want["input_ids"]
            assert got.trained == [label != -100 for label in want["labels"]]


PAIRS = {
    "chats": {"prompt": LONG[:3], "chosen": [assistant()], "rejected": [assistant("six")]},
    "whole chats": {"chosen": [user(), assistant()], "rejected": [user(), assistant("six")]},
    "plain": {"prompt": "1+1=", "chosen": "2", "rejected": "3"},
    "whole texts": {"chosen": "The sky is blue.", "rejected": "The sky is green."},
    "tools": {"prompt": [user()], "chosen": [assistant()], "rejected": [assistant("x")], "tools": TOOLS},
}  # fmt: skip


@pytest.mark.parametrize("shape", PAIRS)
@pytest.mark.parametrize("name", NAMES)
def test_dpo_pairs_are_read_as_trl_reads_them(name, shape, tokenizer_of, prepared):
    tok, row = tokenizer_of(name), PAIRS[shape]
    (want,) = prepared("dpo", [row], tok)
    columns = tuple(c for c in ("prompt", "chosen", "rejected") if c in row)
    for got in Reader("dpo", columns, tok, Settings()).sequences(row):
        assert got.ids == want["prompt_ids"] + want[f"{got.side}_ids"]
        assert got.ids[: got.prompt_len] == want["prompt_ids"]
        assert sum(got.trained) == len(want[f"{got.side}_ids"])


@pytest.mark.parametrize("name", ["qwen2_5", "lfm2_2_5", "qwen3"])
def test_the_trainer_takes_the_same_training_template(name, tokenizer_of, tmp_path):
    tok = tokenizer_of(name)
    args = SFTConfig(
        output_dir=str(tmp_path), assistant_only_loss=True, **(QUIET | {"max_length": 64})
    )
    rows = Dataset.from_list(SFT["messages"])
    built = SFTTrainer(model.build(tok), args, train_dataset=rows, processing_class=tok)
    reader = Reader("sft", ("messages",), tok, Settings(assistant_only_loss=True))
    assert built.chat_template == reader.chat_template


def test_a_template_that_trl_cannot_patch_is_named(tokenizer_of):
    tok = tokenizer_of("llama3_1")
    with pytest.raises(
        ValueError, match="validate: assistant_only_loss needs.*leave the setting out"
    ):
        Reader("sft", ("messages",), tok, Settings(assistant_only_loss=True))


def test_grpo_reads_a_prompt_with_the_arguments_of_its_config(tokenizer_of):
    tok = tokenizer_of("qwen3")
    row = {"prompt": [user()], "solution": "2"}
    (plain,) = Reader("grpo", ("prompt",), tok, Settings()).sequences(row)
    off = Settings(chat_template_kwargs={"enable_thinking": False})
    (closed,) = Reader("grpo", ("prompt",), tok, off).sequences(row)
    assert tok.decode(plain.ids).endswith("assistant\n")
    assert tok.decode(closed.ids).endswith("<think>\n\n</think>\n\n")
