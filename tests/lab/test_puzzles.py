"""Every puzzle accepts another right way, tells its mistakes apart, and keeps what was tried."""

import itertools
import json
import math
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import lab
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lab import check, predictions, puzzles
from lab.puzzles import picture, policies, record

from reference_math import advantages, gae, nf4
from rewards import accuracy_reward


@pytest.fixture(autouse=True)
def a_record_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RUNS", str(tmp_path))
    return tmp_path / "progress.json"


def leaf(array):
    return torch.tensor(np.asarray(array, float), requires_grad=True)


def slope(loss, *leaves):
    """The gradient of a scalar, by autograd, as numpy arrays."""
    return [g.numpy() for g in torch.autograd.grad(loss, leaves)]


# ---------------------------------------------------------------- the same answers, found otherwise


def torch_sft_loss(logits, input_ids, completion_mask):
    labels = torch.tensor(np.where(completion_mask, input_ids, -100))[:, 1:]
    shifted = torch.tensor(logits)[:, :-1]
    return F.cross_entropy(shifted.flatten(0, 1), labels.flatten(), ignore_index=-100).numpy()


def micro_losses_by_rows(per_token_loss, completion_mask, m):
    total = [list(l[c == 1]) for l, c in zip(per_token_loss, completion_mask)]
    count = sum(map(len, total))
    return [sum(sum(row) for row in total[i : i + m]) / count for i in range(0, len(total), m)]


def sft_push_by_autograd(logits, labels, completion_mask):
    z = leaf(logits)
    loss = F.cross_entropy(z, torch.tensor(labels), reduction="none")
    return slope((loss * torch.tensor(completion_mask)).sum() / completion_mask.sum(), z)[0]


def nf4_by_looking(weights, codebook):
    scale = max(map(abs, weights)) or 1.0
    return [scale * min(codebook, key=lambda c, w=w: abs(c - w / scale)) for w in weights]


@cache  # the rank of 896 x 4864 takes seconds, and nine tests ask for the same layers
def made_layer(n_out, n_in, r):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((r, n_in)), rng.standard_normal((n_out, r))
    return [a.size + b.size, (b @ a).size, min(n_out, n_in, np.linalg.matrix_rank(b @ a))]


def lora_by_making_it(out_features, in_features, r):
    layers = zip(out_features, in_features)
    return np.transpose([made_layer(int(n_out), int(n_in), r) for n_out, n_in in layers])


def bradley_terry_by_autograd(chosen, rejected):
    c = leaf(chosen)
    loss = -F.logsigmoid(c - torch.tensor(rejected))
    return np.stack([loss.detach().numpy(), slope(loss.sum(), c)[0]])


def optimum_by_weights(ref_logps, rewards, beta):
    weights = np.exp(np.longdouble(ref_logps) + np.longdouble(rewards) / beta)
    p = weights / weights.sum()
    return [p, beta * np.log(p / np.exp(np.longdouble(ref_logps)))]


def dpo_margin(chosen, rejected, ref_chosen, ref_rejected, beta):
    return beta * ((chosen - ref_chosen) - (rejected - ref_rejected))


def torch_dpo_loss(*arguments):
    return -F.logsigmoid(torch.tensor(dpo_margin(*arguments))).numpy()


def dpo_push_by_autograd(chosen, rejected, ref_chosen, ref_rejected, beta):
    c, r = leaf(chosen), leaf(rejected)
    h = dpo_margin(c, r, torch.tensor(ref_chosen), torch.tensor(ref_rejected), beta)
    return slope(-F.logsigmoid(h).sum(), c, r)


def torch_group_advantages(rewards, num_generations):
    groups = torch.tensor(rewards).view(-1, num_generations)
    centred = groups - groups.mean(1, keepdim=True)
    return (centred / (groups.std(1, keepdim=True) + 1e-4)).flatten().numpy()


def torch_clipped_loss(ratio, advantages, epsilon):
    ratio, advantages = torch.tensor(ratio), torch.tensor(advantages)[:, None]
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    return -torch.minimum(ratio * advantages, clipped * advantages).numpy()


def loss_types_by_tokens(per_token_loss, completion_mask, longest, items):
    rows = [l[c == 1] for l, c in zip(per_token_loss, completion_mask)]
    tokens = np.concatenate(rows)
    return [
        np.mean([row.mean() for row in rows]),
        tokens.mean(),
        tokens.sum() / items,
        tokens.sum() / len(rows) / longest,
    ]


def our_own_reward(completions, solution):
    chats = [[{"role": "assistant", "content": text}] for text in completions]
    return accuracy_reward(chats, solution=solution)


def torch_k3(logps, ref_logps):
    log_r = torch.tensor(ref_logps - logps)
    return (torch.expm1(log_r) - log_r).numpy()


def torch_served_weight(weight, lora_A, lora_B, r, lora_alpha):
    return torch.addmm(*map(torch.tensor, (weight, lora_B, lora_A)), alpha=lora_alpha / r).numpy()


def torch_kto_loss(logps, ref_logps, label, kl, beta):
    h = beta * (torch.tensor(logps - ref_logps) - kl)
    return torch.where(torch.tensor(label) == 1, (-h).sigmoid(), h.sigmoid()).mean().numpy()


def gae_by_sums(rewards, values, gamma, lam):
    """A_t as the sum over what follows, (gamma lambda)^k delta_{t+k}: no recursion."""
    deltas = rewards + gamma * np.append(values[1:], 0.0) - values
    steps = range(len(rewards))
    return [sum((gamma * lam) ** (k - t) * deltas[k] for k in steps if k >= t) for t in steps]


def reinforce_by_autograd(logits, arm, reward, baseline):
    z = leaf(logits)
    return (reward - baseline) * slope(z.log_softmax(0)[arm], z)[0]


def stopped_by_autograd(ratio, advantages, epsilon):
    """Where the loss has no gradient though the advantage is not 0."""
    w, a = leaf(ratio), torch.tensor(advantages)[:, None]
    loss = -torch.minimum(w * a, w.clamp(1 - epsilon, 1 + epsilon) * a)
    return (slope(loss.sum(), w)[0] == 0) & (advantages[:, None] != 0)


def weights_by_products(logps, sampling_logps, completion_mask, cap):
    ratios = np.where(completion_mask == 1, np.exp(logps) / np.exp(sampling_logps), 1.0).prod(1)
    return [[min(r, cap) for r in ratios], [r * (r <= cap) for r in ratios]]


def torch_kl_estimates(logps, ref_logps):
    log_r = torch.tensor(ref_logps - logps)
    return torch.stack([-log_r, log_r.square() / 2, log_r.exp() - 1 - log_r]).numpy()


def gradients_by_autograd(logits, ref_logits):
    """E_y[grad k_i(y)], the samples held: each k_i(y) by autograd, weighed by p(y)."""
    q, rows = torch.tensor(ref_logits).log_softmax(0), []
    for kind in range(3):
        total = np.zeros(len(logits))
        for y in range(len(logits)):
            z = leaf(logits)
            logp = z.log_softmax(0)[y]
            log_r = q[y] - logp
            k = (-log_r, log_r.square() / 2, log_r.exp() - 1 - log_r)[kind]
            total += logp.exp().item() * slope(k, z)[0]
        rows.append(total)
    return rows


def torch_entropy(logits, temperature):
    return torch.distributions.Categorical(logits=torch.tensor(logits / temperature)).entropy()


def pass_at_k_by_drawing(n, correct, k):
    draws = list(itertools.combinations(range(n), k))
    return np.mean([min(draw) < correct for draw in draws])


def torch_kl(p, q):
    p, q = torch.tensor(p), torch.tensor(q)
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1).numpy()


def paired_by_tossing(before, after):
    """The p: the share of all ways to toss the problems that part which are at least as uneven."""
    change = after.astype(int) - before.astype(int)
    parted = change[change != 0]
    tosses = [abs(sum(toss)) for toss in itertools.product((-1, 1), repeat=len(parted))]
    p = np.mean([uneven >= abs(parted.sum()) for uneven in tosses])
    return change.mean(), change.std() / np.sqrt(len(change)), p


def groups_by_counting(p, n, groups):
    """One group: the sum over how many of its samples are paid, all and none left out."""
    one = sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(1, n))
    return [one, -np.expm1(groups * np.log1p(-one))]


def labels_by_rows(input_ids, prompt_lens, lengths, pad_id):
    return [
        [-100] * p + list(row[p:n]) + [-100] * (len(row) - n)
        for row, p, n in zip(input_ids, prompt_lens, lengths)
    ]


def cut_by_tokens(prompt_lens, lengths, max_length):
    """Each row written out: p of the prompt, a of the answer, E."""
    rows = ["p" * p + "a" * (n - p - 1) + "E" for p, n in zip(prompt_lens, lengths)]
    kept = [row[:max_length] for row in rows]
    return [[len(row.replace("p", "")) for row in kept], ["E" in row for row in kept]]


def worth_by_normalised_weights(logps, sampling_logps, completion_mask, cap):
    """1 over the sum of the squares of weights that add up to 1, answer by answer."""
    found = []
    for bound in (math.inf, cap):
        ratios = [
            min(math.prod(math.exp(a - b) for a, b, m in zip(*row) if m), bound)
            for row in zip(logps, sampling_logps, completion_mask)
        ]
        found.append(1 / sum((ratio / sum(ratios)) ** 2 for ratio in ratios))
    return found


def errors_by_looking(blocks, codebook):
    """Each weight alone; the bound from the middles between neighbours."""
    scales = [max(map(abs, block)) for block in blocks]
    off = [max(min(abs(s * c - w) for c in codebook) for w in b) for s, b in zip(scales, blocks)]
    middles = [(a + b) / 2 for a, b in itertools.pairwise(codebook)]
    worst = max(min(abs(m - c) for c in codebook) for m in middles)
    return [off, [worst * s for s in scales]]


def left_out_by_cutting(before, after):
    """The nearest matrix of each rank, made from the eigenvectors of the update's square, and what it lacks."""
    update = np.array(after) - before
    _, v = np.linalg.eigh(update.T @ update)  # ascending
    kept = [v[:, -r:] @ v[:, -r:].T for r in range(1, min(update.shape) + 1)]
    return [((update - update @ k) ** 2).sum() / (update**2).sum() for k in kept]


def gap_by_weights(student, teacher):
    """Each position by itself: q . log(q / p), and numpy's own weighted covariance of the log-ratio."""
    ratios = np.log(student / teacher)
    rows = [(q @ r, np.cov(r, aweights=q, ddof=0)) for q, r in zip(student, ratios)]
    return np.transpose(rows)


def best_by_drawing(scores, values, n):
    """All draws, written out."""
    draws = itertools.combinations(range(len(scores)), n)
    return np.mean([values[max(draw, key=lambda i: scores[i])] for draw in draws])


def kl_by_drawing(p, n):
    """All n-tuples of answers, weighed; and the bound as the KL of the best of n uniform numbers, integrated."""
    q = np.zeros(len(p))
    for draw in itertools.product(range(len(p)), repeat=n):
        q[max(draw)] += np.prod(p[list(draw)])
    x, w = np.polynomial.legendre.leggauss(400)  # of n u^(n-1) log(n u^(n-1)) on [0, 1]
    density = n * ((x + 1) / 2) ** (n - 1)
    return [torch_kl(q, p), np.sum(w / 2 * density * np.log(density))]


def stopped_by_windows(values, limit, patience):
    """All steps that end a window of nothing but sick ones, and all that are not finite: the first."""
    sick = ~(np.array(values) <= limit)
    ends = [i for i in range(patience - 1, len(sick)) if sick[i - patience + 1 : i + 1].all()]
    return min([*ends, *np.flatnonzero(~np.isfinite(values))], default=-1)


def wilson_by_its_definition(successes, n):
    """The shares p from which the one seen is 1.96 of p's own standard errors away."""
    share, z = successes / n, 1.959964
    low, high = sorted(np.roots([1 + z * z / n, -2 * share - z * z / n, share * share]).real)
    return max(low, 0.0), min(high, 1.0)


# By hand: 256 bits and one scale of 32, or of 8 and its share of one more, for 64 weights; then 128.
BITS = {(64, False): 4.5, (64, True): 4.126953125, (128, False): 4.25, (128, True): 4.0634765625}
FOUND_OTHERWISE = {
    "0.1": lambda logits: torch.tensor(logits).log_softmax(-1),
    "0.2": wilson_by_its_definition,
    "1.1": lambda ids: list(itertools.pairwise(ids)),
    "1.2": torch_sft_loss,
    "1.3": micro_losses_by_rows,
    "1.4": sft_push_by_autograd,
    "1.5": nf4_by_looking,
    "1.6": lambda size, double: BITS[size, double],
    "1.7": lora_by_making_it,
    "2.1": bradley_terry_by_autograd,
    "2.2": optimum_by_weights,
    "2.3": torch_dpo_loss,
    "2.4": dpo_push_by_autograd,
    "2.5": lambda: ((-1.0, -2.0), (-1.5, -9.0)),
    "3.1": torch_group_advantages,
    "3.2": torch_clipped_loss,
    "3.3": loss_types_by_tokens,
    "3.4": our_own_reward,
    "3.5": torch_k3,
    "4.1": torch_served_weight,
    "5.1": torch_kto_loss,
    "5.2": gae_by_sums,
    "6.1": reinforce_by_autograd,
    "6.2": lambda rewards, n: advantages.leave_one_out(rewards, n),
    "6.3": stopped_by_autograd,
    "6.4": weights_by_products,
    "7.1": torch_kl_estimates,
    "7.2": gradients_by_autograd,
    "7.3": lambda p, q: [torch_kl(p, q), torch_kl(q, p)],
    "8.1": torch_entropy,
    "8.2": pass_at_k_by_drawing,
    "8.3": paired_by_tossing,
    "10.1": groups_by_counting,
    "11.1": labels_by_rows,
    "11.2": stopped_by_windows,
    "12.1": cut_by_tokens,
    "13.1": gap_by_weights,
    "14.1": worth_by_normalised_weights,
    "15.1": errors_by_looking,
    "15.2": left_out_by_cutting,
    "16.1": best_by_drawing,
    "16.2": kl_by_drawing,
}
every_puzzle = pytest.mark.parametrize("puzzle", puzzles.ALL.values(), ids=list(puzzles.ALL))
with_one_answer = [p for p in puzzles.ALL.values() if not p.verify]
every_puzzle_with_one_answer = pytest.mark.parametrize(
    "puzzle", with_one_answer, ids=lambda p: p.number
)


@every_puzzle
def test_a_right_answer_found_otherwise_is_accepted_and_kept(puzzle, capsys):
    other = FOUND_OTHERWISE[puzzle.number]
    assert puzzle.check(other) is other
    assert f"{puzzle.answer.__name__}: right" in capsys.readouterr().out


def test_the_core_agrees_with_the_puzzles_that_it_has_as_well():
    """Two that the witnesses above do not reach: 4-bit codes in float32, and GAE over a batch."""
    block, codebook = puzzles.puzzle("1.5").cases["eight weights"]
    packed, absmax = nf4.quantize(np.tile(block, 8).astype(np.float32)[None], blocksize=64)
    read = nf4.dequantize(packed, absmax, (1, 64), blocksize=64)[0, :8]
    # 1e-6: the core's scale and codes are float32
    np.testing.assert_allclose(read, puzzles.puzzle("1.5").answer(block, codebook), rtol=1e-6)
    rewards, values, gamma, lam = puzzles.puzzle("5.2").cases["gamma 0.9, lambda 0.8"]
    got = gae.advantages(rewards[None], values[None], np.ones((1, 5)), gamma=gamma, lam=lam)[0]
    np.testing.assert_allclose(got, gae_by_sums(rewards, values, gamma, lam), rtol=1e-12)


@every_puzzle
def test_each_mistake_it_knows_is_told_apart_by_its_hint(puzzle):
    """Two mistakes with the same results on every case, or one with the right ones, would not be."""
    wrong = puzzle.wrong()
    assert len(wrong) >= 8
    for say, mistaken in wrong.items():
        found = check.judge(
            mistaken, puzzle.answer, puzzle.cases, wrong, verify=puzzle.verify, **puzzle.tolerance
        )
        assert found.kind == check.WRONG and f"Hint: {say}." in found.said


@every_puzzle
def test_a_puzzle_says_what_it_is(puzzle):
    assert 1 <= puzzle.minutes <= 15 and 1 <= puzzle.stars <= 3 and len(puzzle.hints) >= 2
    assert len(puzzle.idea) > 20 and len(puzzle.task) > 60
    assert puzzle.heading() in repr(puzzle) and puzzle.answer.__name__ in puzzle.signature()
    assert "Puzzle(" not in puzzle.source()


@every_puzzle
def test_an_unsolved_stub_goes_on_with_the_reference_and_counts_as_no_try(puzzle, capsys):
    def stub(*arguments):
        raise NotImplementedError

    assert puzzle.check(stub) is puzzle.answer
    assert puzzle.check(lambda *arguments: None) is puzzle.answer
    assert capsys.readouterr().out.count("not solved yet") == 2
    puzzle.solution()
    assert "Try it first" in capsys.readouterr().out


@every_puzzle_with_one_answer
def test_an_answer_that_is_off_by_a_hundred_thousandth_is_refused(puzzle, capsys):
    def nearly(*arguments):
        return np.asarray(FOUND_OTHERWISE[puzzle.number](*arguments)) * 1.00001

    assert puzzle.check(nearly) is not nearly
    assert "not right yet" in capsys.readouterr().out


GENERAL = {  # what anyone may do to a right result: (change, a word of the sentence that names it)
    "sign": (np.negative, "sign|swapped|negative|uphill|wrong way|after less before"),
    "factor": (lambda right: 3 * np.asarray(right), "times|percent|divide"),
    "offset": (lambda right: np.asarray(right) + 0.5, "0.5 too high"),
    "exponential": (np.exp, "exponential|overflows|probability|perplexity|softmax"),
    "digits": (lambda right: np.asarray(right) * (1 + 1e-5), "last digits|times"),
    "shape": (lambda right: np.asarray(right)[..., None], "shape|the mean|the sum"),
    "nan": (lambda right: np.where(np.asarray(right) > -np.inf, np.nan, 0), "nan on"),
}


@every_puzzle_with_one_answer
@pytest.mark.parametrize("kind", GENERAL)
def test_a_mistake_that_no_puzzle_lists_is_named_all_the_same(puzzle, kind, capsys):
    change, words = GENERAL[kind]

    def mistaken(*arguments):
        return change(np.asarray(FOUND_OTHERWISE[puzzle.number](*arguments), float))

    assert puzzle.check(mistaken) is not mistaken
    said = capsys.readouterr().out
    assert re.search(words, said.partition("Hint: ")[2]), said


# ---------------------------------------------------------------- laws that the tasks speak of


def test_a_baseline_changes_the_spread_of_a_gradient_and_not_its_mean():
    """By exact enumeration of the arms, and by 10,000 samples within five standard errors."""
    logits, rewards = np.array([0.3, -0.5, 0.8]), np.array([1.0, 0.2, 0.5])
    p = torch.tensor(logits).softmax(0).numpy()
    sample = puzzles.puzzle("6.1").answer
    exact = p * (rewards - p @ rewards)  # the gradient of sum p r
    spreads = []
    for baseline in (0.0, p @ rewards):
        each = np.stack([sample(logits, arm, rewards[arm], baseline) for arm in range(3)])
        np.testing.assert_allclose(p @ each, exact, rtol=1e-12)
        drawn = each[np.random.default_rng(0).choice(3, 10_000, p=p)]
        error = drawn.std(0) / 100  # the root of 10,000
        assert (np.abs(drawn.mean(0) - exact) < 5 * error).all()
        spreads.append(p @ ((each - exact) ** 2).sum(1))
    assert spreads[1] < 0.2 * spreads[0]


def test_as_a_loss_k1_pushes_nothing_and_k2_and_k3_push_the_two_kls():
    z, ref = np.array([0.4, -1.0, 0.7, 0.1]), np.array([0.0, 0.3, -0.2, 0.5])
    p, q = leaf(z), torch.tensor(ref).log_softmax(0)
    logp = p.log_softmax(0)
    forward = slope((logp.exp() * (logp - q)).sum(), p)[0]
    k1, k2, k3 = puzzles.puzzle("7.2").answer(z, ref)
    np.testing.assert_allclose(k1, 0, atol=1e-15)
    np.testing.assert_allclose(k2, forward, rtol=1e-9)
    np.testing.assert_allclose(
        k3, torch.tensor(z).softmax(0) - torch.tensor(ref).softmax(0), rtol=1e-9
    )


def test_one_kl_covers_both_humps_and_the_other_picks_one():
    forward, reverse = puzzles.puzzle("7.3").answer(*puzzles.puzzle("7.3").cases["two humps"])
    assert forward.argmin() == 1 and reverse.argmin() in (0, 2)


def test_the_reward_puzzle_scores_what_it_says():
    right = [wanted for _, _, wanted, _ in policies._TRIED]
    given = our_own_reward(policies._COMPLETIONS, policies._GOLDS)
    assert given == right and 5 <= sum(right) <= len(right) - 10


# ---------------------------------------------------------------- hints, solutions, the record


def test_hints_come_one_after_the_other(capsys):
    puzzle = lab.puzzle("3.1")
    puzzle.hint()
    first = capsys.readouterr().out
    assert first.startswith("Hint 1 of 3:") and "Hint 2" not in first
    puzzle.hint()
    puzzle.hint()
    assert "Hint 3 of 3:" in capsys.readouterr().out
    puzzle.hint()
    assert "That is all" in capsys.readouterr().out


def test_the_solution_is_shown_after_a_try_and_is_a_right_answer(capsys):
    puzzle = lab.puzzle("3.1")
    puzzle.check(lambda rewards, n: rewards)
    capsys.readouterr()
    puzzle.solution()
    source = capsys.readouterr().out
    scope = {"np": np}
    exec(source, scope)  # noqa: S102 - what the reader would copy
    assert puzzle.check(scope["group_advantages"]) is scope["group_advantages"]


def test_a_number_that_does_not_exist_names_those_that_do():
    with pytest.raises(ValueError, match=r"no puzzle '9\.9'.*0\.1 a log-softmax.*8\.3 the same"):
        lab.puzzle("9.9")
    with pytest.raises(ValueError, match=r"did you mean 3\.1"):
        lab.puzzle("3.11")


def test_progress_is_kept_over_a_restart_and_makes_a_line_to_paste(a_record_of_its_own, capsys):
    lab.puzzle("4.1").check(torch_served_weight)
    lab.puzzle("3.5").check(lambda logps, ref_logps: logps)
    assert json.loads(a_record_of_its_own.read_text())["puzzles"]["4.1"]["solved"]
    capsys.readouterr()
    lab.progress()
    said = capsys.readouterr().out
    assert "✓ 4.1" in said and "✗ 3.5" in said and "· 3.1" in said
    assert said.splitlines()[-1].startswith(f"posttraining-lab: 1 of {len(puzzles.ALL)} puzzles")


def test_a_solved_puzzle_stays_solved(capsys):
    lab.puzzle("4.1").check(torch_served_weight)
    lab.puzzle("4.1").check(lambda *arguments: 0.0)
    capsys.readouterr()
    lab.progress()
    assert "✓ 4.1" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "[]", "{", '{"puzzles": 3, "predictions": {}}', "\x00"])
def test_a_broken_record_stops_nothing(text, a_record_of_its_own, capsys):
    a_record_of_its_own.write_text(text)
    lab.puzzle("4.1").check(torch_served_weight)
    lab.progress()
    assert "✓ 4.1" in capsys.readouterr().out


def test_a_record_that_cannot_be_kept_stops_nothing(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LAB_RUNS", str(tmp_path / "file" / "below"))
    assert lab.puzzle("4.1").check(torch_served_weight) is torch_served_weight
    assert "not kept" in capsys.readouterr().out


# ---------------------------------------------------------------- pictures


@every_puzzle
def test_what_is_asked_and_what_came_can_be_drawn(puzzle, monkeypatch):
    """In a notebook: a picture with the arrays written out in words for whoever does not see it."""
    shown = []
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    monkeypatch.setattr("IPython.display.display", shown.append)
    assert puzzle.show() is puzzle
    pictures = [s.data for s in shown if hasattr(s, "data") and "<img" in s.data]
    arrays = [a for a in next(iter(puzzle.cases.values())) if np.ndim(a)]
    assert puzzle.verify or pictures
    assert all(' alt="Heat maps of ' in p and "data:image/png;base64," in p for p in pictures)
    assert puzzle.verify or not arrays or "target" in pictures[0]


def test_numbers_are_readable_on_every_shade():
    from matplotlib import colormaps

    for shade in colormaps["cividis"](np.linspace(0, 1, 50)):
        assert picture.readable_on(shade) in ("black", "white")
    assert picture.readable_on((0, 0, 0, 1)) == "white"
    assert picture.readable_on((1, 1, 1, 1)) == "black"


def test_nothing_but_numpy_and_the_standard_library_is_needed_to_solve_puzzles():
    script = (
        "import json, sys, lab, numpy as np\n"
        "lab.puzzle('3.1').check(lambda rewards, n: rewards)\n"
        "lab.progress()\n"
        "print(json.dumps(sorted({'torch', 'transformers', 'trl', 'datasets'} & set(sys.modules))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []


# ---------------------------------------------------------------- predictions


def test_a_prediction_is_remembered_beside_what_is_right(a_record_of_its_own, capsys):
    guess = lab.predict("Will it rise?", ["rise", "stay"], answer="b")
    guess.reveal("rise", "The pairs agree.")
    said = capsys.readouterr().out
    assert "You said: stay. Not so. It is: rise. The pairs agree." in said
    kept = json.loads(a_record_of_its_own.read_text())["predictions"]
    said = {"answer": "stay", "right": "rise", "code": f"{predictions.code('Will it rise?')}b"}
    assert kept == {"Will it rise?": said}


def test_a_room_is_counted_from_the_lines_of_its_progress(monkeypatch, tmp_path, capsys):
    from lab import teach

    (question, options), (other, _) = list(teach.asked(teach.lesson("02")).items())[:2]
    pasted = ["09:31 somebody: good morning"]
    for person, answer in enumerate("aba"):
        monkeypatch.setenv("LAB_RUNS", str(tmp_path / str(person)))
        lab.predict(question, options, answer=answer).reveal(options[1])
        if person:
            lab.predict("A question of nobody's lesson?", ["yes", "no"], answer="a").reveal("yes")
        capsys.readouterr()
        lab.progress()
        pasted.append(f"09:32 person {person}: " + capsys.readouterr().out.splitlines()[-1])
    counts = predictions.tally("\n".join(pasted))
    assert counts == {question: {options[0]: 2, options[1]: 1, options[2]: 0}}
    said = capsys.readouterr().out
    assert question in said and f"2 {options[0]}, 1 {options[1]}" in said and other not in said
    assert (
        predictions.tally("") == {} and len({predictions.code(q) for q in (question, other)}) == 2
    )


def test_every_question_of_the_lessons_has_a_code_of_its_own():
    from lab import teach

    asked = [question for path in LESSONS for question in teach.asked(path)]
    assert len({predictions.code(question) for question in asked}) == len(set(asked)) > 40


def test_run_all_goes_through_a_prediction_that_nobody_made(a_record_of_its_own, capsys):
    lab.predict("Will it rise?", ["rise", "stay"]).reveal("rise")
    said = capsys.readouterr().out
    assert "a) rise, b) stay" in said and "It is: rise." in said and "You said" not in said
    assert not a_record_of_its_own.exists()


def test_an_answer_that_is_no_option_is_refused():
    with pytest.raises(ValueError, match="none of the options: rise, stay"):
        lab.predict("Will it rise?", ["rise", "stay"], answer="fall")
    with pytest.raises(ValueError, match="none of the options"):
        predictions.Prediction("Will it rise?", ["rise", "stay"]).reveal("fall")


# ---------------------------------------------------------------- the notebooks

NOTEBOOKS = Path(lab.__file__).parents[1]
LESSONS = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
WITH_PUZZLES = [path for path in LESSONS if path.name[:2] != "09"]  # 09 asks for predictions alone


def code_cells(path):
    cells = json.loads(path.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def asked(cell):
    """The number of the puzzle that a cell asks, or None."""
    found = re.search(r'^puzzle = lab\.puzzle\("([\d.]+)"\)\.show\(\)$', cell, re.MULTILINE)
    return found and found[1]


def solved(cell):
    """A puzzle's cell with the solution in the place of the stub."""
    puzzle = lab.puzzle(asked(cell))
    name = f"my_{puzzle.answer.__name__}"
    solution = puzzle.source().replace(f"def {puzzle.answer.__name__}(", f"def {name}(")
    stub = re.compile(rf"^def {name}\([^)]*\):\n    raise NotImplementedError\n", re.MULTILINE)
    assert len(stub.findall(cell)) == 1, f"{puzzle.number}: no stub {name} as its solution has it"
    return stub.sub(lambda _: solution, cell)


# The page is full: the puzzles of the lessons after 10 stand in their lesson alone.
ON_THE_PAGE = {n: p for n, p in puzzles.ALL.items() if int(n.split(".")[0]) <= 10}


def test_every_puzzle_stands_in_its_lesson_and_each_formula_in_the_puzzles_notebook():
    for path in WITH_PUZZLES:
        number = str(int(path.name[:2]))
        here = [n for n in map(asked, code_cells(path)) if n]
        assert sorted(here) == sorted(n for n in puzzles.ALL if n.split(".")[0] == number)
        assert here, f"{path.name} has no puzzle"
    everything = [n for n in map(asked, code_cells(NOTEBOOKS / "puzzles.ipynb")) if n]
    assert sorted(everything) == sorted(ON_THE_PAGE)


@pytest.mark.parametrize("path", [*LESSONS, NOTEBOOKS / "puzzles.ipynb"], ids=lambda p: p.stem)
def test_each_exercise_of_a_notebook_is_right_with_its_solution_put_in(path, capsys):
    for cell in filter(asked, code_cells(path)):
        puzzle = lab.puzzle(asked(cell))
        scope = {"lab": lab, "np": np}  # all that a reader has who copies the solution
        exec(solved(cell), scope)  # noqa: S102 - the notebook's own cell
        assert f"{puzzle.answer.__name__}: right" in capsys.readouterr().out
        assert record.read()["puzzles"][puzzle.number]["solved"]


def test_the_puzzles_notebook_runs_to_its_end_with_every_solution_put_in(capsys):
    scope = {"lab": lab, "np": np}
    for cell in code_cells(NOTEBOOKS / "puzzles.ipynb")[1:]:
        exec(solved(cell) if asked(cell) else cell, scope)  # noqa: S102 - the notebook's own cell
    said = capsys.readouterr().out
    assert f"{len(ON_THE_PAGE)} of {len(puzzles.ALL)} puzzles solved" in said


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_a_lesson_asks_before_it_shows(path):
    """The source that solves a puzzle is shown after it; a prediction is made before its reveal."""
    text = "\n".join(code_cells(path))
    shown = re.search(r"show\.source\(", text)
    first = re.search(r"^puzzle = lab\.puzzle", text, re.MULTILINE)
    assert not shown or first.start() < shown.start()
    guesses = re.findall(r"^ *(\w+) = lab\.predict\(", text, re.MULTILINE)
    assert len(guesses) >= 3
    for name in guesses:
        assert text.index(f"{name} = lab.predict(") < text.index(f"{name}.reveal(")


@pytest.mark.parametrize("path", WITH_PUZZLES[6:], ids=lambda p: p.stem)
def test_a_lesson_says_how_long_its_exercises_take(path):
    intro = "".join(json.loads(path.read_text())["cells"][0]["source"])
    minutes, count = re.search(r"and (\d+) for the (?:(\d+) exercises|exercise)\b", intro).groups()
    here = [lab.puzzle(n) for n in map(asked, code_cells(path)) if n]
    assert (int(minutes), int(count or 1)) == (sum(p.minutes for p in here), len(here))


def test_what_is_said_of_the_puzzles_is_counted():
    intro = "".join(json.loads((NOTEBOOKS / "puzzles.ipynb").read_text())["cells"][0]["source"])
    minutes = sum(puzzle.minutes for puzzle in ON_THE_PAGE.values())
    assert f"{len(ON_THE_PAGE)} puzzles of 3 to 15 minutes, {minutes} together" in intro
    assert (
        f"{len(ON_THE_PAGE)} puzzles, numpy alone" in (NOTEBOOKS.parent / "README.md").read_text()
    )


NASTY = {
    "nan": lambda right: np.full(np.shape(right), np.nan),
    "inf": lambda right: np.full(np.shape(right), np.inf),
    "both ends": lambda right: np.full((2, 2), [-np.inf, 1e308]),
    "nothing": lambda right: np.zeros((0, 3)),
    "five axes": lambda right: np.zeros((1, 2, 1, 2, 3)),
    "a number": lambda right: 1e-320,
    "far too many": lambda right: np.zeros((50, 50)),
    "truth values": lambda right: np.ones(3, bool),
}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("kind", NASTY)
@pytest.mark.parametrize("number", ["1.2", "3.2", "7.1"])  # a number, a table, three tables
def test_whatever_came_is_drawn_or_left_out_in_a_notebook(number, kind, monkeypatch, capsys):
    puzzle = lab.puzzle(number)
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    monkeypatch.setattr("IPython.display.display", lambda shown: None)
    given = puzzle.check(lambda *arguments: NASTY[kind](puzzle.answer(*arguments)))
    assert given is puzzle.answer and "not right yet" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["solutions", "mistakes"])
def test_every_notebook_is_written_with_its_exercises_filled_in_as_make_does_it(tmp_path, kind):
    script = Path(__file__).with_name("solved_notebooks.py")
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = [sys.executable, script, tmp_path, "--with", kind]
    said = subprocess.run(run, env=alone, capture_output=True, text=True, check=True).stdout
    count, known = map(int, re.findall(r"\d+", said))
    assert known == len(puzzles.ALL) and known < count <= 2 * known
    lessons = {path.name for path in script.parents[2].glob("notebooks/*.ipynb")}
    assert {path.name for path in tmp_path.glob("*.ipynb")} == {
        name for name in lessons if not name.startswith("09_")
    }
