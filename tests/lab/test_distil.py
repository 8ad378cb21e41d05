"""Four ways to learn from a teacher or a verifier: who writes the answers, what is said of them, what is counted."""

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from lab import distil, plots, ready, tasks

from reference_math import gkd

SLIP = "<think>7+8=15,1+3+1=04</think>\n<answer>45</answer>"  # of 17 + 38: the carry is not added


@pytest.fixture(scope="module", autouse=True)
def stages(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_RUNS", str(tmp_path_factory.mktemp("runs")))
        patch.setenv("LAB_PROFILE", "tiny")
        ready.restore("grpo", say=lambda line: None)
        yield


@pytest.fixture(scope="module")
def teacher(stages):
    return distil.finished("grpo")[0]


@pytest.fixture(scope="module")
def student(stages):
    return distil.student()


def batch_of(built):
    return built._prepare_inputs(next(iter(built.get_train_dataloader())))


def styles(built, tok):
    texts = tok.batch_decode(batch_of(built)["completion_ids"], skip_special_tokens=True)
    return np.mean([tasks.style_of(text) == tasks.PREFERRED for text in texts])


@pytest.mark.parametrize(
    ("way", "low", "high"),
    [("on-policy distillation", 0.25, 0.75), ("off-policy distillation", 0.9, 1)],
)
def test_who_writes_the_answers_is_told_by_their_style(way, low, high, student, teacher):
    """The SFT stage writes both styles in equal parts, its teacher the terse one."""
    built = distil.trainer(way, *student, teacher, steps=1)
    assert low <= styles(built, student[1]) <= high
    assert len(built.sampled) == distil.BATCH and all(10 < n <= distil.ROOM for n in built.sampled)
    assert built.model_wrapped is built.model


def test_the_loss_of_a_batch_is_that_of_the_reference(student, teacher):
    built = distil.trainer("on-policy distillation", *student, teacher, steps=1)
    batch = batch_of(built)
    logits = [distil.logits_of(model, batch) for model in (built.model, teacher)]
    for built.beta in (0.0, 0.5, 1.0):
        theirs = built.compute_loss(built.model, batch).item()
        ours = gkd.loss(*logits, batch["completion_mask"].numpy(), beta=built.beta)
        assert ours > 0.01
        # float32 logits are known to some 1e-6 and the loss is a difference of their logs: 1e-5 of it, times 10
        assert theirs == pytest.approx(ours, rel=1e-4)


def test_a_fresh_adapter_changes_nothing_yet_and_has_the_rank_asked_for(student):
    policy, tok = distil.student(seed=1, r=2)
    tokens, batch = distil.one_answer(policy, tok, 17, 38, SLIP)
    np.testing.assert_array_equal(
        distil.logits_of(policy, batch), distil.logits_of(distil.finished("sft")[0], batch)
    )
    ranks = {p.shape[0] for name, p in policy.named_parameters() if "lora_A" in name}
    assert ranks == {2} and "".join(tokens) == SLIP + tok.eos_token


def test_the_teacher_points_at_the_token_where_the_carry_is_missing(student, teacher):
    policy, tok = student
    tokens, batch = distil.one_answer(policy, tok, 17, 38, SLIP)
    logits = [distil.logits_of(model, batch) for model in (policy, teacher)]
    said = gkd.divergence(*logits, beta=1.0)[0]
    wrong = [i for i, token in enumerate(tokens) if token == "="][1] + 2
    assert tokens[wrong] == "4" and said[wrong] > 1.0
    assert sorted(said)[-3] < said[wrong]  # among the two largest: the style is the other


def test_sft_trains_on_the_teachers_answers_and_grpo_on_its_own_with_as_many_of_them(
    student, teacher
):
    sft = distil.trainer("SFT", *student, teacher, steps=1)
    labels = next(iter(sft.get_train_dataloader()))["labels"]
    assert len(labels) == distil.BATCH == len(sft.sampled)
    # each trained row: the answer, its end, and the template's line break
    assert (labels != -100).sum() == sum(sft.sampled) + distil.BATCH
    grpo = distil.trainer("GRPO", *student, steps=1)
    assert grpo.args.per_device_train_batch_size == distil.BATCH
    assert grpo.args.num_generations == distil.GROUP and grpo.beta == 0.0
    grpo.train()
    assert len(grpo.sampled) == distil.BATCH
    with pytest.raises(ValueError, match="way: GKD"):
        distil.trainer("GKD", *student, teacher)


def test_a_run_is_measured_where_it_is_asked(stages):
    points = distil.learn("on-policy distillation", steps=(0, 1, 2), n=12)
    assert [p.step for p in points] == [0, 1, 2]
    assert [p.completions for p in points] == [0, distil.BATCH, 2 * distil.BATCH]
    assert points[0].tokens == 0 < points[1].tokens < points[2].tokens < 40 * 2 * distil.BATCH
    assert all(len(p.right[t]) == len(p.carry) == 12 for p in points for t in (1.0, 0.0))


def made_up(*shares):
    """Points of a run with these shares of right answers among 10, of which the first half carry."""
    return [
        distil.Point(
            10 * i,
            640 * i,
            16000 * i,
            {t: [True] * round(10 * s) + [False] * round(10 - 10 * s) for t in (1.0, 0.0)},
            [True] * 5 + [False] * 5,
            0.5,
        )
        for i, s in enumerate(shares)
    ]


def test_a_line_of_a_table_has_wilsons_intervals_and_parts_the_carries():
    point = made_up(0.5)[0]
    shown = distil.row("a run", point)
    assert shown["right, temperature 1"] == "50% [24%, 76%]"  # Wilson's of 5 in 10
    assert shown["with a carry, temperature 0"] == "100% [57%, 100%]"
    assert (point.share(0.0), point.share(0.0, True), point.share(0.0, False)) == (0.5, 1.0, 0.0)


def test_what_a_stage_cost_is_read_off_its_recipe():
    costs = [distil.completions_for(stage) for stage in ("sft", "dpo", "grpo")]
    assert costs == [0, 800 * 4, 150 * 128]


def test_the_picture_can_be_read_without_colour_and_without_eyes(capsys, monkeypatch):
    figures = []
    monkeypatch.setattr(plots.plt, "close", figures.append)
    ways = {"on-policy": made_up(0.5, 0.9), "GRPO": made_up(0.5, 0.6)}
    distil.draw(ways, made_up(1.0)[0], "They part")
    said = capsys.readouterr().out
    assert "on-policy, temperature 1: 50% after 0, 90% after 640" in said
    assert "They part" in said and "the teacher: 100%, 100%" in said
    for ax in figures[0].axes:
        assert len({line.get_marker() for line in ax.lines}) == 3
        texts = [*ax.get_xticklabels(), *ax.get_yticklabels(), ax.xaxis.label]
        texts += figures[0].legends[0].get_texts()
        assert min(text.get_fontsize() for text in texts) >= 8
    monkeypatch.undo()
    plt.close("all")


def test_the_kept_runs_say_what_the_lesson_says_of_them():
    """The sentences of sections 5 to 8: each could be false of the kept figures."""
    kept = distil.on_seeds()
    several = [run for run in kept["runs"] if distil.usual(run)]
    by = {(run["run"], run["seed"]): run for run in several}
    assert len(by) == len(several) == 3 * len(distil.RUNS)
    teacher = next(s for s in kept["stages"] if (s["chain"], s["stage"]) == (0, "grpo"))
    taught = list(distil.RUNS)[:4]  # by the teacher that is right
    for seed in range(3):
        grpo, rank_2, blind = (
            by[name, seed]
            for name in ("GRPO", "an adapter of rank 2", "a teacher without the carry")
        )
        hot = np.array([by[name, seed]["right"]["1"] for name in taught])
        assert np.ptp(hot[:, 1:], axis=0).max() < 0.04  # whose answers they are
        assert np.abs(hot[0] - hot[1]).max() < 0.04  # the direction of the KL
        assert grpo["right"]["1"][1] < hot[:, 1].min() - 0.02  # as many completions
        assert (
            hot[:, 1].max() - 0.06 < grpo["right"]["1"][2] < hot[:, 1].max() + 0.02
        )  # twice as many
        assert hot.max() < teacher["right"]["1"] - 0.05
        assert rank_2["right"]["1"][2] > hot[:, 2].min() - 0.04 and rank_2["terse"][1] < 0.85
        assert min(by[name, seed]["terse"][1] for name in taught) > 0.95
        assert 0.4 < grpo["terse"][1] < 0.6 and blind["terse"][1] > 0.95
        assert blind["carry"][2] < 0.3
        assert min(by[name, seed]["carry"][1] for name in [*taught, "GRPO"]) > 0.85


def test_on_other_chains_the_student_is_ahead_at_temperature_1_and_both_mend_the_carry():
    runs = [run for run in distil.on_seeds()["runs"] if run["chain"]]
    by = {(run["chain"], run["run"]): run["right"] for run in runs}
    for chain in (1, 2):
        student, grpo = (by[chain, name] for name in ("on-policy distillation", "GRPO"))
        assert all(a > b + 0.03 for a, b in zip(student["1"], grpo["1"], strict=True))
        assert min(student["0"][1:] + grpo["0"][1:]) > 0.93


def test_no_other_rate_that_was_tried_served_a_way_clearly_better():
    rows = [run for run in distil.on_seeds()["runs"] if not run["chain"] and not run["seed"]]
    rates = {(run["run"], run["rate"]): np.array(run["right"]["1"]) for run in rows}
    ways = ["on-policy distillation", "off-policy distillation", "SFT on the teacher's answers"]
    for name in [*ways, "GRPO"]:
        one, two, four = (rates[name, rate] for rate in (1e-3, 2e-3, 4e-3))
        usual = one if name == "GRPO" else two
        assert usual.mean() > max(one.mean(), two.mean(), four.mean()) - 0.03
        if name != "GRPO":  # slower at first, and then where the other is
            assert one[0] < two[0] - 0.1 and np.abs(one - two)[1:].max() < 0.04
    assert max(rates["GRPO", 4e-3][1:]) < 0.53  # the SFT stage has 0.58


def test_a_table_has_a_line_for_each_run_and_rate_and_its_seeds_in_order():
    runs = [
        distil.kept_of("GRPO", 0, seed, 1e-3, made_up(0.1, share, 0.9))
        for seed, share in ((0, 0.4), (1, 0.6))
    ]
    (line,) = distil.table(runs)
    assert line["rate"] == "0.001" and line["right at 1, 640"] == "40%, 60%"
    assert line["right at 0, 1280"] == "90%, 90%" and line["terse, the last"] == "50%, 50%"
    other = [distil.kept_of("GRPO", 0, 0, 4e-4, made_up(0.1, 0.2)), *runs]
    assert [line["rate"] for line in distil.table(other)] == ["0.0004", "0.001"]
    assert distil.usual(runs[0]) and not distil.usual(runs[0] | {"rate": 2e-3})
    assert not distil.usual(runs[0] | {"chain": 1})
