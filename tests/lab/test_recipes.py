"""Every recipe of the kit is one that TRL, PEFT and bitsandbytes take as it stands."""

import re
from types import SimpleNamespace

import pytest
import torch
import yaml
from lab import memory, recipes, sources, spread, train
from peft import LoraConfig
from transformers import BitsAndBytesConfig
from trl import SFTConfig

TRAINED = [stage for stage in recipes.STAGES if stage != "base"]
ALL = [(stage, profile) for stage in TRAINED for profile in recipes.PROFILES]
HALF_A_BILLION = spread.MODELS["0.5B"]
BASES = [("base", profile) for profile in recipes.PROFILES]


@pytest.mark.parametrize(("stage", "profile"), [*BASES, *ALL])
def test_a_recipe_says_what_it_is_for(stage, profile):
    recipe = recipes.load(stage, profile)
    assert (recipe["stage"], recipe["profile"]) == (stage, profile)
    assert isinstance(recipe["seed"], int)


def test_each_file_in_the_folder_is_a_stage_and_profile_of_the_kit():
    named = {f"{stage}_{profile}.yaml" for stage, profile in [*BASES, *ALL]}
    assert {path.name for path in recipes.FOLDER.glob("*.yaml")} == named


@pytest.mark.parametrize(("stage", "profile"), ALL)
def test_trl_takes_the_args_as_they_stand(stage, profile, tmp_path):
    args = recipes.load(stage, profile)["args"]
    # This machine may have no GPU: the two switches that a config checks against the machine.
    here = {"use_cpu": True, "bf16": False, "fp16": False}
    config = train.classes(stage)[1](**args | here, output_dir=str(tmp_path), report_to=[])
    kept = {name: getattr(config, name) for name in args if name not in here}
    expected = {name: args[name] for name in kept}
    assert kept == expected


@pytest.mark.parametrize(("stage", "profile"), ALL)
def test_grpo_batches_hold_whole_groups_and_prompts_fit_the_engine(stage, profile):
    args = recipes.load(stage, profile)["args"]
    if stage == "grpo":
        generated = args["per_device_train_batch_size"] * args["steps_per_generation"]
        assert generated % args["num_generations"] == 0
        assert args["vllm_max_model_length"] > args["max_completion_length"]


@pytest.mark.parametrize(("stage", "profile"), ALL)
def test_the_other_libraries_take_their_parts(stage, profile):
    recipe = recipes.load(stage, profile)
    four = BitsAndBytesConfig(**recipe["quantization"])
    assert four.load_in_4bit and four.bnb_4bit_quant_type == "nf4"
    assert isinstance(getattr(torch, recipe.get("dtype", "float32")), torch.dtype)
    if recipes.parent(recipe) is None or recipes.parent(recipe)["stage"] == "base":
        LoraConfig(task_type="CAUSAL_LM", **recipe["lora"])


def a_card(monkeypatch, gib, capability=(8, 9)):
    card = SimpleNamespace(total_memory=int(gib * 2**30))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)


@pytest.mark.parametrize("stage", TRAINED)
def test_a_t4_computes_nowhere_in_bfloat16(stage, monkeypatch):
    a_card(monkeypatch, 14.7, (7, 5))
    recipe = recipes.load(stage, "t4")
    assert recipe["dtype"] == recipe["quantization"]["bnb_4bit_compute_dtype"] == "float16"
    assert recipe["args"]["fp16"] and not recipe["args"]["bf16"]


def rows_of_a_step(args):
    return args["per_device_train_batch_size"] * args["gradient_accumulation_steps"]


@pytest.mark.parametrize("stage", recipes.STAGES[1:])
@pytest.mark.parametrize(
    ("profile", "usual", "larger"), [("t4", 14.7, 22.2), ("a100", 39.5, 79.1)], ids=["l4", "h100"]
)
def test_a_larger_card_gets_its_own_sizes_and_the_same_rows_in_a_step(
    stage, profile, usual, larger, monkeypatch
):
    without_a_card = recipes.load(stage, profile)
    a_card(monkeypatch, usual, (7, 5) if profile == "t4" else (8, 0))
    assert recipes.load(stage, profile) == without_a_card
    a_card(monkeypatch, larger)
    args = recipes.load(stage, profile)["args"]
    assert (
        args["per_device_train_batch_size"] > without_a_card["args"]["per_device_train_batch_size"]
    )
    assert rows_of_a_step(args) == rows_of_a_step(without_a_card["args"])
    if stage == "grpo":  # one generation a step of the optimizer, of whole groups
        assert args["steps_per_generation"] == args["gradient_accumulation_steps"]
        assert args["per_device_train_batch_size"] % args["num_generations"] == 0
    recipes.known_fields(args, train.classes(stage)[1], stage)
    needs = memory.of(recipes.load(stage, profile), HALF_A_BILLION, larger * 1024)
    assert memory.fits(needs, larger * 1024)


def test_sizes_of_a_card_that_is_no_number_are_refused():
    with pytest.raises(ValueError, match="cards: 'H100' is no number of GiB"):
        recipes.sized({"cards": {"H100": {}}, "args": {}})


@pytest.mark.parametrize("stage", recipes.STAGES)
def test_an_l4_takes_the_t4_s_recipe_in_bfloat16(stage, monkeypatch):
    own = recipes.load(stage, "t4")
    a_card(monkeypatch, 22.2)
    recipe = recipes.load(stage, "t4")
    assert recipe["dtype"] == "bfloat16" and "float16'" not in str(recipe).replace("bfloat16'", "")
    if stage != "base":
        assert recipe["args"]["bf16"] and not recipe["args"]["fp16"]
        sizes = yaml.safe_load((recipes.FOLDER / f"{stage}_t4.yaml").read_text())["cards"][20]
        kept = {k: v for k, v in own["args"].items() if k not in ("bf16", "fp16", *sizes)}
        assert kept.items() <= recipe["args"].items()
    assert recipes.load(stage, "tiny").get("dtype") != "bfloat16"


@pytest.mark.parametrize("stage", recipes.STAGES)
def test_a_large_card_without_bfloat16_takes_the_a100_s_recipe_in_float16(stage, monkeypatch):
    """A V100 of 32 GiB, or an RTX 8000: vLLM refuses bfloat16 there."""
    own = recipes.load(stage, "a100")
    a_card(monkeypatch, 31.7, (7, 0))
    monkeypatch.delenv("LAB_PROFILE", raising=False)
    assert recipes.profile() == "a100"
    recipe = recipes.load(stage, "a100")
    assert recipe["dtype"] == "float16" and "bfloat16" not in str(recipe)
    if stage != "base":
        assert recipe["args"]["fp16"] and not recipe["args"]["bf16"]
        kept = {k: v for k, v in own["args"].items() if k not in ("bf16", "fp16")}
        assert kept.items() <= recipe["args"].items()


@pytest.mark.parametrize("profile", recipes.PROFILES)
def test_every_chain_begins_with_weights(profile):
    recipe, stages = recipes.load("grpo", profile), ["grpo"]
    while recipes.parent(recipe):
        recipe = recipes.parent(recipe)
        stages.insert(0, recipe["stage"])
    assert stages[-3:] == (["base", "grpo"] if profile == "instructions" else TRAINED)
    assert recipe.get("model") or recipe["stage"] == "base"


@pytest.mark.parametrize("profile", recipes.LONG)
def test_rows_of_the_hub_stay_the_same_in_training_and_in_scoring(profile):
    for stage in recipes.STAGES:
        recipe = recipes.load(stage, profile)
        data = recipe.get("data")
        pins = [data["options"]["revision"]] if data else []
        pins += [recipe["evaluate"]["revision"]]
        assert all(re.fullmatch("[0-9a-f]{40}", pin) for pin in pins)
        if data and data["name"] == recipe["evaluate"]["name"]:
            assert len(set(pins)) == 1  # train and test are of one commit, so they stay disjoint


def test_a_fingerprint_is_the_same_until_something_changes():
    assert recipes.fingerprint(recipes.load("sft", "tiny")) == recipes.fingerprint(
        recipes.load("sft", recipes.FOLDER / "sft_tiny.yaml")
    )


@pytest.mark.parametrize("profile", ["tiny", "t4"])
def test_a_fingerprint_changes_with_the_seed_and_with_the_args(profile):
    recipe = recipes.load("dpo", profile)
    other = recipe | {"args": recipe["args"] | {"max_steps": recipe["args"]["max_steps"] + 1}}
    seeds = recipes.load("dpo", profile, seed=recipe["seed"] + 1)
    assert len({recipes.fingerprint(each) for each in (recipe, other, seeds)}) == 3


def test_a_fingerprint_changes_with_the_stage_before(tmp_path, monkeypatch):
    for path in recipes.FOLDER.glob("*_tiny.yaml"):
        (tmp_path / path.name).write_text(path.read_text())
    before = [recipes.fingerprint(recipes.load(stage, "tiny")) for stage in recipes.STAGES]
    monkeypatch.setattr(recipes, "FOLDER", tmp_path)
    sft = yaml.safe_load((tmp_path / "sft_tiny.yaml").read_text())
    sft["args"]["learning_rate"] *= 2
    (tmp_path / "sft_tiny.yaml").write_text(yaml.safe_dump(sft))
    after = [recipes.fingerprint(recipes.load(stage, "tiny")) for stage in recipes.STAGES]
    assert [a == b for a, b in zip(before, after)] == [True, False, False, False]


def test_a_fingerprint_changes_with_the_code_where_a_stage_takes_minutes(monkeypatch):
    stages = [recipes.load("sft", profile) for profile in ("tiny", "laptop", "t4")]
    before = [recipes.fingerprint(recipe) for recipe in stages]
    monkeypatch.setattr(sources, "of_a_stage", lambda: "other code")
    after = [recipes.fingerprint(recipe) for recipe in stages]
    assert [a == b for a, b in zip(before, after)] == [False, True, True]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"quantisation": {}}, "quantisation: did you mean quantization?"),
        ({"data": {"nn": 3}}, "data: nn: did you mean n?"),
        ({"evaluate": {"problems": 3}}, "problems: known are k, max_new_tokens, n, name"),
        ({"seed": "1"}, "seed is '1'; expected int"),
        ({"seed": True}, "seed is True; expected int"),
        ({"data": [1]}, "data: expected `key: value` lines"),
    ],
)
def test_a_key_or_a_type_that_no_recipe_has_is_named(change, said, tmp_path):
    file = tmp_path / "sft.yaml"
    file.write_text(yaml.safe_dump(recipes.load("sft", "tiny") | change))
    with pytest.raises(ValueError, match=re.escape(said)):
        recipes.load("sft", file)


@pytest.mark.parametrize(
    ("given", "cls", "said"),
    [
        ({"learning_rat": 1.0}, SFTConfig, "did you mean learning_rate?"),
        ({"learning_rate": yaml.safe_load("2e-3")}, SFTConfig, "write a number, as in 2.0e-3"),
        ({"load_in_4bits": True}, BitsAndBytesConfig, "did you mean load_in_4bit?"),
        ({"lora_alfa": 1}, LoraConfig, "did you mean lora_alpha?"),
    ],
)
def test_a_key_that_the_library_does_not_take_is_named(given, cls, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        recipes.known_fields(given, cls, "args")
    recipes.known_fields(recipes.load("sft", "tiny")["args"], SFTConfig, "args")


@pytest.mark.parametrize(("stage", "of"), [("ppo", "tiny"), ("sft", "tpu"), ("base", "tpu")])
def test_what_is_not_there_is_an_error_that_names_what_is(stage, of):
    with pytest.raises(ValueError, match=r"no recipe .*sft_tiny\.yaml"):
        recipes.load(stage, of)


def grpo_with(mode, tmp_path, **changes):
    recipe = yaml.safe_load((recipes.FOLDER / "grpo_tiny.yaml").read_text()) | changes
    file = tmp_path / "grpo.yaml"
    file.write_text(yaml.safe_dump(recipe | {"args": recipe["args"] | {"vllm_mode": mode}}))
    return recipes.load("grpo", file)


def test_a_server_gets_the_adapter_whether_the_recipe_says_so_or_not(tmp_path):
    assert "sync" not in grpo_with("colocate", tmp_path)
    assert grpo_with("server", tmp_path)["sync"] == "adapter"
    assert grpo_with("server", tmp_path, sync="adapter")["sync"] == "adapter"
    with pytest.raises(ValueError, match="vllm_mode: server gets the adapter alone"):
        grpo_with("server", tmp_path, sync="merged")
    with pytest.raises(ValueError, match="vllm_mode: sever: did you mean server"):
        grpo_with("sever", tmp_path)


def test_a_recipe_for_another_stage_is_an_error():
    with pytest.raises(ValueError, match="is a recipe for 'sft', not for 'dpo'"):
        recipes.load("dpo", recipes.FOLDER / "sft_tiny.yaml")


def test_an_unknown_profile_of_the_machine_is_an_error(monkeypatch):
    monkeypatch.setenv("LAB_PROFILE", "tpu")
    with pytest.raises(ValueError, match="LAB_PROFILE is 'tpu'; expected one of"):
        recipes.profile()


def test_the_profile_can_be_chosen(monkeypatch):
    monkeypatch.setenv("LAB_PROFILE", "a100")
    assert recipes.profile() == "a100"
