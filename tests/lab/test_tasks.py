"""The built-in task: nothing that trains ever holds a held-out problem, and its golds are right."""

import random
import re

import pytest
from lab import pairs, tasks

from rewards import accuracy_reward, format_reward

HELD_OUT = {pair for level in tasks.problems("heldout").values() for pair in level}
SUM = re.compile(r"(\d+)\+(\d+)")


def asked(text):
    """The two numbers that a text is about: the first pair with a plus between."""
    return tuple(map(int, SUM.search(text).groups()))


def test_a_fifth_is_held_out_and_the_two_parts_make_the_whole():
    train = {pair for level in tasks.problems("train").values() for pair in level}
    everything = {(a, b) for a in tasks.OPERANDS for b in tasks.OPERANDS}
    assert not train & HELD_OUT
    assert train | HELD_OUT == everything
    # A hash is no exact fifth: 4 standard deviations of 8,100 draws are 0.018.
    assert abs(len(HELD_OUT) / len(everything) - 0.2) < 0.018


def test_an_unknown_split_is_an_error():
    with pytest.raises(ValueError, match='expected "train" or "heldout"'):
        tasks.problems("test")


def test_the_levels_are_what_they_say():
    for split in ("train", "heldout"):
        for level, listed in tasks.problems(split).items():
            for a, b in listed:
                ones, tens = a % 10 + b % 10 > 9, a + b > 99
                assert level == (3 if tens else 2 if ones else 1)
            assert listed


@pytest.mark.parametrize("n", [3, 7, 600])
def test_a_sample_has_the_levels_in_equal_parts_and_repeats_nothing(n):
    drawn = tasks.sample(n, "heldout", seed=0)
    assert len(drawn) == len(set(drawn)) == n
    assert set(drawn) <= HELD_OUT
    counts = [sum(tasks.level(a, b) == k for a, b in drawn) for k in tasks.LEVELS]
    assert max(counts) - min(counts) <= 1


def test_a_sample_is_its_seeds():
    one, same, other = (tasks.sample(60, "heldout", seed) for seed in (0, 0, 1))
    assert one == same != other


# --- nothing that trains holds a held-out problem ---------------------------------------------------


def test_no_pretraining_document_is_about_a_held_out_problem():
    rng = random.Random(0)
    for _ in range(20_000):
        assert asked(tasks.raw_document(rng, 0.6)) not in HELD_OUT


def test_no_chat_about_other_things_is_about_a_held_out_problem():
    rng = random.Random(0)
    for _ in range(5_000):
        assert asked(tasks.chat_document(rng)[0]["content"]) not in HELD_OUT


@pytest.mark.parametrize("seed", [0, 1])
def test_no_demonstration_is_about_a_held_out_problem(seed):
    rows = tasks.sft_dataset(6_000, 0.25, seed)
    assert not {asked(prompt[0]["content"]) for prompt in rows["prompt"]} & HELD_OUT


@pytest.mark.parametrize("seed", [0, 1])
def test_no_prompt_of_grpo_is_a_held_out_problem_and_every_scored_one_is(seed):
    for split, of in (("train", False), ("heldout", True)):
        rows = tasks.grpo_dataset(1_500, seed, split)
        assert {asked(prompt[0]["content"]) in HELD_OUT for prompt in rows["prompt"]} == {of}


def test_no_preference_pair_is_about_a_held_out_problem(monkeypatch):
    def scripted(model, tok, prompts, seed):  # what a model says; what it is asked is the kit's
        sums = [asked(prompt[0]["content"]) for prompt in prompts]
        return [tasks.completion(a, b, tasks.STYLES[i % 2]) for i, (a, b) in enumerate(sums)]

    monkeypatch.setattr(pairs.evaluate, "sample", scripted)
    drawn = pairs.draw(None, None, n_prompts=2_000, seed=0, samples=2)
    rows = pairs.styled(drawn)
    assert len(rows) == 2_000
    assert not {asked(prompt[0]["content"]) for prompt in rows["prompt"]} & HELD_OUT
    for row in rows.select(range(50)):
        assert tasks.style_of(row["chosen"][0]["content"]) == tasks.PREFERRED
        assert tasks.style_of(row["rejected"][0]["content"]) != tasks.PREFERRED


# --- golds, styles, slips ---------------------------------------------------------------------------


@pytest.mark.parametrize("style", tasks.STYLES)
def test_a_worked_answer_earns_both_rewards_and_shows_its_style(style):
    drawn = tasks.sample(300, "heldout", seed=0)
    texts = [tasks.completion(a, b, style) for a, b in drawn]
    golds = tasks.grpo_dataset(300, seed=0, split="heldout")["solution"]
    assert set(accuracy_reward(completions=texts, solution=golds)) == {1.0}
    assert set(format_reward(completions=texts)) == {1.0}
    assert {tasks.style_of(text) for text in texts} == {style}


def test_a_text_without_reasoning_has_no_style():
    assert tasks.style_of("<answer>50</answer>") is None
    assert tasks.style_of("<think></think><answer>50</answer>") is None


def test_an_unknown_style_is_an_error():
    with pytest.raises(ValueError, match="style is 'verse'; expected one of"):
        tasks.solve(12, 38, "verse")


@pytest.mark.parametrize("wrong", [0.0, 0.25, 0.6, 1.0])
def test_slips_are_wrong_answers_at_the_asked_share(wrong):
    rows = tasks.sft_dataset(2_000, wrong)
    golds = [str(sum(asked(prompt[0]["content"]))) for prompt in rows["prompt"]]
    verdicts = accuracy_reward(completions=rows["completion"], solution=golds)
    # 4 standard deviations of a share of 2,000 draws; 0 and 1 leave no room at all.
    assert abs(verdicts.count(0.0) / 2_000 - wrong) <= 4 * (wrong * (1 - wrong) / 2_000) ** 0.5
    assert set(format_reward(completions=rows["completion"])) == {1.0}


def test_demonstrations_have_both_styles_in_equal_parts():
    rows = tasks.sft_dataset(100, 0.25)
    styles = [tasks.style_of(completion[0]["content"]) for completion in rows["completion"]]
    assert {style: styles.count(style) for style in tasks.STYLES} == dict.fromkeys(tasks.STYLES, 50)


def test_raw_text_is_wrong_at_the_asked_share():
    rng, wrong = random.Random(0), 0
    for _ in range(4_000):
        text = tasks.raw_document(rng, 0.6)
        wrong += int(re.findall(r"\d+", text)[-1]) != sum(asked(text))
    assert abs(wrong / 4_000 - 0.6) <= 4 * (0.6 * 0.4 / 4_000) ** 0.5  # 4 standard deviations


def test_no_chat_document_adds_its_numbers():
    rng = random.Random(0)
    for _ in range(2_000):
        question, answer = (turn["content"] for turn in tasks.chat_document(rng))
        said = answer.partition("<answer>")[2].partition("</answer>")[0]
        assert said != str(sum(asked(question)))
        assert "=" not in answer  # not one column's result either
