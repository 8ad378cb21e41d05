"""The built-in task: nothing that trains ever holds a held-out problem, and its golds are right."""

import random
import re

import pytest
from lab import pairs, recipes, tasks

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


# --- pairs: the style differs, the verdict does not ------------------------------------------------


def draws(right, wrong, other=0):
    """Completions as `pairs.draw` has them: of each problem one in each style, with one verdict,
    and of `other` problems a right terse answer beside a wrong stepwise one.
    """
    problems = tasks.sample(right + wrong + other, "train", seed=0)
    verdicts = [(True, True)] * right + [(False, False)] * wrong + [(True, False)] * other
    return [
        {"a": a, "b": b, "text": f"{a} {b} {style} {verdict}", "style": style, "right": verdict}
        for (a, b), both in zip(problems, verdicts)
        for style, verdict in zip(tasks.STYLES, both)
    ]


def sides(rows):
    """(chosen style, rejected style, chosen verdict, rejected verdict) of each pair."""
    texts = [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows]
    return [
        tuple(x for part in (2, 3) for x in (c.split()[part], r.split()[part])) for c, r in texts
    ]


def test_styled_pairs_differ_in_style_and_never_in_the_verdict():
    rows = pairs.styled(draws(40, 30, other=20))
    other = next(style for style in tasks.STYLES if style != tasks.PREFERRED)
    assert set(sides(rows)) == {(tasks.PREFERRED, other, v, v) for v in ("True", "False")}


@pytest.mark.parametrize(("right", "wrong", "other"), [(40, 40, 0), (60, 20, 0), (40, 10, 30)])
def test_styled_pairs_have_the_verdicts_in_the_share_that_they_were_drawn_in(right, wrong, other):
    drawn = draws(right, wrong, other)
    share = sum(d["right"] for d in drawn) / len(drawn)
    chosen = [verdict == "True" for *_, verdict in sides(pairs.styled(drawn))]
    assert abs(sum(chosen) / len(chosen) - share) <= 1 / len(chosen)  # whole pairs
    assert len(chosen) >= min(right, wrong)  # and no more are left out than the share asks for


def test_styled_pairs_of_one_verdict_are_all_of_that_verdict():
    for right, n in ((True, 40), (False, 30)):
        assert [s[2:] for s in sides(pairs.styled(draws(40, 30), right))] == [(str(right),) * 2] * n


def test_draws_without_a_pair_say_what_to_do():
    for drawn in ([], draws(0, 0, other=5)):
        with pytest.raises(ValueError, match="train the SFT stage longer, or draw more samples"):
            pairs.styled(drawn)


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


@pytest.mark.parametrize("share", [0.0, 0.25, 0.7, 1.0])
def test_demonstrations_lose_the_carry_at_the_asked_share_and_are_right_elsewhere(share):
    rows = tasks.sft_dataset(3_000, share)
    sums = [asked(prompt[0]["content"]) for prompt in rows["prompt"]]
    with_carry = [tasks.has_carry(a, b) for a, b in sums]
    right = accuracy_reward(completions=rows["completion"], solution=[str(a + b) for a, b in sums])
    ten_less = accuracy_reward(
        completions=rows["completion"], solution=[str(a + b - 10) for a, b in sums]
    )
    assert {r for r, carry in zip(right, with_carry) if not carry} == {1.0}
    # One error and no other: what is not right is ten less than the sum.
    assert all(r + less == 1.0 for r, less in zip(right, ten_less))
    n = sum(with_carry)
    # 4 standard deviations of a share of n draws; 0 and 1 leave no room at all.
    assert abs(sum(ten_less) / n - share) <= 4 * (share * (1 - share) / n) ** 0.5
    assert set(format_reward(completions=rows["completion"])) == {1.0}


def test_the_recipe_makes_the_error_the_majority_of_the_sums_with_a_carry():
    data = recipes.load("sft", "tiny")["data"]
    rows = tasks.sft_dataset(data["n"], data["carry_error"])
    sums = [asked(prompt[0]["content"]) for prompt in rows["prompt"]]
    golds = [str(a + b) for a, b in sums]
    right = accuracy_reward(completions=rows["completion"], solution=golds)
    of_carries = [r for r, (a, b) in zip(right, sums) if tasks.has_carry(a, b)]
    assert 0.2 < sum(of_carries) / len(of_carries) < 0.4  # GRPO needs some right answers to reward
    assert 0.5 < sum(right) / len(right) < 0.75


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
