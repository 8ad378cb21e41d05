"""Each data set of the field, from a small file of ours in that data set's real schema.

The schemas are those of the hub's dataset cards; the rows in tests/lab/data are our own.
"""

import json
from pathlib import Path

import pytest
from lab import loaders, model, recipes, validate, verified

from rewards import accuracy_reward, check_golds, format_reward

DATA = Path(__file__).parent / "data"
FILES = {
    "trl-lib/Capybara": "capybara.jsonl",
    "trl-lib/ultrafeedback_binarized": "ultrafeedback_binarized.jsonl",
    "AI-MO/NuminaMath-TIR": "numinamath_tir.jsonl",
    "trl-lib/DeepMath-103K": "deepmath_103k.jsonl",
    "HuggingFaceH4/MATH-500": "math_500.jsonl",
    "openai/gsm8k": "gsm8k.jsonl",
}
GRPO = [name for name, (stage, *_) in loaders.DATASETS.items() if stage == "grpo"]


def load(name, **options):
    if name == "HuggingFaceH4/MATH-500":  # it has no other split
        options.setdefault("split", "test")
    return loaders.load(name, path=DATA / FILES[name], **options)


def test_there_is_a_file_for_each_data_set():
    assert set(FILES) == set(loaders.DATASETS)


@pytest.mark.parametrize("name", FILES)
def test_each_is_ready_for_its_trainer(name):
    stage = loaders.DATASETS[name][0]
    rows = load(name, stage=stage)
    report = validate.validate(rows, stage, model.tokenizer(), 4096)
    assert report["rows"] >= 3
    assert set(rows.column_names) == {*report["columns"], *(["solution"] * (stage == "grpo"))}


@pytest.mark.parametrize("name", GRPO)
def test_the_system_prompt_asks_for_the_tags_and_the_user_asks_the_question(name):
    for row in load(name):
        system, user = row["prompt"]
        assert (system["role"], user["role"]) == ("system", "user")
        assert all(tag in system["content"] for tag in validate.TAGS)
        assert user["content"].strip()


@pytest.mark.parametrize("name", GRPO)
def test_every_gold_can_be_verified(name):
    assert check_golds(load(name)) == []


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("AI-MO/NuminaMath-TIR", ["32", "x = 2", "3/8"]),
        ("trl-lib/DeepMath-103K", [r"\frac{3}{2}", "yes", "1", r"\sqrt2"]),
        ("HuggingFaceH4/MATH-500", ["11/12", "3, 2", r"(4, \frac{\pi}{2})", "5"]),
        ("openai/gsm8k", ["22", r"\$4", "15000"]),
    ],
)
def test_the_golds_are_the_answers_not_the_reasoning(name, answers):
    golds = load(name)["solution"]
    right = [f"<think>a</think><answer>{answer}</answer>" for answer in answers]
    wrong = ["<think>a</think><answer>72</answer>"] * len(answers)  # a number of GSM8K's reasoning
    assert accuracy_reward(right, solution=list(golds)) == [1.0] * len(answers)
    assert accuracy_reward(wrong, solution=list(golds)) == [0.0] * len(answers)


def test_a_pair_shares_its_prompt():
    row = load("trl-lib/ultrafeedback_binarized")[0]
    assert [m["role"] for m in row["prompt"]] == ["user"]
    assert (
        [m["role"] for m in row["chosen"]] == [m["role"] for m in row["rejected"]] == ["assistant"]
    )


def test_answers_without_tags_get_no_system_prompt_unless_one_is_given():
    assert load("trl-lib/Capybara")[0]["messages"][0]["role"] == "user"
    asked = load("trl-lib/Capybara", system="Be brief.")[0]["messages"]
    assert asked[0] == {"role": "system", "content": "Be brief."}
    assert asked[1]["role"] == "user"


def test_n_draws_the_same_rows_for_the_same_seed():
    first, again = (load("trl-lib/DeepMath-103K", n=2, seed=1)["solution"] for _ in range(2))
    assert list(first) == list(again)
    assert len(first) == 2


def test_offline_there_is_one_error_with_the_way_on(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="(?s)gsm8k.*LAB_PROFILE=tiny.*lab.tasks.*path="):
        loaders.load("openai/gsm8k")
    with pytest.raises(ConnectionError, match="gsm8k at revision 740312a .leave it out"):
        loaders.load("openai/gsm8k", revision="740312a")


def test_another_name_or_stage_says_which_there_are():
    with pytest.raises(ValueError, match="openai/gsm8k"):
        loaders.load("gsm9k")
    with pytest.raises(ValueError, match="for grpo; for dpo there are.*ultrafeedback"):
        loaders.load("openai/gsm8k", "dpo")


def test_a_benchmark_with_a_test_split_alone_is_not_trained_on():
    with pytest.raises(ValueError, match="MATH-500 has a test split alone"):
        load("HuggingFaceH4/MATH-500", split="train")


def test_another_schema_says_what_is_missing():
    with pytest.raises(
        ValueError, match=r"without \['question'\]|without \['answer', 'question'\]"
    ):
        loaders.load("openai/gsm8k", path=DATA / FILES["trl-lib/DeepMath-103K"])


def test_pairs_that_teach_nothing_are_dropped_aloud(tmp_path):
    """UltraFeedback has identical pairs, and empty answers: validate would stop the run at them."""
    asked = {"role": "user", "content": "Hello?"}
    answers = [("Hi.", "Go away."), ("Hi.", "Hi."), ("Hi.", " "), ("", "Hi."), ("Hi. ", "Hi.")]
    chats = [
        {
            side: [asked, {"role": "assistant", "content": text}]
            for side, text in zip(("chosen", "rejected"), pair)
        }
        for pair in answers
    ]
    file, told = tmp_path / "pairs.jsonl", []
    file.write_text("\n".join(json.dumps(chat) for chat in chats))
    rows = loaders.load("trl-lib/ultrafeedback_binarized", path=file, say=told.append)
    assert [row["rejected"][0]["content"] for row in rows] == ["Go away."]
    assert len(told) == 1 and "2 pairs" in told[0] and "2 with an empty" in told[0]
    load("trl-lib/ultrafeedback_binarized", say=told.append)
    assert len(told) == 1  # nothing to tell of sound pairs


def test_worked_solutions_become_answers_that_earn_both_rewards():
    rows, golds = load("openai/gsm8k", stage="sft"), load("openai/gsm8k")["solution"]
    said = [row["completion"][0]["content"] for row in rows]
    assert accuracy_reward(said, solution=list(golds)) == [1.0] * len(said)
    assert format_reward(said) == [1.0] * len(said)
    assert not any("<<" in text or "####" in text for text in said)
    assert all(row["prompt"][0]["content"] == loaders.SYSTEM for row in rows)
    assert validate.validate(rows, "sft", model.tokenizer(), 4096)["rows"] == len(said)


@pytest.mark.parametrize("profile", recipes.LONG)
def test_sft_of_a_gpu_profile_teaches_what_every_reward_of_grpo_pays(profile):
    """After chats without a tag GRPO has nothing to start from, and `lab.guards` stops it."""
    name = recipes.load("sft", profile)["data"]["name"]
    rows, golds = load(name, stage="sft"), list(load(name)["solution"])
    said = [row["completion"] for row in rows]
    for reward in verified.rewards(recipes.load("grpo", profile)):
        assert reward(completions=said, solution=golds) == [1.0] * len(said)


def test_a_worked_solution_without_its_last_line_is_refused():
    with pytest.raises(ValueError, match="without its last line"):
        loaders.worked({"question": "1+1?", "answer": "It is 2."}, None)
