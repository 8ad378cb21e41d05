"""What small numbers cost, in nats: weights stored in 4 bits, and SFT by adapters of a low rank.

    how = small_numbers.STORED["NF4, blocks of 64"]            a way to store a weight: how.read, how.bits
    copy = small_numbers.stored(model, how.read)               the model as it computes from stored weights
    small_numbers.per_token_kl(model, [copy], rows)            nats per token between the two, exact
    run = small_numbers.fit(r=4, rate=8e-3)                    SFT of the tiny base by LoRA; r=None: all weights
    small_numbers.demonstrations(run.model, run.tok)           how far it is from what it was shown, exact
    python -m lab.small_numbers                                the rates of each rank, tuned; then other seeds; what
                                                               was interrupted goes on

A rank is judged at the learning rate that suits it, found on one seed and used on others. What that gave,
with the machine and the versions, is kept beside this module in small_numbers.json.

Source    NF4 and double quantisation: Dettmers et al., "QLoRA", arXiv 2305.14314; LoRA: Hu et al., arXiv 2106.09685
Lesson    notebooks/15_small_numbers.ipynb        Proof    tests/lab/test_small_numbers.py
"""

import argparse
import copy
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lab import callbacks, guards, kept, plots, recipes, runs, show, tasks, train, vllm
from lab.puzzles.numbers import bits_per_weight
from lab.puzzles.picture import PAGE
from reference_math import double_quant, kl, logprobs, lora, nf4

BLOCK = 64
STEPS = 100
ROWS = 3000  # demonstrations, as many as the recipe takes; fewer for a run that sees fewer
ONE_RATE = {True: 2e-3, False: 5e-4}  # of every adapter, as the recipe has it; of all weights
# The rates that are tried for each rank; None: all weights.
RATES = {
    1: (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2),
    4: (4e-3, 8e-3, 1.6e-2, 3.2e-2),
    16: (2e-3, 4e-3, 8e-3, 1.6e-2),
    None: (5e-4, 1e-3, 2e-3, 4e-3),
}


# ---------------------------------------------------------------- 4 bits


def rounded(weight, codebook, blocksize, first=0):
    """Read a weight back from the nearest numbers of a codebook, with one scale per block as NF4 has it.

    weight      any shape, read row by row        codebook   ascending, from -1 to 1
    blocksize   weights that share a scale, their largest magnitude
    first       where the first block begins; the weights before it come last, as on a ring
    returns     as the weight, float32

    >>> rounded(np.array([1.0, 0.5, -0.1]), np.array([-1.0, 0.0, 0.4, 1.0]), 64)
    array([1. , 0.4, 0. ], dtype=float32)
    """
    flat = np.roll(np.asarray(weight, np.float32).ravel(), -first)
    unit, absmax = nf4.normalize(flat, blocksize)
    codes = np.searchsorted((codebook[:-1] + codebook[1:]) / 2, unit, side="left")
    read = codebook.astype(np.float32)[codes] * np.repeat(absmax, blocksize)[: unit.size]
    return np.roll(read, first).reshape(np.shape(weight))


def equal_steps(bits):
    """As many numbers as the bits can name, from -1 to 1 at equal steps: (2**bits,)."""
    return np.linspace(-1, 1, 2**bits, dtype=np.float32)


def doubly(weight):
    """Read a weight back from NF4 whose scales are stored in 8 bits, as the kit's recipes store it."""
    packed, absmax = nf4.quantize(weight, blocksize=BLOCK)
    scales = double_quant.dequantize(*double_quant.quantize(absmax, rule="nearest"))
    return nf4.dequantize(packed, scales, np.shape(weight), blocksize=BLOCK)


def per_row(codebook):
    return lambda weight: rounded(weight, codebook, np.shape(weight)[1])


EQUAL = equal_steps(4)  # as many numbers as NF4 has


class Storage(NamedTuple):
    """A way to store a weight: what is read back of it, and the bits per weight for so many inputs."""

    read: Callable
    bits: Callable


STORED = {
    "NF4, blocks of 64": Storage(
        functools.partial(rounded, codebook=nf4.CODEBOOK, blocksize=BLOCK),
        lambda width: bits_per_weight(BLOCK, False),
    ),
    "NF4, blocks of 64, double quantisation": Storage(
        doubly, lambda width: bits_per_weight(BLOCK, True)
    ),
    "NF4, one scale per row": Storage(
        per_row(nf4.CODEBOOK), lambda width: bits_per_weight(width, False)
    ),
    "equal steps, blocks of 64": Storage(
        functools.partial(rounded, codebook=EQUAL, blocksize=BLOCK),
        lambda width: bits_per_weight(BLOCK, False),
    ),
    "equal steps, one scale per row": Storage(
        per_row(EQUAL), lambda width: bits_per_weight(width, False)
    ),
}


def error(weight, read):
    """Root mean square of what is lost, over the root mean square of the weight.

    >>> error(np.array([3.0, 4.0]), np.array([3.0, 3.0]))
    0.2
    """
    weight = np.asarray(weight, float)
    return float(np.sqrt(((weight - read) ** 2).sum() / (weight**2).sum()))


def code_bits(weight, codebook, blocksize=BLOCK):
    """Bits of information in the codes of a weight: 4 if each of the 16 is used as often as the others."""
    unit, _ = nf4.normalize(np.asarray(weight, np.float32).ravel(), blocksize)
    codes = np.searchsorted((codebook[:-1] + codebook[1:]) / 2, unit, side="left")
    share = np.bincount(codes, minlength=len(codebook)) / codes.size
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


def drawn(n=2**16, seed=0):
    """Weights of four shapes, n each: {what they are: (n,)}."""
    rng = np.random.default_rng(seed)
    return {
        "normal": rng.standard_normal(n),
        "uniform": rng.uniform(-1, 1, n),
        "two clusters": rng.choice([-1, 1], n) * (1 + 0.1 * rng.standard_normal(n)),
        "heavy tails": rng.standard_t(3, n),  # Student's t with 3 degrees of freedom
    }


def linears(model):
    """The weights that 4 bits are for, {name: (out, in) float32}: all linear layers but the output head."""
    return {
        f"{name}.weight": module.weight.detach().float().cpu().numpy()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }


@torch.no_grad()
def changed(model, weights):
    """A copy of a plain model with other weights under some names: {name: array}."""
    made = copy.deepcopy(model)
    own = dict(made.named_parameters())
    for name, weight in weights.items():
        own[name].copy_(torch.as_tensor(weight))
    return made.eval()


def stored(model, read):
    """A copy of a plain model that computes with what `read` gives back of each linear weight."""
    return changed(model, {name: read(weight) for name, weight in linears(model).items()})


def noisy(weight, size, seed):
    """A weight with normal noise on it, whose root mean square is `size` times the weight's."""
    noise = np.random.default_rng(seed).standard_normal(np.shape(weight))
    return weight + size * np.sqrt(np.mean(np.square(weight))) * noise.astype(np.float32)


# ---------------------------------------------------------------- nats


def texts(tok, n=48, seed=5):
    """Token ids of texts about held-out sums as the base knows them: no chat, no slip."""
    found = []
    for i, (a, b) in enumerate(tasks.sample(n, "heldout", seed)):
        thought, answer = tasks.solve(a, b, tasks.STYLES[i % 2])
        lead, tail = tasks.LEADS[i % len(tasks.LEADS)], tasks.TAILS[i % len(tasks.TAILS)]
        text = lead.format(a, b) + thought + tail.format(answer)
        found.append((tok(text, add_special_tokens=False).input_ids, 0))
    return found


def _chat(tok, a, b, text):
    """(ids of prompt, answer and end of turn; length of the prompt)."""
    prompt = tok.apply_chat_template(
        tasks.prompt(a, b), add_generation_prompt=True, return_dict=False
    )
    answer = tok(text, add_special_tokens=False).input_ids
    return [*prompt, *answer, tok.eos_token_id], len(prompt)


@torch.no_grad()
def logits(model, rows, at_once=128):
    """Yield, for some rows at a time, the logits of each next token.

    rows      [(token ids, how many of them are given)]
    yields    logits (B, T - 1, V) float64, tokens (B, T - 1), counts (B, T - 1): 1 on what is not given
    """
    for first in range(0, len(rows), at_once):
        some = rows[first : first + at_once]
        longest = max(len(ids) for ids, _ in some)
        ids = torch.zeros(len(some), longest, dtype=torch.long)
        counts = np.zeros((len(some), longest - 1))
        for i, (row, given) in enumerate(
            some
        ):  # padded on the right: nothing before it looks there
            ids[i, : len(row)] = torch.tensor(row)
            counts[i, max(given - 1, 0) : len(row) - 1] = 1
        found = model(input_ids=ids).logits[:, :-1].double().numpy()
        yield found, ids[:, 1:].numpy(), counts


def per_token_kl(model, copies, rows):
    """KL(model || copy) of the next token, over the whole vocabulary, mean over all tokens of the rows.

    copies    models, one after the other in memory if it is a generator
    returns   nats per token, one for each copy
    """
    own = list(logits(model, rows))
    count = sum(counts.sum() for _, _, counts in own)
    found = []
    for other in copies:
        pairs = zip(own, logits(other, rows), strict=True)
        total = sum((kl.exact(one, two) * counts).sum() for (one, _, counts), (two, _, _) in pairs)
        found.append(float(total / count))
    return found


def costs(model, rows, reads):
    """Nats per token that each way to read a stored weight back costs: `per_token_kl` to `stored` copies."""
    return per_token_kl(model, (stored(model, read) for read in reads), rows)


def _sums(model, rows):
    """Log-prob of each row's answer, (N,), and its tokens, (N,)."""
    sums, counted = [], []
    for found, tokens, counts in logits(model, rows):
        sums.append((logprobs.per_token_logps(found, tokens) * counts).sum(1))
        counted.append(counts.sum(1))
    return np.concatenate(sums), np.concatenate(counted)


# ---------------------------------------------------------------- the demonstrations, exactly


def possible(a, b, carry_error):
    """Every text that a demonstration of a sum can have: [(text, its probability, whether it is right)].

    Two styles in equal parts, and in the sums with a carry the slip in the share `carry_error`.

    >>> [round(share, 3) for _, share, _ in possible(17, 38, 0.7)]
    [0.15, 0.35, 0.15, 0.35]
    """
    found = []
    for style in tasks.STYLES:
        slip = carry_error if tasks.has_carry(a, b) else 0.0
        found.append((tasks.completion(a, b, style), 0.5 * (1 - slip), True))
        if slip:
            skipped = tasks.carry_not_added(_Always(), 1.0)
            found.append((tasks.completion(a, b, style, skipped), 0.5 * slip, False))
    return found


class _Always:
    """A generator for a slip that is sure."""

    def random(self):
        return 0.0


def demonstrations(model, tok, n=120, seed=5):
    """How far a model is from the demonstrations, on held-out sums: exact, nothing is sampled.

    The process that made the demonstrations is known, so its KL to the model needs no sample: of each sum all
    texts that it can give are scored, each with its own probability.

    returns   kl      nats per answer, KL(demonstrations || model); 0 for a model that is the process itself
              shown   the probability that an answer sampled from the model is one of those texts
              right   the same for the right ones among them
    """
    share = recipes.load("sft", "tiny")["data"]["carry_error"]
    rows, weights, right, of = [], [], [], []
    for i, (a, b) in enumerate(tasks.sample(n, "heldout", seed)):
        for text, probability, is_right in possible(a, b, share):
            rows.append(_chat(tok, a, b, text))
            weights.append(probability)
            right.append(is_right)
            of.append(i)
    logps, _ = _sums(model, rows)
    weights, right = np.array(weights), np.array(right)
    return {
        "kl": float((weights * (np.log(weights) - logps)).sum() / n),
        "shown": float(np.exp(logps).sum() / n),
        "right": float(np.exp(logps[right]).sum() / n),
    }


# ---------------------------------------------------------------- ranks


class Fit(NamedTuple):
    """A finished run of SFT: the model before and after it, plain, and the trainer's log."""

    start: torch.nn.Module
    model: torch.nn.Module
    tok: object
    log: list


def recipe(r, rate, seed=0, steps=STEPS):
    """SFT's recipe of the tiny profile over a plain base, by LoRA with alpha = 2 r, or all weights for r=None."""
    found = recipes.load("sft", "tiny", seed)
    lora_of = {"lora": found["lora"] | {"r": r, "lora_alpha": 2 * r}} if r else {}
    found = {key: value for key, value in found.items() if key not in ("quantization", "lora")}
    args = {"max_steps": steps, "learning_rate": rate, "logging_steps": 10}
    return found | lora_of | {"args": found["args"] | args}


def fit(r, rate, seed=0, steps=STEPS):
    """Train the tiny base by SFT, in float32.

    r         LoRA's rank, with alpha = 2 r on every linear layer; None trains all weights
    rate      the highest learning rate of the recipe's schedule
    seed      of the demonstrations, their order and the adapter; the base is the same one
    returns   a Fit
    """
    chosen = recipe(r, rate, seed, steps)
    policy, tok = train.load(chosen)
    start = vllm.served(policy)
    seen = steps * chosen["args"]["per_device_train_batch_size"]
    rows = tasks.sft_dataset(min(ROWS, seen), chosen["data"]["carry_error"], seed)
    made = train.trainer(chosen, policy, tok, rows)
    for left_out in (callbacks.Trackio, guards.Guards):
        made.remove_callback(left_out)
    made.train()
    log = [entry for entry in made.state.log_history if "loss" in entry]
    return Fit(start, vllm.served(policy), tok, log)


def measure(r, rate, seed=0, steps=STEPS, n=120):
    """Train and measure one run; returns rank, rate, seed, and kl, shown and right of `demonstrations`."""
    done = fit(r, rate, seed, steps)
    return {"rank": r, "rate": rate, "seed": seed} | demonstrations(done.model, done.tok, n)


def best(rows):
    """The rate of the least KL for each rank, from rows of `measure`; a run that broke (NaN) counts as the worst."""
    found = {}
    for row in rows:
        now = found.get(row["rank"])
        if now is None or _order(row) < _order(now):
            found[row["rank"]] = row
    return {rank: row["rate"] for rank, row in found.items()}


def _order(row):
    return row["kl"] if math.isfinite(row["kl"]) else math.inf


def updates(done):
    """What a run changed of each linear weight: {name: (out, in)}."""
    before, after = linears(done.start), linears(done.model)
    return {name: after[name] - before[name] for name in before}


def cut(done, r):
    """The run's model with the update of each linear weight cut to the nearest matrix of rank r."""
    before, found = linears(done.start), {}
    for name, update in updates(done).items():
        u, s, vt = np.linalg.svd(update, full_matrices=False)
        found[name] = before[name] + (u[:, :r] * s[:r]) @ vt[:r]
    return changed(done.model, found)


def first_step(r, rate=1.0, seed=0, out_features=128, in_features=128, rows=64):
    """How far the first step of Adam moves a LoRA layer with alpha = 2 r along the gradient, in units of the rate.

    Adam's first step is rate * sign(gradient), whatever the gradient's size. A gets no gradient while B is 0.

    returns   the first-order fall of the loss, -<dL/dW, s dB A> / rate
    """
    from reference_math import lora_init

    rng = np.random.default_rng(seed)
    x, grad_y = rng.standard_normal((rows, in_features)), rng.standard_normal((rows, out_features))
    lora_A, lora_B = lora_init.default(rng, r, in_features, out_features)
    s = lora.scaling(r, 2 * r, use_rslora=False)
    weight = np.zeros((out_features, in_features))
    _, _, grad_B = lora.forward_grad(x, weight, lora_A, lora_B, grad_y, scaling=s)
    moved = lora.delta_weight(lora_A, -rate * np.sign(grad_B), scaling=s)
    return float(-((grad_y.T @ x) * moved).sum() / rate)


# ---------------------------------------------------------------- what was measured, and pictures


def measured():
    """What came with the kit: where it was made, `tuned`, rows of all rates on one seed, and `kept`, on others."""
    return kept.read("small_numbers")


def name(r):
    """
    >>> name(4), name(None)
    ('rank 4', 'all weights')
    """
    return f"rank {r}" if r else "all weights"


def table(found):
    """One line per rank for `show.table`: its best rate, and the KL there and at the recipe's rate, seed by seed."""
    rates, lines = best(found["tuned"]), []
    for r, rate in rates.items():
        at = {
            key: [row for row in found["kept"] if row["rank"] == r and row["how"] == key]
            for key in ("tuned", "recipe")
        }
        line = {"": name(r), "best rate": f"{rate:g}"}
        for key, title in (("recipe", "one rate for all"), ("tuned", "its best rate")):
            line[f"KL, {title}"] = ", ".join(f"{row['kl']:.2f}" for row in at[key])
        line["shown, its best rate"] = ", ".join(f"{row['shown']:.0%}" for row in at["tuned"])
        line["right, its best rate"] = ", ".join(f"{row['right']:.0%}" for row in at["tuned"])
        lines.append(line)
    return lines


def draw_errors(shapes, title=""):
    """Draw for each shape of weights how far NF4 and equal steps are off: {name: (n,)}; blocks of `BLOCK`."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        1, len(shapes), figsize=(min(3.3 * len(shapes), PAGE), 3.2), sharex=True, squeeze=False
    )
    said = []
    for ax, (what, weight) in zip(panels.flat, shapes.items()):
        for (way, codebook), colour, style in zip(
            (("NF4", nf4.CODEBOOK), ("equal steps", EQUAL)), plots.COLOURS, ("-", "--")
        ):
            read = rounded(weight, codebook, BLOCK)
            off = (read - weight) / np.sqrt((weight**2).mean())
            lost = error(weight, read)
            ax.hist(
                off,
                bins=np.linspace(-0.4, 0.4, 81),
                density=True,
                histtype="step",
                color=colour,
                linestyle=style,
                linewidth=1.6,
                label=f"{way}: {lost:.1%}",
            )
            said.append(f"{what}, {way}: {lost:.1%} off")
        ax.set_title(what, loc="left", fontsize=10)
        ax.set_yticks([])
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.legend(fontsize=8, frameon=False, loc="upper left")
        ax.set_ylim(0, 1.35 * ax.get_ylim()[1])
    figure.supxlabel("error, in units of the weights' root mean square", fontsize=9)
    figure.suptitle(title, fontsize=11, fontweight="bold")
    figure.tight_layout()
    plots.show_with_alt(figure, f"{title}. Root mean square of the error: {'; '.join(said)}.")


def draw_bits(found, title=""):
    """Draw the nats that each way to store costs over its bits: {name: (bits a weight, [nats])}.

    A small mark for every way to cut the weights into blocks, a line through the medians; NF4 stands beside it.
    """
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(7.2, 3.8))
    said, line = [], []
    for way, (bits, nats) in found.items():
        is_nf4 = way.startswith("NF4")
        middle, at = float(np.median(nats)), bits + (0.06 if is_nf4 else 0.0)
        colour, marker = (plots.COLOURS[1], "D") if is_nf4 else (plots.COLOURS[0], "o")
        ax.plot([at] * len(nats), nats, "_", color=colour, markersize=9)
        ax.plot([at], [middle], marker, color=colour, markersize=8, label="NF4" if is_nf4 else None)
        line += [] if is_nf4 else [(bits, middle)]
        said.append(f"{way}, {bits:g} bits: {middle:.2g}, from {min(nats):.2g} to {max(nats):.2g}")
    ax.plot(*zip(*sorted(line)), "-", color=plots.COLOURS[0], linewidth=1.4, label="equal steps")
    ax.set(yscale="log", xlabel="bits a weight, scales included", ylabel="KL, nats per token")
    ax.set_title(title, loc="left", fontsize=11, fontweight="bold")
    ax.grid(axis="y", alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=9)
    figure.tight_layout()
    plots.show_with_alt(figure, f"{title}. Median nats per token: {'; '.join(said)}.")


def draw_rates(rows, title=""):
    """Draw the KL from the demonstrations over the learning rate, one line per rank: rows of `measure`."""
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(7.2, 4.0))
    said = []
    marks = zip(plots.COLOURS, ("o", "s", "^", "D"), ("-", "--", "-.", ":"))
    for r, (colour, marker, style) in zip(dict.fromkeys(row["rank"] for row in rows), marks):
        of = sorted((row for row in rows if row["rank"] == r), key=lambda row: row["rate"])
        of = [row for row in of if math.isfinite(row["kl"])]
        x, y = [row["rate"] for row in of], [row["kl"] for row in of]
        ax.plot(x, y, style, marker=marker, color=colour, label=name(r), linewidth=1.8)
        said.append(f"{name(r)}: " + ", ".join(f"{kl_:.2g} at {rate:g}" for rate, kl_ in zip(x, y)))
    ax.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="KL, nats per answer")
    ax.set_title(title, loc="left", fontsize=11, fontweight="bold")
    ax.grid(alpha=0.3, which="both")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=9)
    figure.tight_layout()
    plots.show_with_alt(figure, f"{title}. Nats per answer: {'; '.join(said)}.")


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m lab.small_numbers", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--seed", type=int, default=0, help="on which the rates are tuned")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="to judge on")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=runs.root() / "small_numbers.json")
    args = parser.parse_args(argv)
    show.quiet()
    train.ensure("base", "tiny")
    empty = {"steps": args.steps, "tuned": [], "kept": []}
    found = kept.start(
        "python -m lab.small_numbers", args.out, **empty
    )  # of one that was interrupted
    found = found if found["steps"] == args.steps else found | empty

    def keep(key, r, rate, seed, **how):
        wanted = how | {"rank": r, "rate": rate, "seed": seed}
        if not any(wanted.items() <= row.items() for row in found[key]):
            found[key].append(how | measure(r, rate, seed, args.steps))
            kept.write(args.out, found)

    for r, rates in RATES.items():
        for rate in rates:
            keep("tuned", r, rate, args.seed)
    for seed in args.seeds:
        for r, rate in best(found["tuned"]).items():
            keep("kept", r, rate, seed, how="tuned")
            keep("kept", r, ONE_RATE[bool(r)], seed, how="recipe")
    show.table(table(found))
    print(args.out)


if __name__ == "__main__":
    main()
