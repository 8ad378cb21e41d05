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
from trl import GRPOConfig

SCRIPT = Path(__file__).with_name("killed_run.py")
_spec = importlib.util.spec_from_file_location("killed_run", SCRIPT)
killed_run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(killed_run)

HEALTHY = {
    "loss": 0.0,  # a healthy GRPO run logs 0.0
    "grad_norm": 0.3,
    "reward": 0.4,
    "rewards/accuracy_reward/mean": 0.4,
    "rewards/accuracy_reward/std": 0.3,
    "rewards/format_reward/mean": 0.9,
    "rewards/format_reward/std": 0.1,
    "frac_reward_zero_std": 0.2,
    "entropy": 0.5,
    "kl": 0.02,
    "completions/clipped_ratio": 0.3,
    "sampling/sampling_logp_difference/mean": 0.002,
}
NEVER_RIGHT = {"rewards/accuracy_reward/mean": 0.0, "rewards/accuracy_reward/std": 0.0}
SICK = {  # what a log says, and for how many steps it may say so
    "the loss is nan": ({"loss": math.nan}, 1),
    "the norm of the gradient is inf": ({"grad_norm": math.inf}, 1),
    "the gradient is exactly zero": ({"grad_norm": 0.0}, 5),
    "all rewards are the same": ({"frac_reward_zero_std": 1.0}, 5),
    "accuracy_reward gave None": ({"rewards/accuracy_reward/mean": None}, 5),  # TRL logs NaN so
    "the entropy has collapsed to 0.001": ({"entropy": 0.001}, 5),
    "sampler and trainer differ by 0.07": ({"sampling/sampling_logp_difference/mean": 0.07}, 5),
    "the norm of the gradient is 1e": ({"grad_norm": 1e9}, 5),
    "the reward is inf": ({"reward": math.inf}, 1),
    "the reward is nan": ({"reward": None}, 5),
    "format_reward is -inf on average": ({"rewards/format_reward/mean": -math.inf}, 5),
    "the entropy is 9 nats": ({"entropy": 9.0}, 5),
    "the entropy is 1.6 nats per token, far above the start": ({"entropy": 1.6}, 5),
    "the entropy is inf": ({"entropy": math.inf}, 1),
    "the entropy is nan": ({"entropy": None}, 1),
    "the KL to the reference is 1e": ({"kl": 1e6}, 5),
    "the KL to the reference is inf": ({"kl": math.inf}, 1),
    "the KL to the reference is nan": ({"kl": math.nan}, 1),
    "100% of the completions are cut off": ({"completions/clipped_ratio": 1.0}, 5),
    "96% of the completions are cut off": ({"completions/clipped_ratio": 0.96}, 5),
    "accuracy_reward is 0 for every completion while format_reward varies": (NEVER_RIGHT, 5),
}
WELL = {  # what a healthy log may say for ever
    "half of the completions are cut off": {"completions/clipped_ratio": 0.5},
    "a steep gradient before clipping": {"grad_norm": 300.0},
    "far from the reference, as a policy goes": {"kl": 3.0},
    "it explores": {"entropy": 1.2},
    "right now and then": {"rewards/accuracy_reward/mean": 0.01, "rewards/accuracy_reward/std": 0.1},
    "no punishment due": {"rewards/overlong/mean": 0.0, "rewards/overlong/std": 0.0},
    "all rewards are zero at once": NEVER_RIGHT | {"rewards/format_reward/std": 0.0},
    "the trainer judges the gap itself": {
        "sampling/sampling_logp_difference/mean": 0.07, "sampling/gap_mean": 0.07},
}  # fmt: skip
LASTING = [reason for reason, (_, steps) in SICK.items() if steps > 1]


def follow(guard, *logs, every=1, settings=None, **args):
    """Let a guard read the logs of a run, one in so many steps; the last step it saw."""
    args = settings or TrainingArguments("unused", **args)
    state, control = TrainerState(), TrainerControl()
    guard.on_train_begin(args, state, control)
    for each in logs:
        state.global_step += every
        guard.on_log(args, state, control, logs=each)


@pytest.mark.parametrize("reason", SICK)
def test_it_stops_with_the_reason_after_so_many_steps(reason):
    change, steps = SICK[reason]
    with pytest.raises(guards.Stopped, match=f"^step {3 + steps}: .*{reason}"):
        follow(guards.Guards(patience=5), *[HEALTHY] * 3, *[HEALTHY | change] * 9)


@pytest.mark.parametrize("well", WELL)
def test_a_healthy_run_may_say_so_for_ever(well):
    follow(guards.Guards(patience=1), *[HEALTHY] * 2, *[HEALTHY | WELL[well]] * 30)


@pytest.mark.parametrize("logs", [{"loss": 2.3}, {"loss": 0.69, "rewards/margins": 0.1}])
def test_a_gradient_of_zero_stops_sft_and_dpo_too(logs):
    with pytest.raises(guards.Stopped, match="^step 7: the gradient is exactly zero.*show_batch"):
        follow(
            guards.Guards(patience=5),
            *[logs | {"grad_norm": 0.4}] * 2,
            *[logs | {"grad_norm": 0.0}] * 9,
        )


def test_evidence_about_rewards_is_counted_in_groups():
    """4 groups a step: 5 steps without a right answer are 20 groups, which happens on hard problems."""
    sick = [HEALTHY | {"frac_reward_zero_std": 1.0, "grad_norm": 0.0}] * 40
    grpo = GRPOConfig("unused", per_device_train_batch_size=8, gradient_accumulation_steps=4,
                      num_generations=8, use_cpu=True, bf16=False)  # fmt: skip
    assert guards.groups_a_step(grpo) == 4
    with pytest.raises(guards.Stopped, match="^step 25: .*exactly zero.* Also: in every group"):
        follow(guards.Guards(patience=5, groups=100), *sick, settings=grpo)
    with pytest.raises(guards.Stopped, match="^step 5: "):
        follow(guards.Guards(patience=5, groups=20), *sick, settings=grpo)
    collapsed = [HEALTHY | {"entropy": 0.001}] * 9  # no evidence about rewards: steps alone count
    with pytest.raises(guards.Stopped, match="^step 5: "):
        follow(guards.Guards(patience=5, groups=1000), *collapsed, settings=grpo)


def test_limits_are_arguments():
    follow(guards.Guards(patience=1, kl=1e7), *[HEALTHY | {"kl": 1e6}] * 9)
    with pytest.raises(guards.Stopped, match="KL to the reference is 3"):
        follow(guards.Guards(patience=1, kl=2.0), HEALTHY | {"kl": 3.0})
    with pytest.raises(TypeError, match="klx"):
        guards.Guards(klx=2.0)


@pytest.mark.parametrize("reason", LASTING)
def test_a_healthy_step_in_between_starts_the_count_again(reason):
    change, steps = SICK[reason]
    follow(guards.Guards(patience=steps), *([HEALTHY | change] * (steps - 1) + [HEALTHY]) * 3)


@pytest.mark.parametrize("reason", [r for r in LASTING if "gradient" not in r])
def test_steps_count_whatever_the_logs_leave_out(reason):
    """GRPO logs rewards when it generates: not in a step that reuses completions."""
    change, _ = SICK[reason]
    reuse = {"loss": 0.0, "grad_norm": 0.3}
    with pytest.raises(guards.Stopped, match=reason):
        follow(guards.Guards(patience=5), HEALTHY, *[HEALTHY | change, reuse] * 3)


@pytest.mark.parametrize("reason", LASTING)
def test_one_log_of_ten_steps_is_ten_steps_but_for_the_gradient(reason):
    change, _ = SICK[reason]
    logs = 2 if "gradient" in reason else 1  # it is logged as it was in the last of the ten
    with pytest.raises(guards.Stopped, match=f"^step {10 + 10 * logs}: .*{reason}"):
        follow(guards.Guards(patience=5), HEALTHY, *[HEALTHY | change] * 5, every=10)


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
    follow(
        guards.Guards(patience=2), {"loss": 0.0, "grad_norm": 0.0}
    )  # one batch without a gradient


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
    built.add_callback(guards.Guards(patience=3, groups=0))
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
    built.add_callback(guards.Guards(patience=2, clipped_ratio=2.0))
    with pytest.raises(guards.Stopped, match="^step [23]: .*the entropy has collapsed to 0 nats"):
        built.train()


def test_frozen_gradients_stop_a_real_sft_run(tmp_path):
    built = killed_run.build("sft", tmp_path, save_strategy="no", max_steps=8)
    for param in built.model.parameters():
        param.register_hook(torch.zeros_like)
    built.add_callback(guards.Guards(patience=3))
    with pytest.raises(guards.Stopped, match="^step 3: the gradient is exactly zero"):
        built.train()


def test_weights_that_did_not_move_are_named_at_the_end(tmp_path):
    said = []
    built = killed_run.build("sft", tmp_path, save_strategy="no", max_steps=3, weight_decay=0.0)
    stuck = {n: p for n, p in built.model.named_parameters() if "layers.0.self_attn.q_proj" in n}
    for param in stuck.values():
        param.register_hook(torch.zeros_like)
    built.add_callback(guards.Guards(say=said.append))
    built.train()
    (line,) = said
    assert line.startswith(f"{len(stuck)} of ") and "in 3 steps" in line
    assert all(name in line for name in stuck)

    said.clear()
    built = killed_run.build("sft", tmp_path, save_strategy="no", max_steps=3)
    built.add_callback(guards.Guards(say=said.append))
    built.train()
    assert said == []


def test_updates_that_round_to_nothing_are_named(tmp_path):
    said = []
    built = killed_run.build("sft", tmp_path, save_strategy="no", max_steps=3, learning_rate=1e-7,
                             weight_decay=0.0)  # fmt: skip
    built.model.to(torch.bfloat16)
    built.add_callback(guards.Guards(say=said.append))
    built.train()
    assert len(said) == 1 and "2^-8" in said[0]


def test_a_lora_b_that_is_still_zero_has_not_moved():
    layer = torch.nn.Module()
    layer.lora_A, layer.lora_B = torch.nn.ModuleDict(), torch.nn.ModuleDict()
    layer.lora_A["default"], layer.lora_B["default"] = torch.nn.Linear(4, 2), torch.nn.Linear(2, 4)
    model = torch.nn.ModuleDict({"proj": layer})
    torch.nn.init.zeros_(layer.lora_B["default"].weight)
    before = guards.fingerprints(model)
    with torch.no_grad():
        for name, param in model.named_parameters():
            param.add_(0 if "lora_B.default.weight" in name else 0.1)
    assert guards.unmoved(model, before) == ["proj.lora_B.default.weight"]
    with torch.no_grad():
        layer.lora_B["default"].weight.fill_(-0.0)  # other bits, still nothing
    assert guards.unmoved(model, before) == ["proj.lora_B.default.weight"]


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


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A checkpoint at the last step of a run under Guards."""
    folder = tmp_path_factory.mktemp("guarded")
    built = killed_run.build("sft", folder)
    built.add_callback(guards.Guards())
    built.train()
    return folder


def test_a_resume_of_the_same_run_says_nothing_but_that_nothing_is_left(guarded):
    said = []
    guards.resume(killed_run.build("sft", guarded, save_strategy="no"), say=said.append)
    assert [line.partition(":")[0] for line in said] == [
        "resuming from checkpoint-6",
        "nothing left to train",
    ]
    assert "raise max_steps" in said[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 7}, "seed was 3, is 7: the order of the rows"),
        ({"per_device_train_batch_size": 3}, "per_device_train_batch_size was "),
        (
            {"gradient_accumulation_steps": 2},
            "gradient_accumulation_steps was 1, is 2: steps already",
        ),
        ({"lr_scheduler_type": "cosine"}, "lr_scheduler_type was "),
        ({"weight_decay": 0.3}, "weight_decay was 0.0, is 0.3: the new value holds"),
    ],
)
def test_a_resume_says_what_changed(guarded, change, said, capsys):
    guards.resume(killed_run.build("sft", guarded, save_strategy="no", **change))
    assert said in capsys.readouterr().out


def test_a_resume_on_other_data_says_so(guarded, capsys):
    built = killed_run.build("sft", guarded, save_strategy="no")
    built.train_dataset = built.train_dataset.select(range(1, len(built.train_dataset)))
    guards.resume(built)
    assert "the data changed" in capsys.readouterr().out


def test_another_optimizer_is_refused_in_clear_words(guarded):
    built = killed_run.build("sft", guarded, save_strategy="no", optim="adafactor")
    with pytest.raises(
        ValueError, match=r"checkpoint-\d+ has optimizer adamw\w*, this run adafactor"
    ):
        guards.resume(built)


def test_another_rank_is_refused_in_clear_words(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RUNS", str(tmp_path))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    killed_run.build_qlora("dpo", tmp_path / "dpo", max_steps=2, save_steps=2).train()
    again = killed_run.build_qlora("dpo", tmp_path / "dpo", max_steps=4)
    again.model.peft_config["default"].r = 16
    with pytest.raises(ValueError, match=r"checkpoint-2 has LoRA rank \d+, this run 16"):
        guards.resume(again)


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
