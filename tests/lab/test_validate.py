"""What trains on the wrong thing, or fails without telling why, is named before it trains."""

import contextlib
import io

import pytest
from datasets import Dataset, DatasetDict
from lab import model, tasks, validate
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from rewards import format_reward

TOKENIZER = model.tokenizer()
QUIET = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": []}
QUIET |= {"max_steps": 1, "per_device_train_batch_size": 2, "save_strategy": "no"}
QUIET |= {"disable_tqdm": True, "logging_steps": 1}


def user(text="1+1=?"):
    return {"role": "user", "content": text}


def assistant(text="<think>1+1</think>\n<answer>2</answer>"):
    return {"role": "assistant", "content": text}


def table(rows=4, **columns):
    return Dataset.from_dict({name: [value] * rows for name, value in columns.items()})


def train(kind, dataset, folder, **options):
    """One real step of TRL's own trainer on a tiny untrained model."""
    tiny = model.build(TOKENIZER)
    trainers = {"sft": (SFTTrainer, SFTConfig), "dpo": (DPOTrainer, DPOConfig)}
    trainers["grpo"] = (GRPOTrainer, GRPOConfig)
    Trainer, Config = trainers[kind]
    options = {"max_length": 128, **options} if kind != "grpo" else options
    if kind == "grpo":
        options |= {"num_generations": 2, "max_completion_length": 4}
    args = Config(output_dir=str(folder), **(QUIET | options))
    others = {"grpo": {"reward_funcs": format_reward}, "dpo": {"ref_model": model.build(TOKENIZER)}}
    built = Trainer(
        model=tiny,
        args=args,
        train_dataset=dataset,
        processing_class=TOKENIZER,
        **others.get(kind, {}),
    )
    with contextlib.redirect_stdout(io.StringIO()):
        built.train()
    return built


GOOD = {
    "sft": [
        table(prompt=[user()], completion=[assistant()]),
        table(prompt="1+1=", completion="2"),
        table(messages=[user(), assistant()]),
        table(text="1+1=2"),
    ],
    "dpo": [
        table(prompt=[user()], chosen=[assistant("2")], rejected=[assistant("3")]),
        table(prompt="1+1=", chosen="2", rejected="3"),
        table(chosen=[user(), assistant("2")], rejected=[user(), assistant("3")]),
    ],
    "grpo": [table(prompt=[user()], solution="2"), table(prompt="1+1=", solution="#### 2")],
}


@pytest.mark.parametrize(("kind", "n"), [(k, n) for k in GOOD for n in range(len(GOOD[k]))])
def test_what_trains_well_passes(kind, n, tmp_path):
    report = validate.validate(GOOD[kind][n], kind, TOKENIZER, 128)
    assert report["rows"] == 4
    assert report["truncated"] == report["dropped"] == report["unverifiable"] == 0
    assert 0 < report["longest"] < 128
    noted = {"messages": ["too; for the answers alone"], "text": ["too; for the answers", "plain"]}
    text = isinstance(GOOD[kind][n][0][report["columns"][0]], str)
    wanted = noted.get(report["columns"][0], ["plain text, but"] if text else [])
    assert len(report["notes"]) == len(wanted)
    assert all(words in note for words, note in zip(wanted, report["notes"], strict=True))
    train(kind, GOOD[kind][n], tmp_path)


def test_the_built_in_task_passes():
    assert validate.validate(tasks.sft_dataset(60, 0.3), "sft", TOKENIZER, 256)["truncated"] == 0
    assert validate.validate(tasks.grpo_dataset(60), "grpo", TOKENIZER, 256)["unverifiable"] == 0


HUMAN_AND_GPT = [{"from": "human", "value": "1+1"}, {"from": "gpt", "value": "2"}]
SILENT = {  # TRL trains on these without a word
    "text beside prompt and completion": (
        "sft",
        table(text="1+1=2", prompt="1+1=", completion="2"),
        "without it.*remove_columns",
    ),
    "a typing error in a role": ("sft", table(messages=[user(), {**assistant(), "role": "asistant"}]),
                                 "no chat template knows.*assistant"),
    "a chat without the assistant": ("sft", table(messages=[user()]), "end with the assistant"),
    "a completion by the user": ("sft", table(prompt=[user()], completion=[user("2")]),
                                 "end with the assistant"),
    "from/value conversations": ("sft", table(conversations=HUMAN_AND_GPT),
                                 "'conversations': 'messages'.*human.*map them"),
    "an empty answer": ("sft", table(prompt=[user()], completion=[assistant("")]), "empty"),
    "an answer cut off before its EOS": ("sft", table(prompt=[user()], completion=[assistant("2" * 200)]),
                                         "EOS with it.*max_length"),
    "an answer of white space": ("sft", table(prompt=[user()], completion=[assistant("\n")]), "empty"),
    "text beside its own tokens": ("sft", table(text="1+1=2", input_ids=[5, 6]), "remove_columns.'input_ids'"),
    "question instead of prompt": ("dpo", table(question="1+1=", chosen="2", rejected="3"),
                                   "no prompt.*'question': 'prompt'"),
    "chosen equal to rejected": ("dpo", table(prompt="1+1=", chosen="2", rejected="2"), "same"),
    "the prompt again inside chosen": ("dpo", table(prompt="1+1=", chosen="1+1=2", rejected="3"),
                                       "again inside the answer"),
    "the chat again inside chosen": ("dpo", table(prompt=[user()], chosen=[user(), assistant("2")],
                                                  rejected=[user(), assistant("3")]),
                                     "again inside the answer"),
    "an empty chosen": ("dpo", table(prompt="1+1=", chosen="", rejected="3"), "empty"),
    "pairs without a common prompt": ("dpo", table(chosen="2", rejected="3"), "without one"),
    "a prompt that ends with the assistant": ("grpo", table(prompt=[user(), assistant("2")], solution="2"),
                                              "end with the user"),
    "golds in prose": ("grpo", table(prompt=[user()], solution="see the figure"), "cannot be verified"),
}  # fmt: skip


@pytest.mark.parametrize("trap", SILENT)
def test_what_trains_in_silence_is_named(trap, tmp_path):
    kind, dataset, words = SILENT[trap]
    with pytest.raises(ValueError, match=f"(?s){words}"):
        validate.validate(dataset, kind, TOKENIZER, 128)
    built = train(kind, dataset, tmp_path)  # the trap is real: this is what it is about
    assert built.state.global_step == 1


CRYPTIC = {  # TRL raises, but what?
    "no column it knows": ("sft", table(question="1+1=", answer="2"), KeyError,
                           "'question': 'prompt', 'answer': 'completion'"),
    "a completion without its prompt": ("sft", table(completion="2"), KeyError, "no prompt"),
    "a prompt without its completion": ("sft", table(prompt="1+1=", response="2"), KeyError,
                                        "'response': 'completion'"),
    "no rejected": ("dpo", table(prompt="1+1=", chosen="2"), KeyError, "no rejected"),
    "no prompt": ("grpo", table(problem="1+1=", solution="2"), KeyError, "'problem': 'prompt'"),
    "a column that TRL passes itself": ("grpo", table(prompt="1+1=", solution="2", prompts="x"), TypeError,
                                        "remove_columns.'prompts'"),
    "a chat in JSON": ("sft", table(messages='[{"role": "user"}]'), Exception, "json.loads"),
    "numbers": ("sft", table(prompt=1, completion=2), Exception, "neither a string nor a list"),
    "nothing": ("sft", table(prompt=None, completion=None), Exception, "empty text"),
    "an empty data set": ("sft", table(rows=0, text="2"), StopIteration, "no rows"),
    "from/value messages": ("sft", table(messages=HUMAN_AND_GPT), ValueError, "human.*map them"),
    "only rows with long prompts": (
        "sft", table(prompt=[user("1" * 200)], completion=[assistant()]), Exception, "drops the row"),
}  # fmt: skip


@pytest.mark.parametrize("trap", CRYPTIC)
def test_what_fails_without_telling_why_is_named(trap, tmp_path):
    kind, dataset, error, words = CRYPTIC[trap]
    with pytest.raises(ValueError, match=f"(?s)validate.*{words}"):
        validate.validate(dataset, kind, TOKENIZER, 128)
    with pytest.raises(error) as raised:
        train(kind, dataset, tmp_path)
    assert "rename" not in str(raised.value).lower()  # nothing there says what to do


def test_a_gold_column_by_another_name_is_found():
    with pytest.raises(ValueError, match="grpo needs.*'answer': 'solution'"):
        validate.validate(table(prompt=[user()], answer="2"), "grpo", TOKENIZER, 128)


def test_an_empty_data_set_for_grpo_is_named_where_the_run_would_end_at_once(tmp_path):
    rows = table(rows=0, prompt="2", solution="2")
    with pytest.raises(ValueError, match="no rows"):
        validate.validate(rows, "grpo", TOKENIZER, 128)
    assert train("grpo", rows, tmp_path).state.global_step == 0


def test_text_and_chats_in_one_column_are_named():
    rows = [
        {"prompt": "1+1=", "completion": "2"},
        {"prompt": [user()], "completion": [assistant()]},
    ]
    with pytest.raises(ValueError, match="text beside chats"):
        validate.validate(rows, "sft", TOKENIZER, 128)


def test_a_template_that_never_writes_eos_is_named():
    other = model.tokenizer()
    other.eos_token = "<|endoftext|>"  # the template ends an answer with <|im_end|>
    with pytest.raises(ValueError, match="never learn to stop"):
        validate.validate(GOOD["sft"][0], "sft", other, 128)


def test_a_template_that_refuses_a_chat_is_a_problem_of_its_rows():
    other = model.tokenizer()
    other.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    )
    other.chat_template += model.CHAT_TEMPLATE
    good, bad = [user(), assistant()], [{"role": "system", "content": "Add."}, user(), assistant()]
    assert validate.validate([{"messages": good}], "sft", other, 128)["rows"] == 1
    with pytest.raises(
        ValueError, match=r"1 rows \(1\): the chat template refuses it \(no system role"
    ):
        validate.validate([{"messages": good}, {"messages": bad}], "sft", other, 128)


def test_what_is_no_single_data_set_is_told_apart():
    rows = GOOD["sft"][0]
    with pytest.raises(ValueError, match="'train'.* are splits"):
        validate.validate(DatasetDict(train=rows), "sft", TOKENIZER, 128)
    with pytest.raises(ValueError, match="stream.take"):
        validate.validate(rows.to_iterable_dataset(), "sft", TOKENIZER, 128)
    with pytest.raises(ValueError, match=r"1 rows \(1\): an empty text"):  # a row of another shape
        validate.validate([rows[0], {"messages": [user()]}], "sft", TOKENIZER, 128)


def test_tags_that_are_special_tokens_are_named():
    other = model.tokenizer()
    other.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    with pytest.raises(ValueError, match="special=False"):
        validate.validate(GOOD["grpo"][0], "grpo", other, 128)


def test_a_chat_without_a_template_is_named():
    other = model.tokenizer()
    other.chat_template = None
    with pytest.raises(ValueError, match="chat_template"):
        validate.validate(GOOD["sft"][0], "sft", other, 128)


@pytest.mark.parametrize(("bad", "passes"), [(1, True), (2, False)])
def test_one_row_in_a_hundred_may_be_too_long(bad, passes):
    long, short = assistant("2" * 200), assistant("2")
    rows = Dataset.from_list(
        [{"prompt": [user()], "completion": [long if n < bad else short]} for n in range(100)]
    )
    if passes:
        assert validate.validate(rows, "sft", TOKENIZER, 128)["truncated"] == bad
    else:
        with pytest.raises(ValueError, match="2 rows \\(0, 1\\).*cuts the end off"):
            validate.validate(rows, "sft", TOKENIZER, 128)
    assert validate.validate(rows, "sft", TOKENIZER, None)["truncated"] == 0


def test_fitting_leaves_out_aloud_what_would_be_cut_off():
    answers = [assistant("2" * length) for length in (1, 200, 2)]
    rows = Dataset.from_list([{"prompt": [user()], "completion": [a]} for a in answers])
    said = []
    kept = validate.fitting(rows, "sft", TOKENIZER, 128, say=said.append)
    assert said == ["left out 1 of 3 rows: longer than 128 tokens"]
    assert [row["completion"] for row in kept] == [[answers[0]], [answers[2]]]
    assert validate.validate(kept, "sft", TOKENIZER, 128)["truncated"] == 0
    assert len(validate.fitting(kept, "sft", TOKENIZER, 128, say=None)) == 2  # nothing to say


def test_all_problems_are_listed_with_their_rows():
    rows = Dataset.from_dict(
        {"prompt": ["a", "b", "c"], "chosen": ["x", "x", ""], "rejected": ["y", "x", "y"]}
    )
    with pytest.raises(ValueError, match="2 problems in 3 rows") as raised:
        validate.validate(rows, "dpo", TOKENIZER, 128)
    assert "1 rows (1): chosen and rejected are the same" in str(raised.value)
    assert "1 rows (2): an empty text" in str(raised.value)


def test_show_batch_marks_what_sft_trains_on(tmp_path, capsys):
    built = train("sft", GOOD["sft"][0], tmp_path)
    ((title, spans), *_) = validate.batch_spans(built, rows=1)
    assert title == "row 0"
    assert "".join(text for text, trained in spans if not trained).startswith("<|im_start|>user")
    trained = "".join(text for text, trained in spans if trained)
    assert trained.strip() == assistant()["content"] + "<|im_end|>"
    validate.show_batch(built, rows=1)
    assert f"\x1b[4;30;42m{trained}\x1b[0m" in capsys.readouterr().out


def test_show_batch_puts_a_pair_together(tmp_path):
    built = train("dpo", GOOD["dpo"][0], tmp_path)
    (chosen, first), (rejected, second) = validate.batch_spans(built, rows=2)
    assert (chosen, rejected) == ("chosen, pair 0", "rejected, pair 0")
    assert [text.strip() for text, trained in first if trained] == ["2<|im_end|>"]
    assert [text.strip() for text, trained in second if trained] == ["3<|im_end|>"]


def test_show_batch_shows_each_prompt_of_grpo_once_with_its_gold(tmp_path):
    rows = Dataset.from_dict({"prompt": [[user("1+1=?")], [user("1+2=?")]], "solution": ["2", "3"]})
    built = train("grpo", rows, tmp_path, per_device_train_batch_size=4)
    ((title, ((prompt, trained),)), (other, _)) = validate.batch_spans(built)
    assert {title, other} == {"2 completions, solution: 2", "2 completions, solution: 3"}
    assert prompt.endswith("<|im_start|>assistant\n")
    assert not trained


def test_show_batch_shows_the_prompt_that_grpo_asks_with(tokenizer_of, tmp_path):
    tok, rows = tokenizer_of("qwen3"), table(prompt=[user()], solution="2")
    quiet = QUIET | {"num_generations": 2, "max_completion_length": 4}
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    args = GRPOConfig(output_dir=str(tmp_path), **quiet, **off)
    built = GRPOTrainer(
        model.build(tok), format_reward, args, train_dataset=rows, processing_class=tok
    )
    ((_, ((prompt, _),)), *_) = validate.batch_spans(built, rows=1)
    assert prompt.endswith("<think>\n\n</think>\n\n")


def test_show_batch_is_html_in_a_notebook(tmp_path, monkeypatch):
    from lab import batch

    shown = []
    monkeypatch.setattr(batch, "_in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", shown.append)
    batch.show_batch(train("sft", GOOD["sft"][1], tmp_path), rows=1)
    assert "<span style=" in shown[0].data
    assert "&lt;|im_end|&gt;" in shown[0].data  # what the model reads, not markup
