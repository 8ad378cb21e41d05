"""The clinic: what each number says of a run, on runs of two steps and on made-up logs."""

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from lab import clinic, health, model, plots, ready, tasks


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_RUNS", str(tmp_path_factory.mktemp("runs")))
        patch.setenv("LAB_PROFILE", "tiny")
        short = {stage: args | {"max_steps": 2} for stage, args in clinic.SHORT.items()}
        patch.setattr(clinic, "SHORT", short)
        clinic.run.cache_clear()
        ready.restore("sft")
        yield
    clinic.run.cache_clear()


def test_a_letter_that_is_no_case_names_those_that_are():
    for side in (clinic.broken, clinic.cured):
        with pytest.raises(ValueError, match="no case 'K'.*A, B, C, D, E, F, G, H, I, J"):
            side("K")


def test_every_case_says_what_it_measures():
    assert list(clinic.CASES) == list("ABCDEFGHIJ")
    assert all(clinic.quantity(letter).endswith(".") for letter in clinic.CASES)


def test_the_kept_table_has_every_case_with_its_number_on_three_seeds():
    kept = clinic.measured()
    lines = clinic.table(kept["cases"])
    assert [line["case"] for line in lines] == list(clinic.CASES)
    assert all(len(values) == 3 for sides in kept["cases"].values() for values in sides.values())
    (line,) = clinic.table({"D": {"broken": [3.1416, 2.0], "cured": [0.104, 0.0]}})
    assert line["number"] == clinic.quantity("D")
    assert (line["broken"], line["cured"]) == ("3.1, 2", "0.1, 0")


def test_a_run_is_kept_for_the_same_arguments_and_leaves_its_start_alone(stages):
    done = clinic.run("sft", 0)
    assert done is clinic.run("sft", 0) and [entry["step"] for entry in done.log] == [1, 2]
    moved = [
        not torch.equal(a, b) for a, b in zip(done.start.parameters(), done.model.parameters())
    ]
    assert all(moved)


def test_the_trained_tokens_are_counted_as_the_collator_marks_them(stages):
    """By the lengths of prompt and row in tokens, without the spans."""
    tok, prompts, wholes = clinic.run("sft", 0).tok, 0, 0
    for title, row in clinic.run("sft", 0, completion_only_loss=False).spans:
        text = "".join(part for part, _ in row)
        prompt = text[: text.index("assistant\n") + len("assistant\n")]
        prompts, wholes = (
            prompts + len(clinic.ids(tok, prompt)),
            wholes + len(clinic.ids(tok, text)),
        )
    assert clinic.broken("A").value == pytest.approx(prompts / wholes)
    assert 0.2 < prompts / wholes < 0.6 and clinic.cured("A").value == 0


def test_the_end_of_a_turn_is_looked_for_in_what_is_trained(stages):
    assert clinic.broken("B").value == 1 and clinic.cured("B").value == 0


@pytest.mark.parametrize("letter", ["I", "J"])
def test_what_takes_no_training_is_told_apart_by_a_wide_gap(letter, stages):
    assert clinic.broken(letter).value > 0.8 and clinic.cured(letter).value < 0.1


def test_the_rows_of_case_f_have_the_golds_of_the_next_ones():
    right, shifted = clinic.ROWS["grpo"](0), clinic.shifted_rows(0)
    assert shifted["prompt"] == right["prompt"]
    assert shifted["solution"][:-1] == right["solution"][1:]


def test_log_probs_of_answers_are_those_of_the_model(stages):
    """Against one forward pass of one row, in torch."""
    done = clinic.run("sft", 0)
    a, b = clinic.questions()[0]
    prompt = clinic.chat_ids(done.tok, tasks.prompt(a, b))
    answer = clinic.ids(done.tok, clinic.answer(a, b))
    with torch.no_grad():
        logits = done.start(torch.tensor([prompt + answer])).logits[0].double()
    wanted = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(answer)[:, None])
    got = clinic.likelihood(done.start, done.tok, [prompt], [clinic.answer(a, b)])
    np.testing.assert_allclose(got, wanted[:, 0].numpy(), atol=1e-5)  # two float32 forward passes


def test_the_log_is_judged_by_its_last_entry():
    well = {"loss": 1.0, "grad_norm": 1.0}
    assert clinic.named_by_the_log([well | {"grad_norm": 0.0}, well]) == []
    assert clinic.named_by_the_log([well, well | {"grad_norm": 0.0}]) == ["no gradient"]
    assert clinic.named_by_the_log([well | {health.CLIPPED: 1.0, "reward": 0.5}]) == ["cut off"]
    assert clinic.named_by_the_log([]) == []


def test_the_sheet_can_be_read_without_colour_and_without_eyes(capsys, monkeypatch):
    figures = []
    monkeypatch.setattr(plots.plt, "close", figures.append)
    finding = clinic.Finding(1.0, {"loss": 2.0}, [])
    clinic.sheet({k: (finding, finding._replace(value=0.0)) for k in "AC"}, "They part")
    said = capsys.readouterr().out
    assert said.startswith("They part. A, ") and said.count("Broken 1, cured 0.") == 2
    for ax in figures[0].axes:
        assert len({patch.get_hatch() for patch in ax.patches}) == 2
        assert min(text.get_fontsize() for text in [*ax.texts, *ax.get_xticklabels()]) >= 8
    monkeypatch.undo()
    plt.close("all")


def test_a_case_is_shown_with_what_the_log_says(capsys):
    sick = clinic.Finding(1.0, {"reward": 2.0}, [{"loss": 0.0, "grad_norm": 0.0}])
    clinic.compare("E", sick, sick._replace(value=0.0, log=[{"loss": 0.1, "grad_norm": 0.5}]))
    said = capsys.readouterr().out
    assert "no gradient" in said and "nothing" in said


def test_the_template_of_case_b_differs_in_the_end_of_an_answer_alone():
    end = "<|im_end|>{% endgeneration %}"
    assert model.CHAT_TEMPLATE.count(end) == 1  # what the case, and the lesson, replaces
