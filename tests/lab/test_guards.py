"""Runs that teach nothing stop with the reason; killed runs go on where they were."""

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lab import guards
from transformers import TrainerControl, TrainerState, TrainingArguments

SCRIPT = Path(__file__).with_name("killed_run.py")
_spec = importlib.util.spec_from_file_location("killed_run", SCRIPT)
killed_run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(killed_run)

HEALTHY = {
    "loss": 0.0,  # a healthy GRPO run logs 0.0
    "grad_norm": 0.3,
    "reward": 0.4,
    "rewards/accuracy_reward/mean": 0.4,
    "frac_reward_zero_std": 0.2,
    "entropy": 0.5,
    "sampling/sampling_logp_difference/mean": 0.002,
}
SICK = {  # what a log says, and for how many steps it may say so
    "the loss is nan": ({"loss": math.nan}, 1),
    "the norm of the gradient is inf": ({"grad_norm": math.inf}, 1),
    "the gradient is exactly zero": ({"grad_norm": 0.0}, 5),
    "all rewards are the same": ({"frac_reward_zero_std": 1.0}, 5),
    "accuracy_reward gave None": ({"rewards/accuracy_reward/mean": None}, 5),  # TRL logs NaN so
    "the entropy has collapsed to 0.001": ({"entropy": 0.001}, 5),
    "sampler and trainer differ by 0.07": ({"sampling/sampling_logp_difference/mean": 0.07}, 5),
}
LASTING = [reason for reason, (_, steps) in SICK.items() if steps > 1]


def follow(guard, *logs, every=1, **args):
    """Let a guard read the logs of a run, one in so many steps; the last step it saw."""
    args, state, control = TrainingArguments("unused", **args), TrainerState(), TrainerControl()
    guard.on_train_begin(args, state, control)
    for each in logs:
        state.global_step += every
        guard.on_log(args, state, control, logs=each)


@pytest.mark.parametrize("reason", SICK)
def test_it_stops_with_the_reason_after_so_many_steps(reason):
    change, steps = SICK[reason]
    with pytest.raises(guards.Stopped, match=f"^step {3 + steps}: .*{reason}"):
        follow(guards.Guards(patience=5), *[HEALTHY] * 3, *[HEALTHY | change] * 9)


@pytest.mark.parametrize("reason", LASTING)
def test_a_healthy_step_in_between_starts_the_count_again(reason):
    change, steps = SICK[reason]
    follow(guards.Guards(patience=steps), *([HEALTHY | change] * (steps - 1) + [HEALTHY]) * 3)


@pytest.mark.parametrize("reason", LASTING)
def test_steps_count_whatever_the_logs_leave_out(reason):
    """GRPO logs rewards when it generates: not in a step that reuses completions."""
    change, _ = SICK[reason]
    reuse = {"loss": 0.0, "grad_norm": 0.3}
    with pytest.raises(guards.Stopped, match=reason):
        follow(guards.Guards(patience=5), *[HEALTHY | change, reuse] * 3)


@pytest.mark.parametrize("reason", LASTING)
def test_one_log_of_ten_steps_is_ten_steps_but_for_the_gradient(reason):
    change, _ = SICK[reason]
    logs = 2 if "gradient" in reason else 1  # it is logged as it was in the last of the ten
    with pytest.raises(guards.Stopped, match=f"^step {10 * logs}: .*{reason}"):
        follow(guards.Guards(patience=5), *[HEALTHY | change] * 5, every=10)


def test_an_infinite_gradient_is_what_the_gradient_scaler_of_fp16_looks_for():
    skipped, nan = HEALTHY | {"grad_norm": math.inf}, HEALTHY | {"loss": math.nan}
    follow(guards.Guards(patience=5), *[skipped] * 4, HEALTHY, *[skipped] * 4, fp16=True)
    with pytest.raises(guards.Stopped, match="^step 5: the norm of the gradient is inf"):
        follow(guards.Guards(patience=5), *[skipped] * 5, fp16=True)
    with pytest.raises(guards.Stopped, match="^step 1: the loss is nan"):
        follow(guards.Guards(patience=5), nan, fp16=True)


def test_a_healthy_run_and_its_last_log_pass():
    summary, evaluation = {"train_runtime": 3.0, "train_loss": 0.1}, {"eval_loss": math.nan}
    follow(guards.Guards(patience=1), HEALTHY, evaluation, summary)
    follow(guards.Guards(patience=1), {"loss": 0.0, "grad_norm": 0.0})  # SFT at a loss of zero


def test_no_checkpoint_is_saved_with_nan_between_two_logs(tmp_path):
    built = killed_run.build("sft", tmp_path, logging_steps=100, learning_rate=1e30)
    built.add_callback(guards.Guards())
    with pytest.raises(guards.Stopped, match="^step 2: .* is nan|^step 2: .* is inf"):
        built.train()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_nan_loss_stops_a_real_run_that_would_log_zero(tmp_path):
    built = killed_run.build("sft", tmp_path, save_strategy="no")
    assert built.args.logging_nan_inf_filter  # transformers' default: it hides the NaN
    with torch.no_grad():
        next(iter(built.model.parameters())).fill_(math.nan)
    built.add_callback(guards.Guards())
    with pytest.raises(guards.Stopped, match="^step 1: the loss is nan"):
        built.train()
    assert built.state.global_step == 1


@pytest.mark.parametrize(("reward", "reason"), [(1.0, "all rewards are the same|exactly zero"),
                                                (None, "digits_reward gave None|exactly zero")])  # fmt: skip
def test_a_constant_reward_and_none_stop_a_real_grpo_run(reward, reason, tmp_path):
    built = killed_run.build("grpo", tmp_path, save_strategy="no")

    def same_reward(completions, **columns):
        return [reward] * len(completions)

    built.reward_funcs[0] = same_reward
    built.add_callback(guards.Guards(patience=3))
    with pytest.raises(guards.Stopped, match=reason):
        built.train()
    assert built.state.global_step == 3


def test_a_collapsed_policy_stops_a_real_grpo_run(tmp_path):
    built = killed_run.build("grpo", tmp_path, save_strategy="no")
    with torch.no_grad():
        built.model.model.norm.weight.mul_(1e3)  # logits so far apart that one token is certain
    turns = iter(range(10**6))  # a reward that still differs: nothing else is wrong with this run
    built.reward_funcs[0] = lambda completions, **columns: [float(next(turns)) for _ in completions]
    built.reward_func_names[0] = "turns"
    built.add_callback(guards.Guards(patience=2))
    with pytest.raises(guards.Stopped, match="^step [23]: .*the entropy has collapsed to 0 nats"):
        built.train()


def losses(trainer):
    """What the run logged at each step; DPO and GRPO log more than the loss that must agree."""
    keys = ("loss", "grad_norm", "entropy", "reward", "logps/chosen")
    return {
        entry["step"]: {key: entry[key] for key in keys if key in entry}
        for entry in trainer.state.log_history
        if "loss" in entry
    }


def kill_after_step(stage, folder, weights, step):
    """Start the run in a process of its own and SIGKILL it when it comes to `step`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), stage, str(folder), weights],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    for line in process.stdout:
        if line.strip() == f"step {step}":
            break
    process.kill()
    process.stdout.close()
    assert process.wait() == -9, "it ended before it could be killed"


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize(
    ("stage", "weights"), [("sft", "plain"), ("dpo", "plain"), ("grpo", "plain"), ("dpo", "qlora")]
)
def test_a_killed_run_goes_on_to_the_same_losses(stage, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LAB_RUNS", str(tmp_path))  # build_qlora sets it
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    build, killed = killed_run.BUILD[weights], tmp_path / "killed" / stage
    alone = build(stage, tmp_path / "alone" / stage, save_strategy="no")
    alone.train()

    kill_after_step(stage, killed, weights, step=5)
    resumed = build(stage, killed)
    guards.resume(resumed)
    assert "resuming from checkpoint-4" in capsys.readouterr().out
    assert losses(resumed) == losses(alone)  # to the last bit: same seed, same machine

    # a checkpoint cut off in the middle is passed over, and still nothing changes
    (file,) = (killed / "checkpoint-4").glob("*model.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    (killed / "checkpoint-6" / "optimizer.pt").unlink()
    again = build(stage, killed)
    guards.resume(again)
    said = capsys.readouterr().out
    assert "passed over checkpoint-6: optimizer.pt is missing" in said
    assert f"passed over checkpoint-4: {file.name} is missing or cut off" in said
    assert "resuming from checkpoint-2" in said
    assert losses(again) == losses(alone)


@pytest.mark.library_defect
def test_transformers_alone_resumes_dpo_from_the_adapter_that_it_started_with(tmp_path):
    """Why `resume` loads it: the loss is back at log 2, and nothing is said."""
    built = killed_run.build_qlora("dpo", tmp_path / "dpo", max_steps=4, save_steps=4)
    built.train()
    again = killed_run.build_qlora("dpo", tmp_path / "dpo", max_steps=5)
    again.train(resume_from_checkpoint=str(tmp_path / "dpo" / "checkpoint-4"))
    assert losses(built)[4]["loss"] < 0.6
    assert losses(again)[5]["loss"] == pytest.approx(math.log(2), abs=1e-5)  # policy = reference


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """One real checkpoint of a short run."""
    folder = tmp_path_factory.mktemp("run")
    killed_run.build("sft", folder).train()
    return folder / "checkpoint-4"


def test_a_checkpoint_as_it_was_saved_is_complete(checkpoint):
    assert guards.why_incomplete(checkpoint) == ""
    assert guards.newest_complete(checkpoint.parent)[0].name == "checkpoint-6"


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"],
)
@pytest.mark.parametrize("damage", ["missing", "cut off", "empty"])
def test_a_damaged_checkpoint_is_passed_over_with_the_file_named(
    checkpoint, name, damage, tmp_path
):
    for file in checkpoint.iterdir():
        content = file.read_bytes()
        if file.name == name:
            content = {"missing": None, "cut off": content[:-50], "empty": b""}[damage]
        if content is not None:
            (tmp_path / "checkpoint-4").mkdir(exist_ok=True)
            (tmp_path / "checkpoint-4" / file.name).write_bytes(content)
    found, passed_over = guards.newest_complete(tmp_path)
    assert found is None
    (why,) = passed_over.values()
    assert name in why or (name, why) == ("model.safetensors", "no weights")


def test_without_a_checkpoint_it_starts_and_says_so(tmp_path, capsys):
    built = killed_run.build("sft", tmp_path, save_strategy="no", max_steps=1)
    guards.resume(built)
    assert "no complete checkpoint" in capsys.readouterr().out
    assert built.state.global_step == 1


def test_a_learning_rate_that_would_be_ignored_is_said(checkpoint, capsys):
    built = killed_run.build("sft", checkpoint.parent, save_strategy="no")
    built.args.learning_rate = 7e-4
    guards.resume(built)
    assert "0.001; 0.0007 is ignored" in capsys.readouterr().out


def test_a_folder_of_something_else_is_no_checkpoint(tmp_path):
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-9").mkdir()
    (tmp_path / "checkpoint-9" / "trainer_state.json").write_text(json.dumps({}))
    found, passed_over = guards.newest_complete(tmp_path)
    assert found is None
    assert [folder.name for folder in passed_over] == ["checkpoint-9"]


def test_a_sharded_checkpoint_is_complete_with_all_its_shards(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint-4")
    (folder / "model.safetensors").unlink()
    model = killed_run.build("sft", tmp_path / "unused", save_strategy="no").model
    model.save_pretrained(folder, max_shard_size="500KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1 and guards.why_incomplete(folder) == ""
    shards[0].unlink()
    assert shards[0].name in guards.why_incomplete(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {')
    assert "model.safetensors.index.json cannot be read" in guards.why_incomplete(folder)
