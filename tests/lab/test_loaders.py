"""The field's data sets, from small local files in their own columns to TRL's formats."""

import json

import datasets.config
import huggingface_hub.constants
import pytest
from lab import loaders

from rewards import accuracy_reward, check_golds

TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
OTHER = [TURNS[0], {"role": "assistant", "content": "What?"}]
CAPYBARA = {"source": "Airoboros", "messages": TURNS, "num_turns": 1}
ULTRAFEEDBACK = {"chosen": TURNS, "rejected": OTHER, "score_chosen": 8.0, "score_rejected": 2.0}
GSM8K = {
    "question": "A shop sold 48 boxes of 25 clips. How many clips?",
    "answer": "It sold 48*25=<<48*25=1200>>1200 clips.\n#### 1,200",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def file(tmp_path):
    def write(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def test_capybara_keeps_its_chats_alone(file):
    rows = loaders.load("trl-lib/Capybara", "sft", file=file(CAPYBARA, CAPYBARA))
    assert rows.to_list() == [{"messages": TURNS}] * 2


def test_ultrafeedback_parts_the_prompt_from_the_two_answers(file):
    rows = loaders.load("trl-lib/ultrafeedback_binarized", "dpo", file=file(ULTRAFEEDBACK))
    assert rows.to_list() == [
        {"prompt": TURNS[:1], "chosen": TURNS[1:], "rejected": OTHER[1:]},
    ]


def test_gsm8k_asks_for_the_tags_and_carries_a_gold_that_the_reward_reads(file):
    rows = loaders.load("openai/gsm8k", "grpo", file=file(GSM8K))
    [row] = rows.to_list()
    assert [turn["role"] for turn in row["prompt"]] == ["system", "user"]
    assert "<think>" in row["prompt"][0]["content"] and "<answer>" in row["prompt"][0]["content"]
    assert row["prompt"][1]["content"] == GSM8K["question"]
    assert set(row) == {"prompt", "solution"}
    check_golds(rows["solution"])
    answers = [f"<think>48*25</think><answer>{n}</answer>" for n in ("1200", "1,200", "48")]
    verdicts = accuracy_reward(completions=answers, solution=[row["solution"]] * 3)
    assert verdicts == [1.0, 1.0, 0.0]


def test_n_takes_the_first_rows(file):
    path = file(*[GSM8K | {"question": str(i)} for i in range(5)])
    rows = loaders.load("openai/gsm8k", "grpo", n=2, file=path)
    assert [row["prompt"][1]["content"] for row in rows] == ["0", "1"]
    assert len(loaders.load("openai/gsm8k", "grpo", n=9, file=path)) == 5


@pytest.mark.parametrize("answer", ["42", "no mark", "so ####  "])
def test_an_answer_without_a_gold_is_an_error(answer):
    with pytest.raises(ValueError, match="expected an answer that ends in"):
        loaders.gold(answer)


def test_pairs_whose_prompts_differ_are_an_error():
    asked = [{"role": "user", "content": "Another question"}, OTHER[1]]
    with pytest.raises(ValueError, match="must share their prompt"):
        loaders.dpo({"chosen": TURNS, "rejected": asked})


def test_other_columns_are_an_error(file):
    with pytest.raises(ValueError, match=r"expected \['answer', 'question'\]"):
        loaders.load("openai/gsm8k", "grpo", file=file({"text": "?"}))


@pytest.mark.parametrize(("name", "stage"), [("openai/gsm8k", "sft"), ("a/b", "grpo")])
def test_an_unknown_data_set_is_an_error_that_names_those_there_are(name, stage):
    with pytest.raises(ValueError, match="there are: "):
        loaders.load(name, stage)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no file"):
        loaders.load("openai/gsm8k", "grpo", file=tmp_path / "none.jsonl")


def test_without_a_network_the_error_names_the_way_on(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="LAB_PROFILE=tiny"):
        loaders.load("openai/gsm8k", "grpo")
