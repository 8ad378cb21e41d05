"""What the kit asks of a GPU, on a machine without one: dtypes, devices, sizes, and what a manifest keeps."""

import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import lab
import pytest
import torch
from lab import bench, model, recipes, runs, speed
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).parent.parent.parent


class Asked(Exception):
    """Stops what is tried at the call that tells what it asks for."""


def a_card(monkeypatch, capability=(7, 5)):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)


def cell(lesson, text):
    """The code of the one cell of a lesson that has a text."""
    notebook = json.loads((ROOT / "notebooks" / f"{lesson}.ipynb").read_text())
    code = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    [found] = [source for source in code if text in source]
    return found


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 5), torch.float16), ((8, 0), torch.bfloat16)],
    ids=["t4", "a100"],
)
@pytest.mark.parametrize("timed", ["speed", "bench"])
def test_what_is_timed_on_a_card_is_in_the_16_bits_that_it_has(
    monkeypatch, tmp_path, timed, capability, expected
):
    """vLLM refuses bfloat16 below compute capability 8."""
    small = {"hidden_size": 64, "intermediate_size": 64, "layers": 1, "heads": 1}
    folder = model.save_untrained(tmp_path, **small)
    a_card(monkeypatch, capability)
    asked = []

    def stop(folder, dtype, **options):
        asked.append(dtype)
        raise Asked

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", stop)
    with pytest.raises(Asked):
        speed.measure(**small) if timed == "speed" else bench.measure(folder, "generate")
    assert asked == [expected]


@pytest.mark.parametrize("profile", recipes.LONG)
def test_the_short_runs_of_03_take_the_recipes_sizes_and_compile_nothing(profile):
    """64 completions in a micro-batch, as with the tiny model, would not fit a T4."""
    recipe, asked = recipes.load("grpo", profile), {}

    def trainer(other, **options):
        asked.update(args=other["args"], **options)
        raise Asked

    stub = SimpleNamespace(vllm=SimpleNamespace(Generation="ours"), train=SimpleNamespace())
    stub.train.trainer = trainer
    scope = {"lab": stub, "PROFILE": profile, "recipe": recipe, "rows": []}
    exec(cell("03_grpo", "def short("), scope)  # noqa: S102
    with pytest.raises(Asked):
        scope["short"]()
    sizes = ("per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation")
    sizes += ("max_completion_length", "num_generations", "vllm_gpu_memory_utilization")
    assert {key: asked["args"][key] for key in sizes} == {key: recipe["args"][key] for key in sizes}
    assert asked["args"]["max_steps"] < 10
    assert asked["engine"] == {"enforce_eager": True}  # half a minute of each engine's start


@pytest.mark.parametrize("in_4_bit", [True, False])
def test_04_measures_on_the_card(monkeypatch, in_4_bit):
    """In 16 bits on the CPU beside it, 200 completions of 400 tokens would take hours."""
    recipe, asked = recipes.load("grpo", "t4"), {}
    a_card(monkeypatch)
    loader = SimpleNamespace(from_pretrained=lambda base, **options: asked.update(options))
    scope = {"lab": lab, "torch": torch, "recipe": recipe, "BASE": "a folder"}
    scope |= {"AutoModelForCausalLM": loader, "BitsAndBytesConfig": dict}
    exec(cell("04_before_and_after", "def base_weights("), scope)  # noqa: S102
    scope["base_weights"](in_4_bit)
    assert asked["device_map"] == {"": 0} and asked["dtype"] == torch.float16
    assert (asked["quantization_config"] is not None) == in_4_bit


def test_a_manifest_names_the_card_and_its_peak(monkeypatch, tmp_path):
    monkeypatch.setenv("LAB_RUNS", str(tmp_path))
    recipe = recipes.load("base", "tiny")
    runs.clear(recipe)
    a_card(monkeypatch)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda *_: 3 * 2**30)
    runs.save_manifest(recipe, "a model", [], 1.0, {})
    kept = runs.manifest("base", "tiny")
    assert (kept["gpu"], kept["peak_gpu_mb"]) == ("Tesla T4", 3072)


@pytest.mark.parametrize("profile", recipes.LONG)
def test_a_manifest_names_the_commit_of_its_data(monkeypatch, tmp_path, profile):
    monkeypatch.setenv("LAB_RUNS", str(tmp_path))
    for stage in recipes.STAGES:
        recipe = recipes.load(stage, profile)
        runs.clear(recipe)
        kept = runs.save_manifest(recipe, "a model", [], 1.0, {})
        assert re.fullmatch("[0-9a-f]{40}", kept["evaluate"]["revision"])
        if stage != "base":
            assert re.fullmatch("[0-9a-f]{40}", kept["data"]["options"]["revision"])


def test_the_tests_take_the_tiny_profile_on_a_machine_with_a_card():
    """Its own profile has its model and data on the hub, which the tests do not ask."""
    shown = subprocess.run(
        ["make", "-np", "test"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    for target in ("test", "test-engine"):
        assert re.search(rf"^{target}: LAB_PROFILE = tiny$", shown, re.MULTILINE)
