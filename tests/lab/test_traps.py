"""What TRL's own templates do to the words of a data set in silence, `lab.validate` names.

Each trap is run through TRL's own preparation too: that the trap is real is asserted, not said.
"""

import json

import pytest
from datasets import Dataset, Features, Json, List, Value
from lab import model, validate
from tokenizers.processors import TemplateProcessing
from trl import SFTConfig, SFTTrainer


def user(content="1+1=?"):
    return {"role": "user", "content": content}


def assistant(content="two", **more):
    return {"role": "assistant", "content": content, **more}


def system(content="Be brief."):
    return {"role": "system", "content": content}


def chat(*messages):
    return [{"messages": list(messages)}]


def read(kind, rows, tok, prepared, **options):
    """What the model reads of the first row, as TRL prepares it."""
    row = prepared(kind, rows, tok, **options)[0]
    return tok.decode(row["input_ids"] if kind == "sft" else row["prompt_ids"] + row["chosen_ids"])


CALL = [{"type": "function", "function": {"name": "multiply", "arguments": {"by": "seven"}}}]
RESULT = {"role": "tool", "name": "multiply", "content": "fourteen"}
THINK = "<think>\none and one\n</think>\n\ntwo"
TWO_TURNS = chat(user(), assistant(THINK), user("2+2=?"), assistant(THINK.replace("one", "2")))
LEFT_OUT = {  # template, rows, the words that are lost, what the message says
    "developer": (
        "qwen2_5", chat({"role": "developer", "content": "In French."}, user(), assistant("deux")),
        "In French", "content of developer messages.*system message"),
    "developer in a prompt": (
        "phi3", [{"prompt": [{"role": "developer", "content": "In French."}, user()],
                  "completion": [assistant("deux")]}],
        "In French", "content of developer messages"),
    "reasoning_content": (
        "llama3", chat(user(), assistant(reasoning_content="one and one")),
        "one and one", "reasoning_content of assistant.*into content, between <think>"),
    "reasoning_content, several rows": (
        "qwen2_5", chat(user(), assistant(reasoning_content="one and one")) * 3,
        "one and one", r"3 rows \(0, 1, 2\).*reasoning_content"),
    "thinking": (
        "qwen3", chat(user(), assistant(thinking="one and one")), "one and one", "thinking of assistant"),
    "thinking on a template for reasoning": (
        "glm4moe", chat(user(), assistant(thinking="one and one")), "one and one", "thinking of assistant"),
    "an earlier turn's reasoning": ("qwen3", TWO_TURNS, "one and one", "<think> of assistant.*per turn"),
    "an earlier turn's reasoning, another model": (
        "nemotron_3_nano", TWO_TURNS, "one and one", "<think> of assistant.*it: one row per turn"),
    "every turn's reasoning": (
        "deepseek_r1_distill", chat(user(), assistant(THINK)), "one and one", "<think> of assistant"),
    "tool calls": (
        "llama3", chat(user(), assistant("", tool_calls=CALL), RESULT, assistant("It is 14")),
        "seven", "leaves out tool calls"),
    "the second of two tool calls": (
        "gptoss", chat(user(), {"role": "assistant", "tool_calls": CALL + [
            {"type": "function", "function": {"name": "add", "arguments": {"to": "nine"}}}]}, RESULT,
            {"role": "assistant", "tool_calls": CALL}),
        "nine", "leaves out tool calls"),
    "tool results": (
        "phi3", chat(user(), assistant("I multiply"), RESULT, assistant("It is 14")),
        "fourteen", "content of tool messages"),
    "the first of two system prompts": (
        "deepseek_r1_distill", chat(system("In French."), system(), user(), assistant()),
        "In French", "content of system messages"),
    "the words beside a tool call": (
        "gptoss", chat(user(), assistant("I multiply.", tool_calls=CALL), RESULT, assistant("It is 14")),
        "I multiply", "content of assistant messages.*message of its own"),
    "function_call": (
        "qwen3", chat(user(), assistant("", function_call={"name": "divide", "arguments": "{}"})),
        "divide", "function_call is an older form.*tool_calls ="),
    "text where the template wants blocks": (
        "smolvlm", chat(user("How many?"), assistant()), "How many", "'type': 'text'"),
    "tools": (
        "phi3_5", [{"messages": [user(), assistant()],
                    "tools": json.dumps([{"type": "function", "function": {"name": "divide"}}])}],
        "divide", "leaves out `tools`"),
}  # fmt: skip


def named(tok, kind, rows, words, **settings):
    with pytest.raises(ValueError, match=f"(?s)validate.*{words}") as raised:
        validate.validate(rows, kind, tok, None, **settings)
    return str(raised.value)


@pytest.mark.parametrize("trap", LEFT_OUT)
def test_words_that_the_template_leaves_out_are_named(trap, tokenizer_of, prepared):
    name, rows, lost, words = LEFT_OUT[trap]
    tok, rows = tokenizer_of(name), _as_they_are(rows)
    named(tok, "sft", rows, words)
    assert lost not in read("sft", rows, tok, prepared)


def _as_they_are(rows):
    """A Dataset whose messages keep their own keys: nothing is filled in with null."""
    features = {
        name: Value("string") if isinstance(value, str) else List(Json())
        for name, value in rows[0].items()
    }
    return Dataset.from_list(rows, features=Features(features))


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_think", "qwen3_6"])
def test_the_training_template_keeps_the_reasoning_of_earlier_turns(name, tokenizer_of, prepared):
    tok = tokenizer_of(name)
    named(tok, "sft", TWO_TURNS, "assistant_only_loss=True keeps it")
    masked = {"assistant_only_loss": True}
    assert validate.validate(TWO_TURNS, "sft", tok, None, **masked)["rows"] == 1
    assert "one and one" in read("sft", TWO_TURNS, tok, prepared, **masked)


def test_reasoning_that_a_prompt_loses_is_a_note(tokenizer_of):
    """It is lost when the model is used too: this may be meant."""
    (row,) = TWO_TURNS
    rows = [{"prompt": row["messages"][:3], "completion": row["messages"][3:]}]
    (note,) = validate.validate(rows, "sft", tokenizer_of("qwen3"), None)["notes"]
    assert "reasoning of earlier turns" in note


@pytest.mark.parametrize("name", ["qwen3_8", "gemma4_v5", "muse_glimmer"])
def test_a_template_that_reads_the_field_passes(name, tokenizer_of, prepared):
    rows = chat(user(), assistant(reasoning_content="one and one"))
    tok = tokenizer_of(name)
    assert validate.validate(rows, "sft", tok, None)["rows"] == 1
    assert "one and one" in read("sft", rows, tok, prepared)


def test_a_dpo_side_that_loses_its_reasoning_is_named(tokenizer_of, prepared):
    sides = {"chosen": [assistant(THINK)], "rejected": [assistant("three")]}
    rows, tok = [{"prompt": [user()], **sides}], tokenizer_of("deepseekv3")
    named(tok, "dpo", rows, "<think> of assistant messages")
    assert "one and one" not in read("dpo", rows, tok, prepared)


def test_a_content_of_null_that_is_printed_is_named(tokenizer_of, prepared):
    for name, word in (("glm4moe", "None"), ("lfm2", "null")):
        tok = tokenizer_of(name)
        rows = chat(user(), assistant(None, tool_calls=CALL), RESULT, assistant("14"))
        named(tok, "sft", rows, f"null as the word {word}.*empty string")
        assert word in read("sft", rows, tok, prepared)


def test_other_fields_that_nobody_reads_are_a_note(tokenizer_of):
    rows = chat(user(), assistant(rationale="one and one"))
    notes = validate.validate(rows, "sft", tokenizer_of("qwen3"), None)["notes"]
    assert any("'rationale'" in note for note in notes)


def test_a_mask_that_leaves_out_words_or_takes_in_others_is_named(prepared):
    tok = model.tokenizer()
    answer = "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    tok.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.reasoning_content }}" + answer
        + "{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    )  # fmt: skip
    rows, masked = (
        chat(user(), assistant(reasoning_content="one and one")),
        {"assistant_only_loss": True},
    )
    named(tok, "sft", rows, "leaves out reasoning_content of assistant messages", **masked)
    labels = prepared("sft", rows, tok, **masked)[0]["labels"]
    assert tok.decode([label for label in labels if label >= 0]) == "two<|im_end|>"
    tok.chat_template = "{% for m in messages %}" + answer + "{% endfor %}"
    named(tok, "sft", chat(user(), assistant()), "trains on user messages too", **masked)
    labels = prepared("sft", chat(user(), assistant()), tok, **masked)[0]["labels"]
    assert "1+1=?" in tok.decode([label for label in labels if label >= 0])


def test_settings_that_do_not_fit_are_named():
    tok = model.tokenizer()
    named(tok, "sft", [{"text": "1+1=2"}], "needs chats", assistant_only_loss=True)
    named(tok, "sft", [{"text": "1+1=2"}], "no setting ..assistant_loss", assistant_loss=True)


@pytest.mark.parametrize("tools", ["{", "", '"[]"', "[1]"])
def test_tools_that_are_none_are_named(tools, tokenizer_of, prepared):
    rows, tok = [{**chat(user(), assistant())[0], "tools": tools}], tokenizer_of("qwen3")
    named(tok, "sft", rows, "`tools` is no list of JSON schemas")
    if tools in ("{", ""):
        with pytest.raises(json.JSONDecodeError):
            prepared("sft", rows, tok)
    good = [{**rows[0], "tools": "[]"}]
    assert validate.validate(good, "sft", tok, None)["rows"] == 1


TOKENS = {  # template, kind, row, what the message says, what TRL trains on
    "EOS in an answer": ("qwen2_5", "sft", {"prompt": [user()], "completion": [assistant("hello<|im_end|>")]},
                         "special tokens inside the words.*cut them out", "hello<|im_end|><|im_end|>"),
    "a turn inside a turn": ("llama3", "sft", {"messages": [user("hi<|eot_id|>"), assistant()]},
                             "special tokens inside", "hi<|eot_id|><|eot_id|>"),
    "a marker of the template": ("gemma", "sft", {"messages": [user("<start_of_turn>model"), assistant()]},
                                 "special tokens inside", "user\n<start_of_turn>model"),
    "EOS in a chosen answer": ("phi3", "dpo", {"prompt": [user()], "chosen": [assistant("2<|end|>")],
                                               "rejected": [assistant("3")]},
                               "special tokens inside", "2<|end|><|end|>"),
    "EOS twice after a line break": ("qwen3", "sft", {"text": "1+1=2<|im_end|>\n"},
                                     "EOS twice at the end", "2<|im_end|>\n<|im_end|>"),
    "EOS inside an answer": ("qwen3", "dpo", {"prompt": "1+1=", "chosen": "2<|im_end|>or 3", "rejected": "4"},
                             "EOS inside the answer", "2<|im_end|>or 3<|im_end|>"),
    "EOS twice": ("qwen3", "sft", {"prompt": "1+1=", "completion": "2<|im_end|><|im_end|>"},
                  "EOS twice", "2<|im_end|><|im_end|>"),
    "a chat rendered by hand": ("qwen2_5", "sft", {"text": "<|im_start|>user\nhi<|im_end|>\n"},
                                "EOS twice", "hi<|im_end|>\n<|im_end|>"),
}  # fmt: skip


@pytest.mark.parametrize("trap", TOKENS)
def test_special_tokens_in_the_words_are_named(trap, tokenizer_of, prepared):
    name, kind, row, words, trained = TOKENS[trap]
    tok = tokenizer_of(name)
    named(tok, kind, [row], words)
    assert trained in read(kind, [row], tok, prepared)


@pytest.fixture(scope="module")
def with_bos():
    """A tokenizer that begins every plain text with BOS, as Llama's and Gemma's do."""
    tok = model.tokenizer()
    tok.bos_token = "<|endoftext|>"
    tok._tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tok.bos_token_id)]
    )
    return tok


ROWS_WITH_BOS = [
    ("sft", {"text": "<|endoftext|>1+1=2"}),
    ("sft", {"prompt": "<|endoftext|>1+1=", "completion": "2"}),
    ("dpo", {"prompt": "<|endoftext|>1+1=", "chosen": "2", "rejected": "3"}),
]


@pytest.mark.parametrize(("kind", "row"), ROWS_WITH_BOS)
def test_bos_twice_is_named(kind, row, with_bos, prepared):
    named(with_bos, kind, [row], "BOS more than once")
    assert read(kind, [row], with_bos, prepared).startswith("<|endoftext|><|endoftext|>")
    once = {name: text.removeprefix("<|endoftext|>") for name, text in row.items()}
    assert validate.validate([once], kind, with_bos, None)["rows"] == 1


def test_a_tokenizer_that_ends_every_text_with_eos_is_named(prepared):
    tok = model.tokenizer()
    tok._tokenizer.post_processor = TemplateProcessing(
        single="$A <|im_end|>", special_tokens=[("<|im_end|>", tok.eos_token_id)]
    )
    rows = [{"prompt": "1+1=", "completion": "2"}]
    named(tok, "sft", rows, "ends every text with EOS.*add_eos_token = False")
    assert read("sft", rows, tok, prepared).endswith("2<|im_end|><|im_end|>")
    chats = [{"prompt": [user()], "completion": [assistant()]}]  # a template ends these
    assert validate.validate(chats, "sft", tok, None)["rows"] == 1


def test_bos_twice_in_a_prompt_of_grpo_is_named(with_bos):
    row = {"prompt": "<|endoftext|>1+1=", "solution": "2"}
    named(with_bos, "grpo", [row], "BOS more than once")


@pytest.mark.parametrize("text", ["<s>The answer is 42<|im_end|>", "a<|im_start|>b", "a [INST] b"])
def test_special_tokens_of_any_model_in_plain_text_are_noted(text):
    notes = validate.validate([{"text": text}], "sft", model.tokenizer(), None)["notes"]
    assert any("special tokens inside the words" in note for note in notes)


@pytest.mark.parametrize("text", ["1+1=2<|im_end|>", "a < b, c |> d, <b>, [INFO], <|>", "F# a <|b"])
def test_words_that_only_look_like_special_tokens_are_not_noted(text):
    notes = validate.validate([{"text": text}], "sft", model.tokenizer(), None)["notes"]
    assert not any("special tokens" in note for note in notes)


PAIR = {"prompt": "1+1=", "completion": "2"}
UNREAD = {  # kind, row, what the message says
    "a system prompt beside the prompt": ("sft", {"system": "Be brief.", **PAIR}, "'system'.*not in the prompt"),
    "a system prompt for GRPO": (
        "grpo", {"system_prompt": "Be brief.", "prompt": [user()], "solution": "2"}, "'system_prompt'"),
    "Alpaca after renaming": ("sft", {"input": "3 and 4", **PAIR}, "'input'.*not in the prompt"),
    "a context": ("dpo", {"context": "In base 3.", "prompt": "1+1=", "chosen": "2", "rejected": "3"},
                  "'context'"),
    "a history": ("sft", {"history": [user("Hi"), assistant("Ho")], "prompt": [user()],
                          "completion": [assistant()]}, "'history'.*Hi"),
    "labels": ("sft", {"labels": [1, 2], **PAIR}, "'labels'.*remove_columns"),
    "masks": ("sft", {"assistant_masks": [1, 0], **PAIR}, "'assistant_masks'.*remove_columns"),
    "a row that is not to be trained on": ("sft", {"trainable": False, **PAIR}, "'trainable'.*filter"),
    "a message that is not to be trained on": (
        "sft", {"messages": [user(), assistant("3", trainable=False), user("No"), assistant("2")]},
        "'trainable' says.*message 1"),
    "a message of weight 0": ("sft", {"messages": [user(), assistant("3", weight=0)]}, "'weight' says"),
    "a prompt beside messages": ("sft", {"prompt": "1+1=?", "messages": [user(), assistant()]},
                                 "remove_columns.*'prompt'"),
    "a text prompt with chats": (
        "dpo", {"prompt": "1+1=?", "chosen": [user(), assistant()], "rejected": [user(), assistant("3")]},
        "remove_columns.'prompt'"),
    "tools for GRPO": ("grpo", {"tools": "[1]", "prompt": [user()], "solution": "2"},
                       "GRPOTrainer.tools"),
}  # fmt: skip


@pytest.mark.parametrize("trap", UNREAD)
def test_columns_that_are_not_read_are_named(trap):
    kind, row, words = UNREAD[trap]
    named(model.tokenizer(), kind, Dataset.from_list([row] * 2), words)


def test_a_weight_of_0_on_what_is_not_trained_anyway_passes():
    tok, rows = model.tokenizer(), chat(user() | {"weight": 0}, assistant(weight=1))
    named(tok, "sft", rows, "'weight' says")
    assert validate.validate(rows, "sft", tok, None, assistant_only_loss=True)["rows"] == 1
    (row,) = rows
    parted = [{"prompt": row["messages"][:1], "completion": row["messages"][1:]}]
    assert validate.validate(parted, "sft", tok, None)["rows"] == 1


def test_columns_beside_the_prompt_of_grpo_pass():
    row = {"prompt": [user()], "completion": "2", "text": "x", "solution": "2"}
    assert validate.validate([row], "grpo", model.tokenizer(), None)["rows"] == 1


def test_the_advice_for_alpaca_does_not_lose_the_input():
    row = {"instruction": "Add.", "input": "1, 1", "output": "2"}
    said = named(model.tokenizer(), "sft", [row], "'output': 'completion'")
    assert "TRL does not read ['input']" in said


def test_columns_that_no_one_needs_are_a_note():
    row = {"source": "web", "input": "1+1=", **PAIR}  # the input is in the prompt already
    notes = validate.validate([row], "sft", model.tokenizer(), None)["notes"]
    assert any("['source', 'input']" in note for note in notes)
    row = {"source": "web", "prompt": "1+1=", "solution": "2"}  # GRPO's rewards may read it
    notes = validate.validate([row], "grpo", model.tokenizer(), None)["notes"]
    assert not any("source" in note for note in notes)


SHAPES = {  # column, value, what the message says
    "a chat in text": ("text", [user(), assistant()], "rename_column.'text', 'messages'"),
    "a call as text": ("messages", [user(), assistant("", tool_calls="add(1)")], "tool_calls that are no list"),
    "a call without a name": (
        "messages", [user(), assistant("", tool_calls=[{"type": "function", "function": {}}])],
        "tool_calls that are no list"),
}  # fmt: skip


@pytest.mark.parametrize("trap", SHAPES)
def test_a_shape_that_trl_cannot_read_is_named(trap, tokenizer_of):
    column, value, words = SHAPES[trap]
    named(tokenizer_of("qwen2_5"), "sft", [{column: value}], words)


def test_template_arguments_that_are_none_are_named(tokenizer_of, prepared):
    rows = [{**chat(user(), assistant())[0], "chat_template_kwargs": None}]
    named(tokenizer_of("qwen3"), "sft", rows, "chat_template_kwargs. is no dict")
    with pytest.raises(TypeError):
        prepared("sft", rows, tokenizer_of("qwen3"))


def test_an_introduction_to_no_tools_is_named(tokenizer_of, prepared):
    tok, rows = tokenizer_of("llama3_1"), [{**chat(user(), assistant())[0], "tools": "[]"}]
    named(tok, "sft", rows, "`tools` is empty.*make it null")
    assert "Given the following functions" in read("sft", rows, tok, prepared)
    none = [{**rows[0], "tools": None}]
    assert validate.validate(none, "sft", tok, None)["rows"] == 1
    assert validate.validate(rows, "sft", tokenizer_of("qwen3"), None)["rows"] == 1


def test_labels_are_what_trl_trains_on(prepared):
    rows = [{"labels": [1, 2, 3, 4, 5], **PAIR}]
    assert prepared("sft", rows, model.tokenizer())[0]["labels"] == [1, 2, 3, 4, 5]


def test_a_real_step_does_not_see_what_is_left_out(tokenizer_of, tmp_path):
    name, rows, lost, _ = LEFT_OUT["developer"]
    tok = tokenizer_of(name)
    args = SFTConfig(output_dir=str(tmp_path), max_steps=1, use_cpu=True, bf16=False, report_to=[])
    args.gradient_checkpointing = False
    built = SFTTrainer(
        model.build(tok), args, train_dataset=Dataset.from_list(rows), processing_class=tok
    )
    built.train()
    (batch,) = built.get_train_dataloader()
    (text,) = tok.batch_decode(batch["input_ids"])
    assert "deux" in text
    assert lost not in text
