"""The generator of instructions: parts that share nothing, prompts that say their rules, clear errors."""

import json
import re

import pytest
from lab import evaluate, instructions, loaders, rejection, verified

from rewards import instruction_reward


def seen(split, level):
    rows = instructions.rows(150, level, split)
    pairs, combos = set(), set()
    for row in rows:
        kept = json.loads(row["solution"])
        pairs.add((row["topic"], kept.pop("word")))
        combos.add(json.dumps(kept, sort_keys=True))
    return pairs, combos


@pytest.mark.parametrize("level", instructions.LEVELS)
def test_training_and_held_out_share_no_pair_and_no_combination(level):
    (pairs, combos), (held_pairs, held_combos) = seen("train", level), seen("heldout", level)
    assert not pairs & held_pairs and not combos & held_combos
    assert held_combos and len(held_pairs) > 70


@pytest.mark.parametrize("level", instructions.LEVELS)
def test_a_prompt_says_every_rule_that_it_is_scored_by(level):
    for row in instructions.rows(150, level, "heldout"):
        asked, kept = row["prompt"][-1]["content"], json.loads(row["solution"])
        said = [f'"{kept["word"]}"', f"at least {kept['min_words']}", f"most {kept['max_words']}"]
        said += [instructions.MARKS.get(kept.get("ends"), "")]
        said += [f'begin with the word "{kept.get("starts")}"'] * ("starts" in kept)
        said += ["no comma"] * ("no_comma" in kept) + ["no capital"] * ("lower_case" in kept)
        said += ["one sentence"] * ("sentences" in kept)
        said += [f"list of {kept.get('items')}"] * ("items" in kept)
        assert all(each in asked for each in said), (asked, kept)
        assert row["topic"] in asked
        assert len(re.findall(r"\d+", asked)) == 2 + ("items" in kept)


def a_text_for(row):
    """A text that keeps the rules of a row, written from them and from nothing else."""
    kept = json.loads(row["solution"])
    n, word = kept["max_words"], kept["word"]
    if "items" in kept:
        filler = ["so"] * (kept["min_words"] // kept["items"] - 1)
        return "\n".join(" ".join(["-", word, *filler]) for _ in range(kept["items"]))
    first = [kept.get("starts", "so" if kept.get("lower_case") else "So")]
    return " ".join([*first, *["so"] * (n - 2), word]) + kept["ends"]


@pytest.mark.parametrize("level", instructions.LEVELS)
def test_every_instruction_can_be_kept(level):
    rows = instructions.rows(300, level, "train", seed=3)
    rewards = instruction_reward(
        [a_text_for(row) for row in rows], solution=rows["solution"], prompts=rows["prompt"]
    )
    assert set(rewards) == {1.0}


def test_the_same_seed_gives_the_same_rows_and_no_row_comes_twice():
    one, other = instructions.rows(300), instructions.rows(300)
    assert one["prompt"] == other["prompt"] != instructions.rows(300, seed=1)["prompt"]
    assert len({row[-1]["content"] for row in one["prompt"]}) == 300


@pytest.mark.parametrize(
    "kept, why",
    [
        ({"min_words": 9, "max_words": 7}, "at least 9 words and at most 7"),
        ({"word": "a", "starts": "B", "max_words": 1}, "2 different words and at most 1"),
        ({"items": 5, "max_words": 4}, "more items or sentences than words"),
        ({"lower_case": True, "starts": "Once"}, "no capitals and 'Once' first"),
        ({"items": 2, "starts": "Once"}, "lines that begin with '- '"),
    ],
)
def test_an_instruction_that_no_text_can_keep_is_refused(kept, why):
    with pytest.raises(ValueError, match=f"no text can keep these rules: {why}"):
        instructions.make("the bridge", "blue", 1, {"word": "blue"} | kept)


@pytest.mark.parametrize("name", ["instructions/4", "instructions/", "instructions/hard"])
def test_another_level_is_an_error(name):
    with pytest.raises(ValueError, match=r"level is .*; expected one of \(1, 2, 3\)"):
        loaders.load(name, "grpo")


def test_the_topic_becomes_a_rule_where_it_is_asked_for():
    (row,) = instructions.rows(1, mentions=True)
    name = row["topic"].split()[-1]
    assert json.loads(row["solution"])["mentions"] == name
    assert row["prompt"][-1]["content"].endswith(f'Use the word "{name}" too.')


def test_a_recipe_s_data_set_says_how_it_is_verified():
    named = {"data": {"name": "instructions/2"}}
    assert verified.rewards(named) == [instruction_reward]
    assert [f.__name__ for f in verified.rewards({"data": {"n": 3}})] == [
        "accuracy_reward",
        "format_reward",
    ]
    assert verified.of("instructions/1").why_unverifiable("x").startswith("rules: 'x' is no JSON")
    assert verified.of("openai/gsm8k").score is evaluate.on_rows


def test_the_scores_of_a_stage_count_completions_that_keep_all_rules(monkeypatch):
    rows = instructions.rows(4, split="heldout")
    good = [a_text_for(row) for row in rows]
    sampled = [(good[0], True), (good[1], True), ("No.", True), ("So so so", False)]
    monkeypatch.setattr(evaluate, "written", lambda *args, **options: sampled)
    monkeypatch.setattr(evaluate, "sample", lambda *args, **options: [*good[:3], "No."])
    found = instructions.score(None, None, rows)
    assert (found["heldout_correct"], found["greedy_correct"], found["heldout_n"]) == (2, 3, 4)
    assert found["ended_rate"] == 0.75 and found["rules"]["all"] == 0.5
    assert found["verdicts"] == [True, True, True, False]


def drawn(*groups):
    return [
        {"prompt": [{"role": "user", "content": str(i)}], "texts": list(group), "rewards": rewards}
        for i, (group, rewards) in enumerate(groups)
    ]


def test_rejection_sampling_keeps_what_keeps_all_rules_and_nothing_else():
    rows = rejection.kept(drawn((("a", "b"), [1.0, 0.5]), (("c",), [0.5]), (("d",), [1.0])))
    assert [row["completion"][0]["content"] for row in rows] == ["a", "d"]


def test_pairs_set_the_best_over_the_worst_where_they_earn_differently():
    groups = drawn(
        (("a", "b", "c", "d"), [0.3, 1.0, 0.1, 0.4]), (("e", "f"), [0.2, 0.2]), (("", "g"), [0, 1])
    )
    pairs = [
        (row["chosen"][0]["content"], row["rejected"][0]["content"])
        for row in rejection.preferred(groups, pairs=2)
    ]
    assert pairs == [("b", "c"), ("d", "a")]


@pytest.mark.parametrize("select", [rejection.kept, rejection.preferred])
def test_a_pool_that_teaches_nothing_is_an_error(select):
    with pytest.raises(ValueError, match="among 2; draw more, or take an easier level"):
        select(drawn((("a", "b"), [0.5, 0.5])))
