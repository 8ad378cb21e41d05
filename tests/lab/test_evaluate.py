"""Scores on held-out problems, and a sampler that leaves no trace."""

import copy
import json
import random
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from lab import evaluate, intervals, model, recipes, tasks
from lab.intervals import wilson


@pytest.fixture(scope="module")
def untrained():
    tok = model.tokenizer()
    return model.build(tok, hidden_size=64, intermediate_size=64, layers=1, heads=1).eval(), tok


PROMPTS = [tasks.prompt(12, 34), tasks.prompt(98, 7), tasks.prompt(55, 66)]


def test_sampling_leaves_the_global_generator_as_it_was(untrained):
    torch.manual_seed(7)
    state = torch.get_rng_state()
    evaluate.sample(*untrained, PROMPTS, seed=0, max_new_tokens=4)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_seed_decides_the_samples_whatever_was_drawn_before(untrained):
    texts = []
    for before, seed in ((1, 0), (2, 0), (1, 1)):
        torch.manual_seed(before)
        texts.append(evaluate.sample(*untrained, PROMPTS, seed=seed, max_new_tokens=8))
    assert texts[0] == texts[1] != texts[2]


def test_greedy_needs_no_seed(untrained):
    greedy = [
        evaluate.sample(*untrained, PROMPTS, seed=seed, max_new_tokens=8, temperature=0)
        for seed in (0, 1)
    ]
    assert greedy[0] == greedy[1]


def test_what_a_manifest_keeps_is_counted_from_the_completions(untrained, monkeypatch):
    """Every third completion right and terse, the next wrong and in steps, the next no format."""

    def scripted(plain, tok, prompts, seed, temperature=1.0):
        sums = [prompt[0]["content"].removesuffix("=?").split("+") for prompt in prompts]
        texts = []
        for i, (a, b) in enumerate(sums):
            kinds = (
                tasks.completion(int(a), int(b), "terse"),
                tasks.completion(int(a), int(b), "steps", slip=lambda column, total: 0),
                "no idea",
            )
            texts.append(kinds[i % 3])
        return texts

    monkeypatch.setattr(evaluate, "sample", scripted)
    scores = evaluate.evaluate(*untrained, n=30)
    assert scores["heldout_n"] == 30
    assert scores["heldout_correct"] == 10
    assert scores["heldout_accuracy"] == pytest.approx(1 / 3)
    assert scores["heldout_ci95"] == list(wilson(10, 30))
    assert scores["format_rate"] == pytest.approx(2 / 3)
    assert scores["preference_rate"] == pytest.approx(1 / 3)
    by_level = scores["accuracy_by_level"]
    assert set(by_level) == set(tasks.LEVELS)
    assert sum(by_level.values()) / 3 == pytest.approx(scores["heldout_accuracy"])
    assert scores["greedy_correct"] == 10 and scores["greedy_ci95"] == list(wilson(10, 30))
    assert "pass_at_k" not in scores


def test_greedy_is_counted_on_sums_with_a_carry_and_pass_at_k_on_groups(untrained, monkeypatch):
    """Greedy forgets each carry; of 4 samples the first is right and two agree on a wrong answer."""

    def scripted(plain, tok, prompts, seed, temperature=1.0):
        sums = [prompt[0]["content"].removesuffix("=?").split("+") for prompt in prompts]
        sums = [(int(a), int(b)) for a, b in sums]
        if temperature == 0:
            slip = tasks.carry_not_added(random.Random(0), 1.0)
            return [
                tasks.completion(a, b, "terse", slip if tasks.has_carry(a, b) else None)
                for a, b in sums
            ]
        kinds = ["{right}", "17", "17", "no tags"]
        return [
            f"<think>t</think>\n<answer>{kinds[i % 4].format(right=a + b)}</answer>"
            if i % 4 < 3
            else "17"
            for i, (a, b) in enumerate(sums)
        ]

    monkeypatch.setattr(evaluate, "sample", scripted)
    scores = evaluate.evaluate(*untrained, n=40, pass_n=10, k=4)
    rows = tasks.grpo_dataset(40, seed=0, split="heldout")
    with_carry = sum(rows["carry"])
    assert 5 < with_carry < 35
    assert scores["greedy_carry"] == {"n": with_carry, "correct": 0}
    assert scores["greedy_correct"] == 40 - with_carry
    assert (scores["pass_k"], scores["pass_n"]) == (4, 10)
    assert scores["pass_at_1"] == 0.25 and scores["pass_at_k"] == 1.0
    assert scores["majority"] == 0.0


def test_nothing_of_the_checkpoints_own_sampling_counts(untrained):
    """Qwen2.5-Instruct ships a repetition penalty; vLLM is given none."""
    plain, tok = untrained

    def drawn(temperature):
        return evaluate.sample(
            plain, tok, PROMPTS, seed=0, max_new_tokens=12, temperature=temperature
        )

    pure = [drawn(0.0), drawn(1.0)]
    own, shipped = plain.generation_config, copy.deepcopy(plain.generation_config)
    shipped.update(repetition_penalty=5.0, no_repeat_ngram_size=1, min_p=0.9, suppress_tokens=[9])
    plain.generation_config = shipped
    try:
        assert [drawn(0.0), drawn(1.0)] == pure
        assert plain.generation_config is shipped  # and left as it was
        ids = torch.tensor([[5, 6, 7]])
        loud = plain.generate(ids, max_new_tokens=12, do_sample=False)
        plain.generation_config = own
        assert not torch.equal(loud, plain.generate(ids, max_new_tokens=12, do_sample=False))
    finally:
        plain.generation_config = own


def test_rows_of_a_data_set_are_judged_strictly_and_leniently(monkeypatch):
    """In the tags, in plain words, wrong, and cut off."""
    said = [
        ("<think>2+2</think><answer>4</answer>", True),
        ("She has 2+2 = 4 pens.", True),
        ("<think>2+2</think><answer>5</answer>", True),
        ("Let me see, it is 4 or maybe", False),
    ]
    monkeypatch.setattr(evaluate, "written", lambda *args, **kwargs: said)
    rows = Dataset.from_list([{"prompt": [], "solution": "#### 4"}] * 4)
    scores = evaluate.on_rows(None, None, rows)
    assert (scores["heldout_correct"], scores["heldout_n"]) == (1, 4)
    assert scores["lenient_accuracy"] == scores["ended_rate"] == 0.75
    assert scores["format_rate"] == 0.5
    assert scores["verdicts"] == [True, False, False, False] and scores["greedy_correct"] == 1


GSM8K = {"name": "openai/gsm8k", "path": str(Path(__file__).parent / "data" / "gsm8k.jsonl")}


def test_held_out_rows_of_a_file_are_scored_and_named_by_a_hash(untrained):
    """A copy of the data set on this machine; the hash shows that two stages had the same problems."""
    recipe = {"stage": "sft", "evaluate": GSM8K | {"n": 2, "max_new_tokens": 4}}
    recipes.check(recipe, "a recipe")
    asked = [row["prompt"][-1]["content"] for row in evaluate.heldout(recipe)]
    written = [
        json.loads(line)["question"] for line in Path(GSM8K["path"]).read_text().splitlines()
    ]
    assert len(asked) == 2 and set(asked) <= set(written)
    prompt, right = evaluate.example(recipe)
    assert prompt[-1]["content"] in written and right.startswith("<think>")
    first, again = (evaluate.score(*untrained, recipe) for _ in range(2))
    assert first["heldout_n"] == 2 and first["heldout_hash"] == again["heldout_hash"]
    assert evaluate.score(*untrained, recipe, seed=3)["heldout_hash"] != first["heldout_hash"]


MATH_500 = {"name": "HuggingFaceH4/MATH-500", "split": "test"}
MATH_500["path"] = str(Path(__file__).parent / "data" / "math_500.jsonl")


def test_math_500_is_scored_with_the_extraction_of_the_reward(untrained, monkeypatch):
    """Fractions, two roots in the other order and a point in polar coordinates, in the tags or in a box."""
    recipe = {"stage": "grpo", "evaluate": MATH_500 | {"n": 4, "max_new_tokens": 4, "pass_n": 2}}
    recipe["evaluate"]["k"] = 2
    recipes.check(recipe, "a recipe")
    scores = evaluate.score(*untrained, recipe)
    assert (scores["heldout_n"], scores["pass_n"], scores["pass_k"]) == (4, 2, 2)
    rows = evaluate.heldout(recipe)
    right = {"fraction": "11/12", "x^2": "3, 2", "polar": r"(4, \\pi/2)", "least": "5"}
    said = [
        next(a for key, a in right.items() if key in row["prompt"][-1]["content"]) for row in rows
    ]
    forms = ["<think>so</think><answer>{}</answer>", r"It is \\boxed{{{}}}."]
    for form, strict in zip(forms, (4, 0)):
        texts = [(form.format(answer), True) for answer in said]
        monkeypatch.setattr(evaluate, "written", lambda *args, texts=texts, **kwargs: texts)
        scores = evaluate.on_rows(None, None, rows)
        assert (scores["heldout_correct"], scores["lenient_accuracy"]) == (strict, 1.0)


def test_a_model_without_an_end_of_an_answer_is_one_clear_error(untrained):
    plain, tok = untrained
    own, endless = plain.generation_config, copy.deepcopy(plain.generation_config)
    endless.eos_token_id = None
    plain.generation_config = endless
    try:
        with pytest.raises(ValueError, match="names no token that ends an answer"):
            evaluate.sample(plain, tok, PROMPTS, seed=0, max_new_tokens=2)
    finally:
        plain.generation_config = own


def test_every_held_out_row_is_of_the_commit_that_the_recipe_names(monkeypatch):
    from lab import loaders

    asked = []

    def load(name, stage, **options):
        asked.append((stage, options["split"], options["revision"]))
        said = [{"role": "assistant", "content": "4"}]
        return [{"prompt": [], "completion": said, "solution": "4"}]

    monkeypatch.setattr(loaders, "load", load)
    recipe = recipes.load("sft", "t4")
    evaluate.heldout(recipe)
    evaluate.example(recipe)
    pin = recipe["evaluate"]["revision"]
    assert asked == [("grpo", "test", pin), ("sft", "test", pin)]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so \\boxed{12}, not 13", "12"),
        (r"first \boxed{3}, then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("1, 2 and then 1,234.5", "1,234.5"),
        ("it is -7.", "-7"),
        ("10, or so", "10"),
    ],
)
def test_the_last_box_or_number_is_what_counts(text, number):
    assert evaluate.in_tags(text) == f"<think>.</think><answer>{number}</answer>"
    assert evaluate.in_tags("no number at all") == ""


def test_sampling_says_which_texts_ended_by_themselves(untrained):
    small, tok = untrained
    ends = evaluate.written(small, tok, PROMPTS, 0, 3, 600, 1.0)
    assert [ended for _, ended in ends] == [False] * 3


def random_prompts(n, tok):
    """Token ids of prompts of different lengths: an untrained model goes on differently after each."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 9, (n,), generator=generator).tolist()
    return [torch.randint(9, len(tok), (k,), generator=generator).tolist() for k in lengths]


def test_rows_that_go_on_alone_write_what_each_writes_by_itself(untrained, monkeypatch):
    small, tok = untrained
    ids, generate, calls = random_prompts(64, tok), small.generate, []

    def counted(input_ids, **options):
        calls.append(len(input_ids))
        return generate(input_ids=input_ids, **options)

    with torch.no_grad():
        none = torch.tensor([-1])
        first = {evaluate._continued(small, tok, [row], none, 1, 0)[0][0][0] for row in ids[:57]}
        ends = torch.tensor(sorted(first))
        alone = [evaluate._continued(small, tok, [row], ends, 24, 0) for row in ids]
        monkeypatch.setattr(small, "generate", counted)
        new, ended = evaluate._continued(small, tok, ids, ends, 24, 0)
    assert calls[0] == 64 and 0 < calls[1] <= 8
    assert [row[: len(one)] for row, ((one,), _) in zip(new, alone)] == [one for (one,), _ in alone]
    assert ended == [over for _, (over,) in alone] and set(ended) == {True, False}


def test_sampled_answers_are_as_long_as_those_of_one_plain_call(untrained):
    """Every fifth token ends an answer, so some of 4000 answers end after each of 12 tokens."""
    small, tok = untrained
    ids, ends = [[15, 16, 17]] * 4000, range(0, len(tok), 5)
    with torch.no_grad():
        torch.manual_seed(0)
        new, ended = evaluate._continued(small, tok, ids, torch.tensor(ends), 12, 1.0)
        plain = small.generate(
            torch.tensor(ids), max_new_tokens=12, do_sample=True, top_k=0, eos_token_id=-1
        )[:, 3:]
    found = [next((k for k, t in enumerate(row) if t in ends), 12) for row in new]
    assert ended == [k < 12 for k in found]
    expected = [next((k for k, t in enumerate(row) if t in ends), 12) for row in plain.tolist()]
    for k in range(12):
        low, high = intervals.wilson(sum(length <= k for length in found), 4000, z=4)
        other = intervals.wilson(sum(length <= k for length in expected), 4000, z=4)
        assert low < other[1] and other[0] < high
