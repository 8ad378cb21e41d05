"""A reward model from pairs, the choice by its score, and how far the choice goes."""

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")
from lab import evaluate, plots, ready, rlhf, tasks
from lab.puzzles.best_of import best_of_n, kl_of_best_of_n

from reference_math import reward_model

TEXTS = ["one", "two", "two", "three"]
POOL = [rlhf.Problem(17, 38, TEXTS, np.array([0.0, 1.0, 1.0, 0.0]))]
GIVEN = [np.array([3.0, 1.0, 1.0, -2.0])]


def test_the_best_of_n_is_unbiased_over_pools():
    """Pools of 6 from a population of 3 texts: the mean over many is the exact best of n independent samples."""
    scores, values, p = (
        np.array([0.0, 1.0, 2.0]),
        np.array([0.5, 1.0, 0.0]),
        np.array([0.5, 0.3, 0.2]),
    )
    rng = np.random.default_rng(0)
    for n in (1, 3, 6):
        up_to = np.cumsum(p)
        exact = (up_to**n - (up_to - p) ** n) @ values
        pools = rng.choice(3, (4000, 6), p=p)
        found = np.array([best_of_n(scores[pool], values[pool], n) for pool in pools])
        assert abs(found.mean() - exact) < 4 * found.std() / 4000**0.5


def test_the_bound_on_the_kl_holds_and_is_reached_by_a_fine_policy():
    rng = np.random.default_rng(0)
    for n in (1, 2, 8, 64):
        for size in (1, 3, 50):
            kl, bound = kl_of_best_of_n(rng.dirichlet(np.ones(size)), n)
            assert -1e-12 <= kl <= bound + 1e-12
        fine, bound = kl_of_best_of_n(np.full(100_000, 1e-5), n)
        assert bound - 1e-3 < fine <= bound + 1e-12


def test_proxy_gold_and_kl_of_a_pool_by_hand():
    curve = rlhf.chosen(POOL, GIVEN, ns=(1, 4))
    assert curve.proxy.tolist() == [[0.75, 3.0]] and curve.gold.tolist() == [[0.5, 0.0]]
    shares = np.array([0.25, 0.5, 0.25])  # three, two, one: from the lowest score to the highest
    assert curve.kl[0].tolist() == [kl_of_best_of_n(shares, n)[0] for n in (1, 4)]


def test_the_tilted_policy_maximises_reward_less_beta_kl():
    """No mixture with another policy earns more, and its KL falls as beta rises to infinity."""
    scores, p, beta = GIVEN[0], np.full(4, 0.25), 0.7
    curve = rlhf.tilted(POOL, GIVEN, betas=(beta, 1e6, 1e-3))
    best = curve.proxy[0, 0] - beta * curve.kl[0, 0]
    np.testing.assert_allclose(best, beta * np.log(np.mean(np.exp(scores / beta))), rtol=1e-12)
    for q in np.random.default_rng(0).dirichlet(np.ones(4), 200):
        assert q @ scores - beta * np.sum(q * np.log(q / p)) < best
    np.testing.assert_allclose(curve.kl[0, 1:], [0.0, np.log(4)], atol=1e-6)  # all, and the highest
    np.testing.assert_allclose(curve.gold[0, 1:], [0.5, 0.0], atol=1e-5)


def test_agreement_counts_pairs_of_right_and_wrong_and_a_tie_half():
    assert rlhf.agrees(POOL, GIVEN) == 0.5
    assert rlhf.agrees(POOL, [POOL[0].gold]) == 1.0
    assert rlhf.agrees(POOL, [np.zeros(4)]) == 0.5


def test_by_chance_equal_texts_have_equal_scores():
    (drawn,) = rlhf.by_chance(POOL)
    assert drawn[1] == drawn[2] and len(set(drawn)) == 3


def test_pairs_are_right_over_wrong_of_one_problem_and_never_the_same_twice():
    rows = rlhf.pairs(POOL * 5, 10)
    for row in rows:
        assert row["prompt"] == tasks.prompt(17, 38)
        assert row["chosen"][0]["content"] == "two"
        assert row["rejected"][0]["content"] in ("one", "three")
    with pytest.raises(ValueError, match="1 problems gave 2 pairs .* 3 are wanted"):
        rlhf.pairs(POOL, 3)


@pytest.fixture
def stages(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RUNS", str(tmp_path))
    monkeypatch.setenv("LAB_PROFILE", "tiny")
    ready.restore("sft")


def test_a_reward_model_learns_its_pairs_scores_texts_and_rewards_a_run(stages):
    model, tok = rlhf.policy()
    right, wrong = (tasks.completion(17, 38, "terse", slip) for slip in (None, lambda c, t: t - c))
    seen = [rlhf.Problem(17, 38, [right, wrong], np.array([1.0, 0.0]))]
    before = {name: w.clone() for name, w in model.state_dict().items()}
    trainer = rlhf.fit(model, tok, rlhf.pairs(seen, 1), steps=25, per_device_train_batch_size=1)
    (given,) = rlhf.scores(trainer, seen)
    assert given[0] > given[1] + 0.5  # one pair, 25 steps
    assert all(torch.equal(before[name], w) for name, w in model.state_dict().items())
    chat = [[{"role": "assistant", "content": text}] for text in (right, wrong)]
    paid = rlhf.reward(trainer, 1.0, 2.0)(chat, prompts=[tasks.prompt(17, 38)] * 2)
    np.testing.assert_allclose(paid, (given - 1) / 2, rtol=1e-6)
    # TRL's own loss of the pair is the reference's.
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(trainer.model, dict(batch)).item()
    np.testing.assert_allclose(loss, reward_model.loss(given[:1], given[1:]), rtol=1e-3)


def test_what_is_measured_beside_a_run_is_nothing_for_the_start_and_positive_for_another_model(
    stages,
):
    model, tok = rlhf.policy()
    asked = tasks.sample(8, "heldout", 0)
    other = rlhf.vllm.served(rlhf.train.load(rlhf.leaks.recipe())[0])
    with torch.no_grad():
        other.model.embed_tokens.weight += 0.05 * torch.randn_like(other.model.embed_tokens.weight)
    texts = evaluate.sample(other, tok, [tasks.prompt(*pair) for pair in asked], 0, 24)
    measure = rlhf.beside(model, tok, asked)
    assert measure(model, texts)["kl"] == 0.0 < measure(other, texts)["kl"]
    wished = [tasks.completion(a, b, tasks.PREFERRED) for a, b in asked]
    assert measure(model, wished)["gold"] == 1.0


def test_the_picture_says_in_words_what_it_shows(capsys, monkeypatch):
    monkeypatch.setattr(plots.plt, "close", lambda figure: None)
    curves = {"best of n": rlhf.chosen(POOL * 2, GIVEN * 2, ns=(1, 4))}
    rows = [{"temperature": 1.0, "kl": kl, "proxy": kl, "gold": 0.5} for kl in (0.0, 4.0)]
    rlhf.draw_curves(curves, "They part", {"GRPO": rows})
    said = capsys.readouterr().out
    assert "They part" in said and "gold: right, on one line, GRPO: (0.0, 0.50) (2.0, 0.50)" in said
    plots.plt.close("all")


def test_the_kept_runs_say_what_the_lesson_says_of_them():
    """The sentences of sections 3 to 7: each could be false of the kept figures."""
    kept = rlhf.on_seeds()
    cases = [(run["seed"], run["pairs"]) for run in kept["runs"]]
    assert sorted(cases) == [(seed, pairs) for seed in range(3) for pairs in (20, 50, 200)]
    for run in kept["runs"]:
        best, priced, by_chance = run["best of n"], run["tilted"], run["chance"]
        assert best["knob"][int(np.argmax(best["gold"]))] in (4, 8)  # whatever the number of pairs
        assert np.all(np.diff(best["proxy"]) > 0) and by_chance["gold"][-1] < best["gold"][0] - 0.05
        assert dict(zip(priced["knob"], priced["gold"]))[1.0] > best["gold"][0] + 0.05
        free, held = run["grpo"]["0"], run["grpo"]["0.3"]
        assert free[-1]["proxy"] > free[0]["proxy"] + 0.4
        assert (
            free[-1]["gold"] < free[0]["gold"] - 0.05 and held[-1]["gold"] > free[-1]["gold"] + 0.1
        )


def test_a_table_has_a_line_for_each_run():
    curve = {"knob": [1.0, 4.0, 256.0], "gold": [0.3, 0.6, 0.1]}
    steps = [{"step": step, "gold": gold} for step, gold in ((0, 0.3), (10, 0.05))]
    run = {"seed": 2, "pairs": 20, "agrees": 0.9, "best of n": curve, "chance": curve}
    run |= {"tilted": {"knob": [2.0, 1.0], "gold": [0.4, 0.5]}, "grpo": {"0": steps}}
    (line,) = rlhf.table([run])
    assert (
        line["best n"] == "0.60 (n = 4)" and line["n = 256"] == 0.1 == line["by chance, likewise"]
    )
    assert line["RL's optimum, beta 1"] == 0.5 and line["GRPO, beta 0"] == "0.30 0.05"
