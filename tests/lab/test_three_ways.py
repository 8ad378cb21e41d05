"""Three ways measured alike: what is counted, what a distance is, and what the README may say."""

import json
import re
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from lab import chain, completions, instructions, intervals, model, recipes, three_ways
from lab.completions import Completion

ROOT = Path(__file__).parents[2]


def good(row):
    """A text that keeps the rules of a row of level 1."""
    kept = json.loads(row["solution"])
    words = ["So", *["so"] * (kept["max_words"] - 2), kept["word"]]
    return " ".join(words) + kept["ends"]


def test_a_measurement_counts_instructions_and_not_completions(monkeypatch):
    rows = instructions.rows(4, split="heldout")
    asked = {row["prompt"][-1]["content"]: good(row) for row in rows}

    @contextmanager
    def writer(folder, seed):
        def write(prompts, n=1, temperature=1.0, **_):
            best = [asked[prompt[-1]["content"]] for prompt in prompts]
            if temperature == 0:
                return [[Completion(text, 9)] for text in [*best[:1], "no", "no", "no"]]
            if n == 1:
                return [[Completion(t, 6 + i)] for i, t in enumerate([*best[:2], "no", "no way"])]
            return [
                [Completion(t, 5) for t in ["no"] * (n - 1) + [best[0]]],
                [Completion("no", 5)] * n,
            ]

        yield write

    monkeypatch.setattr(completions, "writer", writer)
    found = three_ways.measure("anywhere", rows, k=8, pass_n=2)
    assert (found["kept"]["successes"], found["greedy"]["successes"]) == (2, 1)
    assert found["pass_at_k"]["successes"] == 1 and found["pass_at_k"]["n"] == 2
    assert found["verdicts"] == [True, True, False, False]
    assert found["rules"]["all"] == 0.5 and found["tokens"] == 7.5
    low, high = found["kept"]["ci95"]
    assert (round(low, 3), round(high, 3)) == (0.15, 0.85)  # Wilson's table for 2 of 4


def test_openings_and_topics_are_counted_by_words():
    texts = ["The old bridge.", "The OLD bridge is.", "the old, bridge", "A bridge."]
    assert three_ways.openings(texts) == 0.5
    assert three_ways.mentions("Two bridges.", "the bridge")
    assert not three_ways.mentions("A bridgehead.", "the bridge")


@pytest.fixture
def two(tmp_path):
    """Folders of two untrained models with one tokenizer."""
    tok = model.tokenizer()
    for seed in (0, 1):
        model.build(tok, seed=seed).save_pretrained(tmp_path / str(seed))
        tok.save_pretrained(tmp_path / str(seed))
    return tmp_path / "0", tmp_path / "1", tok


def test_log_probs_are_those_of_the_answer_and_its_end_alone(two):
    """Two rows of different lengths in one batch, against each row alone through the plain softmax."""
    folder, _, tok = two
    prompts = [[{"role": "user", "content": text}] for text in ("Hi", "A longer question")]
    texts = ["Yes it is.", "No"]
    got, lengths = three_ways.token_logps(folder, tok, prompts, texts)
    assert lengths == [len("Yes it is.") + 1, 3]  # a token a byte, and the end
    alone = model.build(tok, seed=0)
    for prompt, text, logps in zip(prompts, texts, got, strict=True):
        asked = tok.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        ids = torch.tensor([[*asked, *tok(text)["input_ids"], tok.eos_token_id]])
        with torch.no_grad():
            table = alone(input_ids=ids).logits[0].double().log_softmax(-1)
        expected = table[range(len(asked) - 1, ids.shape[1] - 1), ids[0, len(asked) :]]
        torch.testing.assert_close(logps.double(), expected, rtol=0, atol=1e-4)  # float32 logits


def test_a_model_is_at_no_distance_from_itself_and_at_some_from_another(two):
    folder, other, _ = two
    rows = instructions.rows(3).select_columns(["prompt"])
    same = three_ways.distance(folder, folder, rows, ["one", "two", "three"])
    assert same["kl"] == same["kl_se"] == 0 and same["fluency"] < 0
    assert three_ways.distance(folder, other, rows, ["one", "two", "three"])["kl"] != 0


def test_as_many_completions_are_drawn_for_every_way():
    assert three_ways.drawn("sft") == three_ways.drawn("dpo") == three_ways.drawn("grpo") > 0
    assert three_ways.drawn("base") == 0


def test_the_readme_says_what_the_kept_run_measured(tmp_path):
    kept, readme = three_ways.measured(), (ROOT / "README.md").read_text()
    assert three_ways.table(kept) in readme and three_ways.expect() in readme
    three_ways.draw(kept, tmp_path / "again.svg")
    again, shown = (
        re.findall(r">([^<>]*[0-9a-z]%?[^<>]*)</text>", path.read_text())
        for path in (tmp_path / "again.svg", ROOT / "docs" / "three_ways.svg")
    )
    assert again == shown and "docs/three_ways.svg" in readme


def test_the_kept_run_is_whole_and_what_is_claimed_of_it_holds():
    """The claims of the README and of lesson 09, on the figures that came with the kit."""
    ways = three_ways.measured()["ways"]
    assert list(ways) == list(three_ways.WAYS) and {way["n"] for way in ways.values()} == {400}
    assert ways["base"]["kept"]["ci95"][1] < 0.05
    for how in ("kept", "greedy"):
        at = {stage: way[how]["ci95"] for stage, way in ways.items()}
        assert at["base"][1] < min(at["sft"][0], at["dpo"][0])
        assert max(at["sft"][1], at["dpo"][1]) < at["grpo"][0]
        assert at["sft"][0] < at["dpo"][1] and at["dpo"][0] < at["sft"][1]  # not ordered
    topic = {stage: round(way["topic"] * way["n"]) for stage, way in ways.items()}
    assert intervals.wilson(topic["grpo"], 400)[1] < intervals.wilson(topic["base"], 400)[0]
    assert len(three_ways.measured()["grpo_share_kept_by_step"]) == 48


def test_the_profile_of_lesson_09_runs_its_own_lesson_and_says_what_to_expect(monkeypatch):
    monkeypatch.setenv("LAB_PROFILE", "instructions")
    assert [path.name for path in chain.notebooks()] == ["09_a_real_model.ipynb"]
    assert [recipe["stage"] for recipe in chain._made_by(chain.notebooks()[0])] == [*recipes.STAGES]
    kept = three_ways.measured()
    assert kept["processor"] in chain.expected(["09"]) and three_ways.minutes(kept) > 1
