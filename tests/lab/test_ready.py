"""The ready stages fit today's recipes, stand in for trained ones only when asked, and do what they say."""

import json
import re

import pytest
from lab import evaluate, ready, recipes, runs, train, vllm

STAGES = list(recipes.STAGES)
ROOT = ready.FOLDER


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RUNS", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_ready_for_todays_recipe_with_where_it_came_from(stage):
    assert ready.fits(recipes.load(stage, "tiny")), "run `make lab`, then python -m lab.ready keep"
    found = ready.manifest(stage)
    assert found["made_on"] and re.fullmatch(r"[0-9a-f]{7,}", found["commit"]), (
        "of a clean checkout"
    )
    assert found["heldout_n"] >= 500


def test_what_is_kept_is_small_and_names_no_machine():
    files = [path for path in ready.FOLDER.rglob("*") if path.is_file()]
    assert {path.name for path in files} <= {*ready.KEPT, ready.PICTURE}
    assert sum(path.stat().st_size for path in files) < 8e6
    for path in files:
        if path.suffix == ".json":
            assert not re.search(r'"/\w+/', path.read_text()), path


def test_a_latecomer_gets_a_stage_and_those_before_it(home, capsys):
    runs.restore("dpo")
    said = capsys.readouterr().out
    assert said.count("nothing was trained") == 3 and "dpo: a ready one, made on " in said
    for stage in ("base", "sft", "dpo"):
        assert runs.is_current(recipes.load(stage, "tiny"))
    assert not (home / "grpo").exists()
    runs.restore("dpo")
    assert capsys.readouterr().out == ""  # it stands already


def test_a_restored_stage_answers_as_its_manifest_says(home):
    runs.restore("sft")
    policy, tok = train.load(recipes.load("dpo", "tiny"))
    scores = evaluate.evaluate(vllm.served(policy), tok, n=200, greedy=True)
    said = runs.manifest("sft", "tiny")
    # Other problems, and perhaps another processor: three times the standard error of 200, 0.106.
    assert abs(scores["heldout_accuracy"] - said["heldout_accuracy"]) < 0.12
    assert abs(scores["greedy_accuracy"] - said["greedy_accuracy"]) < 0.12
    assert scores["format_rate"] > 0.9


@pytest.fixture
def making(monkeypatch):
    made = []
    monkeypatch.setattr(train, "make", lambda recipe: made.append(recipe["stage"]) or {})
    return made


def test_a_stage_is_taken_ready_only_where_it_is_asked_for(home, monkeypatch, making):
    train.ensure("base", "tiny", say=lambda line: None)
    assert making == ["base"]
    monkeypatch.setenv("LAB_READY", "1")
    train.ensure("grpo", "tiny", say=lambda line: None)
    assert making == ["base"] and runs.is_current(recipes.load("grpo", "tiny"))


def test_another_seed_or_profile_has_no_ready_stage(home, monkeypatch, making):
    with pytest.raises(
        ValueError, match=r"no ready stage 'sft'.*ready: base, dpo, grpo, sft.*lab\.train"
    ):
        ready.restore("sft", seed=1)
    monkeypatch.setenv("LAB_READY", "1")
    train.ensure("base", "tiny", seed=1, say=lambda line: None)
    assert making == ["base"]
    assert not ready.fits(recipes.load("sft", "tiny") | {"profile": "t4"})


def test_stages_that_are_not_up_to_date_are_not_kept(home):
    with pytest.raises(ValueError, match="base is not up to date"):
        ready.keep()
    assert ready.manifest("base")  # and what was kept before is still there


def test_a_kept_stage_is_the_run_it_came_from(home, monkeypatch, tmp_path):
    runs.restore("grpo")
    elsewhere = tmp_path / "ready"
    before = {stage: ready.manifest(stage) for stage in STAGES}
    monkeypatch.setattr(ready, "FOLDER", elsewhere)
    ready.keep(say=lambda line: None)
    for stage in STAGES:
        again = json.loads((elsewhere / stage / "manifest.json").read_text())
        ignored = {"recipe_hash", "made_on"}
        assert {k: v for k, v in again.items() if k not in ignored} == {
            k: v for k, v in before[stage].items() if k not in ignored
        }


def test_the_readmes_picture_is_drawn_from_the_ready_stages(monkeypatch, tmp_path):
    kept = (ready.FOLDER / ready.PICTURE).read_text()
    monkeypatch.setattr(ready, "FOLDER", tmp_path)
    monkeypatch.setattr(
        ready, "manifest", lambda stage: json.loads((ROOT / stage / "manifest.json").read_text())
    )
    ready.draw()
    words = [
        re.findall(r"<!-- (.*?) -->", text)
        for text in (kept, (tmp_path / ready.PICTURE).read_text())
    ]
    texts = [
        re.findall(r">([^<>]*[0-9a-z]%?[^<>]*)</text>", text)
        for text in (kept, (tmp_path / ready.PICTURE).read_text())
    ]
    assert texts[0] == texts[1] and words[0] == words[1]
    assert "notebooks/ready/learnt.svg" in (ROOT.parents[1] / "README.md").read_text()
