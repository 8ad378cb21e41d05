"""Where prompt and answer part, and what is cut off: as TRL trains it, not as the row says."""

import json

import pytest
from lab import model, validate
from lab.data.parting import inside_word


def user(content="1+1=?"):
    return {"role": "user", "content": content}


def assistant(content="two", **more):
    return {"role": "assistant", "content": content, **more}


def named(tok, kind, rows, words, max_length=None, **settings):
    with pytest.raises(ValueError, match=f"(?s)validate.*{words}") as raised:
        validate.validate(rows, kind, tok, max_length, **settings)
    return str(raised.value)


def noted(tok, kind, rows, **settings):
    return " ".join(validate.validate(rows, kind, tok, None, **settings)["notes"])


MERGED = {  # kind, row, what the prompt shrinks to
    "a space at the end of the prompt": (
        "sft", {"prompt": "Question: what is the answer? Answer: ", "completion": "42"},
        "Question: what is the answer? Answer:"),
    "a word in two": ("sft", {"prompt": "The ans", "completion": "wer is 42"}, "The"),
    "a number in two": (
        "dpo", {"prompt": "The answer is 4", "chosen": "2", "rejected": "3"}, "The answer is"),
    "one side only": (
        "dpo", {"prompt": "The answer is 4", "chosen": "2", "rejected": " x"}, "The answer is"),
}  # fmt: skip


@pytest.mark.parametrize("trap", MERGED)
def test_a_prompt_that_merges_with_its_answer_is_named(trap, merging, prepared):
    kind, row, left = MERGED[trap]
    said = named(merging, kind, [row], "grow together into one token")
    assert f"TRL would take '{left}' for the prompt" in said
    assert "learn to stop" not in said  # the merge is the reason, EOS is there
    trained = prepared(kind, [row], merging)[0]
    if kind == "sft":
        prompt = [
            t for t, label in zip(trained["input_ids"], trained["labels"], strict=True) if label < 0
        ]
    else:
        prompt = trained["prompt_ids"]
    assert merging.decode(prompt) == left


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Question: what is the answer? Answer:", "completion": " 42"},
        {"prompt": "2+2=", "completion": "4"},
        {"prompt": "It is", "completion": " 42"},
    ],
)
def test_a_prompt_that_ends_where_a_token_ends_passes(row, merging):
    assert validate.validate([row], "sft", merging, None)["rows"] == 1
    assert validate.validate([row], "sft", model.tokenizer(), None)["rows"] == 1


def test_a_chat_that_merges_with_its_answer_is_named(merging, prepared):
    other = type(merging)(tokenizer_object=merging.backend_tokenizer, eos_token="<|im_end|>")
    other.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content }}\nA: {% else %}"
        "{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    rows = [{"prompt": [user()], "completion": [assistant("42")]}]
    named(other, "sft", rows, "grow together into one token")
    (row,) = prepared("sft", rows, other)
    assert (
        "A:"
        in other.decode(
            [t for t, label in zip(row["input_ids"], row["labels"], strict=True) if label < 0]
        ).splitlines()
    )
    rows = [{"prompt": [user()], "completion": [assistant("x")]}]
    assert validate.validate(rows, "sft", other, None)["rows"] == 1


def test_a_template_that_merges_by_itself_is_a_note(merging_of, prepared):
    """`<think>\\n` grows together with the template's own line break: no row can change that."""
    rows, tok = [{"prompt": [user()], "completion": [assistant()]}], merging_of("qwen3_5_think")
    assert "in place of its end '>\\n'" in noted(tok, "sft", rows)
    assert "<think>\n\n</think>" in tok.decode(prepared("sft", rows, tok)[0]["input_ids"])


def test_the_side_of_a_pair_that_does_not_merge_is_not_blamed(tokenizer_of):
    sides = {"chosen": [assistant(reasoning_content="one")], "rejected": [assistant("three")]}
    rows, tok = [{"prompt": [user()], **sides}], tokenizer_of("nemotron_3_nano")
    assert "in place of its end" in noted(tok, "dpo", rows)


def test_a_template_that_ends_prompts_otherwise_is_a_note(tokenizer_of, prepared):
    rows = [{"prompt": [user()], "completion": [assistant("two")]}]
    tok = tokenizer_of("deepseek_r1_distill")
    assert "in place of its end '<think>\\n'" in noted(tok, "sft", rows)
    assert "<think>" not in tok.decode(prepared("sft", rows, tok)[0]["input_ids"])
    assert "in place of its end" not in noted(tokenizer_of("qwen3"), "sft", rows)


GUESSED = {  # chosen, rejected, the prompt that TRL takes, what the message says
    "one begins the other": ("The sky", "The sky is blue", "The sk", "beginning of the other"),
    "inside a number": ("It is 42", "It is 43", "It is 4", "inside a word"),
    "after the decimal point": ("Take 3.5", "Take 3.7", "Take 3.", "inside a word"),
    "after a sign": ("It is -4", "It is -5", "It is -", "inside a word"),
    "after a currency": ("Pay $7", "Pay $9", "Pay $", "inside a word"),
    "inside a word": ("Paris ", "Piccadilly", "P", "inside a word"),
    "inside a contraction": ("So I'm sure", "So I am", "So I", "inside a word"),
}


@pytest.mark.parametrize("trap", GUESSED)
def test_a_guessed_prompt_that_is_none_is_named(trap, prepared):
    chosen, rejected, prompt, words = GUESSED[trap]
    rows, tok = [{"chosen": chosen, "rejected": rejected}], model.tokenizer()
    said = named(tok, "dpo", rows, words)
    assert f"TRL would take '{prompt}' for the prompt" in said
    assert tok.decode(prepared("dpo", rows, tok)[0]["prompt_ids"]) == prompt


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        ("The sky is blue.", "The sky is green."),
        ("Q: 1+1? A: two", "Q: 1+1? A: four"),
        ("2+2=4", "2+2=5"),
        ("天空是蓝色的", "天空是绿色的"),
    ],
)
def test_a_guessed_prompt_that_may_be_one_is_a_note(chosen, rejected):
    rows = [{"chosen": chosen, "rejected": rejected}]
    assert "TRL would take" in noted(model.tokenizer(), "dpo", rows)


def test_chats_without_a_prompt_are_parted_at_an_answer():
    tok, yes, no = model.tokenizer(), assistant("yes"), assistant("no")
    longer = {"chosen": [user(), yes], "rejected": [user(), yes, user("more"), no]}
    named(tok, "dpo", [longer], "beginning of the other.*1\\+1")
    at_user = {"chosen": [user(), yes, user("a"), no], "rejected": [user(), yes, user("b"), no]}
    named(tok, "dpo", [at_user], "does not end with the user")
    good = {"chosen": [user(), yes, user("a"), no], "rejected": [user(), yes, user("a"), yes]}
    assert "prompt" not in noted(tok, "dpo", [good])


def test_a_turn_of_the_user_inside_the_answer_is_named(prepared):
    rows = [{"prompt": [user()], "completion": [assistant(), user("And 2+2?"), assistant("four")]}]
    named(model.tokenizer(), "sft", rows, "turn of the user inside the answer")
    row, tok = prepared("sft", rows, model.tokenizer())[0], model.tokenizer()
    assert "And 2+2?" in tok.decode([label for label in row["labels"] if label >= 0])
    assert validate.validate(rows, "sft", tok, None, assistant_only_loss=True)["rows"] == 1


def test_letters_glued_together_are_a_note():
    rows = [{"prompt": "The capital of France is", "completion": "Paris"}]
    assert "'of France isParis" in noted(model.tokenizer(), "sft", rows)
    rows = [{"prompt": "The capital of France is", "completion": " Paris"}]
    assert "Paris" not in noted(model.tokenizer(), "sft", rows)


def test_plain_text_for_a_chat_tokenizer_is_a_note():
    rows = [{"prompt": "1+1=", "solution": "2"}]
    assert "has a chat template" in noted(model.tokenizer(), "grpo", rows)
    base = model.tokenizer()
    base.chat_template = None
    assert not noted(base, "grpo", rows)


def test_a_merge_is_not_taken_for_a_missing_eos(merging):
    row = {"prompt": "The answer is 4", "chosen": "2", "rejected": "3"}
    assert "1 problems" in named(merging, "dpo", [row], "grow together")


def test_a_missing_eos_says_what_ends_an_answer(tokenizer_of):
    other = model.tokenizer()
    other.eos_token = "<|endoftext|>"
    rows = [{"prompt": [user()], "completion": [assistant()]}]
    named(other, "sft", rows, "never learn to stop; the template ends an answer with '<.im_end.>'")
    named(tokenizer_of("glm4moe"), "sft", rows, "never learn to stop.*no token of its own")


@pytest.mark.parametrize(
    ("before", "after", "inside"),
    [("4", "2", 1), ("It is", " 42", 0), ("It is ", "42", 0), ("=", "4", 0), ("bl", "ue", 1),
     ("can", "'t", 1), ("can'", "t", 1), ("well-", "known", 1), (":\n", "A", 0), ("是", "蓝", 0),
     ("A:", "yes", 0), ("3.", "5", 1), ("3. ", "5", 0), ("(", "a)", 0)],
)  # fmt: skip
def test_inside_word(before, after, inside):
    assert inside_word(before, after) == bool(inside)


TOOLS = json.dumps([{"type": "function", "function": {"name": "add", "description": "Add. " * 20}}])
THOUGHT = [
    user(),
    assistant("<think>\n" + "one " * 20 + "\n</think>\n\ntwo"),
    user(),
    assistant("3"),
]
CUT = {  # template, row, max_length, settings, what TRL makes of the row
    "tools as JSON": ("qwen3", {"messages": [user(), assistant()], "tools": TOOLS}, 128, {}, "truncated"),
    "tools before a completion": (
        "qwen3", {"prompt": [user()], "completion": [assistant()], "tools": TOOLS}, 128, {}, "dropped"),
    "a long thought, masked": (
        "qwen3", {"messages": THOUGHT}, 100, {"assistant_only_loss": True}, "truncated"),
    "no answer left, masked": (
        "qwen3", {"messages": [user("1" * 100), assistant()]}, 80, {"assistant_only_loss": True}, "dropped"),
    "template arguments": (
        "qwen3_6", {"prompt": [user()], "completion": [assistant("2" * 40)],
                    "chat_template_kwargs": {"enable_thinking": True}}, 60, {}, "truncated"),
    "the beginning cut off": (
        "qwen2_5", {"prompt": [user("1" * 100)], "completion": [assistant()]}, 60,
        {"truncation_mode": "keep_end"}, "truncated"),
    "a default system prompt": (
        "qwen2_5", {"messages": [user(), assistant()]}, 80, {}, "truncated"),
}  # fmt: skip


@pytest.mark.parametrize("trap", CUT)
def test_what_is_cut_off_is_counted_as_trl_cuts_it(trap, tokenizer_of, prepared):
    name, row, max_length, settings, made = CUT[trap]
    tok = tokenizer_of(name)
    report = validate.validate([row], "sft", tok, max_length, tolerated=1.0, **settings)
    counts = {level: report[level] for level in ("truncated", "dropped")}
    assert counts == {"truncated": 0, "dropped": 0} | {made: 1}
    theirs = prepared("sft", [row], tok, max_length=max_length, **settings)
    assert len(theirs) == (made == "truncated")
    assert report["longest"] == len(prepared("sft", [row], tok, **settings)[0]["input_ids"])
    named(tok, "sft", [row], "max_length", max_length, **settings)


@pytest.mark.parametrize("max_length", range(20, 60, 3))
def test_pairs_are_cut_and_dropped_where_trl_does_it(max_length, tokenizer_of, prepared):
    tok = tokenizer_of("llama3")
    row = {"prompt": [user()], "chosen": [assistant("2")], "rejected": [assistant("3" * 9)]}
    report = validate.validate([row], "dpo", tok, max_length, tolerated=1.0)
    kept = prepared("dpo", [row], tok, max_length=max_length)
    assert report["dropped"] == 1 - len(kept)
    longest = max((len(r["prompt_ids"] + r["rejected_ids"]) for r in kept), default=0)
    assert report["truncated"] == (longest > max_length)
