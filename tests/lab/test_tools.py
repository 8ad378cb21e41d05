"""Tool calls, content blocks, and prompts that no completion in form can follow."""

import json

import pytest
from datasets import Dataset, Features, Json, List
from lab import model, validate
from lab.data.room import shortest
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import add_response_schema, parse_response

from rewards import format_reward


def user(content="1+1=?"):
    return {"role": "user", "content": content}


def assistant(content="two", **more):
    return {"role": "assistant", "content": content, **more}


def named(tok, kind, rows, words, max_length=None, **settings):
    with pytest.raises(ValueError, match=f"(?s)validate.*{words}") as raised:
        validate.validate(rows, kind, tok, max_length, **settings)
    return str(raised.value)


def calling(arguments, name="add"):
    """A chat with one tool call."""
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    result = {"role": "tool", "name": name, "content": "fourteen"}
    calls = {"role": "assistant", "content": "", "tool_calls": [call]}
    return {"messages": [user("Go"), calls, result, assistant("14")]}


def as_they_are(rows):
    """A Dataset whose messages keep their own keys, as validate advises."""
    return Dataset.from_list(rows, features=Features({"messages": List(Json())}))


def words_of(rows, tok, prepared):
    return tok.decode(prepared("sft", rows, tok)[0]["input_ids"])


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("qwen2_5", r'"{\"a\": 7}"'),
        ("llama3_1", r'"{\"a\": 7}"'),
        ("gptoss", r'"{\"a\": 7}"'),
        ("gemma4", '{{"a": 7}}'),
    ],
)
def test_arguments_that_are_encoded_twice_are_named(name, trained, tokenizer_of, prepared):
    tok, rows = tokenizer_of(name), as_they_are([calling('{"a": 7}')])
    named(tok, "sft", rows, "encoded twice.*json.loads")
    assert trained in words_of(rows, tok, prepared)
    good = as_they_are([calling({"a": 7})])
    assert validate.validate(good, "sft", tok, None)["rows"] == 1


@pytest.mark.parametrize("name", ["qwen3", "qwen3_vl", "qwen3_instruct_2507"])
@pytest.mark.parametrize("arguments", ['{"a": 7}', '{"a":7,"b":"é"}', {"a": 7}, "{}"])
def test_a_template_that_takes_text_or_a_dict_passes(name, arguments, tokenizer_of):
    rows = as_they_are([calling(arguments)])
    assert validate.validate(rows, "sft", tokenizer_of(name), None)["rows"] == 1


@pytest.mark.parametrize(
    ("name", "arguments", "advice"),
    [
        ("nemotron_3_nano", '{"a": 7}', "json.loads"),
        ("qwen3_6", '{"a": 7}', "json.loads"),
        ("lfm2_v2", '{"a": 7}', "json.loads"),
        ("deepseekv3", {"a": 7}, "json.dumps"),
    ],
)
def test_arguments_that_the_template_refuses_come_with_the_form_it_takes(
    name, arguments, advice, tokenizer_of, prepared
):
    tok, rows = tokenizer_of(name), as_they_are([calling(arguments)])
    named(tok, "sft", rows, f"refuses it.*{advice}")
    with pytest.raises(Exception, match="str|mapping"):  # Jinja's own words, without a row
        prepared("sft", rows, tok)
    change = json.loads if advice == "json.loads" else json.dumps
    good = as_they_are([calling(change(arguments))])
    assert validate.validate(good, "sft", tok, None)["rows"] == 1


def test_arguments_printed_as_python_prints_them_are_named(prepared):
    tok = model.tokenizer()
    tok.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}"
        "{{ c.function.name }}{{ c.function.arguments }}{% endfor %}<|im_end|>\n{% endfor %}"
    )
    rows = as_they_are([calling({"a": 7})])
    named(tok, "sft", rows, "as Python prints them.*json.dumps")
    assert "{'a': 7}" in words_of(rows, tok, prepared)


def test_arguments_filled_with_nulls_are_named(tokenizer_of, prepared):
    tok, rows = tokenizer_of("qwen3"), [calling({"a": 7}), calling({"b": 8}, "neg")]
    filled = Dataset.from_list(rows)
    named(tok, "sft", filled, r"2 rows \(0, 1\).*hold null.*use_json.*'b': None")
    assert '"b": null' in words_of(filled, tok, prepared)
    for kept in (Dataset.from_list(rows, on_mixed_types="use_json"), as_they_are(rows)):
        assert validate.validate(kept, "sft", tok, None)["rows"] == 2
        assert "null" not in words_of(kept, tok, prepared)
    notes = validate.validate(rows, "sft", tok, None)["notes"]  # a list: not stored yet
    assert any("Dataset.from_list fills in null" in note for note in notes)


def test_nulls_in_the_answer_of_a_pair_are_named(tokenizer_of):
    calls = [calling({"a": 7})["messages"][1], calling({"b": 8})["messages"][1]]
    rows = Dataset.from_list([{"prompt": [user()], "chosen": calls[:1], "rejected": calls[1:]}] * 2)
    rows = Dataset.from_list(
        [{**row, "chosen": [call]} for row, call in zip(rows, calls, strict=True)]
    )
    named(tokenizer_of("qwen3"), "dpo", rows, "tool arguments hold null")


def test_a_null_that_every_row_has_is_meant(tokenizer_of):
    rows = Dataset.from_list([calling({"a": 7, "unit": None})] * 2)
    assert validate.validate(rows, "sft", tokenizer_of("qwen3"), None)["rows"] == 2


def test_fields_filled_with_nulls_that_break_a_template_are_named(tokenizer_of, prepared):
    for name in ("llama3_1", "gptoss", "lfm2_2_5"):
        tok, filled = tokenizer_of(name), Dataset.from_list([calling({"a": 7})])
        named(tok, "sft", filled, r"refuses it.*features=Features.*List\(Json\(\)\)")
        with pytest.raises(Exception, match="None"):
            prepared("sft", filled, tok)
        assert validate.validate(as_they_are([calling({"a": 7})]), "sft", tok, None)["rows"] == 1


def test_nulls_in_tools_are_a_note(tokenizer_of):
    tools = [
        {"type": "function", "function": {"name": name, "parameters": {key: {"type": "number"}}}}
        for name, key in (("add", "a"), ("neg", "b"))
    ]
    chat = {"messages": [user(), assistant()]}
    notes = validate.validate(
        Dataset.from_list([{**chat, "tools": tools}]), "sft", tokenizer_of("qwen3"), None
    )["notes"]
    assert any("`tools` hold null" in note and "json.dumps(tools)" in note for note in notes)
    rows = Dataset.from_list([{**chat, "tools": json.dumps(tools)}])
    notes = validate.validate(rows, "sft", tokenizer_of("qwen3"), None)["notes"]
    assert not any("null" in note for note in notes)


def blocks(*texts):
    return [{"type": "text", "text": text} for text in texts]


TILDE = (  # joins with ~, which takes anything
    "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SHAPES = {
    "sft": {"prompt": [user(blocks("How", " many?"))], "completion": [assistant(blocks("two"))]},
    "dpo": {"prompt": [user(blocks("How many?"))], "chosen": [assistant("2")], "rejected": [assistant("3")]},
    "grpo": {"prompt": [user(blocks("How many?"))], "solution": "2"},
}  # fmt: skip
BLOCKS = {  # template, what the template does with blocks
    "qwen2_5": "refuses it", "phi3": "refuses it", "deepseekv3": "refuses it",
    "llama3": "prints the list itself", "gemma": "prints the list itself",
    "nemotron_3_nano": "prints the list itself", "qwen3": "leaves it out", "~": "prints the list itself",
}  # fmt: skip


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("name", BLOCKS)
def test_content_blocks_that_the_template_cannot_read_are_named(name, kind, tokenizer_of):
    tok = model.tokenizer() if name == "~" else tokenizer_of(name)
    if name == "~":
        tok.chat_template = TILDE
    rows = Dataset.from_list([SHAPES[kind]])
    said = named(tok, kind, rows, rf"{BLOCKS[name]}.*join the text parts into one string")
    assert "{'type': 'text'" not in said


def test_blocks_are_a_crash_or_a_repr_in_trl(tokenizer_of, prepared):
    rows = Dataset.from_list([SHAPES["sft"]])
    with pytest.raises(TypeError):
        prepared("sft", rows, tokenizer_of("qwen2_5"))
    assert "'text': 'How'}" in words_of(rows, tokenizer_of("llama3"), prepared)
    assert "How" not in words_of(rows, tokenizer_of("qwen3"), prepared)


@pytest.mark.parametrize("name", ["gemma3", "qwen3_vl", "smolvlm", "glm4moe"])
def test_a_template_that_reads_blocks_passes(name, tokenizer_of):
    rows = Dataset.from_list([SHAPES["grpo"]])
    assert validate.validate(rows, "grpo", tokenizer_of(name), None)["rows"] == 1


def test_a_list_of_strings_and_empty_blocks_are_named():
    rows = [{"messages": [user(["How", "many"]), assistant()]}]
    named(model.tokenizer(), "sft", rows, "list of strings.*join")
    rows = [{"messages": [user(blocks("")), assistant()]}]
    named(model.tokenizer(), "sft", rows, "an empty text")


def prompt_of(tokens):
    """A prompt of so many tokens; the kit's tokenizer has one token per byte."""
    empty = len(
        model.tokenizer().apply_chat_template([user("")], add_generation_prompt=True)["input_ids"]
    )
    return {"prompt": [user("1" * (tokens - empty))], "solution": "2"}


@pytest.mark.parametrize(("tokens", "context"), [(97, 100), (97, 98), (97, 97), (120, 100)])
def test_a_prompt_without_room_is_named(tokens, context):
    rows = [prompt_of(tokens)] + [prompt_of(30)] * 200
    named(
        model.tokenizer(),
        "grpo",
        rows,
        f"1 rows .0.: a prompt that leaves no room.*{tokens} of {context}",
        context,
    )
    said = []
    kept = validate.fitting(
        Dataset.from_list(rows), "grpo", model.tokenizer(), context, said.append
    )
    assert len(kept) == 200
    assert validate.validate(kept, "grpo", model.tokenizer(), context)["rows"] == 200


def test_the_room_is_that_of_the_shortest_completion_in_form(tokenizer_of):
    tok = model.tokenizer()
    needed = shortest(tok)
    row = prompt_of(60)
    assert validate.validate([row], "grpo", tok, 60 + needed)["rows"] == 1
    named(tok, "grpo", [row], "no room", 60 + needed - 1)
    longest = tok("<think>1</think><answer>1</answer><|im_end|>")["input_ids"]
    assert len(longest) == needed
    assert format_reward([tok.decode(longest, skip_special_tokens=True)]) == [1.0]
    assert format_reward([tok.decode(longest[:-2], skip_special_tokens=True)]) == [0.0]


def test_max_completion_length_is_compared_with_the_form_and_the_context():
    tok, row = model.tokenizer(), prompt_of(60)
    named(
        tok,
        "grpo",
        [row],
        "max_completion_length is 3, and the shortest",
        128,
        max_completion_length=3,
    )
    notes = validate.validate([row], "grpo", tok, 100, max_completion_length=64)["notes"]
    assert any("cut off before max_completion_length" in note for note in notes)
    assert not validate.validate([row], "grpo", tok, 128, max_completion_length=64)["notes"]


QUESTION = {
    "prompt": [user("Between <think> and </think>, then the answer: 1+1=?")],
    "solution": "2",
}


@pytest.mark.parametrize(
    "name", ["qwen3_5_think", "deepseek_r1_distill", "qwen3_6", "nemotron_3_nano"]
)
def test_a_template_that_opens_think_itself_is_named(name, tokenizer_of, tmp_path):
    tok = tokenizer_of(name)
    closes = (
        tok.apply_chat_template(
            QUESTION["prompt"], add_generation_prompt=True, enable_thinking=False, tokenize=False
        )
        .rstrip()
        .endswith("</think>")
    )
    advice = "'enable_thinking': False" if closes else "cut <think> out"
    named(tok, "grpo", [QUESTION], f"an open <think>.*{advice}")
    if name == "qwen3_5_think":  # one real step
        assert asked(tok, QUESTION, tmp_path).rstrip().endswith("<think>")
    in_form = (
        "<think>1+1</think><answer>2</answer>"  # goes on where the prompt ends: one tag is gone
    )
    assert format_reward([in_form.removeprefix("<think>")]) == [0.0]
    if closes:
        off = {"chat_template_kwargs": {"enable_thinking": False}}
        assert validate.validate([QUESTION], "grpo", tok, None, **off)["rows"] == 1


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_nothink", "qwen2_5", "gemma3", "glm4moe"])
def test_a_template_that_leaves_think_to_the_model_passes(name, tokenizer_of):
    assert validate.validate([QUESTION], "grpo", tokenizer_of(name), None)["rows"] == 1


def test_a_plain_prompt_that_opens_think_is_named():
    tok = model.tokenizer()
    named(tok, "grpo", [{"prompt": "1+1=?\n<think>\n", "solution": "2"}], "cut it off the prompt")
    asks = {"prompt": "Reason in <think> tags: 1+1=?", "solution": "2"}
    assert validate.validate([asks], "grpo", tok, None)["rows"] == 1


def test_a_response_template_that_takes_the_tags_away_is_named(tokenizer_of):
    tok = model.tokenizer()
    tok.chat_template = tokenizer_of("qwen3").chat_template
    tok = add_response_schema(tok)
    asked = tok.apply_chat_template(QUESTION["prompt"], add_generation_prompt=True)["input_ids"]
    written = tok("<think>1+1</think><answer>2</answer><|im_end|>")["input_ids"]
    seen = parse_response(tok, written, prefix=asked)["content"]  # as GRPOTrainer does it
    assert format_reward([seen]) == [0.0]
    named(tok, "grpo", [QUESTION], "response template.*= None")
    tok.response_template = None
    assert validate.validate([QUESTION], "grpo", tok, None)["rows"] == 1


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: the first
        b: the second
    """
    return a + b


@pytest.mark.parametrize("name", ["qwen3", "qwen2_5"])
def test_tools_that_take_the_tags_away_are_named(name, tokenizer_of):
    """TRL sets a response template by itself where it is given tools, and the tags go with it."""
    tok = tokenizer_of(name)
    assert validate.validate([QUESTION], "grpo", tok, None)["rows"] == 1
    named(tok, "grpo", [QUESTION], "with tools TRL parses.*reasoning_content", tools=[add])
    assert getattr(tok, "response_template", None) is None  # the caller's own stays as it was
    theirs = add_response_schema(tok)
    asked = tok.apply_chat_template(QUESTION["prompt"], tools=[add], add_generation_prompt=True)
    written = tok("<think>1+1</think><answer>2</answer><|im_end|>")["input_ids"]
    seen = parse_response(theirs, written, prefix=asked["input_ids"])["content"]
    assert format_reward([seen]) == [0.0]


def test_tools_with_a_template_that_trl_does_not_know_are_named():
    named(model.tokenizer(), "grpo", [QUESTION], "has none for this chat template", tools=[add])


def asked(tok, row, folder):
    """One real step of GRPO: the prompt that its model is asked with."""

    short = {"max_steps": 1, "num_generations": 2, "per_device_train_batch_size": 2}
    quiet = {"use_cpu": True, "bf16": False, "report_to": [], "save_strategy": "no"}
    quiet |= {"gradient_checkpointing": False, "disable_tqdm": True, "max_completion_length": 4}
    args = GRPOConfig(output_dir=str(folder), **short, **quiet)
    built = GRPOTrainer(
        model.build(tok),
        format_reward,
        args,
        train_dataset=Dataset.from_list([row]),
        processing_class=tok,
    )
    built.train()
    ids, *_ = built._tokenize_prompts([row["prompt"]])
    return tok.decode(ids[0])
