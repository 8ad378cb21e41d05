"""Train the real model's three ways, and GRPO with two remedies, on several seeds, measured alike.

    row = on_seeds.run("GRPO", seed=1)             one trained and measured run
    python -m lab.on_seeds --seeds 0 1 2           all of them, as a table; --only GRPO for one

A remedy is for what no rule asks for: after GRPO a completion seldom names its topic (lesson 09, section 7).
What such runs gave, with the machine and the versions, is kept beside this module in on_seeds.json.

Lesson    notebooks/09_a_real_model.ipynb        Proof    tests/lab/test_on_seeds.py
"""

import argparse
import tempfile
import time
from pathlib import Path

from lab import instructions, kept, recipes, runs, show, three_ways, train, vllm

# name: (stage, what is other than in the recipe of the profile instructions)
RUNS = {
    "untrained, in NF4": (
        "grpo",
        {"args": {"max_steps": 0}},
    ),  # the control: what the 4 bits do alone
    "rejection sampling + SFT": ("sft", {}),
    "DPO": ("dpo", {}),
    "GRPO": ("grpo", {}),
    "GRPO, 64 steps": ("grpo", {"args": {"max_steps": 64}}),
    "GRPO, KL term": ("grpo", {"args": {"beta": 0.05}}),
    "GRPO, the topic a rule": ("grpo", {"data": {"options": {"n": 600, "mentions": True}}}),
}


def recipe(name, seed=0, **args):
    """Return the recipe of a run; args go over its `args`, such as max_steps.

    Raises ValueError for a name that RUNS lacks.
    """
    recipes.known([name], tuple(RUNS), "on_seeds")
    stage, change = RUNS[name]
    found = recipes.load(stage, "instructions", seed)
    found |= {key: found[key] | other for key, other in change.items()}
    return found | {"args": found["args"] | args}


def run(name, seed=0, n=400, scored=128, **args):
    """Train a run and measure it on held-out instructions, asked as it was trained: with the topic as a rule or not.

    n          held-out instructions; scored, those among them whose log-probabilities are compared
    args       go over the recipe's own, such as max_steps
    returns    run, seed, seconds of training, and what `three_ways.measure` and `distance` give but the texts;
               of GRPO also curve, the share of each step's completions that keep all rules
    """
    chosen, base = recipe(name, seed, **args), three_ways.plain("base")
    history, seconds = [], 0.0
    if chosen["args"]["max_steps"]:
        built = train.trainer(chosen)
        began = time.perf_counter()
        built.train()
        seconds = time.perf_counter() - began
        policy, tok, history = built.model, built.processing_class, built.state.log_history
        if getattr(built, "use_vllm", False):
            vllm.release(built)
    else:
        policy, tok = train.load(chosen)
    mentions = chosen["data"].get("options", {}).get("mentions", False)
    rows = instructions.rows(n, split="heldout", seed=1, mentions=mentions)
    with tempfile.TemporaryDirectory() as folder:
        vllm.served(policy).save_pretrained(folder)
        tok.save_pretrained(folder)
        found = three_ways.measure(folder, rows, seed=seed)
        some = rows.select(range(min(scored, n)))
        found |= three_ways.distance(folder, base, some, found["texts"][: len(some)])
    found["examples"] = found["texts"][:8]
    found = {k: v for k, v in found.items() if k not in three_ways.LISTS}
    logged = [e["instruction/all"] for e in history if "instruction/all" in e]
    return {"run": name, "seed": seed, "seconds": round(seconds, 1), **found, "curve": logged}


def measured():
    """Return what is kept of the runs that came with the kit: where, and the rows."""
    return kept.read("on_seeds")


def table(rows):
    """Return one line a run for `show.table` and the README: the figures of its seeds, in their order."""
    lines = []
    for name in dict.fromkeys(row["run"] for row in rows):
        of = sorted((row for row in rows if row["run"] == name), key=lambda row: row["seed"])
        lines.append(
            {
                "run": name,
                "seeds": ", ".join(str(row["seed"]) for row in of),
                "temperature 1": ", ".join(f"{row['kept']['share']:.1%}" for row in of),
                "greedy": ", ".join(f"{row['greedy']['share']:.1%}" for row in of),
                "names its topic": ", ".join(f"{row['topic']:.0%}" for row in of),
                "tokens": ", ".join(f"{row['tokens']:.1f}" for row in of),
                "KL, nats": ", ".join(f"{row['kl']:.1f}" for row in of),
                "fluency": ", ".join(f"{row['fluency']:.2f}" for row in of),
            }
        )
    return lines


def markdown(rows):
    """Return the table as Markdown, for the README."""
    return show.markdown(table(rows))


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m lab.on_seeds", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), metavar="RUN")
    parser.add_argument("--n", type=int, default=400, help="held-out instructions")
    parser.add_argument("--out", type=Path, default=runs.root() / "on_seeds.json")
    args = parser.parse_args(argv)
    rows = []
    for name in args.only:
        for seed in args.seeds:
            rows.append(run(name, seed, args.n))
            found = kept.where("python -m lab.on_seeds") | {"rows": rows}
            kept.write(args.out, found)
    show.table(table(rows))
    print(args.out)


if __name__ == "__main__":
    main()
