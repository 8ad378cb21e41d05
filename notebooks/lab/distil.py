"""Four ways to learn from as many sampled answers: whose answers, and how much is said of each.

                        every token's whole distribution      less
    own answers         "on-policy distillation"              "GRPO": one number for an answer
    teacher's answers   "off-policy distillation"             "SFT": the answer itself

    points = distil.learn("on-policy distillation")    a Point for each measured step
    distil.draw({"GRPO": points}, teacher)             right answers over the completions sampled
    python -m lab.distil --seeds 0 1 2                 all runs on several seeds

What such runs gave, with the machine and the versions, is kept beside this module in distil.json: of that command, of
`--seeds 0 --rates 1e-3 2e-3 4e-3 --only` with the four ways, and of `--chain 1` (and 2) `--seeds 0 --only
"on-policy distillation" GRPO`.

Every way starts from the SFT stage under a fresh LoRA adapter, takes as many completions for a step and runs in
TRL's own trainer. The tiny model trains on the CPU of any machine.

Source    Agarwal et al., On-Policy Distillation (GKD), arXiv 2306.13649
Lesson    notebooks/13_distillation.ipynb        Proof    tests/lab/test_distil.py
"""

import argparse
import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import PrinterCallback, set_seed
from trl import DistillationConfig, DistillationTrainer

from lab import (
    callbacks,
    evaluate,
    guards,
    intervals,
    kept,
    leaks,
    plots,
    recipes,
    runs,
    show,
    tasks,
    train,
    vllm,
)

BATCH = 64  # completions of a step
GROUP = 8  # of which GRPO compares so many with each other
ROOM = 40  # tokens for an answer; the longer style takes 36
STEPS = (0, 5, 10, 20)
RATES = {  # of 1e-3, 2e-3 and 4e-3 one that no other beats by more than chance on seed 0, by `main --rates`
    "on-policy distillation": 2e-3,
    "off-policy distillation": 2e-3,
    "SFT": 2e-3,
    "GRPO": 1e-3,
}
ARGS = {  # what all four have
    "per_device_train_batch_size": BATCH,
    "lr_scheduler_type": "constant_with_warmup",
    "warmup_steps": 3,
    "logging_steps": 1,
    "save_strategy": "no",
    "gradient_checkpointing": False,
    "bf16": False,
    "use_cpu": True,
}


class Point(NamedTuple):
    """What a model answers at one step of a run, and what it was trained on until then."""

    step: int
    completions: int
    tokens: int  # of those completions, their ends included
    right: dict  # {temperature: [bool], the same problems each time}
    carry: list  # [bool] whether the ones of the problem carry
    terse: float  # share of the texts at temperature 1 in the teacher's style

    def share(self, temperature, carry=None):
        """The share of right answers; of the problems with a carry, or without one, if `carry` says so."""
        pairs = zip(self.right[temperature], self.carry, strict=True)
        return float(np.mean([r for r, has in pairs if carry in (None, has)]))


def finished(stage):
    """Load a finished stage of the tiny profile as plain weights: (model, tokenizer)."""
    recipe = recipes.load(stage, "tiny") | {"adapter": str(runs.path(stage, "tiny"))}
    policy, tok = train.load(recipe)
    return vllm.served(policy), tok


def student(seed=0, r=16):
    """The SFT stage under a fresh LoRA adapter of rank r, as a PEFT model, and its tokenizer."""
    plain, tok = finished("sft")
    lora = recipes.load("sft", "tiny")["lora"] | {"r": r, "lora_alpha": 2 * r}
    set_seed(seed)
    return get_peft_model(plain, LoraConfig(task_type="CAUSAL_LM", **lora)).train(), tok


class Distiller(DistillationTrainer):
    """TRL's trainer, with the length of each completion in `sampled`.

    off_policy    the teacher writes the completions, in the student's place
    """

    def __init__(self, *args, off_policy=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.off_policy, self.sampled = off_policy, []

    def _generate_single_turn(self, *args, **kwargs):
        own = self.model_wrapped
        self.model_wrapped = self.teacher_model if self.off_policy else own
        try:
            completion_ids = super()._generate_single_turn(*args, **kwargs)
        finally:
            self.model_wrapped = own
        self.sampled += map(len, completion_ids)
        return completion_ids


def trainer(way, policy, tok, teacher=None, seed=0, steps=STEPS[-1], **args):
    """Build the trainer of one way, ready to train; `trainer.sampled` has the tokens of each completion.

    teacher    a plain model; GRPO has none
    args       in place of those of `ARGS`, `RATES` and, for SFT and GRPO, the recipe

    Raises ValueError for a way that is none.
    """
    recipes.known([way], RATES, "way")
    args = ARGS | {"learning_rate": RATES[way], "max_steps": steps} | args
    rows = tasks.grpo_dataset(BATCH * steps, seed=seed)
    if way == "GRPO":
        return _rewarded(policy, tok, rows, seed, args)
    if way == "SFT":
        return _imitating(policy, tok, rows, seed, args, teacher)
    args |= {"output_dir": str(runs.root() / "distil"), "report_to": [], "disable_tqdm": True}
    config = DistillationConfig(max_completion_length=ROOM, seed=seed, **args)
    models = {"model": policy, "teacher_model": teacher, "processing_class": tok}
    off = way == "off-policy distillation"
    built = Distiller(**models, args=config, train_dataset=rows, off_policy=off)
    built.remove_callback(PrinterCallback)
    built.add_callback(callbacks.Progress(way))
    return built


def _rewarded(policy, tok, rows, seed, args):
    own = {"num_generations": GROUP, "steps_per_generation": 1, "use_vllm": False}
    sampled = []

    def reward(completions, completion_ids, **columns):
        sampled.extend(map(len, completion_ids))
        return leaks.judge(leaks.KIT, completions, **columns)["paid"]

    built = _by_recipe("grpo", policy, tok, rows, seed, own | args, reward_funcs=[reward])
    built.sampled = sampled
    return built


def _imitating(policy, tok, rows, seed, args, teacher):
    texts = evaluate.sample(teacher, tok, rows["prompt"], seed, ROOM, batch_size=4 * BATCH)
    taught = [
        {"prompt": prompt, "completion": chat}
        for prompt, chat in zip(rows["prompt"], leaks.as_chats(texts), strict=True)
    ]
    built = _by_recipe("sft", policy, tok, Dataset.from_list(taught), seed, args)
    built.sampled = [len(tok(text).input_ids) + 1 for text in texts]  # and the end of the turn
    return built


def _by_recipe(stage, policy, tok, rows, seed, args, **options):
    chosen = recipes.load(stage, "tiny", seed)
    chosen = chosen | {"args": chosen["args"] | args}
    built = train.trainer(chosen, policy, tok, rows, **options)
    for left_out in (callbacks.Trackio, guards.Guards):
        built.remove_callback(left_out)
    return built


def learn(way, teacher="grpo", seed=0, steps=STEPS, n=200, r=16, **args):
    """Train a student in one way, and measure it on the way.

    teacher    a finished stage
    seed       of the adapter, the problems and the sampling; the SFT stage is the same
    steps      where to measure; the last is the end of the run
    n          held-out problems, the same ones at each of the steps
    args       of the trainer, such as beta: 1 for the reverse KL, 0 for the forward one
    returns    a Point for each of the steps
    """
    policy, tok = student(seed, r)
    taught_by = None if way == "GRPO" else finished(teacher)[0]
    built = trainer(way, policy, tok, taught_by, seed, steps[-1], **args)
    found = []

    def look(step):
        used = built.sampled[: step * BATCH]
        found.append(measured(vllm.served(policy), tok, n, step, used))

    built.add_callback(callbacks.At(steps, look))
    built.train()
    return found


def measured(plain, tok, n=200, step=0, used=()):
    """Answer n held-out problems at temperature 1 and at temperature 0: a Point."""
    rows = tasks.grpo_dataset(n, seed=5, split="heldout")
    texts, right = {}, {}
    for temperature in leaks.TEMPERATURES:
        how = {"max_new_tokens": ROOM, "batch_size": n, "temperature": temperature}
        texts[temperature] = evaluate.sample(plain, tok, rows["prompt"], seed=0, **how)
        chats = leaks.as_chats(texts[temperature])
        right[temperature] = leaks.judge(leaks.KIT, chats, rows["solution"])["is_right"]
    terse = np.mean([tasks.style_of(text) == tasks.PREFERRED for text in texts[1.0]])
    return Point(step, len(used), sum(used), right, rows["carry"], float(terse))


def at(points, step):
    """The Point of one step."""
    return next(point for point in points if point.step == step)


def completions_for(stage):
    """How many completions a stage of the tiny profile sampled to be trained.

    >>> completions_for("dpo")
    3200
    """
    recipe = recipes.load(stage, "tiny")
    if stage == "grpo":
        return recipe["args"]["max_steps"] * recipe["args"]["per_device_train_batch_size"]
    return recipe["data"]["n"] * recipe["data"].get("samples", 0)


# ---------------------------------------------------------------- one batch, and one answer


@torch.no_grad()
def logits_of(plain, batch):
    """The logits that predict each token of a trainer's completions, (B, T, V), row by row without padding."""
    ids, mask = batch["completion_ids"], batch["completion_mask"].bool()
    found = torch.zeros(*ids.shape, plain.config.vocab_size)
    for i, row in enumerate(ids):
        prompt = batch["prompt_ids"][i][batch["prompt_mask"][i].bool()]
        whole = torch.cat([prompt, row[mask[i]]])
        found[i, mask[i]] = plain(whole[None]).logits[0, len(prompt) - 1 : -1]
    return found.double().numpy()


def one_answer(plain, tok, a, b, text):
    """An answer to a + b as a batch of one, with the end of its turn: (tokens, batch)."""
    prompt = tok.apply_chat_template(
        tasks.prompt(a, b), add_generation_prompt=True, return_dict=False
    )
    ids = [*tok(text, add_special_tokens=False).input_ids, tok.eos_token_id]
    batch = {"prompt_ids": torch.tensor([prompt]), "completion_ids": torch.tensor([ids])}
    batch |= {
        f"{part}_mask": torch.ones_like(batch[f"{part}_ids"]) for part in ("prompt", "completion")
    }
    return [tok.decode([token]) for token in ids], batch


# ---------------------------------------------------------------- what is shown


def interval(point, temperature, carry=None):
    """The share of right answers with Wilson's 95% interval, as people write it."""
    right = [
        r
        for r, has in zip(point.right[temperature], point.carry, strict=True)
        if carry in (None, has)
    ]
    low, high = intervals.wilson(sum(right), len(right))
    return f"{sum(right) / len(right):.0%} [{low:.0%}, {high:.0%}]"


def row(name, point):
    """One line of a table: a run at a point."""
    return {
        "": name,
        "completions": point.completions,
        "tokens": point.tokens,
        "right, temperature 1": interval(point, 1.0),
        "right, temperature 0": interval(point, 0.0),
        "with a carry, temperature 0": interval(point, 0.0, carry=True),
        "terse": f"{point.terse:.0%}",
    }


def draw(ways, teacher, title=""):
    """Right answers over the completions sampled, a panel for each temperature: ways = {name: [Point]}."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(8.6, 3.6), sharey=True)
    said = []
    for ax, temperature in zip(panels, leaks.TEMPERATURES):
        for (name, points), colour, marker in zip(ways.items(), plots.COLOURS, "os^Dv*"):
            x = [point.completions for point in points]
            shares = [point.share(temperature) for point in points]
            ax.plot(x, shares, marker=marker, color=colour, label=name, linewidth=1.8)
            said.append(
                f"{name}, temperature {temperature:g}: "
                + ", ".join(f"{share:.0%} after {c}" for share, c in zip(shares, x))
            )
            bounds = [intervals.wilson(sum(p.right[temperature]), len(p.carry)) for p in points]
            ax.fill_between(x, *zip(*bounds), color=colour, alpha=0.12, linewidth=0)
        ax.axhline(teacher.share(temperature), color="grey", linestyle=":", label="the teacher")
        ax.set(ylim=(0.3, 1.03), xlabel="completions sampled")
        ax.set_title(f"temperature {temperature:g}", loc="left", fontsize=10)
        ax.grid(axis="y", alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("share right, with 95% intervals")
    figure.suptitle(title, fontsize=11, fontweight="bold")
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="lower center", ncols=3, fontsize=9)
    of_teacher = ", ".join(f"{teacher.share(t):.0%}" for t in leaks.TEMPERATURES)
    plots.show_with_alt(figure, f"{title}. {'; '.join(said)}; the teacher: {of_teacher}.")


RUNS = {  # of `main`: the four ways, and what was asked besides
    "on-policy distillation": {"way": "on-policy distillation"},
    "the same, forward KL": {"way": "on-policy distillation", "beta": 0.0},
    "off-policy distillation": {"way": "off-policy distillation", "beta": 0.0},
    "SFT on the teacher's answers": {"way": "SFT"},
    "GRPO": {"way": "GRPO"},
    "a teacher without the carry": {"way": "on-policy distillation", "teacher": "dpo"},
    "an adapter of rank 2": {"way": "on-policy distillation", "r": 2},
}


def kept_of(name, chain, seed, rate, points):
    """What is kept of a run: its shares at each measured step after the first."""
    points = points[1:]
    return {
        "run": name,
        "chain": chain,
        "seed": seed,
        "rate": rate,
        "completions": [point.completions for point in points],
        "right": {f"{t:g}": [point.share(t) for point in points] for t in leaks.TEMPERATURES},
        "carry": [point.share(0.0, carry=True) for point in points],
        "terse": [point.terse for point in points],
    }


def on_seeds():
    """Return what is kept: where it ran, and in `runs` what `kept_of` gives for each."""
    return kept.read("distil")


def table(rows):
    """Return one line for each run and rate, for `show.table`: a value for each seed.

    rows    as `kept_of` gives them, of one chain
    """
    lines = []
    places = {row["run"]: i for i, row in reversed(list(enumerate(rows)))}  # the first of each
    found = {(row["run"], row["rate"]) for row in rows}
    for name, rate in sorted(found, key=lambda pair: (places[pair[0]], pair[1])):
        of = [row for row in rows if (row["run"], row["rate"]) == (name, rate)]
        line = {"run": name, "rate": f"{rate:g}"}
        for t in leaks.TEMPERATURES:
            for i, completions in enumerate(of[0]["completions"]):
                line[f"right at {t:g}, {completions}"] = _seeds(
                    row["right"][f"{t:g}"][i] for row in of
                )
        line["with a carry at 0, the last"] = _seeds(row["carry"][-1] for row in of)
        line["terse, the last"] = _seeds(row["terse"][-1] for row in of)
        lines.append(line)
    return lines


def usual(row):
    """Return whether a run that is kept started from the stages of seed 0 and had the rate of its way."""
    return row["chain"] == 0 and row["rate"] == RATES[RUNS[row["run"]]["way"]]


def _stages(chain, problems):
    """What is kept of the stages that the runs of a chain start from and learn from."""
    points = {stage: measured(*finished(stage), problems) for stage in ("sft", "dpo", "grpo")}
    return [
        {"chain": chain, "stage": stage, "carry": point.share(0.0, carry=True)}
        | {"right": {f"{t:g}": point.share(t) for t in leaks.TEMPERATURES}}
        for stage, point in points.items()
    ]


def _seeds(shares):
    return ", ".join(f"{share:.0%}" for share in shares)


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m lab.distil", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), metavar="RUN")
    parser.add_argument("--rates", type=float, nargs="+", help="in place of those of `RATES`")
    parser.add_argument(
        "--chain", type=int, default=0, help="the seed of the stages they start from"
    )
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--out", type=Path, default=runs.root() / "distil.json")
    asked = parser.parse_args(argv)
    show.quiet()
    train.ensure("grpo", "tiny", seed=asked.chain)
    found = kept.start("python -m lab.distil", asked.out, stages=[], runs=[])
    if not any(stage["chain"] == asked.chain for stage in found["stages"]):
        found["stages"] += _stages(asked.chain, asked.problems)
    for seed, name in itertools.product(asked.seeds, asked.only):
        for rate in asked.rates or [RATES[RUNS[name]["way"]]]:
            this = {"run": name, "chain": asked.chain, "seed": seed, "rate": rate}
            stands = any(this.items() <= row.items() for row in found["runs"])
            if not stands:  # of an earlier command
                points = learn(**RUNS[name], seed=seed, n=asked.problems, learning_rate=rate)
                found["runs"].append(kept_of(name, asked.chain, seed, rate, points))
                kept.write(asked.out, found)
    show.table(table([row for row in found["runs"] if row["chain"] == asked.chain]))
    print(asked.out)


if __name__ == "__main__":
    main()
