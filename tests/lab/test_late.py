"""Late samples: exact gradients against differences, samples that are as old as asked, and TRL's own ratios."""

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from lab import gallery, late, plots, puzzles, ready

KNOWN_BY = late.features(2)
PATH = [theta[:4] for theta in late.updates("uncorrected", 0, KNOWN_BY, steps=16, lr=0.05)]
THEN, NOW = PATH[0], PATH[16]


def true_mean(weights):
    """The mean reward of the first world's policy whose weights these are, by all answers."""
    theta = late.table(weights[None], KNOWN_BY[:1])
    return np.exp(gallery.whole(theta, gallery.EVERY)) @ gallery.reward(gallery.EVERY) / 4


def test_the_mean_of_fresh_samples_is_the_slope_of_the_true_reward():
    """By central differences of the reward, which know nothing of log-probabilities or advantages."""
    p = np.exp(gallery.whole(THEN, gallery.EVERY)) / 4
    at, step = np.zeros((late.SHARED, 4)), 1e-5
    for way in late.WAYS:
        mean = (p @ late.gradients(way, THEN, THEN, KNOWN_BY[0])).reshape(at.shape)
        for i, v in ((0, 0), (3, 1), (7, 3)):
            to = np.zeros_like(at)
            to[i, v] = step
            slope = (true_mean(at + to) - true_mean(at - to)) / (2 * step)
            assert mean[i, v] == pytest.approx(slope, rel=1e-6)  # differences err by step^2


def test_the_ratio_of_a_whole_answer_alone_has_no_bias():
    found = late.errors(NOW, THEN, KNOWN_BY[0])
    assert found["answer's ratio"]["bias"] < 1e-12
    assert min(found[way]["bias"] for way in ("uncorrected", "token ratio")) > 0.1
    for row in found.values():
        assert row["error"] == pytest.approx(np.hypot(row["bias"], row["spread"]))


def test_what_a_policy_no_longer_gives_and_the_rest_make_up_the_uncorrected_update():
    """Two answers are looked for by hand: one that it gave up, one that it came to give."""
    told = late.forgotten(NOW, THEN, KNOWN_BY[0], below=0.7)
    ratio = np.exp(gallery.whole(NOW, gallery.EVERY) - gallery.whole(THEN, gallery.EVERY))
    p = np.exp(gallery.whole(THEN, gallery.EVERY)) / 4
    assert told["late"] == pytest.approx(sum(p[i] for i in range(484) if ratio[i] < 0.7))
    assert told["fresh"] == pytest.approx(
        sum(p[i] * ratio[i] for i in range(484) if ratio[i] < 0.7)
    )
    everything = late.forgotten(NOW, THEN, KNOWN_BY[0], below=np.inf)
    assert everything["late"] == pytest.approx(1.0) and everything["rest"] == 0.0
    nothing = late.forgotten(NOW, THEN, KNOWN_BY[0], below=0.0)
    assert nothing["rest"] == pytest.approx(everything["push"]) and nothing["late"] == 0.0


def test_a_spread_is_that_of_batches_that_were_drawn():
    """20,000 answers of the sampler in batches of 32: their scatter about the mean is the exact one within 3%."""
    p = np.exp(gallery.whole(THEN, gallery.EVERY)) / 4
    each = late.gradients("token ratio", NOW, THEN, KNOWN_BY[0])
    drawn = each[np.random.default_rng(0).choice(len(p), (625, 32), p=p / p.sum())].mean(axis=1)
    scatter = np.sqrt(((drawn - p @ each) ** 2).sum(axis=1).mean())
    now = np.exp(gallery.whole(NOW, gallery.EVERY)) / 4
    truth = np.linalg.norm(now @ late.gradients("uncorrected", NOW, NOW, KNOWN_BY[0]))
    spread = late.errors(NOW, THEN, KNOWN_BY[0])["token ratio"]["spread"]
    assert scatter / truth == pytest.approx(spread, rel=0.03)


def test_a_distance_grows_with_the_updates_and_is_what_samples_are_worth():
    apart = [late.distance(NOW, PATH[16 - k]) for k in (0, 1, 4, 16)]
    assert apart[0] == {"token": 0.0, "answer": 0.0, "samples": pytest.approx(1.0)}
    for key, sign in (("token", 1), ("answer", 1), ("samples", -1)):
        assert (np.diff([sign * d[key] for d in apart]) > 0).all()
    found = gallery.sample(THEN, np.repeat(np.arange(4), 5000), np.random.default_rng(0))
    logs = gallery.logps(NOW, found), gallery.logps(THEN, found), found.completion_mask
    worth = puzzles.puzzle("14.1").answer(*logs, late.CAP)[0] / 20_000
    assert worth == pytest.approx(apart[3]["samples"], rel=0.1)  # its error is 2% with other seeds


@pytest.mark.parametrize("k", [0, 2])
def test_an_update_finds_samples_of_k_updates_before(k, monkeypatch):
    drawn, sample = [], gallery.sample
    monkeypatch.setattr(
        gallery, "sample", lambda theta, *rest: drawn.append(theta) or sample(theta, *rest)
    )
    tables = list(late.updates("uncorrected", k, KNOWN_BY, steps=5))
    assert len(tables) == 6 and all(drawn[i] is tables[max(i - k, 0)] for i in range(5))


def test_worlds_side_by_side_do_not_touch_each_other(monkeypatch):
    """The second world's samples are set to one question's only answer, which teaches nothing: it stays."""
    sample = gallery.sample

    def fixed(theta, asked, rng):
        found = sample(theta, asked, rng)
        second = found.prompts >= 4
        found.tokens[second], found.completion_mask[second] = gallery.STOP, [1, 0, 0, 0]
        return found

    monkeypatch.setattr(gallery, "sample", fixed)
    start, *_, end = late.updates("uncorrected", 0, KNOWN_BY, steps=3)
    np.testing.assert_array_equal(start[4:], end[4:])
    assert (start[:4] != end[:4]).any()


def test_without_shared_features_each_state_has_weights_of_its_own():
    assert (late.features(3, None)[2] == np.eye(late.STATES)).all()
    shared = late.features(3)
    np.testing.assert_allclose(np.linalg.norm(shared, axis=2), 1.0)
    assert np.linalg.matrix_rank(shared[0]) == late.SHARED < late.STATES
    assert (shared[0] != shared[1]).any()


def test_a_run_is_measured_exactly_and_its_falls_are_counted():
    run = late.run("token ratio", 4, worlds=2, steps=20)
    assert run.steps == [0, 10, 20] and run.reward.shape == run.right.shape == (3, 2)
    start = gallery.measures(THEN, THEN)
    assert run.reward[0] == pytest.approx(start["reward"]) and run.right[0] == pytest.approx(
        start["right"]
    )
    made_up = late.Run(
        [0, 10, 20], np.array([[1.0, 1.0], [3.0, 2.0], [2.2, 3.0]]), np.zeros((3, 2))
    )
    assert made_up.fall() == pytest.approx([0.8, 0.0])
    assert late.summary(made_up)["fell by more than 0.5"] == "1 of 2"
    with pytest.raises(ValueError, match="no way 'none'; there are: uncorrected, token ratio"):
        late.run("none", 4)


def test_the_kept_runs_say_what_the_lesson_says_of_them():
    """The sentences of section 8: each could be false of the kept figures."""
    kept = late.measured()
    slow = [kept["worlds"][name] for name in late.SLOW]  # uncorrected, clipped, truncated
    assert max(slow[0]["fell"]) <= 4 and max(slow[1]["reward"]) < min(slow[0]["reward"]) - 0.3
    fresh, clipped = (
        kept["worlds"][name]["reward"] for name in ("fresh", "64 late, token ratio, clipped")
    )
    assert max(a - b for a, b in zip(fresh, clipped, strict=True)) < 0.05
    real, fast = (list(zip(*kept[part].values(), strict=True)) for part in ("real", "fast"))
    assert len(real) == len(fast) == 3
    assert all(np.mean(told[1:]) > np.mean(plain[1:]) + 0.1 for told, plain in real)
    assert 0 < min(told[-1] - plain[-1] for told, plain in real) < 0.1  # nearly caught up
    assert all(plain[-1] < told[-1] < told[0] - 0.3 for told, plain in fast)
    assert [plain[-1] == 0 for _, plain in fast].count(True) == 1


def test_the_kept_figures_have_every_run_on_three_seeds_and_one_of_them_is_made_again():
    kept = late.measured()
    assert list(kept["worlds"]) == [*late.SEVERAL, *late.SLOW]
    assert all(len(values) == 3 for found in kept["worlds"].values() for values in found.values())
    (line,) = late.kept_table({"fresh": kept["worlds"]["fresh"]})
    assert line["fell by more than 0.5"] == "0, 0, 0"
    again = late.run(*late.SEVERAL["64 late, uncorrected"], seed=1)
    told = {key: values[1] for key, values in kept["worlds"]["64 late, uncorrected"].items()}
    # Another processor rounds otherwise, and a sample that turns out otherwise changes what comes after it.
    assert again.reward[-1].mean() == pytest.approx(told["reward"], abs=0.3)
    assert abs((again.fall() > late.FELL).sum() - told["fell"]) <= 3


@pytest.fixture
def stages(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RUNS", str(tmp_path))
    monkeypatch.setenv("LAB_PROFILE", "tiny")
    ready.restore("sft")


def test_trl_is_given_late_samples_and_the_control_takes_its_ratio_away(stages):
    """Up to the second update both runs are the same: only then is there a ratio that is not 1."""
    with_ratio, without = (
        late.real(updates=2, generations=2, corrected=told, rows=16, learning_rate=5e-3)
        for told in (True, False)
    )
    assert [batch["age"] for batch in with_ratio] == [0, 1, 0, 1]
    spread = [late.seen(batch)["token"] for batch in with_ratio]
    assert max(spread[0], spread[2]) < 1e-4 and min(spread[1], spread[3]) > 1e-2
    for early in (0, 1):
        np.testing.assert_array_equal(
            with_ratio[early]["per_token_logps"], without[early]["per_token_logps"]
        )
    a, b = (found[2]["old_per_token_logps"] for found in (with_ratio, without))
    assert a.shape != b.shape or np.abs(a - b).max() > 1e-6


def test_what_the_clip_stops_is_counted_by_the_sign_of_the_advantage():
    batch = {"age": 3, "completion_mask": np.array([[1, 1, 0], [1, 1, 1]])}
    batch |= {"advantages": np.array([1.0, -1.0]), "old_per_token_logps": np.zeros((2, 3))}
    batch["per_token_logps"] = np.log([[1.3, 0.5, 9.0], [1.3, 0.5, 0.9]])
    told = late.seen(batch)
    assert told["updates old"] == 3 and told["tokens clipped"] == 2 / 5  # 1.3 up, 0.5 down


def test_the_pictures_say_what_they_show_and_can_be_read(capsys, monkeypatch):
    figures = []
    monkeypatch.setattr(plots.plt, "close", figures.append)
    run = late.Run([0, 10], np.array([[1.0, 1.0], [3.0, 2.0]]), np.zeros((2, 2)))
    late.draw_runs({"late": run}, "They rise")
    row = {"bias": 0.5, "spread": 1.0, "error": 1.1}
    late.draw_errors([1, 4], {way: [row, row] for way in late.WAYS}, "They err")
    said = capsys.readouterr().out
    assert "They rise" in said and "late: mean from 1.0 to 2.5, 0 worlds fell" in said
    assert "bias of uncorrected 0.5 to 0.5" in said
    for ax in (ax for figure in figures for ax in figure.axes):
        texts = [*ax.get_xticklabels(), *ax.get_yticklabels(), ax.xaxis.label, ax.title]
        assert min(text.get_fontsize() for text in texts) >= 8
    styles = {(line.get_marker(), line.get_linestyle()) for line in figures[1].axes[0].lines}
    assert len(styles) == len(late.WAYS)
    monkeypatch.undo()
    plt.close("all")
