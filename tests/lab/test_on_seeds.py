"""Runs of the real model on several seeds: what each changes in its recipe, and one short run whole."""

from pathlib import Path

import pytest
from lab import intervals, on_seeds, recipes, three_ways, vllm


def test_a_run_changes_what_its_name_says_and_nothing_else():
    plain = recipes.load("grpo", "instructions", seed=2)
    assert on_seeds.recipe("GRPO", 2) == plain
    kl = on_seeds.recipe("GRPO, KL term", 2)
    assert kl["args"] == plain["args"] | {"beta": kl["args"]["beta"]} and kl["args"]["beta"] > 0
    topic = on_seeds.recipe("GRPO, the topic a rule", 2)
    assert topic["args"] == plain["args"] and topic["data"]["name"] == plain["data"]["name"]
    own = plain["data"]["options"]
    assert topic["data"]["options"] == own | {"mentions": True}
    with pytest.raises(ValueError, match="on_seeds: GRPO, KL: did you mean GRPO, KL term"):
        on_seeds.recipe("GRPO, KL")


def test_a_table_has_one_line_a_run_and_its_seeds_in_order():
    share = {"share": 0.5, "successes": 2, "ci95": [0.1, 0.9]}
    row = {"run": "GRPO", "seed": 1, "kept": share, "greedy": share, "topic": 0.25}
    row |= {"tokens": 9.04, "kl": 16.0, "fluency": -3.0}
    other = row | {"seed": 0, "kept": share | {"share": 0.625}}
    (line,) = on_seeds.table([row, other])
    assert (line["run"], line["seeds"], line["temperature 1"]) == ("GRPO", "0, 1", "62.5%, 50.0%")


@pytest.mark.slow
def test_a_short_run_trains_the_real_model_and_measures_it(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RUNS", str(tmp_path))
    monkeypatch.setattr(vllm, "available", lambda say=print: False)
    few = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    few |= {"steps_per_generation": 1, "warmup_steps": 0}
    kept = on_seeds.run("GRPO, the topic a rule", seed=1, n=4, scored=2, max_steps=2, **few)
    control = on_seeds.run("untrained, in NF4", seed=1, n=4, scored=2, **few)
    assert (len(kept["curve"]), control["curve"], control["seconds"]) == (2, [], 0.0)
    assert kept["n"] == 4 and "mentions" in kept["rules"] and "mentions" not in control["rules"]
    assert kept["kl"] != control["kl"] != 0  # 4 bits alone move the model, training moves it on
    assert set(three_ways.LISTS).isdisjoint(kept) and len(kept["examples"]) == 4


def test_what_is_said_of_the_kept_runs_holds():
    """The claims of the README and of lesson 09, over the seeds that came with the kit."""
    rows = on_seeds.measured()["rows"]
    assert on_seeds.markdown(rows) in (Path(__file__).parents[2] / "README.md").read_text()
    of = {name: [row for row in rows if row["run"] == name] for name in on_seeds.RUNS}
    [control], plain, longer = (of[n] for n in ("untrained, in NF4", "GRPO", "GRPO, 64 steps"))
    assert [row["seed"] for row in plain] == [row["seed"] for row in longer] == [0, 1, 2]
    assert control["kept"]["ci95"][1] < 0.05 and control["kl"] > 4 * control["kl_se"]
    for row in plain + longer:
        assert row["n"] == 400 and row["kept"]["ci95"][0] > control["kept"]["ci95"][1]
        assert row["kl"] > control["kl"] and row["fluency"] > control["fluency"]
        assert row["tokens"] < 0.6 * control["tokens"]
    assert (
        min(row["kept"]["ci95"][0] for row in longer) > 0.6 > min(r["kept"]["share"] for r in plain)
    )
    named = [intervals.wilson(round(row["topic"] * 400), 400) for row in plain + longer]
    its = intervals.wilson(round(control["topic"] * 400), 400)
    assert any(high < its[0] for _, high in named) and any(low > its[1] for low, _ in named)
