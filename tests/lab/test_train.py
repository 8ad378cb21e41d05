"""The stages' own code on a chain that takes seconds: fewer steps, the same trainers."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from lab import chain, pairs, recipes, report, runs, train, vllm
from transformers import TrainerCallback


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A run folder with base and SFT made from shortened recipes: {stage: path of its YAML}."""
    root = tmp_path_factory.mktemp("small")
    shortened = {
        "base": {"pretrain": {"steps": 3}, "evaluate": {"n": 30}},
        "sft": {
            "args": {"max_steps": 4, "logging_steps": 1},
            "data": {"n": 64},
            "evaluate": {"n": 30},
        },
        "dpo": {"args": {"max_steps": 2}, "data": {"n": 16}, "evaluate": {"n": 30}},
    }
    files = {}
    for stage, change in shortened.items():
        recipe = recipes.load(stage, "tiny")
        for key, value in change.items():
            recipe[key] = recipe[key] | value
        files[stage] = root / f"{stage}_tiny.yaml"
        files[stage].write_text(yaml.safe_dump(recipe))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_RUNS", str(root / "runs"))
        patch.setenv("TRACKIO_DIR", str(root / "trackio"))
        patch.setattr(recipes, "FOLDER", root)
        for stage in ("base", "sft"):
            train.make(recipes.load(stage, "tiny"))
        yield files


def test_a_manifest_says_what_made_the_stage_and_what_it_can_do(small):
    manifest = runs.manifest("sft")
    wanted = "stage base_model seed recipe_hash versions commit wall_s peak_rss_mb heldout_n "
    wanted += "heldout_correct heldout_accuracy heldout_ci95 format_rate preference_rate"
    assert set(wanted.split()) <= set(manifest)
    low, high = manifest["heldout_ci95"]
    assert low <= manifest["heldout_accuracy"] <= high and manifest["heldout_n"] == 30
    assert manifest["versions"]["trl"] and manifest["peak_rss_mb"] > 100


def test_a_stage_that_stands_is_found_and_another_seed_is_not(small):
    said = []
    train.ensure("sft", "tiny", say=said.append)
    assert [line.partition(":")[2].split()[0] for line in said] == ["found", "found"]
    assert not runs.is_current(recipes.load("sft", "tiny", seed=1))


def test_the_next_stage_starts_from_the_adapter_of_the_one_before(small):
    saved, _ = train.load(recipes.load("dpo", "tiny"))
    again, _ = train.load(recipes.load("dpo", "tiny"))
    weights = [w for name, w in saved.named_parameters() if "lora_B" in name]
    assert all(w.abs().max() > 0 for w in weights), "a fresh adapter has B = 0"
    for one, other in zip(weights, (w for n, w in again.named_parameters() if "lora_B" in n)):
        assert torch.equal(one, other)


def test_adapters_stay_in_float32(small):
    recipe = recipes.load("sft", "tiny")
    built = train.trainer(recipe)
    assert {p.dtype for p in built.model.parameters() if p.requires_grad} == {torch.float32}


def test_the_4_bit_weights_of_a_run_are_never_written(small):
    recipe = recipes.load("sft", "tiny")
    built = train.trainer(recipe)
    packed = {
        n: p.data.clone() for n, p in built.model.named_parameters() if p.dtype == torch.uint8
    }
    assert packed
    built.train()
    for name, param in built.model.named_parameters():
        if name in packed:
            assert torch.equal(param.data, packed[name]), name


def test_what_is_served_after_a_reload_is_what_was_scored(small):
    """The saved adapter over the base gives the weights that the run ended with."""
    one = vllm.served(train.load(recipes.load("dpo", "tiny"))[0]).state_dict()
    base = vllm.served(train.load(recipes.load("sft", "tiny"))[0]).state_dict()
    assert any(not torch.equal(one[name], base[name]) for name in one), "SFT changed nothing"


def test_the_report_holds_every_stage_and_is_one_file(small):
    page = report.write().read_text()
    assert "<h3>base</h3>" in page and "<h3>sft</h3>" in page and "data:image/png" in page
    assert "| sft" in report.table()


def test_a_model_that_is_never_right_gives_no_pairs_and_says_so():
    wrong = {"a": 12, "b": 34, "text": "", "style": "terse", "right": False}
    with pytest.raises(ValueError, match="0 right completions of 1"):
        pairs.styled([wrong])


class Interrupted(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise KeyboardInterrupt


def test_an_interrupted_stage_goes_on_where_it_was(small, tmp_path, monkeypatch, capsys):
    alone = [entry["loss"] for entry in runs.history("sft") if "loss" in entry]
    shutil.copytree(runs.path("base"), tmp_path / "base")
    monkeypatch.setenv("LAB_RUNS", str(tmp_path))
    recipe = recipes.load("sft", "tiny")
    recipe["args"] |= {"save_strategy": "steps", "save_steps": 2}
    built = train.trainer(recipe)
    built.add_callback(Interrupted())
    with pytest.raises(KeyboardInterrupt):
        train.run(built, recipe)
    assert runs.manifest("sft") is None
    capsys.readouterr()
    train.make(recipe)
    assert "resuming from checkpoint-2" in capsys.readouterr().out
    resumed = [entry["loss"] for entry in runs.history("sft") if "loss" in entry]
    assert resumed == alone and len(alone) > 0  # to the last bit: same seed, same machine

    recipe["args"] |= {"learning_rate": 1.0e-4}  # another recipe: nothing of the old run is used
    built = train.trainer(recipe)
    built.add_callback(Interrupted())
    with pytest.raises(KeyboardInterrupt):
        train.run(built, recipe)
    assert "resuming" not in capsys.readouterr().out


def test_every_lesson_of_the_chain_has_a_stage():
    names = [path.name[:2] for path in chain.notebooks()]
    assert names == sorted(chain.STAGE_OF)


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_accelerate_starts_two_processes(small, stage, tmp_path):
    """gloo on a CPU; the ranks see different rows and end with one manifest."""
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
    ]
    command += ["--main_process_port", "0", "-m", "two_ranks", stage, str(small[stage])]
    script = tmp_path / "two_ranks.py"
    script.write_text(
        "import pathlib, sys\n"
        "from lab import pairs, recipes, tasks, train\n"
        "def drawn(model, tok, n, seed, samples):  # four steps of SFT get no sum right\n"
        "    return [dict(a=a, b=b, style=s, right=True, text=tasks.completion(a, b, s))\n"
        "            for a, b in tasks.sample(n, 'train', seed) for s in tasks.STYLES]\n"
        "pairs.draw = drawn\n"
        "recipes.FOLDER = pathlib.Path(sys.argv[2]).parent  # where the shortened parents stand\n"
        "make = train.make\n"
        "def telling(recipe):\n"
        "    kept = make(recipe)\n"
        "    import torch.distributed as dist\n"
        "    print(f'rank {dist.get_rank()} of {dist.get_world_size()} by {dist.get_backend()}')\n"
        "    return kept\n"
        "train.make = telling\n"
        "train.main([sys.argv[1], '--config', sys.argv[2]])\n"
    )
    env = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, check=False, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "rank 0 of 2 by gloo" in done.stdout and "rank 1 of 2 by gloo" in done.stdout
    manifest = json.loads((runs.path(stage) / "manifest.json").read_text())
    assert manifest["stage"] == stage
