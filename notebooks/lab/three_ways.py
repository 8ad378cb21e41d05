"""Compare three ways to learn from one verifier, measured alike on held-out instructions.

    folder = three_ways.plain("grpo")           the trained model with its adapter merged in
    found = three_ways.measure(folder, rows)    shares, pass@k, texts
    found |= three_ways.distance(folder, base, rows, found["texts"])

    python -m lab.three_ways         the whole comparison, as lesson 09 makes it, and its picture

What a whole run gave, with its processor and versions, is kept beside this module in three_ways.json.

Lesson    notebooks/09_a_real_model.ipynb        Proof    tests/lab/test_three_ways.py
"""

import argparse
import gc
import textwrap
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from lab import (
    bars,
    completions,
    instructions,
    intervals,
    kept,
    recipes,
    runs,
    train,
    vllm,
)
from reference_math.torch import logprobs
from rewards.instruction import shares, verdicts
from rewards.rules import words

PROFILE = "instructions"  # the recipes of lesson 09
WAYS = {
    "base": "before",
    "sft": "rejection sampling + SFT",
    "dpo": "DPO on its own pairs",
    "grpo": "GRPO, online",
}
# What `measure` gives for every text, which no kept file holds whole.
LISTS = ("texts", "verdicts", "greedy_texts", "greedy_verdicts")


def plain(stage, seed=None):
    """Return the folder of a stage's model with its adapter merged in, written if it does not stand."""
    recipe = recipes.load(stage, PROFILE, seed)
    if stage == "base":
        return Path(train.base_model(recipe))
    where, adapter = runs.folder(recipe) / "merged", runs.folder(recipe)
    if not (where / "config.json").exists():
        policy, tok = train.load(recipe | {"adapter": str(adapter)})
        vllm.served(policy).save_pretrained(where)
        tok.save_pretrained(where)
        del policy
        gc.collect()
    return where


def measure(folder, rows, k=8, pass_n=64, max_new_tokens=24, seed=0):
    """Measure what a saved model does with held-out instructions.

    returns   n; kept, greedy: {successes, share, ci95} of all rules at temperature 1 and at 0; pass_at_k: of
              `pass_n` of the instructions those with one among k more completions that keeps all; rules:
              the share that keep each; tokens: their mean number; openings; topic: the share that name
              the topic; texts, verdicts, greedy_texts, greedy_verdicts
    """
    some, long = rows.select(range(min(pass_n, len(rows)))), {"max_new_tokens": max_new_tokens}
    with completions.writer(folder, seed) as write:
        sampled = [group[0] for group in write(rows["prompt"], **long)]
        greedy = [group[0].text for group in write(rows["prompt"], temperature=0.0, **long)]
        groups = write(some["prompt"], k, **long)
    texts = [each.text for each in sampled]
    found = verdicts(texts, rows["solution"], rows["prompt"])
    right = [not any(each.values()) for each in found]
    at_zero = instructions.kept_all(greedy, rows)
    best = [_any_right(group, row) for group, row in zip(groups, some)]
    return {
        "n": len(rows),
        "kept": counted(right),
        "greedy": counted(at_zero),
        "pass_at_k": {"k": k, "n": len(some), **counted(best)},
        "rules": shares(found),
        "tokens": sum(each.tokens for each in sampled) / len(sampled),
        "openings": openings(texts),
        "topic": sum(map(mentions, texts, rows["topic"])) / len(texts),
        "texts": texts,
        "verdicts": right,
        "greedy_texts": greedy,
        "greedy_verdicts": at_zero,
    }


def _any_right(group, row):
    """Whether one of a prompt's completions keeps all of its rules."""
    texts = [each.text for each in group]
    asked = [row["solution"]] * len(texts), [row["prompt"]] * len(texts)
    return any(not any(each.values()) for each in verdicts(texts, *asked))


def counted(right):
    """Return {successes, share, ci95} of bools, the interval Wilson's.

    >>> counted([True, False])["share"]
    0.5
    """
    n, successes = len(right), int(sum(right))
    ci95 = list(intervals.wilson(successes, n))
    return {"successes": successes, "share": successes / n, "ci95": ci95}


def openings(texts):
    """Count distinct first three words, per completion: 1 is all different, 1 / N one template.

    >>> openings(["The sky is blue.", "the sky is wide!", "Is it?"])
    0.6666666666666666
    """
    first = {tuple(word.lower() for word in words(text)[:3]) for text in texts}
    return len(first) / len(texts)


def mentions(text, topic):
    """Tell whether a text names its topic, in the singular or with an s.

    >>> mentions("Bridges are old.", "the bridge")
    True
    """
    name = topic.split()[-1].lower()
    return any(word.lower() in (name, f"{name}s") for word in words(text))


def distance(folder, base, rows, texts, batch=16):
    """Measure how far a model is from the untouched one, on completions that it sampled itself.

    kl         nats per completion: the mean of log p_model - log p_base summed over its tokens, an unbiased
               estimate of KL(model || base) at temperature 1
    fluency    nats per token: the mean log-probability under the untouched model
    """
    tok = AutoTokenizer.from_pretrained(base)
    prompts = list(rows["prompt"])
    own, ends = token_logps(folder, tok, prompts, texts, batch)
    itself = str(folder) == str(base)
    reference = own if itself else token_logps(base, tok, prompts, texts, batch)[0]
    gaps = [(a - b).sum().item() for a, b in zip(own, reference)]
    tokens = sum(ends)
    standard_error = float(np.std(gaps, ddof=1) / len(gaps) ** 0.5)
    fluency = float(sum(each.sum().item() for each in reference) / tokens)
    return {"kl": float(np.mean(gaps)), "kl_se": standard_error, "fluency": fluency}


@torch.no_grad()
def token_logps(folder, tok, prompts, texts, batch=16):
    """Compute the log-probabilities of each completion's tokens and of its end; and how many those are."""
    model = completions.plain(folder)
    found, lengths = [], []
    for start in bars.over(range(0, len(texts), batch), "scoring"):
        few = range(start, min(start + batch, len(texts)))
        asked = [
            tok.apply_chat_template(prompts[i], add_generation_prompt=True, return_dict=False)
            for i in few
        ]
        said = [[*tok(texts[i])["input_ids"], tok.eos_token_id] for i in few]
        ids = [q + a for q, a in zip(asked, said)]
        rows = tok.pad({"input_ids": ids}, padding_side="right", return_tensors="pt")
        rows = rows.to(model.device)
        logits = model(**rows).logits[:, :-1]
        logps = logprobs.per_token_logps(logits, rows["input_ids"][:, 1:])
        found += [p[len(q) - 1 : len(q) - 1 + len(a)] for p, q, a in zip(logps, asked, said)]
        lengths += map(len, said)
    return found, lengths


def drawn(stage):
    """Return how many completions a stage's training draws from the model."""
    recipe = recipes.load(stage, PROFILE)
    if stage == "grpo":
        args = recipe["args"]
        return (
            args["max_steps"] * args["per_device_train_batch_size"] * args["steps_per_generation"]
        )
    options = recipe.get("data", {}).get("options", {})
    return options.get("n", 0) * options.get("samples", 0)


def compare(n=400, scored=128, stages=tuple(WAYS), seed=0):
    """Measure every way on the same held-out instructions: {stage: what `measure` and `distance` give}."""
    rows, found = instructions.rows(n, split="heldout", seed=1), {}
    base, some = plain("base"), rows.select(range(min(scored, n)))
    for stage in stages:
        manifest, began = train.ensure(stage, PROFILE), time.perf_counter()
        found[stage] = measure(plain(stage), rows, seed=seed)
        found[stage] |= distance(plain(stage), base, some, found[stage]["texts"][: len(some)])
        found[stage]["drawn"] = drawn(stage)
        found[stage]["minutes"] = {
            "made": round(manifest["wall_s"] / 60, 1),
            "measured": round((time.perf_counter() - began) / 60, 1),
        }
    return found


def record(found, command):
    """Return what is kept of a comparison: its figures, a few texts, and where they come from."""
    rows = instructions.rows(found["base"]["n"], split="heldout", seed=1)
    figures = {s: {k: v for k, v in m.items() if k not in LISTS} for s, m in found.items()}
    texts = [
        {"instruction": rows[i]["prompt"][-1]["content"]}
        | {stage: found[stage]["texts"][i] for stage in found}
        for i in range(8)
    ]
    rewards = [
        e["instruction/all"] for e in runs.history("grpo", PROFILE) if "instruction/all" in e
    ]
    paired = {
        stage: intervals.paired(found[stage]["verdicts"], found["grpo"]["verdicts"])
        for stage in found
        if stage != "grpo"
    }
    where = kept.where(command)
    where["peak_rss_mb"] = max(runs.manifest(s, PROFILE)["peak_rss_mb"] for s in found)
    curve = {"grpo_share_kept_by_step": rewards}
    return where | {"ways": figures, "grpo_against": paired, "texts": texts} | curve


def measured():
    """Return the figures of the whole run that came with the kit, as `record` keeps them."""
    return kept.read("three_ways")


def minutes(found):
    """Return the minutes of a recorded run: every stage made and measured."""
    return sum(sum(way["minutes"].values()) for way in found["ways"].values())


def table(found):
    """Write a recorded run as Markdown: the README's table."""

    def share(counted):
        return "{:.1%} ({:.1%} to {:.1%})".format(counted["share"], *counted["ci95"])

    lines = ["| way | temperature 1 | greedy | names its topic | tokens | KL | minutes |"]
    lines += ["|" + "---|" * 7]
    for stage, way in found["ways"].items():
        cells = [WAYS[stage], share(way["kept"]), share(way["greedy"]), f"{way['topic']:.0%}"]
        cells += [f"{way['tokens']:.1f}", f"{way['kl']:.1f}", f"{way['minutes']['made']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def expect():
    """Say in one line what the run that came with the kit took, and where."""
    found = measured()
    return (
        f"The run that came with the kit took {minutes(found):.0f} minutes and "
        f"{found['peak_rss_mb'] / 1024:.1f} GiB on {found['processor']}, {found['threads']} threads"
    )


def counts(ways):
    """Return {a way's name in short lines: (instructions kept, of how many)}, for `lab.plots.bars`."""
    return {
        textwrap.fill(WAYS[stage], 18): (way["kept"]["successes"], way["n"])
        for stage, way in ways.items()
    }


def draw(found, where):
    """Draw the README's picture of a recorded run: what each way learnt, and GRPO's steps."""
    import matplotlib.pyplot as plt

    from lab import plots

    with plt.rc_context({"svg.hashsalt": "three ways", "svg.fonttype": "none"}):
        _, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), width_ratios=(3, 2))
        kept = counts(found["ways"])
        title = f"{found['ways']['base']['n']} held-out instructions, all rules kept"
        plots.bars(kept, title, "share, 95% interval", ax=left)
        curve = found["grpo_share_kept_by_step"]
        steps = range(1, len(curve) + 1)
        plots.lines(steps, {"": curve}, "GRPO: the 32 completions of a step", ax=right)
        plt.tight_layout()
        plt.savefig(where, metadata={"Date": None})
        plt.close()


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m lab.three_ways", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--n", type=int, default=400, help="held-out instructions")
    parser.add_argument("--out", type=Path, default=runs.root() / "three_ways.json")
    args = parser.parse_args(argv)
    found = record(compare(args.n), "python -m lab.three_ways")
    kept.write(args.out, found)
    draw(found, args.out.with_suffix(".svg"))
    print(f"{args.out}, {args.out.with_suffix('.svg').name}")


if __name__ == "__main__":
    main()
