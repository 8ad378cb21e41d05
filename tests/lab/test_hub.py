"""A model of the hub is loaded at the commit that its recipe names, whoever loads it."""

import re

import huggingface_hub
import pytest
import torch
from lab import hub, memory, model, recipes, train
from peft import PeftConfig

NAME, OLD, NEW = "someone/small", "a" * 40, "b" * 40
SMALL = {"hidden_size": 64, "intermediate_size": 64, "layers": 1, "heads": 2}
LORA = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A cache of the hub with two commits of one model, as huggingface_hub lays it out; no network."""
    there = tmp_path / f"models--{NAME.replace('/', '--')}"
    tok = model.tokenizer()
    for seed, commit in enumerate((OLD, NEW)):
        folder = there / "snapshots" / commit
        model.build(tok, **SMALL, seed=seed).save_pretrained(folder)
        tok.save_pretrained(folder)
    (there / "refs").mkdir()
    (there / "refs" / "main").write_text(NEW)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return there / "snapshots"


def recipe(**more):
    return recipes.load("base", "tiny") | {"model": NAME, "revision": OLD} | more


@pytest.mark.parametrize(("seed", "commit"), [(0, OLD), (1, NEW)], ids=["old", "new"])
def test_the_weights_are_those_of_the_commit(cached, seed, commit):
    loaded, _ = train.load(recipe(revision=commit))
    expected = model.build(model.tokenizer(), **SMALL, seed=seed)
    for one, other in zip(loaded.parameters(), expected.parameters()):
        assert torch.equal(one, other)
    assert loaded.name_or_path == str(cached / commit)  # what TRL gives to vLLM


def test_the_stages_after_take_the_commit_of_the_base(cached, monkeypatch):
    monkeypatch.setattr(recipes, "parent", lambda of: recipe() if of["stage"] != "base" else None)
    sft = recipes.load("sft", "tiny")
    assert train.base_model(sft) == str(cached / OLD)
    assert train.base_name(sft) == f"{NAME}@{OLD}"


def test_an_adapter_names_the_hub_and_not_a_folder_of_this_machine(cached, tmp_path):
    policy, _ = train.load(recipe(lora=LORA))
    policy.save_pretrained(tmp_path / "adapter")
    kept = PeftConfig.from_pretrained(tmp_path / "adapter")
    assert (kept.base_model_name_or_path, kept.revision) == (NAME, OLD)
    assert str(tmp_path) not in (tmp_path / "adapter" / "adapter_config.json").read_text()


def test_the_arithmetic_of_memory_reads_the_configuration_alone(cached, monkeypatch, capsys):
    for file in cached.rglob("*.safetensors"):
        file.unlink()
    asked = []
    monkeypatch.setattr(
        hub,
        "snapshot_download",
        lambda **how: asked.append(how["allow_patterns"]) or str(cached / OLD),
    )
    pinned = recipes.load("sft", "t4") | {"model": NAME, "revision": OLD}
    monkeypatch.setattr(recipes, "load", lambda *_, **__: pinned)
    memory.main(["sft"])
    assert asked == [["config.json"]] and "together" in capsys.readouterr().out


def test_a_commit_that_cannot_be_had_says_what_to_do(cached):
    with pytest.raises(
        ConnectionError, match=rf"{NAME} at revision {'c' * 40} is neither.*Way out"
    ):
        train.base_model(recipe(revision="c" * 40))


def test_a_folder_has_no_commit(cached):
    of_a_folder = recipe(model=str(cached / NEW))
    assert train.base_model(of_a_folder) == train.base_name(of_a_folder) == str(cached / NEW)


def test_without_a_revision_the_hub_is_asked_by_name(cached):
    free = {key: value for key, value in recipe().items() if key != "revision"}
    assert train.base_model(free) == train.base_name(free) == NAME


@pytest.mark.parametrize("profile", recipes.LONG)
def test_the_recipes_of_a_gpu_pin_their_model(profile):
    name = train.base_name(recipes.load("grpo", profile))
    assert re.fullmatch(r"Qwen/Qwen2.5-0.5B-Instruct@[0-9a-f]{40}", name)
