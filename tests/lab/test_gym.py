"""reasoning-gym through the kit: loaded by name, split apart, validated, scored and trained on."""

import importlib.util

import pytest
from lab import evaluate, gym, loaders, model, recipes, train, validate, verified

import rewards.gym

TASKS = (
    *("chain_sum", "basic_arithmetic", "leg_counting", "number_sorting", "spell_backward"),
    *("syllogism", "calendar_arithmetic", "word_sorting", "mini_sudoku", "simple_equations"),
)
installed = pytest.mark.usefixtures("_package")


@pytest.fixture
def _package():
    if (
        importlib.util.find_spec(rewards.gym.PACKAGE) is None
    ):  # to import it here takes all that its tasks need
        pytest.skip("reasoning-gym is not installed")


def questions(rows):
    return {row["prompt"][-1]["content"] for row in rows}


@installed
@pytest.mark.parametrize("task", TASKS)
def test_a_task_loads_in_two_splits_that_share_nothing_and_validate_accepts_it(task):
    name = f"reasoning-gym/{task}"
    train_on = loaders.load(name, "grpo", n=12)
    held_out = loaders.load(name, "grpo", split="test", n=12)
    assert not questions(train_on) & questions(held_out)
    assert len(questions(train_on)) == len(questions(held_out)) == 12
    again = loaders.load(name, "grpo", n=12)
    assert again[:] == train_on[:] and questions(loaders.load(name, n=12, seed=1)) != questions(again)  # fmt: skip
    unverifiable = verified.of(name).why_unverifiable
    report = validate.validate(train_on, "grpo", model.tokenizer(), 8192, unverifiable=unverifiable)
    assert report["rows"] == 12 and report["unverifiable"] == 0
    assert train_on[0]["prompt"][0]["content"] == loaders.SYSTEM


@installed
def test_a_small_task_that_has_no_more_problems_says_how_many():
    with pytest.raises(ValueError, match="300 different problems asked for, and the train split"):
        loaders.load("reasoning-gym/coin_flip", n=300, min_trials=2, max_trials=2)


@installed
@pytest.mark.parametrize(("stage", "split"), [("sft", "train"), ("grpo", "dev")])
def test_another_stage_or_split_is_an_error(stage, split):
    with pytest.raises(ValueError, match=f"none for {stage}|split is '{split}'"):
        loaders.load("reasoning-gym/chain_sum", stage, split=split)


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(rewards.gym, "PACKAGE", "no_such_package")
    with pytest.raises(ValueError, match="not installed. Way out: make model .*--no-deps") as error:
        loaders.load("reasoning-gym/chain_sum", n=3)
    assert "\n" not in str(error.value)


def test_the_last_line_is_what_counts_leniently():
    assert gym.last_line("") == "" and "<answer>b</answer>" in gym.last_line("a\nb\n ")


RECIPE = {
    "evaluate": {"name": "reasoning-gym/chain_sum", "split": "test", "n": 6, "pass_n": 2, "k": 2}
    | {"max_new_tokens": 8, "options": {"max_terms": 3}},
    "data": {"name": "reasoning-gym/chain_sum", "options": {"n": 8, "max_terms": 3}},
}


@installed
@pytest.mark.slow
def test_a_recipe_of_any_profile_trains_on_it_and_is_scored_on_it(tmp_path, monkeypatch):
    """A step of GRPO from an untrained model, and the scores that its manifest keeps."""
    monkeypatch.setenv("LAB_RUNS", str(tmp_path))
    small = {
        "max_steps": 1,
        "logging_steps": 1,
        "use_vllm": False,
        "per_device_train_batch_size": 8,
    }
    small |= {"gradient_accumulation_steps": 1, "steps_per_generation": 1, "num_generations": 4}
    own = recipes.load("grpo", "tiny")
    args = own["args"] | small | {"max_completion_length": 60, "vllm_max_model_length": 512}
    base = model.save_untrained(tmp_path / "base")
    recipe = own | RECIPE | {"args": args, "model": str(base), "start_from": ""}
    recipe |= {"lora": recipes.load("sft", "tiny")["lora"]}
    recipes.check(recipe, "a recipe")
    built = train.trainer(recipe)
    manifest = train.run(built, recipe)
    logged = [entry for entry in built.state.log_history if "gym/scorer_failed" in entry]
    assert len(logged) == 1 and manifest["heldout_n"] == 6 and manifest["pass_n"] == 2
    assert {"heldout_ci95", "lenient_accuracy", "greedy_ci95", "pass_at_k"} <= set(manifest)
    assert manifest["heldout_hash"] == evaluate.rows_hash(evaluate.heldout(recipe))
