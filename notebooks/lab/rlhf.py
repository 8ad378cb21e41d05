"""A reward model learnt from pairs, and what becomes of the truth where its score is optimised.

    model, tok = rlhf.policy()                                  the SFT stage, plain
    trainer = rlhf.fit(model, tok, rlhf.pairs(seen, 20))        TRL's RewardTrainer
    given = rlhf.scores(trainer, pool)                          its scores of a pool of completions
    rlhf.chosen(pool, given)                                    the best of n by the score: proxy, gold, KL
    rlhf.tilted(pool, given)                                    the optimum of RL with a KL term, for several beta
    rlhf.train(trainer, beta=0.0)                               GRPO against the score
    python -m lab.rlhf --seeds 0 1 2                            the table of the lesson, on several seeds

What such runs gave, with the machine and the versions, is kept beside this module in rlhf.json.

The reward model's score is the proxy. The gold, which also makes the pairs, is what the kit's chain trains for: the answer
is right and its reasoning stands on one line (`wanted`). The tiny model trains on the CPU of any machine.

Source    Gao et al., "Scaling laws for reward model overoptimization", arXiv 2210.10760: gold and proxy against
          the root of the KL; log n - (n - 1)/n is an upper bound of it: Beirami et al., arXiv 2401.01879; the optimum
          of RL with a KL term: Rafailov et al., arXiv 2305.18290, eq. 4
Lesson    notebooks/16_reward_model.ipynb        Proof    tests/lab/test_rlhf.py
"""

import argparse
import copy
import random
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, PrinterCallback

from lab import callbacks, clinic, evaluate, kept, leaks, plots, runs, show, tasks, train, vllm
from lab.puzzles.best_of import best_of_n, kl_of_best_of_n
from lab.puzzles.preferences import optimum
from rewards import accuracy_reward

ROOM = 48  # tokens for an answer; the longer style takes 36
NS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
BETAS = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.125, 0.0625)


class Problem(NamedTuple):
    """A problem with completions of one policy."""

    a: int
    b: int
    texts: list  # (N,)
    gold: np.ndarray  # (N,) 1.0 for what is wanted, else 0.0


class Curve(NamedTuple):
    """What is chosen at each setting of a knob, problem by problem: arrays (problems, settings)."""

    knob: tuple
    proxy: np.ndarray  # the mean score
    gold: np.ndarray  # the share of what is wanted
    kl: np.ndarray  # nats from the policy


def policy():
    """Return the SFT stage as a plain model, and its tokenizer."""
    loaded, tok = train.load(leaks.recipe())
    return vllm.served(loaded), tok


def wanted(asked, texts):
    """The gold, (N,): 1.0 where the answer is right and the reasoning is terse, else 0.0; asked = [(a, b)].

    >>> wanted([(12, 34)] * 2, [tasks.completion(12, 34, style) for style in tasks.STYLES]).tolist()
    [1.0, 0.0]
    """
    told = accuracy_reward(completions=texts, solution=[str(a + b) for a, b in asked])
    terse = [tasks.style_of(text) == tasks.PREFERRED for text in texts]
    return np.array([float(r == 1.0 and short) for r, short in zip(told, terse, strict=True)])


def draw(model, tok, n, samples, split="train", seed=0):
    """Sample completions at temperature 1: n problems of a split, `samples` each."""
    asked = tasks.sample(n, split, seed)
    each = [pair for pair in asked for _ in range(samples)]
    texts = evaluate.sample(model, tok, [tasks.prompt(*pair) for pair in each], seed, ROOM)
    gold = wanted(each, texts)
    parts = [slice(i * samples, (i + 1) * samples) for i in range(n)]
    return [Problem(*pair, texts[part], gold[part]) for pair, part in zip(asked, parts)]


def pairs(drawn, n, seed=0):
    """Make n pairs for a reward model: a completion that is wanted over one that is not, at most two of a problem.

    Raises ValueError where there are fewer.
    """
    rng, rows = random.Random(f"pairs-{seed}"), []
    for problem in rng.sample(drawn, len(drawn)):
        sides = {v: [t for t, g in zip(problem.texts, problem.gold) if g == v] for v in (1.0, 0.0)}
        both = [(c, r) for c in sides[1.0] for r in sides[0.0]]
        for chosen, rejected in rng.sample(both, min(2, len(both))):
            said = [[{"role": "assistant", "content": text}] for text in (chosen, rejected)]
            asked = tasks.prompt(problem.a, problem.b)
            rows.append({"prompt": asked, "chosen": said[0], "rejected": said[1]})
    if len(rows) < n:
        raise ValueError(
            f"pairs: {len(drawn)} problems gave {len(rows)} pairs of what is wanted and what is not, "
            f"and {n} are wanted; draw more problems, or more samples of each"
        )
    return Dataset.from_list(rows[:n])


def untrained(model, seed=0):
    """A reward model that starts from a policy: its layers, and one output in place of the vocabulary's."""
    config = copy.deepcopy(model.config)
    config.num_labels = 1
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = AutoModelForSequenceClassification.from_config(config)
    made.model.load_state_dict(model.model.state_dict())
    return made


def fit(model, tok, rows, steps=40, seed=0, **args):
    """Train a reward model on pairs with TRL's RewardTrainer, all weights in float32; returns the trainer.

    args    instead of those here, such as learning_rate
    """
    from trl import RewardConfig, RewardTrainer

    chosen = {"max_steps": steps, "per_device_train_batch_size": 32, "learning_rate": 1e-3}
    chosen |= {"warmup_steps": 3, "lr_scheduler_type": "cosine", "logging_steps": 5}
    chosen |= {"save_strategy": "no", "report_to": [], "disable_tqdm": True, "seed": seed}
    chosen |= {"gradient_checkpointing": False, "bf16": False, "use_cpu": True} | args
    with tempfile.TemporaryDirectory() as scratch:
        config = RewardConfig(output_dir=scratch, **chosen)
        made = RewardTrainer(
            model=untrained(model, seed), args=config, train_dataset=rows, processing_class=tok
        )
        made.remove_callback(PrinterCallback)
        made.add_callback(callbacks.Progress("reward model"))
        made.train()
    made.model.eval()
    return made


@torch.no_grad()
def score(trainer, asked, texts):
    """The reward model's scores of texts, (N,): asked = [(a, b)], one for each text."""
    tok, found = trainer.processing_class, {}
    each = list(dict.fromkeys(zip(asked, texts)))  # a policy writes the same text often
    for start in range(0, len(each), 512):
        some = each[start : start + 512]
        chats = [
            [*tasks.prompt(*pair), {"role": "assistant", "content": text}] for pair, text in some
        ]
        ids = [tok.apply_chat_template(chat, return_dict=False) for chat in chats]
        inputs = tok.pad({"input_ids": ids}, padding_side="right", return_tensors="pt")
        found |= dict(zip(some, trainer.model(**inputs).logits[:, 0].tolist()))
    return np.array([found[key] for key in zip(asked, texts)])


def scores(trainer, problems):
    """The scores of a pool, one array (N,) for each problem."""
    asked = [(p.a, p.b) for p in problems for _ in p.texts]
    told = score(trainer, asked, [text for p in problems for text in p.texts])
    return np.split(told, np.cumsum([len(p.texts) for p in problems])[:-1])


def by_chance(problems, seed=0):
    """The control: a score for each different text of a problem, drawn at random."""
    rng = np.random.default_rng(seed)
    found = []
    for problem in problems:
        drawn = {text: rng.random() for text in dict.fromkeys(problem.texts)}
        found.append(np.array([drawn[text] for text in problem.texts]))
    return found


def standard(given, of=None):
    """Scores in standard deviations above the mean of a pool, by default their own: models then compare."""
    of = np.concatenate(of or given)
    return [(each - of.mean()) / of.std() for each in given]


def agrees(problems, given):
    """How often the score ranks what is wanted above what is not, of the same problem; a tie counts half."""
    won = total = 0.0
    for problem, each in zip(problems, given, strict=True):
        yes, no = each[problem.gold == 1], each[problem.gold == 0]
        gaps = yes[:, None] - no[None]
        won, total = won + (gaps > 0).sum() + 0.5 * (gaps == 0).sum(), total + gaps.size
    return won / total


def chosen(problems, given, ns=NS, best_of=best_of_n):
    """Best-of-n by a score: proxy and gold as the unbiased estimator over the pool, the KL of the pool's shares."""
    proxy = [[best_of(each, each, n) for n in ns] for each in given]
    gold = [[best_of(each, p.gold, n) for n in ns] for p, each in zip(problems, given, strict=True)]
    kl = [[kl_of_best_of_n(_shares(each), n)[0] for n in ns] for each in given]
    return Curve(tuple(ns), *map(np.array, (proxy, gold, kl)))


def tilted(problems, given, betas=BETAS):
    """The optimum of RL with a KL term, p(y) exp(r(y) / beta) / Z: exact, with the pool's shares as the policy p."""
    found = [
        [_tilt(each, problem.gold, beta) for beta in betas]
        for problem, each in zip(problems, given, strict=True)
    ]
    return Curve(tuple(betas), *np.array(found).transpose(2, 0, 1))


def chance(problems, how=chosen, draws=20, **options):
    """The control's curve: the mean over several scores by chance."""
    found = [how(problems, standard(by_chance(problems, seed)), **options) for seed in range(draws)]
    means = (np.mean([getattr(c, key) for c in found], axis=0) for key in ("proxy", "gold", "kl"))
    return Curve(found[0].knob, *means)


def _shares(given):
    """Shares of the different scores of a problem, in rising order: equal texts have equal scores."""
    return np.unique(given, return_counts=True)[1] / len(given)


def _tilt(given, gold, beta):
    p = np.full(len(given), 1 / len(given))
    q = optimum(np.log(p), given, beta)[0]
    seen = q > 0  # 0 log 0 is 0
    return q @ given, q @ gold, np.sum(q[seen] * np.log(q[seen] / p[seen]))


def mean(values):
    """Mean over the problems and half the width of its 95% interval, each (settings,)."""
    return values.mean(0), 1.96 * values.std(0, ddof=1) / len(values) ** 0.5


def top(problems, given, which):
    """Of some problems, the text with the highest score, beside the most frequent one."""
    rows = []
    for i in which:
        problem, each = problems[i], given[i]
        usual = max(dict.fromkeys(problem.texts), key=problem.texts.count)
        best = int(each.argmax())
        row = {"asked": f"{problem.a}+{problem.b}=?", "most frequent": usual}
        row |= {"highest score": problem.texts[best], "wanted": bool(problem.gold[best])}
        rows.append(row)
    return rows


# ---------------------------------------------------------------- RL against the score


def sums(chat):
    """The numbers that a prompt asks to add: (a, b)."""
    return tuple(map(int, chat[0]["content"][:-2].split("+")))


def reward(trainer, mean=0.0, spread=1.0):
    """The score as a reward function in TRL's signature."""

    def learned(completions, prompts, **columns):
        told = score(
            trainer, [sums(chat) for chat in prompts], [chat[0]["content"] for chat in completions]
        )
        return ((told - mean) / spread).tolist()

    return learned


def beside(start, tok, asked):
    """Measure of a model's own texts: gold, the share of what is wanted, and kl, nats per completion from `start`.

    asked    [(a, b)]. The end of a text is left out of the KL.
    """
    prompts = [clinic.chat_ids(tok, tasks.prompt(*pair)) for pair in asked]

    def measure(model, texts):
        now, then = (clinic.likelihood(each, tok, prompts, texts).sum() for each in (model, start))
        return {"gold": float(wanted(asked, texts).mean()), "kl": float(now - then) / len(texts)}

    return measure


def train_against(trainer, beta, of, seed=0, steps=(0, 10, 20), n=100, **args):
    """GRPO from the SFT stage against the score, with a KL term of strength beta; rows as `leaks.watch` has them.

    of         the scores of a pool: the reward is in its standard deviations
    returns    its rows, those at temperature 1 with what `beside` measures
    """
    given = np.concatenate(of)
    short = {"per_device_train_batch_size": 64, "steps_per_generation": 1, "warmup_steps": 2}
    short |= {"lr_scheduler_type": "constant", "learning_rate": 1e-3, "beta": beta}
    start, tok = policy()
    asked = [sums(chat) for chat in evaluate.heldout(leaks.recipe(), n=n, seed=5)["prompt"]]
    paid, also = reward(trainer, given.mean(), given.std()), beside(start, tok, asked)
    return leaks.watch([paid], seed=seed, steps=steps, n=n, also=also, **short | args)


# ---------------------------------------------------------------- what is shown


def draw_curves(curves, title="", runs=None):
    """Proxy and gold against the root of the KL, a panel each, with 95% intervals over the problems.

    curves    {name: Curve}
    runs      {name: rows of `train_against`}, drawn as points that are joined in the order of the steps
    """
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(plots.PAGE, 3.7))
    looks = list(zip(plots.COLOURS, plots.DASHES, "os^Dvx"))
    said = []
    for ax, key, label in zip(
        panels, ("proxy", "gold"), ("proxy: the score", "gold: right, on one line")
    ):
        for (colour, dashes, _), (name, curve) in zip(looks, curves.items()):
            x, (y, half) = np.sqrt(curve.kl.mean(0)), mean(getattr(curve, key))
            ax.plot(x, y, linestyle=dashes, color=colour, label=name, linewidth=1.8)
            ax.fill_between(x, y - half, y + half, color=colour, alpha=0.15, linewidth=0)
            said.append(f"{label}, {name}: " + _points(x, y))
        for (colour, _, marker), (name, rows) in zip(looks[len(curves) :], (runs or {}).items()):
            at = [row for row in rows if row["temperature"] == 1.0]
            x = np.sqrt([max(row["kl"], 0.0) for row in at])
            y = [row[key] for row in at]
            ax.plot(x, y, linestyle=":", marker=marker, color=colour, label=name, linewidth=1.2)
            said.append(f"{label}, {name}: " + _points(x, y))
        ax.set(xlabel="root of the KL, in nats")
        ax.set_title(label, loc="left", fontsize=9.5)
        ax.grid(axis="y", alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("standard deviations of the pool")
    panels[1].set(ylabel="share", ylim=(-0.03, 1.03))
    figure.suptitle(title, fontsize=11, fontweight="bold")
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="lower center",
        ncols=2,
        fontsize=9,
        frameon=False,
        handlelength=3.5,
    )
    plots.show_with_alt(figure, f"{title}. Each point is root of the KL, value. {'; '.join(said)}.")


def _points(x, y):
    return " ".join(f"({a:.1f}, {b:.2f})" for a, b in zip(x, y))


def kept_of(curve):
    """What is kept of a Curve: its knob, and the means over the problems."""
    means = {
        key: [float(x) for x in getattr(curve, key).mean(0)] for key in ("proxy", "gold", "kl")
    }
    return {"knob": [float(x) for x in curve.knob]} | means


def on_seeds():
    """Return what is kept: where it ran, and in `runs` for each seed and number of pairs

    agrees                      the share of held-out pairs that it ranks as the gold does
    best of n, tilted, chance   as `kept_of` gives them
    grpo                        {beta: [{"step", "proxy", "gold", "kl"}]}
    """
    return kept.read("rlhf")


def table(rows):
    """Return one line for each run that is kept, for `show.table`: how often what is wanted is chosen."""
    lines = []
    for row in rows:
        best, tilted = row["best of n"], dict(zip(row["tilted"]["knob"], row["tilted"]["gold"]))
        peak = int(np.argmax(best["gold"]))
        lines.append(
            {
                "pairs": row["pairs"],
                "seed": row["seed"],
                "ranks as the gold": f"{row['agrees']:.0%}",
                "n = 1": best["gold"][0],
                "best n": f"{best['gold'][peak]:.2f} (n = {best['knob'][peak]:g})",
                f"n = {best['knob'][-1]:g}": best["gold"][-1],
                "by chance, likewise": row["chance"]["gold"][-1],
                "RL's optimum, beta 1": tilted[1.0],
            }
            | {
                f"GRPO, beta {beta}": " ".join(f"{at['gold']:.2f}" for at in steps)
                for beta, steps in row["grpo"].items()
            }
        )
    return lines


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m lab.rlhf", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pairs", type=int, nargs="+", default=[20, 50, 200])
    parser.add_argument("--beta", type=float, nargs="*", default=[0.0, 0.3])
    parser.add_argument("--out", type=Path, default=runs.root() / "rlhf.json")
    args = parser.parse_args(argv)
    show.quiet()
    train.ensure("sft", "tiny")
    found = kept.start("python -m lab.rlhf", args.out, runs=[])
    model, tok = policy()
    for seed in args.seeds:
        seen, pool = draw(model, tok, 400, 4, seed=seed), draw(model, tok, 24, 256, "heldout", seed)
        blind = kept_of(chance(pool))
        stand = {
            row["pairs"] for row in found["runs"] if row["seed"] == seed
        }  # of an earlier command
        for n in (n for n in args.pairs if n not in stand):
            trainer = fit(model, tok, pairs(seen, n, seed), seed=seed)
            given = scores(trainer, pool)
            grpo = {
                f"{beta:g}": [
                    {key: float(row[key]) for key in ("step", "proxy", "gold", "kl")}
                    for row in train_against(trainer, beta, given, seed)
                    if row["temperature"] == 1.0
                ]
                for beta in args.beta
            }
            row = {"seed": seed, "pairs": n, "agrees": float(agrees(pool, given)), "chance": blind}
            row["best of n"] = kept_of(chosen(pool, standard(given)))
            found["runs"].append(
                row | {"tilted": kept_of(tilted(pool, standard(given))), "grpo": grpo}
            )
            kept.write(args.out, found)
    show.table(table(found["runs"]))
    print(args.out)


if __name__ == "__main__":
    main()
