"""The gallery's world is what it says: complete, exact, and free of torch."""

import subprocess
import sys

import numpy as np
from lab import gallery, gallery_worlds

from reference_math import cpo_trainer


def a_policy(seed=0):
    return gallery.reference(np.random.default_rng(seed))


def test_everything_is_every_answer_once_and_its_probabilities_sum_to_one():
    every = gallery.EVERY
    said = {
        (p, gallery.text(t, m))
        for p, t, m in zip(every.prompts, every.tokens, every.completion_mask)
    }
    assert len(said) == len(every.prompts) == 4 * (1 + 3 + 9 + 27 + 81)
    assert all("." not in text[:-1] and (len(text) == 4 or text[-1] == ".") for _, text in said)
    p = np.exp(gallery.whole(a_policy(), every))
    np.testing.assert_allclose(np.bincount(every.prompts, p), 1.0, rtol=1e-12)


def test_the_samples_follow_the_policy():
    theta, n = a_policy(), 20000
    drawn = gallery.sample(theta, np.zeros(n, dtype=int), np.random.default_rng(1))
    length = drawn.completion_mask.sum(axis=1)
    p = np.exp(gallery.whole(theta, gallery.EVERY)) * (gallery.EVERY.prompts == 0)
    for t in range(1, 5):
        share = p[gallery.EVERY.completion_mask.sum(axis=1) == t].sum()
        # five standard errors of a share
        assert abs((length == t).mean() - share) < 5 * np.sqrt(share * (1 - share) / n)
    np.testing.assert_allclose(
        gallery.reward(drawn).mean(), p @ gallery.reward(gallery.EVERY), atol=0.05
    )


def test_the_gradient_reaches_the_table():
    theta, rng = a_policy(), np.random.default_rng(2)
    found = gallery.sample(theta, np.arange(4), rng)
    weights = rng.normal(size=found.tokens.shape)
    grad = gallery.grad(theta, found, weights)
    value = lambda x: (weights * found.completion_mask * gallery.logps(x, found)).sum()
    for _ in range(5):
        direction = rng.normal(size=theta.shape)
        slope = (value(theta + 1e-5 * direction) - value(theta - 1e-5 * direction)) / 2e-5
        np.testing.assert_allclose((grad * direction).sum(), slope, rtol=1e-6, atol=1e-8)


def test_the_table_is_a_head_over_one_hot_states():
    theta = a_policy()
    found = gallery.sample(theta, np.arange(4), np.random.default_rng(3))
    logits = gallery.one_hot_states(found) @ gallery.as_head(theta).T
    np.testing.assert_array_equal(logits, gallery.logits(theta, found)[found.completion_mask == 1])
    np.testing.assert_array_equal(gallery.from_head(gallery.as_head(theta)), theta)


def test_no_policy_beats_the_frontier_and_the_reference_is_its_beginning():
    ref = a_policy()
    start = gallery.measures(ref, ref)
    assert start["kl"] == 0.0 and start["right"] < 0.1
    (far, near) = gallery.frontier(ref, [0.05, 1e6])
    np.testing.assert_allclose(near, (0.0, start["reward"]), atol=1e-4)
    np.testing.assert_allclose(far[1], 4.0, atol=1e-3)


def test_the_judge_prefers_the_better_answer_more_often_the_sharper_he_is():
    rates = []
    for sharpness in (0.0, 1.0, 50.0):
        pairs = gallery.judged_pairs(a_policy(), 200, np.random.default_rng(4), sharpness)
        better, worse = np.split(gallery.reward(pairs), 2)
        rates.append((better > worse).mean() / (better != worse).mean())
    assert abs(rates[0] - 0.5) < 0.1 and rates[0] < rates[1] < rates[2] == 1.0


def test_on_fresh_answers_the_policy_losses_are_reinforce_and_on_used_ones_no_two_are_alike():
    theta, fresh, used = a_policy(), {}, {}
    away = np.random.default_rng(1).normal(size=theta.shape)
    for name in gallery.POLICIES:
        gradient = gallery.reusing(name, gallery.reward, updates=4)
        fresh[name] = gradient(theta, np.random.default_rng(0))
        rng = np.random.default_rng(0)  # near, and beyond every cap
        used[name] = np.stack([gradient(theta + far * away, rng) for far in (0.1, 0.2, 1.0)])
    for name, got in fresh.items():
        if name not in ("GMPO", "Clip-Cov"):
            np.testing.assert_allclose(got, fresh["GRPO"], rtol=1e-9, atol=1e-12)
    assert np.abs(fresh["GMPO"] - fresh["GRPO"]).max() > 1e-3
    for i, one in enumerate(used):
        for other in [*used][:i]:
            assert np.abs(used[one] - used[other]).max() > 1e-9, (one, other)


def test_tpo_with_the_chosen_as_gold_answers_is_cpo():
    theta = a_policy()
    pairs = gallery.judged_pairs(theta, 4, np.random.default_rng(1))
    got = gallery.triples(pairs, beta=0.3)(theta, None)
    push = cpo_trainer.loss_grad(gallery.logps(theta, pairs), pairs.completion_mask, beta=0.3)
    np.testing.assert_allclose(got, gallery.grad(theta, pairs, push), rtol=1e-9, atol=1e-12)


def test_a_teacher_with_another_alphabet_tells_how_sure_to_be_and_not_of_what():
    """Whatever the order of its letters, the push is the same."""
    theta, teacher = a_policy(), a_policy(1)
    pushes = [
        gallery.other_alphabet(t)(theta, np.random.default_rng(0))
        for t in (teacher, teacher[..., [2, 0, 3, 1]])
    ]
    np.testing.assert_allclose(*pushes, rtol=1e-12, atol=1e-15)
    assert np.abs(pushes[0]).max() > 1e-3


def test_it_needs_no_torch():
    script = "import sys; from lab import check, gallery, show; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "False"


def test_what_the_lesson_says_of_five_worlds_stands_in_each_of_them():
    worlds = [dict(zip(gallery_worlds.known(), r)) for r in zip(*gallery_worlds.known().values())]
    assert len(worlds) == 5
    for r in worlds:
        on_pairs = [r[n] for n in ("DPO", "IPO", "SimPO", "AlphaPO", "CPO", "ORPO", "KTO", "BCO")]
        assert max(on_pairs) < min(r["RLOO"], r["PPO"])
        assert max(r["RLOO"], r["PPO"]) < r["RLOO, checked"]
        assert min(r["GKD"], r["Distillation"]) > r["RLOO, 30 steps"]
        assert max(on_pairs) < r["A*-PO"] < r["RLOO, checked"]
        assert max(abs(r["TPO"] - r["CPO"]), abs(r["SDFT"] - r["SFT"])) < 0.05
        assert r["ULD"] < r["GKD"] - 1
    assert len({max(("DPO", "IPO"), key=r.get) for r in worlds}) == 2  # which leads is luck


def test_the_measured_worlds_are_those_of_todays_notebook():
    """One of them again, its assertions too. 0.3: another processor may draw another sample."""
    again, said = gallery_worlds.run(1), gallery_worlds.known()
    assert again.keys() == said.keys()
    for name, reward in again.items():
        assert abs(reward - said[name][1]) < 0.3, name
