"""`make gpu` on a machine without a GPU: the script itself, with tiny sizes."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lab import recipes

SCRIPT = Path(__file__).parent / "gpu.py"


def module(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPT.with_name(f"{name}.py"))
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def gpu():
    return module("gpu")


@pytest.fixture
def stages():
    return module("stages")


def step(label, code, limit_s=60, figures="none.json"):
    """A step that runs a line of Python."""
    return lambda out, small: [(label, limit_s, [sys.executable, "-c", code], {}, figures)]


def test_no_step_that_fails_or_hangs_or_cannot_run_stops_the_next(gpu, tmp_path, monkeypatch):
    def lacking(out, small):
        raise gpu.Impossible("no vLLM in this environment")

    writes = f"open({str(tmp_path / 'last.json')!r}, 'w').write('[1]')"
    monkeypatch.setattr(
        gpu,
        "STEPS",
        {
            "dies": step("dies", "import os; print('why'); os.abort()"),
            "hangs": step("hangs", "import time; time.sleep(60)", limit_s=1),
            "lacks": lacking,
            "last": step("last", writes, figures="last.json"),
        },
    )
    result = gpu.measure(list(gpu.STEPS), tmp_path, small=True, minutes=5)
    by_label = {record["label"]: record for record in result["steps"]}
    assert by_label["dies"]["status"] == "failed" and "why" in by_label["dies"]["last_words"]
    assert by_label["hangs"]["status"] == "stopped after 1 s"
    assert by_label["lacks"]["status"] == "impossible: no vLLM in this environment"
    assert by_label["last"]["status"] == "done" and by_label["last"]["figures"] == [1]
    text = (tmp_path / "result.json").read_text()
    assert text == gpu.portable(result, tmp_path) and str(tmp_path) not in text
    assert [record["label"] for record in json.loads(text)["steps"]] == list(gpu.STEPS)


def test_no_step_starts_after_the_time_is_over(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "STEPS", {"late": step("late", "print()")})
    [record] = gpu.measure(["late"], tmp_path, small=True, minutes=0)["steps"]
    assert record["status"].startswith("left out") and not (tmp_path / "late.log").exists()


def test_everything_is_to_be_run_within_forty_minutes_and_what_tells_most_comes_first(
    gpu, tmp_path, monkeypatch
):
    asked = []
    nothing = {"command": "", "date": "", "steps": []}
    monkeypatch.setattr(gpu, "measure", lambda *given: asked.append(given) or nothing)
    assert gpu.main(["--small", "--out", str(tmp_path)]) == 0
    [(names, out, small, minutes)] = asked
    assert (out, small, minutes) == (tmp_path, True, 40)
    order = ["card", "parity", "head", "stages", "chain", "engine", "sampler", "lessons"]
    assert names == order == list(gpu.STEPS)


def test_a_test_run_is_read_with_its_failures(gpu, tmp_path):
    (tmp_path / "test_x.py").write_text(
        "import pytest\ndef test_a(): assert 1 == 2, 'one is not two'\ndef test_b(): pass\n"
        "@pytest.mark.skip(reason='no card')\ndef test_c(): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", str(tmp_path), f"--junitxml={tmp_path}/x.xml"]
    record = gpu.run("x", 120, command, {}, "x.xml", tmp_path)
    counts = {k: record["figures"][k] for k in ("tests", "passed", "failures", "skipped")}
    assert counts == {"tests": 3, "passed": 1, "failures": 1, "skipped": 1}
    [failed] = record["figures"]["failed"]
    assert failed["test"].endswith("::test_a") and "one is not two" in failed["message"]
    assert record["status"] == "failed" and record["figures"]["skip_reasons"] == ["no card"]


def test_without_a_gpu_it_says_how_to_try_it(gpu, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "gpu_is_here", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "--small" in capsys.readouterr().err


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A folder with the result of three steps of the tiny model."""
    out = tmp_path_factory.mktemp("gpu")
    assert module("gpu").main(["--small", "--out", str(out), "--only", "card,stages,sampler"]) == 0
    return out


@pytest.mark.slow
def test_the_stages_of_a_tiny_model_are_measured_in_order(measured):
    card, stages = json.loads((measured / "result.json").read_text())["steps"][:2]
    assert card["status"] == stages["status"] == "done"
    assert card["figures"]["versions"]["torch"]
    text = (measured / "result.json").read_text()
    assert str(measured) not in text and str(ROOT) not in text and "OUT/card.json" in text
    rows = stages["figures"]["rows"]
    assert [(row["stage"], row["way"]) for row in rows] == [
        ("sft", "recipe"),
        ("dpo", "recipe"),
        ("grpo", "generate"),
    ]
    for row in rows:
        assert row["step_s"] > 0 and row["adapters"] == ["float32"] and row["moved"] > 0.9


def test_the_sampler_is_measured_in_three_dtypes_and_by_every_way_on_one_workload(
    gpu, stages, tmp_path, monkeypatch
):
    monkeypatch.setattr(gpu, "needs_vllm", lambda: None)
    asked = [
        stages.parser.parse_args(command[2:])
        for _, _, command, _, _ in gpu.sampler(tmp_path, small=False)
    ]
    assert {options.dtype for options in asked} == {"float32", "bfloat16", "float16"}
    assert all("vllm" in options.ways.split(",") for options in asked)
    ways = {way for options in asked for way in options.ways.split(",")}
    assert ways == {"generate", "vllm", "sleep 1", "sleep 2"}
    for options in asked:
        sizes = {name: getattr(options, name) for name in stages.CHANGES}
        recipe = stages.changed(recipes.load("grpo", "a100"), **sizes)
        args, four = recipe["args"], recipe["quantization"]["bnb_4bit_compute_dtype"]
        assert args["per_device_train_batch_size"] == args["num_generations"] == 8
        assert args["gradient_accumulation_steps"] == args["steps_per_generation"] == 16
        assert args["max_completion_length"] == 512 < args["vllm_max_model_length"]
        assert recipe["dtype"] == four == options.dtype
        assert args["bf16"] == (four == "bfloat16") and args["fp16"] == (four == "float16")


@pytest.mark.parametrize("profile", recipes.LONG)
def test_the_stages_are_measured_in_the_sizes_of_the_profiles_own_card(
    gpu, stages, tmp_path, monkeypatch, profile
):
    """On an H100 too, whose own sizes are measured beside them."""
    usual = recipes.load("sft", profile)["args"]
    card = SimpleNamespace(total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    sizes = ("per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing")
    commands = {label: command for label, _, command, _, _ in gpu.stages(tmp_path, small=False)}
    options = stages.parser.parse_args(commands[f"stages-{profile}"][2:])
    found = {}
    for way in ("recipe", "this card"):
        assert way in options.ways.split(",")
        recipe = stages.recipe_of("sft", profile, "a folder", options.steps, options.small, way)
        recipe = stages.changed(recipe, dtype=options.dtype)
        assert recipe["dtype"] == {"t4": "float16", "a100": "bfloat16"}[profile]
        found[way] = recipe["args"]
    assert [found["recipe"][key] for key in sizes] == [usual[key] for key in sizes]
    assert found["this card"][sizes[0]] > usual[sizes[0]]


@pytest.mark.slow
@pytest.mark.vllm
def test_the_gap_of_a_tiny_model_is_measured_by_dtype(gpu, measured):
    steps = json.loads((measured / "result.json").read_text())["steps"]
    found = {step["label"]: step["figures"]["rows"] for step in steps[2:]}
    assert list(found) == ["sampler-bfloat16", "sampler-float32"]
    [[coarse], [exact]] = found.values()
    assert coarse["way"] == exact["way"] == "vllm"
    assert 0 < 10 * exact["gap_mean"] < coarse["gap_mean"] < 0.05
    assert min(row["sync_s"] for row in (coarse, exact)) > 0
    named = {"dtype": "bfloat16", "profile": "tiny"}
    said = gpu._of_a_stage(named, coarse | {"peak_mb": 512})
    assert "bfloat16" in said and f"gap {coarse['gap_mean']:.1e} nats per token" in said


ROOT = Path(__file__).parent.parent.parent
KEPT = sorted((ROOT / "tests" / "parity" / "gpu").glob("*.json"))


@pytest.mark.parametrize("path", KEPT, ids=[path.stem for path in KEPT])
def test_a_result_that_is_kept_says_where_it_is_from_and_the_readme_says_the_same(gpu, path):
    result = json.loads(path.read_text())
    card = result["steps"][0]["figures"]
    assert result["command"] and result["date"] and not result["small"]
    assert not re.search(
        r"/(?:tmp|home|root|work|mnt|content)/", path.read_text()
    )  # no one's folder
    assert card["gpu"] and card["driver"] and card["commit"] and card["versions"]["torch"]
    readme = (ROOT / "README.md").read_text()
    assert [line for line in gpu.summary(result) if line not in readme] == []


def test_at_least_one_card_has_been_measured():
    assert KEPT
