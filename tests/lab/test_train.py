"""The stages' own code on a chain that takes seconds: fewer steps, the same trainers."""

import json
import shutil
import subprocess
import sys

import lab
import pytest
import torch
import yaml
from datasets import Dataset
from lab import chain, pairs, recipes, report, runs, tasks, train, vllm
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
        "grpo": {
            "args": {
                "max_steps": 2,
                "use_vllm": False,
                "per_device_train_batch_size": 8,
                "max_completion_length": 8,
            },
            "data": {"n": 16},
            "evaluate": {"n": 30},
        },
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
    assert manifest["gpu"] == (torch.cuda.get_device_name() if torch.cuda.is_available() else None)


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


@pytest.mark.parametrize("stage", ["sft", "grpo"])
@pytest.mark.parametrize("bf16", [False, True])
def test_adapters_stay_in_float32_whatever_the_run_computes_in(small, stage, bf16, monkeypatch):
    recipe = recipes.load(stage, "tiny") | {"start_from": "sft"}  # no DPO adapter stands here
    recipe["args"] |= {"bf16": bf16, "report_to": []}  # a recipe may name any argument of TRL's
    built = train.trainer(recipe)
    assert {p.dtype for p in built.model.parameters() if p.requires_grad} == {torch.float32}


def test_a_bf16_run_at_a_small_rate_moves_every_entry_of_its_adapter(small):
    """In bfloat16 an entry of 0.02 has neighbours 1e-4 apart: a step of 5e-6 leaves it in place."""
    recipe = recipes.load("sft", "tiny")
    recipe["args"] |= {"bf16": True, "max_steps": 1, "learning_rate": 5e-6, "warmup_steps": 0}
    built = train.trainer(recipe)
    lora = {n: p for n, p in built.model.named_parameters() if p.requires_grad}
    before = {n: p.detach().clone() for n, p in lora.items()}
    built.train()
    moved = {n: (p != before[n]).float().mean().item() for n, p in lora.items() if "lora_B" in n}
    stays = {n: (p.bfloat16() != before[n].bfloat16()).float().mean() for n, p in lora.items()}
    assert min(moved.values()) > 0.99
    # The control: the same step, rounded to bfloat16, is lost in most of A (B starts at zero).
    assert max(share for n, share in stays.items() if "lora_A" in n) < 0.5


def test_a_recipe_that_names_an_adapter_needs_no_stage_before_it(small, tmp_path, monkeypatch):
    """A folder here; on another machine a hub id: nothing of the parents has to be made again."""
    recipe = recipes.load("dpo", "tiny")
    recipe["adapter"] = shutil.copytree(runs.path("sft"), tmp_path / "elsewhere")
    shutil.copytree(runs.path("base"), tmp_path / "runs" / "base")
    expected = train.load(recipes.load("dpo", "tiny"))[0].state_dict()
    monkeypatch.setenv("LAB_RUNS", str(tmp_path / "runs"))
    state = train.load(recipe)[0].state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in expected.items())
    assert runs.manifest("sft") is None


def test_a_lesson_measures_the_adapter_that_stands_in_for_the_stages_before(
    small, tmp_path, monkeypatch
):
    recipe = recipes.load("dpo", "tiny")
    stood = train.before(recipe)
    recipe["adapter"] = str(shutil.copytree(runs.path("sft"), tmp_path / "elsewhere"))
    shutil.copytree(runs.path("base"), tmp_path / "runs" / "base")
    monkeypatch.setenv("LAB_RUNS", str(tmp_path / "runs"))
    found = train.before(recipe)
    assert runs.manifest("sft") is None  # measured, and not trained again
    assert len(found["verdicts"]) == found["heldout_n"] == 30
    assert found["greedy_correct"] == stood["greedy_correct"] == sum(stood["verdicts"])
    assert stood["stage"] == "sft"


@pytest.mark.parametrize("profile", ["tiny", "t4"])
def test_an_adapter_frees_a_run_of_all_but_a_base_that_is_made_here(monkeypatch, tmp_path, profile):
    monkeypatch.setenv("LAB_RUNS", str(tmp_path))
    monkeypatch.setattr(recipes, "FOLDER", recipes.FOLDERS[0])
    made = []
    monkeypatch.setattr(train, "make", lambda recipe: made.append(recipe["stage"]))
    recipe = recipes.load("grpo", profile) | {"adapter": "someone/an-adapter"}
    assert train.ensure_parents(recipe) is None
    assert made == {"tiny": ["base"], "t4": []}[profile]


@pytest.mark.parametrize("lesson", ["02_dpo", "03_grpo"])
def test_a_lesson_leaves_it_to_its_recipe_what_has_to_stand_before(lesson):
    source = (recipes.FOLDERS[0].parent / f"{lesson}.ipynb").read_text()
    assert "lab.train.before(recipe" in source and "lab.train.ensure(" not in source


@pytest.mark.parametrize("asked", [True, False])
def test_an_adapter_goes_to_the_hub_where_the_recipe_asks_for_it(
    small, tmp_path, monkeypatch, asked
):
    """Whole, as it was saved; from there a recipe's `adapter:` takes it on another machine."""
    monkeypatch.setenv("LAB_RUNS", str(shutil.copytree(runs.root(), tmp_path / "runs")))
    recipe, pushed = recipes.load("sft", "tiny"), []
    built = train.trainer(recipe)
    built.args.push_to_hub = asked  # given to TRL's config it would ask the hub at once
    built.push_to_hub = lambda: pushed.append(sorted(path.name for path in folder.iterdir()))
    monkeypatch.setattr(train.evaluate, "score", lambda *_: {})
    folder = runs.clear(recipe)
    train._save(built, recipe, folder, began=0.0)
    assert bool(pushed) == asked
    for names in pushed:
        assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= set(names)


def test_weights_load_where_the_process_computes(monkeypatch):
    on_cpu, on_gpu = {"args": {"use_cpu": True}}, {"args": {}}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert train.device_map(on_cpu) == {"": "cpu"}
    assert train.device_map(on_gpu) == {"": 1}
    monkeypatch.delenv("LOCAL_RANK")
    assert train.device_map(on_gpu) == {"": 0}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert train.device_map(on_gpu) == {"": "cpu"}


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


def test_the_report_s_command_keeps_the_scores_of_every_stage_with_where_they_come_from(
    small, tmp_path, capsys
):
    report.main(["--out", str(tmp_path / "scores.json")])
    kept = json.loads((tmp_path / "scores.json").read_text())
    assert {"base", "sft"} <= set(kept["stages"]) and kept["processor"] and kept["versions"]
    assert kept["stages"]["sft"]["heldout_ci95"] == runs.manifest("sft")["heldout_ci95"]
    assert "lab.report --out" in kept["command"] and "| sft" in capsys.readouterr().out


def test_a_model_of_one_style_gives_no_pairs_and_says_so():
    wrong = {"a": 12, "b": 34, "text": "", "style": "terse", "right": False}
    with pytest.raises(ValueError, match="no pairs: 1 completions, 0 of them right"):
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
    assert names == sorted(chain.STAGES_OF)


def test_two_processes_make_the_stages_before_theirs_together(small, launch, tmp_path):
    """The base once, by one of them; each adapter by both, and read by both once it is whole."""
    done = launch("ddp", "chain_run.py", "grpo", small["grpo"], LAB_RUNS=str(tmp_path / "runs"))
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout
    assert said.count("pre-training in rank") == 1 and "pre-training in rank 0" in said
    for stage in ("sft", "dpo", "grpo"):
        assert f"rank 0 of 2 by gloo: {stage}" in said and f"rank 1 of 2 by gloo: {stage}" in said
        manifest = json.loads((tmp_path / "runs" / stage / "manifest.json").read_text())
        assert manifest["stage"] == stage


def test_a_long_run_is_not_started_without_being_asked_for(monkeypatch, tmp_path):
    """A lesson that is opened first on a new machine would train the stages before it for an hour."""
    monkeypatch.setenv("LAB_RUNS", str(tmp_path))
    monkeypatch.setattr(recipes, "FOLDER", recipes.FOLDERS[0])
    made = []
    monkeypatch.setattr(train, "make", lambda recipe: made.append(recipe["stage"]))
    monkeypatch.delenv("LAB_TRAIN", raising=False)
    with pytest.raises(
        RuntimeError, match=r"dpo: no run .* about \d+ minutes .* LAB_RUNS .* LAB_TRAIN=1"
    ):
        train.ensure("dpo", "t4")
    train.ensure("base", "t4")  # scores the model as it comes: minutes
    assert made == ["base"]
    monkeypatch.setenv("LAB_TRAIN", "1")
    train.ensure("dpo", "t4")
    assert made == ["base", "base", "sft", "dpo"]


def test_the_tiny_stages_are_made_without_asking(monkeypatch, tmp_path):
    monkeypatch.setenv("LAB_RUNS", str(tmp_path))
    monkeypatch.setattr(recipes, "FOLDER", recipes.FOLDERS[0])
    made = []
    monkeypatch.setattr(train, "make", lambda recipe: made.append(recipe["stage"]))
    train.ensure("dpo", "tiny")
    assert made == ["base", "sft", "dpo"]


def test_pairs_are_won_by_the_policy_that_learnt_them_and_none_before_its_first_step(
    small, tmp_path, monkeypatch
):
    monkeypatch.setenv("LAB_RUNS", str(shutil.copytree(runs.root(), tmp_path / "runs")))
    recipe = recipes.load("dpo", "tiny")
    recipe["args"] |= {"max_steps": 6, "loss_type": ["sigmoid"], "loss_weights": None}
    said = {side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    rows = Dataset.from_list([{"prompt": tasks.prompt(i, 1), **said} for i in range(16)])
    policy, tok = train.load(recipe)
    built = train.trainer(recipe, policy, tok, rows)
    assert pairs.won(built, rows) == (0, 16)  # every margin is 0
    built.train()
    logged = {name: list(values) for name, values in built._metrics["train"].items()}
    assert pairs.won(built, rows) == (16, 16)
    other_way = rows.rename_columns({"chosen": "rejected", "rejected": "chosen"})
    assert pairs.won(built, other_way) == (0, 16)
    assert built._metrics["train"] == logged and built.model.training


@pytest.mark.parametrize(
    ("adapter", "chain"), [({}, list(recipes.STAGES)), ({"adapter": "a"}, ["grpo"])]
)
def test_lesson_04_looks_for_no_stage_that_an_adapter_stands_in_for(monkeypatch, adapter, chain):
    load = recipes.load
    change = {"grpo": adapter}
    monkeypatch.setattr(recipes, "FOLDER", recipes.FOLDERS[0])
    monkeypatch.setattr(
        recipes, "load", lambda stage, *of, **how: load(stage, *of, **how) | change.get(stage, {})
    )
    monkeypatch.setattr(train, "ensure", lambda *stage: None)
    monkeypatch.setattr(runs, "manifest", lambda stage: f"{stage}'s")
    lesson = json.loads((recipes.FOLDERS[0].parent / "04_before_and_after.ipynb").read_text())
    cell = next(c for c in lesson["cells"] if "lab.train.ensure(" in "".join(c["source"]))
    names = {"lab": lab, "PROFILE": "t4"}
    exec("".join(cell["source"]), names)  # noqa: S102  the lesson's own cell
    assert names["chain"] == chain
    assert names["manifests"] == {stage: f"{stage}'s" for stage in chain}


# --- what a stage is scored on ----------------------------------------------------------------------

SCORED = {"stage": "sft", "profile": "t4", "evaluate": {"name": "openai/gsm8k", "split": "test"}}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [{"role": "system", "content": "x"}, {"role": "user", "content": " 2+2? "}]},
        {"messages": [{"role": "user", "content": "2+2?"}]},
        {"prompt": "2+2?"},
    ],
    ids=["prompt", "messages", "text"],
)
def test_a_question_that_is_trained_on_and_scored_on_stops_the_run(monkeypatch, row):
    held_out = [{"prompt": [{"role": "user", "content": "2+2?"}], "solution": "4"}]
    monkeypatch.setattr(train.evaluate, "heldout", lambda recipe: held_out)
    monkeypatch.setattr(train.evaluate, "askable", lambda recipe: held_out)
    with pytest.raises(ValueError, match=r"1 questions are trained on and scored on.*2\+2"):
        train.apart([row, {"prompt": "3+3?"}], SCORED)
    train.apart([{"prompt": "3+3?"}], SCORED)


def test_a_row_that_asks_what_a_fresh_draw_may_ask_is_left_out_aloud(tmp_path, capsys):
    """Lessons 04 and 08 draw other problems of the split than the stage's own."""
    test = tmp_path / "test.jsonl"
    rows = [{"question": f"{i} + {i}?", "answer": f"#### {2 * i}"} for i in range(20)]
    test.write_text("\n".join(map(json.dumps, rows)))
    recipe = {**SCORED, "evaluate": {"name": "openai/gsm8k", "path": str(test), "n": 5}}
    scored = {train._question(row) for row in train.evaluate.heldout(recipe)}
    other = next(row["question"] for row in rows if row["question"] not in scored)
    trained = Dataset.from_list([{"prompt": q} for q in ("another?", other, "a third?")])
    kept = train.apart(trained, recipe)
    assert kept["prompt"] == ["another?", "a third?"]
    assert "sft: 1 rows left out" in capsys.readouterr().out
    assert train.apart(kept, recipe) is kept
    again = {train._question(row) for row in train.evaluate.heldout(recipe, n=20, seed=1)}
    assert not again & set(kept["prompt"])


def test_the_built_in_task_parts_its_problems_itself(monkeypatch):
    monkeypatch.setattr(train.evaluate, "heldout", pytest.fail)
    train.apart([{"prompt": "2+2?"}], recipes.load("sft", "tiny"))


def test_the_runs_of_two_profiles_stand_side_by_side(monkeypatch, tmp_path):
    monkeypatch.setenv("LAB_RUNS", str(tmp_path))
    assert runs.path("sft", "tiny") == tmp_path / "sft"
    assert runs.path("sft", "t4") == tmp_path / "sft_t4"
    monkeypatch.setenv("LAB_PROFILE", "a100")
    assert runs.path("sft") == tmp_path / "sft_a100"
    assert runs.folder({"stage": "sft", "profile": "t4"}) == tmp_path / "sft_t4"


def test_the_verdicts_behind_a_manifest_are_kept(small):
    manifest, verdicts = runs.manifest("sft"), runs.verdicts("sft")
    assert len(verdicts) == manifest["heldout_n"] and sum(verdicts) == manifest["greedy_correct"]
    assert "verdicts" not in manifest


def test_sft_and_dpo_do_not_wait_for_the_engine():
    """vLLM and TRL's way to it take seconds to import, and only GRPO needs them."""
    code = (
        "import sys; from lab import show, train; train.classes('sft'); train.classes('dpo'); "
        "assert not {'vllm', 'trl.generation', 'lab.engine.colocated'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
