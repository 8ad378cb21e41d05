"""lab.doctor: it says `ready` here, and names each fault of a machine that is not."""

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from lab import doctor, hub, install, recipes
from transformers import Qwen2Config


def verdict(check):
    [line] = doctor.examine([check])
    return line.verdict, line.said


def with_card(monkeypatch, name="Tesla T4", gib=14.7, capability=(7, 5)):
    card = SimpleNamespace(name=name, total_memory=int(gib * 2**30))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)


def test_this_machine_is_ready_and_the_command_says_so():
    done = subprocess.run(
        [sys.executable, "-m", "lab.doctor"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().endswith("Ready.")
    for check in ("Python", "packages", "processor", "memory", "disk", "GPU", "profile", "stages"):
        assert re.search(rf"^(ok|note) +{check} ", done.stdout, re.MULTILINE), check


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ({}, "Tesla T4, 15 GiB, computes in float16"),
        ({"name": "NVIDIA L4", "gib": 22, "capability": (8, 9)}, "22 GiB, computes in bfloat16"),
        (
            {"name": "NVIDIA A100", "gib": 39.6, "capability": (8, 0)},
            "40 GiB, computes in bfloat16",
        ),
    ],
)
def test_a_card_is_named_with_what_it_computes_in(monkeypatch, card, said):
    with_card(monkeypatch, **card)
    assert said in verdict(doctor.gpu)[1]


@pytest.mark.parametrize(
    ("script", "said"),
    [("echo 580.82.07; echo 580.82.07", "580.82.07"), ("exit 9", "unknown"), ("", "unknown")],
    ids=["two cards", "no answer", "nothing said"],
)
def test_the_driver_is_what_nvidia_smi_says(monkeypatch, tmp_path, script, said):
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\n{script}\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with_card(monkeypatch)
    assert verdict(doctor.gpu)[1].endswith(f"computes in float16, driver {said}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(install, "device", lambda: "cuda")
    assert f"an NVIDIA driver is here ({said})" in verdict(doctor.gpu)[1]


def test_a_card_that_torch_does_not_see_is_a_problem(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(install, "device", lambda: "cuda")
    found, said = verdict(doctor.gpu)
    assert found == doctor.PROBLEM and "Way out" in said


def test_a_full_disk_and_a_small_memory_are_problems(monkeypatch):
    monkeypatch.setattr(install, "free_disk_gb", lambda folder: 0.4)
    found, said = verdict(doctor.disk)
    assert found == doctor.PROBLEM and "LAB_RUNS" in said
    monkeypatch.setattr(install, "memory_gb", lambda: 3.0)
    assert verdict(doctor.memory_of_the_machine)[0] == doctor.PROBLEM
    monkeypatch.setattr(install, "memory_gb", lambda: None)
    assert verdict(doctor.memory_of_the_machine)[0] == doctor.NOTE


def test_another_version_than_tested_is_a_note(monkeypatch):
    monkeypatch.setattr(doctor.runs, "versions", lambda: {"trl": "0.1", "python": "3.11"})
    found, said = verdict(doctor.packages)
    assert found == doctor.NOTE and "trl 0.1 (tested: " in said


def test_no_hub_is_a_problem_for_a_gpu_profile_alone(monkeypatch):
    assert verdict(doctor.hub) == (doctor.OK, "not needed")
    monkeypatch.setenv("LAB_PROFILE", "t4")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert verdict(doctor.hub)[0] == doctor.NOTE
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.get_session", lambda: 1 / 0)
    found, said = verdict(doctor.hub)
    assert found == doctor.PROBLEM and "ZeroDivisionError" in said and "LAB_PROFILE=tiny" in said


def test_a_batch_that_does_not_fit_the_card_is_named(monkeypatch):
    shape = {"vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864}
    shape |= {"num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2}
    half_a_billion = Qwen2Config(**shape, tie_word_embeddings=True)
    with_card(monkeypatch)
    monkeypatch.setenv("LAB_PROFILE", "t4")
    monkeypatch.setattr(hub, "snapshot", lambda model, revision, files: model)
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", lambda _: half_a_billion)
    assert verdict(doctor.room)[0] == doctor.OK
    with_card(monkeypatch, gib=1.5)
    found, said = verdict(doctor.room)
    assert found == doctor.PROBLEM and "per_device_train_batch_size of grpo" in said


def test_a_check_that_fails_is_a_problem_and_stops_nothing(monkeypatch):
    monkeypatch.setattr(recipes, "load", lambda *_: {}["stage"])
    monkeypatch.setenv("LAB_PROFILE", "tpu")
    lines = doctor.examine([doctor.stages, doctor.profile, doctor.python])
    assert [line.verdict for line in lines] == [doctor.PROBLEM, doctor.PROBLEM, doctor.OK]
    assert "expected one of" in lines[1].said
    assert doctor.text(lines).endswith("2 to mend first.")
