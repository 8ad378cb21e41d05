"""SFT and DPO in several processes, whole copies (DDP) or parts (FSDP2), against one process. On a CPU by gloo.

GRPO in several processes is in tests/lab/test_server_sync.py.
"""

import dataclasses
import json
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import load_config_from_file
from lab import guards, memory, model, pairs, recipes, runs, sharded, spread, train
from lab.engine import colocated
from safetensors.torch import load_file

CONFIGS = recipes.FOLDER / "accelerate"
LINEARS = "weights of the linear layers"
ROWS = 8  # of an optimizer step, all processes together
STEPS = {"sft": 4, "dpo": 2}
drawn = runpy.run_path(str(Path(__file__).with_name("sharded_run.py")))["drawn"]


def write(folder, processes):
    """The recipes, shortened, with the same rows in a step whatever the number of processes."""
    for stage, change in {
        "base": {"pretrain": {"steps": 3}, "evaluate": {"n": 20}},
        "sft": {"data": {"n": 64}, "args": {"save_strategy": "steps", "save_steps": 2}},
        "dpo": {"data": {"n": 16}},
    }.items():
        recipe = recipes.load(stage, "tiny")
        for key, value in change.items():
            recipe[key] = recipe[key] | value
        if stage in STEPS:
            recipe["args"] |= {"max_steps": STEPS[stage], "logging_steps": 1}
            recipe["args"]["per_device_train_batch_size"] = ROWS // processes
            recipe["evaluate"] = {"n": 20}
        (folder / f"{stage}_tiny.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def losses(stage):
    return [entry["loss"] for entry in runs.history(stage) if "loss" in entry]


def adapter(stage, root=None):
    return load_file((root / stage if root else runs.path(stage)) / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process: {stage: (losses, adapter)}, and the base that the others start from."""
    root = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_RUNS", str(root / "runs"))
        patch.setenv("TRACKIO_DIR", str(root / "trackio"))
        patch.setattr(recipes, "FOLDER", write(root, 1))
        patch.setattr(pairs, "draw", drawn)
        found = {}
        for stage in ("base", "sft", "dpo"):
            train.make(recipes.load(stage, "tiny"))
            found[stage] = losses(stage), adapter(stage) if stage != "base" else None
    return found, root / "runs" / "base"


@pytest.fixture(scope="module")
def several(alone, launch, tmp_path_factory):
    """several(configuration, processes): (what was said, the folder of runs); each is run once."""
    done = {}

    def run(config, processes):
        if (config, processes) not in done:
            root = tmp_path_factory.mktemp(config)
            shutil.copytree(alone[1], root / "runs" / "base")
            write(root, processes)
            said = launch(
                config, "sharded_run.py", root, "sft", "dpo", processes=processes, **where(root)
            )
            assert said.returncode == 0, said.stderr[-3000:]
            done[config, processes] = _said(said), root
        return done[config, processes]

    return run


def where(root):
    return {"LAB_RUNS": str(root / "runs"), "TRACKIO_DIR": str(root / "trackio")}


def _said(done):
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


WAYS = [("ddp", 2, "MULTI_CPU"), ("ddp", 4, "MULTI_CPU"), ("fsdp2", 2, "FSDP")]
EACH = pytest.mark.parametrize(
    ("config", "processes", "by"), WAYS, ids=["ddp-2", "ddp-4", "fsdp2-2"]
)


@EACH
def test_sft_has_the_losses_and_the_adapter_of_one_process(alone, several, config, processes, by):
    """TRL divides by the tokens of all processes, so only the order of the additions differs."""
    said, root = several(config, processes)
    own, weights = alone[0]["sft"]
    assert said["by"] == by and len(own) == STEPS["sft"]
    assert said["losses"]["sft"] == pytest.approx(own, rel=1e-5)
    for name, weight in adapter("sft", root / "runs").items():
        torch.testing.assert_close(weight, weights[name], rtol=0, atol=2e-4)


@EACH
def test_dpo_has_the_losses_of_one_process(alone, several, config, processes, by):
    """Its SFT term is a mean over the tokens of a process: rows weigh by another number of tokens."""
    said, _ = several(config, processes)
    own, _ = alone[0]["dpo"]
    assert said["losses"]["dpo"] == pytest.approx(own, rel=1e-3)


def test_parts_and_whole_copies_are_the_same_run(several):
    whole, parts = several("ddp", 2), several("fsdp2", 2)
    for stage in STEPS:
        assert parts[0]["losses"][stage] == pytest.approx(whole[0]["losses"][stage], rel=1e-6)
        one, other = (adapter(stage, root / "runs") for _, root in (whole, parts))
        assert one.keys() == other.keys()
        for name, weight in one.items():
            torch.testing.assert_close(other[name], weight, rtol=0, atol=1e-4)
        scores = [
            json.loads((r / "runs" / stage / "manifest.json").read_text())
            for _, r in (whole, parts)
        ]
        assert all(score["heldout_n"] == 20 for score in scores)


def test_each_process_holds_its_part_of_every_weight_and_moment(several):
    """Half of it with two processes, the 4-bit base too, whose bytes FSDP leaves whole by default."""
    whole, parts = (several(config, 2)[0]["bytes"] for config in ("ddp", "fsdp2"))
    assert whole.keys() == parts.keys() == {"frozen", "trained", "AdamW"}
    for what, size in whole.items():
        assert parts[what] == pytest.approx(size / 2, rel=1e-6), what
    assert whole["AdamW"] == 2 * whole["trained"]
    shape = recipes.load("base", "tiny")["architecture"]
    config = model.build(model.tokenizer(), **shape).config
    recipe = recipes.load("sft", "tiny")
    counted = spread.of(recipe, config, 2, "FSDP2")
    # The scales of the 4 bits are no weights: every process keeps them.
    scales = memory.of(recipe, config)[LINEARS] * (
        1 - 4 / 8 / memory._bytes_of_nf4(recipe["quantization"])
    )
    weights = counted[LINEARS] - scales / 2 + counted["embedding, head and norms"]
    assert parts["frozen"] / 2**20 == pytest.approx(weights, rel=1e-6)
    assert parts["trained"] / 2**20 == pytest.approx(counted["adapters"], rel=1e-6)
    assert parts["AdamW"] / 2**20 == pytest.approx(counted["AdamW"], rel=1e-6)


def test_a_sharded_run_goes_on_from_its_parts(alone, several, launch, tmp_path):
    _, root = several("fsdp2", 2)
    shutil.copytree(root, tmp_path / "again")
    again = tmp_path / "again"
    interrupt(again / "runs" / "sft")
    done = launch("fsdp2", "sharded_run.py", again, "sft", **where(again))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resuming from checkpoint-2" in done.stdout
    assert _said(done)["losses"]["sft"] == pytest.approx(alone[0]["sft"][0], rel=1e-5)
    whole = adapter("sft", root / "runs")
    for name, weight in adapter("sft", again / "runs").items():
        torch.testing.assert_close(weight, whole[name], rtol=0, atol=1e-5)


def interrupt(folder):
    """Make a finished run look as if it had been killed after its first checkpoint."""
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "interrupted").write_text(manifest["recipe_hash"])
    (folder / "manifest.json").unlink()
    shutil.rmtree(folder / "checkpoint-4")


@pytest.fixture
def checkpoint(several, tmp_path):
    return shutil.copytree(
        several("fsdp2", 2)[1] / "runs" / "sft" / "checkpoint-2", tmp_path / "checkpoint-2"
    )


def test_a_checkpoint_in_parts_is_complete(checkpoint):
    assert guards.why_incomplete(checkpoint) == ""


@pytest.mark.parametrize("part", ["pytorch_model_fsdp_0", "optimizer_0"])
@pytest.mark.parametrize("file", ["__0_0.distcp", "__1_0.distcp", ".metadata"])
@pytest.mark.parametrize("how", ["missing", "cut off"])
def test_a_part_that_is_missing_or_cut_off_is_named(checkpoint, part, file, how):
    damaged = checkpoint / part / file
    if how == "missing":
        damaged.unlink()
    else:
        damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    assert guards.why_incomplete(checkpoint).startswith(f"{part}/{file} ")


def test_a_checkpoint_of_the_other_kind_is_refused(checkpoint, tmp_path):
    guards.refuse_other_parts(checkpoint, sharded=True)
    with pytest.raises(
        ValueError, match=r"checkpoint-2 was written with FSDP2, .* whole weights\. Start it"
    ):
        guards.refuse_other_parts(checkpoint, sharded=False)
    whole = tmp_path / "checkpoint-3"
    whole.mkdir()
    guards.refuse_other_parts(whole, sharded=False)
    with pytest.raises(ValueError, match="checkpoint-3 was written with whole weights"):
        guards.refuse_other_parts(whole, sharded=True)


def test_deepspeeds_checkpoint_is_refused_and_not_passed_over(tmp_path):
    folder = tmp_path / "checkpoint-5"
    folder.mkdir()
    (folder / "latest").write_text("global_step5")
    assert guards.newest_complete(tmp_path) == (folder, {})
    with pytest.raises(ValueError, match="checkpoint-5 is DeepSpeed's.*resume_from_checkpoint="):
        guards.refuse_other_parts(folder, sharded=False)


def test_a_configuration_for_parts_that_accelerate_drops_is_refused(alone, monkeypatch):
    """On a CPU accelerate makes whole copies of it, without a word: here nothing lets it shard."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("LAB_RUNS", str(alone[1].parent))
    monkeypatch.setattr(recipes, "FOLDER", alone[1].parent.parent)
    with pytest.raises(RuntimeError, match="asks for FSDP, and accelerate made NO of it.*ddp.yaml"):
        train.trainer(recipes.load("sft", "tiny"))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_knows_every_key_of_a_configuration(path):
    config = load_config_from_file(str(path))  # refuses an unknown key of the first level
    assert config.num_processes == 2
    fsdp = {field.name for field in dataclasses.fields(FullyShardedDataParallelPlugin)}
    fsdp |= {"version", "offload_params"}  # accelerate launch's names for two of them
    assert {key.removeprefix("fsdp_") for key in config.fsdp_config} <= fsdp
    zero = {field.name for field in dataclasses.fields(DeepSpeedPlugin)} | {
        "zero3_save_16bit_model"
    }
    assert set(config.deepspeed_config) <= zero
    assert bool(config.fsdp_config) == (path.stem == "fsdp2")
    assert bool(config.deepspeed_config) == path.stem.startswith("deepspeed")


def test_four_bits_are_packed_for_fsdp_alone(monkeypatch):
    recipe = recipes.load("sft", "a100")
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    assert sharded.storage(recipe) == {}
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert sharded.storage(recipe) == {"bnb_4bit_quant_storage": "bfloat16"}
    assert sharded.storage({"dtype": "bfloat16"}) == {}


def test_in_16_bits_grpo_under_fsdp_asks_for_the_gap_that_it_cannot_measure(monkeypatch):
    monkeypatch.setattr(sharded, "is_sharded", lambda policy: True)
    trainer = SimpleNamespace(max_gap="auto", model=None)
    with pytest.raises(ValueError, match="measured on a whole copy.*max_gap="):
        colocated.GRPOTrainer._check_gap(trainer, {})
