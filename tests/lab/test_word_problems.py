"""Generated word problems: GSM8K's schema, right golds, two splits that share nothing, and pairs from a model."""

import json
import re

import pytest
from datasets import Dataset
from lab import evaluate, loaders, pairs, recipes, train, word_problems

from rewards import accuracy_reward

STORY = re.compile(r"(\d+)([-+*/])(\d+)=<<\1\2\3=(\d+)>>\4")


@pytest.fixture(scope="module")
def made():
    return {split: word_problems.rows(split, n) for split, n in word_problems.SIZES.items()}


def test_no_question_is_of_both_splits_and_none_comes_twice(made):
    questions = {split: [row["question"] for row in rows] for split, rows in made.items()}
    assert all(len(set(each)) == word_problems.SIZES[split] for split, each in questions.items())
    assert not set(questions["train"]) & set(questions["test"])
    other = {row["question"] for row in word_problems.rows("train", 4000, seed=5)}
    assert not other & set(questions["test"]) and len(other & set(questions["train"])) < 2000


def test_every_step_is_arithmetic_with_the_numbers_of_its_question(made):
    """By Fraction-free integer arithmetic of our own: a quotient has no rest, a difference is positive."""
    kinds = set()
    for row in made["train"]:
        (a, sign, b, result), *_ = STORY.findall(row["answer"])
        a, b, result = int(a), int(b), int(result)
        assert {"+": a + b, "-": a - b, "*": a * b, "/": result}[sign] == result
        assert sign != "/" or a == b * result
        assert 0 < result < 109 and row["answer"].endswith(f"\n#### {result}")
        asked = {int(n) for n in re.findall(r"\d+", row["question"])}
        assert asked == {a, b}, row
        kinds.add(sign)
    assert kinds == set("+-*/")


def test_the_reward_reads_what_sft_teaches_as_right(tmp_path, capsys):
    word_problems.main([str(tmp_path)])
    assert "1000 problems" in capsys.readouterr().out
    rows = loaders.load("openai/gsm8k", "grpo", path=tmp_path / "test.jsonl", n=50)
    worked = loaders.load("openai/gsm8k", "sft", path=tmp_path / "test.jsonl", n=50)
    said = [row["completion"][0]["content"] for row in worked]
    assert accuracy_reward(said, solution=rows["solution"], prompts=rows["prompt"]) == [1.0] * 50
    assert not any("<<" in text for text in said)


def test_the_name_is_written_on_first_use_and_its_splits_are_kept_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RUNS", str(tmp_path))
    asked = {}
    for split in word_problems.SIZES:
        rows = loaders.load("openai/gsm8k", "grpo", split=split, path=word_problems.NAME)
        asked[split] = {row["prompt"][-1]["content"] for row in rows}
    file = tmp_path / "models" / "word-problems" / "test.jsonl"
    written = {json.loads(line)["question"] for line in file.read_text().splitlines()}
    assert asked["test"] == written and not asked["train"] & asked["test"]
    with pytest.raises(ValueError, match="split is 'dev'"):
        word_problems.rows("dev", 1)


def test_every_stage_of_the_profile_laptop_trains_apart_from_what_it_is_scored_on(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("LAB_RUNS", str(tmp_path))
    for stage in ("sft", "grpo"):
        recipe = recipes.load(stage, "laptop")
        rows = train._rows(recipe, None, None)
        assert len(train.apart(rows, recipe)) == len(rows) == recipe["data"]["options"]["n"]
        assert recipe["evaluate"]["n"] >= 200
    prompt, right = evaluate.example(recipes.load("sft", "laptop"))
    assert prompt[0]["content"] == loaders.SYSTEM and right.startswith("<think>")


TAGGED = "<think>.</think><answer>{}</answer>"
ROWS = Dataset.from_list(
    [{"prompt": [{"role": "user", "content": f"{k}?"}], "solution": str(k)} for k in range(3)]
)


def scripted(texts):
    return lambda model, tok, prompts, seed, **_: [texts[p[0]["content"]].pop(0) for p in prompts]


def test_pairs_are_told_apart_by_the_reward_one_per_prompt(monkeypatch):
    """Prompt 0 has a right and a wrong answer, prompt 1 two right ones, prompt 2 an empty one beside a right one."""
    texts = {
        "0?": [TAGGED.format(7), TAGGED.format(0)],
        "1?": [TAGGED.format(1), TAGGED.format(1)],
        "2?": ["", TAGGED.format(2)],
    }
    monkeypatch.setattr(evaluate, "sample", scripted(texts))
    found = pairs.told_apart(None, None, ROWS, accuracy_reward, samples=2, seed=0)
    assert len(found) == 1 and found[0]["prompt"] == ROWS[0]["prompt"]
    assert found[0]["chosen"][0]["content"] == TAGGED.format(0)
    assert found[0]["rejected"][0]["content"] == TAGGED.format(7)


def test_a_model_whose_answers_all_earn_the_same_gives_one_line(monkeypatch):
    monkeypatch.setattr(evaluate, "sample", scripted({f"{k}?": ["no", "no"] for k in range(3)}))
    with pytest.raises(ValueError, match="none has two completions of 2 that earn differently"):
        pairs.told_apart(None, None, ROWS, accuracy_reward, samples=2, seed=0)
