"""Late samples: what a step learns from answers that were sampled k updates ago.

    late.run("uncorrected", k=64)               GRPO in 20 small worlds side by side: the true reward over the steps
    late.errors(now, sampler, features)         each gradient's bias and spread, by enumeration of all answers
    late.real(updates=16)                       TRL on the tiny model: one generation, used up over 16 updates
    python -m lab.late --seeds 0 1 2            both on several seeds; what that gave is kept in late.json

The small world is that of `lab.gallery`: four questions, 121 answers to each, a policy that is a table of
logits.  Here the table is a product, features times weights, so that states share weights as the texts of a
language model do.  Everything but the samples of a run is exact.

Lesson    notebooks/14_late_samples.ipynb        Proof    tests/lab/test_late.py
"""

import argparse
import collections
import itertools
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lab import bars, gallery, kept, plots
from lab.gallery import P, T, V
from reference_math import advantages, grpo, importance_sampling, logprobs, optim

STATES = P * T * V  # question, position, letter before
SHARED = 16  # features of a state: fewer than STATES, so states share weights
CAP = 3.0  # TRL's default bound on the ratio of a whole answer, vllm_importance_sampling_clip_max
EVERY = 10  # a run is measured once in so many steps

_TOKEN = {"importance_sampling_level": "token", "reduction": "dr_grpo", "max_completion_length": T}
_OPEN, _CLIP = (_TOKEN | {"epsilon_low": e, "epsilon_high": e} for e in (np.inf, 0.2))


def _weighed(mode, cap):
    """The gradient of A log p, times a ratio of the policy to the sampler that is held constant."""

    def push(now, old, a, mask):
        bounds = {"clip_min": None, "clip_max": cap}
        rho = importance_sampling.ratio(now, old, mask, mode=mode, **bounds)
        return grpo.loss_grad(now, now, a, mask, **_OPEN, factor=rho)

    return push


# name: the gradient to the log-probs (N, T), of the policy's and the sampler's log-probs, advantages and mask
WAYS = {
    "uncorrected": lambda now, old, a, mask: grpo.loss_grad(now, now, a, mask, **_OPEN),
    "token ratio": lambda now, old, a, mask: grpo.loss_grad(now, old, a, mask, **_OPEN),
    "token ratio, clipped": lambda now, old, a, mask: grpo.loss_grad(now, old, a, mask, **_CLIP),
    "answer's ratio": _weighed("sequence_truncate", None),
    "answer's ratio, truncated": _weighed("sequence_truncate", CAP),
    "answer's ratio, masked": _weighed("sequence_mask", CAP),
}


class Run(NamedTuple):
    """What became of some worlds: the true reward of 4 and the share of right answers, both exact."""

    steps: list  # (M,)
    reward: np.ndarray  # (M, worlds)
    right: np.ndarray  # (M, worlds)

    def fall(self):
        """How far each world fell below what it had reached before, at the worst, (worlds,)."""
        return (np.maximum.accumulate(self.reward) - self.reward).max(axis=0)


# ---------------------------------------------------------------- runs in small worlds


def features(worlds, shared=SHARED):
    """What each state is known by, (worlds, STATES, shared): random directions, others in each world.

    shared   how many; None for one per state, so that no two states share a weight
    """
    if shared is None:
        return np.broadcast_to(np.eye(STATES), (worlds, STATES, STATES))
    drawn = np.stack(
        [np.random.default_rng(s).normal(size=(STATES, shared)) for s in range(worlds)]
    )
    return drawn / np.linalg.norm(drawn, axis=2, keepdims=True)


def table(weights, known_by):
    """The logits of all worlds as one table of the gallery, (worlds x P, T, V, V), from the gallery's start."""
    start = gallery.reference(np.random.default_rng(0)).reshape(STATES, V)
    return (start + known_by @ weights).reshape(-1, T, V, V)


def updates(way, k, known_by, steps, lr=0.2, group=8, seed=0):
    """Train by GRPO on samples k updates old; yields the table before each update and after the last.

    The first k updates find samples of the start. AdamW, as TRL's default, at a constant rate.

    way        one of WAYS
    known_by   (worlds, STATES, shared) of `features`: all worlds are trained side by side
    group      answers to each question in a step
    """
    rng, worlds = np.random.default_rng(seed), len(known_by)
    asked = np.repeat(np.arange(worlds * P), group)
    weights = np.zeros((worlds, known_by.shape[2], V))
    m, v, back = np.zeros_like(weights), np.zeros_like(weights), np.swapaxes(known_by, 1, 2)
    kept = collections.deque(maxlen=k + 1)
    for step in range(1, steps + 1):
        theta = table(weights, known_by)
        yield theta
        kept.append(theta)
        found = gallery.sample(kept[0], asked, rng)
        a = advantages.group(true_reward(found), group, ddof=1, eps=1e-4)
        now, old = gallery.logps(theta, found), gallery.logps(kept[0], found)
        push = worlds * WAYS[way](now, old, a, found.completion_mask)  # a mean in each world
        grad = back @ gallery.grad(theta, found, push).reshape(worlds, STATES, V)
        options = {"step": step, "lr": lr, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
        weights, m, v = optim.adamw_step(weights, grad, m, v, **options)
    yield table(weights, known_by)


def run(way, k, shared=SHARED, worlds=20, steps=400, **options):
    """Train on samples k updates old in some worlds, and measure each once in EVERY steps; returns a `Run`.

    Raises ValueError for a way that does not exist.
    """
    if way not in WAYS:
        raise ValueError(f"there is no way {way!r}; there are: {', '.join(WAYS)}")
    each, told = _side_by_side(worlds), []
    every_update = updates(way, k, features(worlds, shared), steps, **options)
    for step, theta in enumerate(every_update):
        if step % EVERY == 0:
            p = np.exp(gallery.whole(theta, each)).reshape(worlds, -1) / P
            told.append((p @ _REWARD, p @ (_REWARD == T)))
    reward, right = map(np.array, zip(*told))
    return Run([EVERY * i for i in range(len(told))], reward, right)


def runs(named, **options):
    """Make several runs, with a bar: named = {name: (way, k)} or {name: (way, k, shared)}; returns {name: Run}."""
    return {
        name: run(*what, **options)
        for name, what in bars.over(list(named.items()), "small worlds, run by run")
    }


def summary(run):
    """A run in a row of a table: means over its worlds, and how many of them fell."""
    fell = int((run.fall() > FELL).sum())
    return {
        "reward, of 4": float(run.reward[-1].mean()),
        "lowest world": float(run.reward[-1].min()),
        "right": f"{run.right[-1].mean():.0%}",
        f"fell by more than {FELL}": f"{fell} of {run.reward.shape[1]}",
    }


_REWARD = gallery.reward(gallery.EVERY).astype(float)


def true_reward(found):
    """The reward of answers to the questions of any world."""
    return gallery.reward(found._replace(prompts=found.prompts % P)).astype(float)


def _side_by_side(worlds):
    """All answers to all questions of some worlds, world by world."""
    parts = [gallery.EVERY._replace(prompts=gallery.EVERY.prompts + P * s) for s in range(worlds)]
    return gallery.Answers(*map(np.concatenate, zip(*parts)))


# ---------------------------------------------------------------- one step, exactly


def distance(now, sampler):
    """How far a policy is from its sampler, over all answers, as the sampler gives them.

    token     standard deviation of the log-ratio of a token
    answer    the same of a whole answer, the product over its tokens
    samples   the share of the samples that the ratios of whole answers are worth: 1 / E[w^2]
    """
    old, mask = gallery.logps(sampler, gallery.EVERY), gallery.EVERY.completion_mask
    log_w = mask * (gallery.logps(now, gallery.EVERY) - old)
    p = np.exp((mask * old).sum(axis=1)) / P
    per_token = (p[:, None] * mask) / (p[:, None] * mask).sum()
    whole = log_w.sum(axis=1)
    return {
        "token": _std(log_w.ravel(), per_token.ravel()),
        "answer": _std(whole, p),
        "samples": float(1 / (p @ np.exp(2 * whole))),
    }


def _std(values, p):
    return float(np.sqrt(p @ (values - p @ values) ** 2))


def gradients(way, now, sampler, known_by):
    """The gradient, uphill, that each of the 484 answers gives to the weights, (484, shared x V).

    The advantage is the reward less the sampler's mean of the question, which a large group would have.

    now, sampler   (P, T, V, V) tables of one world
    known_by       (STATES, shared) of that world
    """
    every, mask = gallery.EVERY, gallery.EVERY.completion_mask
    p = np.exp(gallery.whole(sampler, every)) / P
    own = every.prompts[:, None] == every.prompts  # answers to the same question
    a = _REWARD - P * (own @ (p * _REWARD))
    logps, old = gallery.logps(now, every), gallery.logps(sampler, every)
    grad_logps = -T * len(p) * WAYS[way](logps, old, a, mask)  # of each answer, not of their mean
    rows = logprobs.logits_grad(gallery.logits(now, every), every.tokens, grad_logps)
    at = np.ravel_multi_index(np.broadcast_arrays(*gallery.states(every)), (P, T, V))
    found = np.einsum("ntd,ntv->ndv", known_by[at], mask[..., None] * rows)
    return found.reshape(len(p), -1)


def errors(now, sampler, known_by, n=32):
    """Bias and spread of each way's gradient to the weights, in lengths of the true gradient.

    Answers of the sampler, n in a batch.  The mean and the variance over all answers are sums.

    now, sampler, known_by   as in `gradients`
    returns                  {way: {"bias", "spread", "error"}}: of the mean; of a batch of n; root of the sum of squares
    """
    every = gallery.EVERY
    p_now, p = (np.exp(gallery.whole(theta, every)) / P for theta in (now, sampler))
    truth = p_now @ gradients("uncorrected", now, now, known_by)  # of fresh samples
    length, found = np.linalg.norm(truth), {}
    for way in WAYS:
        g = gradients(way, now, sampler, known_by)
        mean = p @ g
        bias = np.linalg.norm(mean - truth) / length
        spread = np.sqrt((p @ (g**2).sum(axis=1) - mean @ mean) / n) / length
        found[way] = {"bias": bias, "spread": spread, "error": np.hypot(bias, spread)}
        found[way] = {key: float(value) for key, value in found[way].items()}
    return found


def forgotten(now, sampler, known_by, below=0.1):
    """What the answers do to an uncorrected update that the policy hardly gives any more: ratio below `below`.

    now, sampler, known_by   as in `gradients`
    returns   late and fresh, their share of the samples of each; push, their part of the uncorrected gradient,
              and rest, that of all others, in lengths of the true gradient
    """
    p_now, p = (np.exp(gallery.whole(theta, gallery.EVERY)) / P for theta in (now, sampler))
    gone = p_now < below * p
    length = np.linalg.norm(p_now @ gradients("uncorrected", now, now, known_by))
    each = p[:, None] * gradients("uncorrected", now, sampler, known_by) / length
    parts = {"push": each[gone].sum(axis=0), "rest": each[~gone].sum(axis=0)}
    shares = {"late": float(p[gone].sum()), "fresh": float(p_now[gone].sum())}
    return shares | {name: float(np.linalg.norm(part)) for name, part in parts.items()}


# ---------------------------------------------------------------- the tiny model, by TRL


def real(updates=16, generations=1, corrected=True, seed=0, rows=32, **args):
    """Train the SFT stage by TRL's GRPO, each generation used up over some updates, and keep what each update finds.

    updates       of one generation, steps_per_generation: its samples are 0 to updates - 1 updates old
    corrected     False takes TRL's old log-probs away, as if the policy had not moved: every ratio is 1
    rows          completions in a batch
    args          instead of the recipe's, such as learning_rate
    returns       a dict for each update: age; reward, the mean of its generation; and of its batch per_token_logps, old_per_token_logps, completion_mask (B, T), advantages (B,)
    """
    from lab import callbacks, guards, leaks, tap, train

    short = {
        "per_device_train_batch_size": rows,
        "steps_per_generation": updates,
        "warmup_steps": 0,
    }
    short |= {"lr_scheduler_type": "constant", "logging_steps": 1, "learning_rate": 5e-4}
    chosen = leaks.recipe(updates * generations, **(short | args))
    policy, tok = train.load(chosen)  # the SFT of the recipe's own seed
    chosen = chosen | {"seed": seed}
    data, kept = train.dataset(chosen, policy, tok), []
    with tempfile.TemporaryDirectory() as scratch:
        chosen["args"]["output_dir"] = scratch
        made = train.trainer(chosen, policy, tok, data)
        for left_out in (callbacks.Trackio, guards.Guards):  # a guard would stop what is shown here
            made.remove_callback(left_out)
        compute = made._compute_loss

        def looked_at(model, inputs):
            now = tap.per_token_logps(model, inputs, made.temperature, rows=rows)
            batch = {name: inputs[name].detach().double().numpy() for name in BATCH}
            kept.append({"age": made.state.global_step % updates, "per_token_logps": now} | batch)
            known = inputs if corrected else {k: v for k, v in inputs.items() if k != BATCH[0]}
            return compute(model, known)

        made._compute_loss = looked_at
        made.train()
    told = [entry["reward"] for entry in made.state.log_history if "reward" in entry]
    return [batch | {"reward": told[i // updates]} for i, batch in enumerate(kept)]


BATCH = ("old_per_token_logps", "completion_mask", "advantages")  # what TRL knows of a batch


def seen(batch):
    """What the ratios of one batch of `real` are like: spread of the tokens' and the answers' logs, tokens clipped."""
    mask = batch["completion_mask"]
    log_w = mask * (batch["per_token_logps"] - batch["old_per_token_logps"])
    up = batch["advantages"][:, None] > 0
    outside = np.where(up, log_w > np.log(1.2), log_w < np.log(0.8)) * mask
    return {
        "updates old": batch["age"],
        "token": float(log_w[mask == 1].std()),
        "answer": float(log_w.sum(axis=1).std()),
        "tokens clipped": float(outside.sum() / mask.sum()),
    }


# ---------------------------------------------------------------- what is shown


def draw_runs(runs, title=""):
    """Draw the true reward of every world over the steps, a panel for each run: runs = {name: Run}."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        1, len(runs), figsize=(min(10.0, 3.1 * len(runs) + 0.6), 3.2), sharey=True, squeeze=False
    )
    said = []
    for ax, colour, (name, run) in zip(panels.flat, plots.COLOURS, runs.items()):
        ax.plot(run.steps, run.reward, color=colour, alpha=0.35, linewidth=0.9)
        ax.plot(run.steps, run.reward.mean(axis=1), color="black", linewidth=2.2)
        fell = int((run.fall() > FELL).sum())
        ax.set_title(
            f"{name}\n{fell} of {run.reward.shape[1]} fell by more than {FELL}", fontsize=10
        )
        ax.set(xlabel="update", ylim=(0.8, 4.1))
        ax.grid(axis="y", alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
        mean = run.reward.mean(axis=1)
        said.append(f"{name}: mean from {mean[0]:.1f} to {mean[-1]:.1f}, {fell} worlds fell")
    panels.flat[0].set_ylabel("true reward, of 4")
    figure.suptitle(title, fontsize=11, fontweight="bold")
    figure.tight_layout()
    plots.show_with_alt(figure, f"{title}. True reward over the updates. {'; '.join(said)}.")


FELL = 0.5  # of a reward of at most 4: what counts as a fall


def draw_errors(ages, found, title=""):
    """Draw bias and spread of each way's gradient over the age: found = {way: [{"bias", "spread", "error"}]}."""
    import matplotlib.pyplot as plt

    parts = {"bias": "of the mean", "spread": "of a batch of 32", "error": "both"}
    figure, panels = plt.subplots(1, len(parts), figsize=(10.0, 3.6), sharex=True)
    styles = list(zip(plots.COLOURS, "os^Dv*", ("-", "--", ":", "-.", "-", "--")))
    said = []
    for ax, (part, words) in zip(panels, parts.items()):
        for (colour, marker, line), (way, rows) in zip(styles, found.items()):
            values = [row[part] for row in rows]
            ax.plot(ages, values, line, marker=marker, color=colour, label=way, linewidth=1.6)
            said.append(f"{part} of {way} {values[0]:.2g} to {values[-1]:.2g}")
        ax.set_xscale("log", base=2)
        ax.set_xticks(ages, [str(age) for age in ages])
        ax.set_xlabel("updates old")
        ax.set_title(f"{part}, {words}", loc="left", fontsize=10)
        ax.grid(axis="y", alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in panels[1:]:  # a spread of several lengths beside one of less than one
        ax.set_yscale("log", base=2)
        ax.set_yticks([0.5, 1, 2, 4, 8], ["0.5", "1", "2", "4", "8"])
    panels[0].set_ylabel("true gradient's lengths")
    figure.suptitle(title, fontsize=11, fontweight="bold")
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="lower center", ncols=3, fontsize=9)
    plots.show_with_alt(figure, f"{title}. Samples {ages} updates old: {'; '.join(said)}.")


# ---------------------------------------------------------------- from the command line


SEVERAL = {  # what is run on several seeds
    "fresh": ("uncorrected", 0),
    "16 late, uncorrected": ("uncorrected", 16),
    **{f"64 late, {way}": (way, 64) for way in WAYS},
    "nothing shared, 64 late, uncorrected": ("uncorrected", 64, None),
}
SLOW = {  # and the same at a seventh of the rate
    f"64 late, {way}, rate 0.03": (way, 64)
    for way in ("uncorrected", "token ratio, clipped", "answer's ratio, truncated")
}


def measured():
    """What is kept of runs on several seeds: where they ran, `worlds`, and `real` and `fast` of the tiny model.

    worlds        {name: {"reward", "right", "fell"}}, of SEVERAL and SLOW
    real, fast    {"corrected" or "uncorrected": [the mean reward of each generation, for each seed]}, at the rate
                  of `real` and at four times that rate, which is the recipe's
    """
    return kept.read("late")


def kept_table(worlds):
    """One line per kind of run for `show.table`, with a value for each seed."""
    return [
        {
            "samples": name,
            "reward, of 4": ", ".join(f"{x:.2f}" for x in found["reward"]),
            "right": ", ".join(f"{x:.0%}" for x in found["right"]),
            f"fell by more than {FELL}": ", ".join(map(str, found["fell"])),
        }
        for name, found in worlds.items()
    ]


def _ends(several, seeds, **options):
    """{name: what is kept of its runs, one for each seed}"""
    found = {}
    for name, what in several.items():
        ended = [run(*what, seed=seed, **options) for seed in seeds]
        found[name] = {
            "reward": [float(each.reward[-1].mean()) for each in ended],
            "right": [float(each.right[-1].mean()) for each in ended],
            "fell": [int((each.fall() > FELL).sum()) for each in ended],
        }
    return found


def _earned(seeds, generations, rate):
    """{"corrected" or "uncorrected": the mean reward of each generation, for each seed}"""
    found = {"corrected": [], "uncorrected": []}
    for seed, (name, each) in itertools.product(seeds, found.items()):
        batches = real(16, generations, name == "corrected", seed, learning_rate=rate)
        each.append([float(batch["reward"]) for batch in batches if batch["age"] == 0])
    return found


def main(argv=None):
    """Run the small worlds on several seeds of their samples, and TRL with its ratio and without; keep the figures."""
    from lab import runs, show, train

    parser = argparse.ArgumentParser(prog="python -m lab.late", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--generations", type=int, default=5, help="of the tiny model")
    parser.add_argument("--out", type=Path, default=runs.root() / "late.json")
    asked = parser.parse_args(argv)
    show.quiet()
    train.ensure("sft", "tiny")
    found = kept.start("python -m lab.late", asked.out)
    if "worlds" not in found:
        found["worlds"] = _ends(SEVERAL, asked.seeds) | _ends(SLOW, asked.seeds, lr=0.03)
    for name, rate in (("real", 5e-4), ("fast", 2e-3)):
        if name not in found:
            found[name] = _earned(asked.seeds, asked.generations, rate)
            kept.write(asked.out, found)
    show.table(kept_table(found["worlds"]))
    print(asked.out)


if __name__ == "__main__":
    main()
