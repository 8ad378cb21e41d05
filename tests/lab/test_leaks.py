"""Reward hacking, live: what is paid, what is right, and what a run under a reward shows of both."""

import matplotlib
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from lab import intervals, leaks, plots, ready, recipes

RIGHT = "<think>7+8=15,1+3+1=05</think>\n<answer>55</answer>"
WRONG = "<think>7+8=15,1+3+1=04</think>\n<answer>45</answer>"
LINES = "<think>ones: 7+8=15\ntens: 1+3+1=05</think>\n<answer>55</answer>"
BOTH = "<think>7+8=15,1+3+1=04</think>\n<answer>45 or 55</answer>"
FOUR = leaks.as_chats([RIGHT, WRONG, LINES, BOTH])


@pytest.mark.parametrize(
    ("rewards", "paid", "leaked"),
    [
        (leaks.KIT, [2.0, 1.0, 2.0, 1.0], 0),
        (
            leaks.NAIVE,
            [2.0, 2.0, 1.0, 2.0],
            2,
        ),  # every answer is right, several lines are no format
        ([leaks.gold_anywhere], [1.0, 0.0, 1.0, 1.0], 1),
    ],
    ids=["kit", "naive", "anywhere"],
)
def test_what_each_reward_pays_and_what_leaks(rewards, paid, leaked):
    told = leaks.judge(rewards, FOUR, ["55"] * 4)
    assert told["paid"] == paid and told["leaks"] == leaked
    assert told["is_right"] == [True, False, True, False] and told["right"] == 0.5
    assert told["proxy"] == sum(paid) / 4 == sum(told["each"])


def test_a_reward_of_none_counts_as_nothing():
    assert leaks.judge([lambda **columns: [None] * 4], FOUR, ["55"] * 4)["paid"] == [0.0] * 4


def test_the_recipe_is_that_of_grpo_from_sft_with_fewer_steps():
    ours, grpo = leaks.recipe(40), recipes.load("grpo", "tiny")
    changed = {key for key in grpo["args"] if ours["args"][key] != grpo["args"][key]}
    assert ours["start_from"] == "sft" and changed == {"max_steps", "use_vllm"}
    assert {k: ours[k] for k in ours if k not in ("args", "start_from")} == {
        k: grpo[k] for k in grpo if k not in ("args", "start_from")
    }


@pytest.fixture
def stages(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RUNS", str(tmp_path))
    monkeypatch.setenv("LAB_PROFILE", "tiny")
    ready.restore("sft")


def test_a_run_is_measured_where_it_is_asked_and_sees_its_own_samples(stages):
    small = {"per_device_train_batch_size": 16, "steps_per_generation": 1, "warmup_steps": 0}

    def pays_all(
        completions, **_
    ):  # so every wrong sample leaks, and the SFT stage has some of them
        return [1.0] * len(completions)

    rows = leaks.watch([pays_all], steps=(0, 2), n=12, **small)
    assert [(row["step"], row["temperature"]) for row in rows] == [
        (0, 1.0),
        (0, 0.0),
        (2, 1.0),
        (2, 0.0),
    ]
    assert [row["sampled"] for row in rows] == [0, 0, 32, 32]  # 2 generations of 16
    assert 0 < rows[-1]["leaked"] < 32 and rows[0]["leaked"] == 0
    assert all(len(row["texts"]) == len(row["paid"]) == 12 for row in rows)
    assert all(row["proxy"] == 1 and row["leaks"] == 12 - sum(row["is_right"]) for row in rows)
    assert leaks.at(rows, 2, 0.0) is rows[3]


def made_up(*points):
    """The rows of a run with these (step, proxy, right)."""
    return [
        {"step": step, "temperature": t, "proxy": proxy, "right": right, "texts": ["a"] * 10}
        | {"is_right": [True] * round(10 * right) + [False] * round(10 - 10 * right), "leaks": 3}
        for step, proxy, right in points
        for t in leaks.TEMPERATURES
    ]


def test_a_table_has_a_row_for_each_step_with_wilsons_interval():
    table = leaks.summary(made_up((0, 1.5, 0.5), (20, 2.0, 0.0)), 2)
    assert [row["step"] for row in table] == [0, 20]
    assert table[0]["right, temperature 1"] == "50% [24%, 76%]"  # Wilson's of 5 in 10
    assert table[1]["proxy"] == "2.00 of 2" and table[1]["paid in full though wrong"] == 3


def test_the_picture_can_be_read_without_colour_and_without_eyes(capsys, monkeypatch):
    figures = []
    monkeypatch.setattr(plots.plt, "close", figures.append)
    runs = {"naive": (made_up((0, 1.5, 0.6), (20, 2.0, 0.1)), 2)}
    runs["kit"] = (made_up((0, 1.6, 0.6), (20, 1.8, 0.9)), 2)
    leaks.draw(runs, "They part")
    said = capsys.readouterr().out
    assert "They part" in said and "naive, proxy, share of its maximum: 75%, 100%" in said
    assert "kit, right, temperature 1: 60%, 90%" in said
    figure = figures[0]
    for ax in figure.axes:
        assert len({(line.get_marker(), line.get_linestyle()) for line in ax.lines}) == 3
        texts = [*ax.get_xticklabels(), *ax.get_yticklabels(), ax.xaxis.label]
        texts += figure.legends[0].get_texts()
        assert min(text.get_fontsize() for text in texts) >= 8
    monkeypatch.undo()
    plt.close("all")


def test_in_a_notebook_a_picture_carries_its_words(monkeypatch):
    shown = []
    monkeypatch.setitem(plots.sys.modules, "ipykernel", plots)
    monkeypatch.setattr("IPython.display.display", shown.append)
    plots.show_with_alt(plt.figure(), 'a "text" of it')
    assert 'alt="a &quot;text&quot; of it"' in shown[0].data
    assert "data:image/png;base64," in shown[0].data and not plt.get_fignums()


def test_the_kept_runs_say_what_the_lesson_says_of_them():
    """The sentences of sections 6 and 7: each could be false of the kept figures."""
    kept = leaks.measured()
    by = {(run["rewards"], run["seed"]): run for run in kept["runs"]}
    naive, kit, third = (
        [by[name, seed] for seed in range(3)]
        for name in ("naive", "the kit's", "the gold anywhere")
    )
    right = {
        id(run): [leaks.at(run["rows"], step)["right"] for step in leaks.STEPS]
        for run in kept["runs"]
    }
    for mine, ours in zip(
        third, kit
    ):  # no price of the third reward: below, and the intervals overlap
        a, b = right[id(mine)][-1], right[id(ours)][-1]
        assert (
            a < b
            and intervals.wilson(round(200 * a), 200)[1] > intervals.wilson(round(200 * b), 200)[0]
        )
    # what lesson 13 says of the kit's rewards after 20 steps of 128 completions
    assert all(0.73 < right[id(run)][1] < 0.81 for run in kit)
    turned = [right[id(run)][2] > right[id(run)][1] + 0.05 for run in naive]  # no straight fall
    assert turned == [False, False, True]
    assert all(run["leaked"] > 0.5 for run in naive) and not any(run["leaked"] for run in kit)
    assert all(0 < run["leaked"] < 0.05 for run in third)
    assert sorted(run["seed"] for run in kept["longer"]) == [0, 1, 2]
    assert {run["rows"][-1]["step"] for run in kept["longer"]} == {leaks.LONGER[-1]}


def test_a_table_has_one_line_per_reward_and_its_seeds_in_order():
    rows = [
        {"step": step, "temperature": t, "proxy": 1.0 + step, "right": share}
        | {"leaks": 1, "leaked": 1, "sampled": 8, "texts": ["a"] * 4}
        for step, share in zip((0, 2, 4), (0.5, 0.25, 0.125))
        for t in leaks.TEMPERATURES
    ]
    kept = [leaks.kept_of("one", seed, rows) for seed in (3, 1)]
    assert (
        kept[0]["leaked"] == 0.125
        and kept[0]["leaks"] == 0.25
        and "texts" not in kept[0]["rows"][0]
    )
    (line,) = leaks.table(kept)
    assert line["seeds"] == "1, 3" and line["proxy, step 4"] == "5.00, 5.00"
    assert (
        line["right at 0, step 2"] == "25%, 25%" and line["own samples that leak"] == "12.5%, 12.5%"
    )
