"""What `lab.data.rendered` makes of a row is what TRL makes of it, over TRL's own chat templates."""

import json
import random

import pytest
from datasets import Dataset
from lab import model, validate
from lab.data.rendered import Reader, Settings
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


def drawn(rng):
    """A chat of one to three turns, healthy or not."""
    words = ["hi", "1+1=?", "<think>so</think>two", "日本", "well\n"]
    messages = [{"role": "system", "content": "Be brief."}] * (rng.random() < 0.3)
    for _ in range(rng.randint(1, 3)):
        role = "developer" if rng.random() < 0.1 else "user"
        answer = assistant(rng.choice(words))
        if rng.random() < 0.1:
            answer["reasoning_content"] = "one and one"
        messages += [{"role": role, "content": rng.choice(words)}, answer]
    return messages


@pytest.mark.parametrize("seed", range(6))
def test_what_passes_is_prepared_by_trl_and_counted_alike(seed, tokenizer_of, prepared):
    rng, passed = random.Random(seed), 0
    while passed < 5:
        messages, tok = drawn(rng), tokenizer_of(rng.choice(NAMES))
        row = {"prompt": messages[:-1], "completion": messages[-1:]}
        row = rng.choice([row, {"messages": messages}])
        max_length = rng.choice([None, 40, 80])
        try:
            report = validate.validate([row], "sft", tok, max_length, tolerated=1.0)
        except ValueError:
            continue
        passed += 1
        kept, whole = (prepared("sft", [row], tok, max_length=n) for n in (max_length, None))
        assert len(kept) == 1 - report["dropped"]
        assert len(whole[0]["input_ids"]) == report["longest"]
        cut = max_length is not None and report["longest"] > max_length
        assert report["truncated"] + report["dropped"] == cut
