"""A clinic: ten training runs, each broken in one way, beside the same run without the fault.

    sick, well = clinic.broken("A"), clinic.cured("A")    a `Finding` of each: what was measured, and the log
    clinic.compare("A", sick, well)            both as a table, with what `lab.health` says of each log
    clinic.sheet({"A": (sick, well)})          the quantity of each case, broken beside cured
    python -m lab.clinic --seeds 0 1 2         the table of the lesson, on several seeds

What such runs gave, with the machine and the versions, is kept beside this module in clinic.json.

Every run is real: TRL's trainers on the tiny model for a few steps, on the CPU of any machine. What a
broken run changes is the difference of two lines in the function of its case.

Lesson    notebooks/11_clinic.ipynb        Proof    tests/lab/test_clinic.py
"""

import argparse
import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset

from lab import (
    batch,
    callbacks,
    evaluate,
    guards,
    health,
    kept,
    plots,
    recipes,
    runs,
    show,
    tasks,
    train,
    vllm,
)
from rewards import accuracy_reward

SHORT = {  # of the recipes' arguments, what a short run changes: small batches, one log per step
    "sft": {"max_steps": 20, "per_device_train_batch_size": 16, "learning_rate": 1e-3},
    "grpo": {"max_steps": 8, "per_device_train_batch_size": 32, "steps_per_generation": 1}
    | {"use_vllm": False, "warmup_steps": 0, "lr_scheduler_type": "constant", "beta": 1.0},
}
OTHER_END = "</s>"  # how a template that was copied from another model ends a turn
ROOM = 48  # tokens for an answer; the longer style takes 36


class Run(NamedTuple):
    """A finished short run."""

    log: list  # one dict per step
    model: torch.nn.Module  # plain, as it would be served
    start: torch.nn.Module  # the same before the first step
    tok: object
    spans: list  # [(title, [(text, whether it is trained)])] of SFT's first batch


class Finding(NamedTuple):
    """What was measured of one side of a case, broken or cured."""

    value: float  # the quantity that shows the fault
    seen: dict  # what somebody sees of the run from outside
    log: list  # of the run; [] where nothing is trained


@functools.cache
def run(stage, seed=0, rows=None, template=None, **args):
    """Train the tiny model for a few steps in float32: all weights of the base by SFT, the SFT adapter by GRPO.

    rows        a function that makes them, in place of the task's own
    template    a chat template in place of the tokenizer's
    args        in place of those of the recipe and of `SHORT`
    returns     a Run; the same one for the same arguments
    """
    chosen = recipes.load(stage, "tiny", seed) | ({"start_from": "sft"} if stage == "grpo" else {})
    chosen = {key: value for key, value in chosen.items() if key not in ("quantization", "lora")}
    chosen["args"] = chosen["args"] | SHORT[stage] | {"logging_steps": 1} | args
    policy, tok = train.load(chosen)
    tok.chat_template = template or tok.chat_template
    start = vllm.served(policy)
    made = train.trainer(chosen, policy, tok, (rows or ROWS[stage])(seed))
    for left_out in (callbacks.Trackio, guards.Guards):  # the guards would stop what is shown here
        made.remove_callback(left_out)
    spans = batch.batch_spans(made) if stage == "sft" else []
    made.train()
    log = [entry for entry in made.state.log_history if "loss" in entry]
    return Run(log, vllm.served(policy), start, tok, spans)


def plain_rows(seed):
    """The rows of SFT without a chat: the question as plain text, as a script with a prompt of its own has it."""
    return Dataset.from_list(
        [
            {"prompt": plain(row["prompt"]), "completion": row["completion"][0]["content"]}
            for row in ROWS["sft"](seed)
        ]
    )


def plain(chat):
    return f"Q: {chat[0]['content']}\nA: "


def shifted_rows(seed):
    """The rows of GRPO with the gold of the next row: one column was sorted or filtered without the others."""
    rows = ROWS["grpo"](seed)
    golds = rows["solution"]
    return rows.remove_columns("solution").add_column("solution", [*golds[1:], golds[0]])


ROWS = {
    "sft": lambda seed: tasks.sft_dataset(320, carry_error=0.0, seed=seed),
    "grpo": lambda seed: tasks.grpo_dataset(300, seed=seed),
}


# ---------------------------------------------------------------- the cases


def broken(letter, seed=0):
    """Run a case with its fault; returns a Finding. Raises ValueError for a letter that is no case."""
    return _case(letter)(True, seed)


def cured(letter, seed=0):
    """Run the same without the fault; returns a Finding."""
    return _case(letter)(False, seed)


def _case(letter):
    if letter not in CASES:
        raise ValueError(f"there is no case {letter!r}; there are: {', '.join(CASES)}")
    return CASES[letter]


def labels(is_broken, seed):
    """Share of the trained tokens that the user wrote or the template."""
    done = run("sft", seed, completion_only_loss=False) if is_broken else run("sft", seed)
    trained = "".join(text for _, row in done.spans for text, counts in row if counts)
    parts = [text.rpartition("assistant\n")[2] for text in trained.split("<|im_start|>user")]
    share = 1 - sum(len(ids(done.tok, part)) for part in parts) / len(ids(done.tok, trained))
    return Finding(share, {"loss, last 5 steps": last(done.log)}, done.log)


def end_of_turn(is_broken, seed):
    """Share of the trained answers that lack the token which ends generation."""
    done = run("sft", seed)
    if is_broken:
        end = "<|im_end|>{% endgeneration %}"  # of the assistant's turn alone
        copied = done.tok.chat_template.replace(end, end.replace("<|im_end|>", OTHER_END))
        done = run("sft", seed, template=copied)
    answers = ["".join(text for text, counts in row if counts) for _, row in done.spans]
    without = sum(done.tok.eos_token not in answer for answer in answers) / len(answers)
    texts = evaluate.written(done.model, done.tok, chats(), 0, ROOM, 64, 0.0)
    cut = sum(not ended for _, ended in texts) / len(texts)
    prompts = [
        chat_ids(done.tok, chat) + ids(done.tok, answer(a, b))
        for chat, (a, b) in zip(chats(), questions())
    ]
    stops = np.exp(
        likelihood(done.model, done.tok, prompts, [done.tok.eos_token] * len(prompts))
    ).mean()
    seen = {
        "loss, last 5 steps": last(done.log),
        "cut off": cut,
        "p(end) after an answer": float(stops),
    }
    return Finding(without, seen, [*done.log[:-1], done.log[-1] | {health.CLIPPED: cut}])


def template(is_broken, seed):
    """Nats per token by which right answers are less likely after the prompt asked with than the one trained on."""
    done = run("sft", seed, rows=plain_rows) if is_broken else run("sft", seed)
    prompts = {"asked": [chat_ids(done.tok, chat) for chat in chats()]}
    prompts["trained"] = (
        [ids(done.tok, plain(chat)) for chat in chats()] if is_broken else prompts["asked"]
    )
    asked, trained = (likelihood(done.model, done.tok, prompts[how]).mean() for how in prompts)
    seen = {"loss, last 5 steps": last(done.log), "right": right(done.model, done.tok)}
    return Finding(float(trained - asked), seen, done.log)


def rate(is_broken, seed):
    """Loss of the last 5 steps as a multiple of the first step's."""
    done = run("sft", seed, learning_rate=0.1) if is_broken else run("sft", seed)
    seen = {"loss, last 5 steps": last(done.log), "gradient's norm": done.log[-1]["grad_norm"]}
    return Finding(last(done.log) / done.log[0]["loss"], seen, done.log)


def spread(is_broken, seed):
    """Share of the groups in which all rewards are the same, over 3 steps."""
    done = run("grpo", seed, temperature=1e-3, max_steps=3) if is_broken else run("grpo", seed)
    value = last(done.log[:3], "frac_reward_zero_std", 3)
    return Finding(value, {"reward": last(done.log[:3], "reward", 3)}, done.log)


def golds(is_broken, seed):
    """Share of the rows whose gold is another number than their prompt asks for."""
    rows = shifted_rows if is_broken else ROWS["grpo"]
    done = run("grpo", seed, rows=rows, max_steps=3) if is_broken else run("grpo", seed)
    sums = [sum(map(int, row["prompt"][0]["content"][:-2].split("+"))) for row in rows(seed)]
    wrong = sum(str(s) != gold for s, gold in zip(sums, rows(seed)["solution"])) / len(sums)
    means = {
        key.split("/")[1]: last(done.log[:3], key, 3)
        for key in done.log[0]
        if key.endswith("reward/mean")
    }
    return Finding(wrong, means, done.log)


def penalty(is_broken, seed):
    """KL to the reference in the last 2 steps, in nats per token."""
    done = run("grpo", seed, beta=-1.0) if is_broken else run("grpo", seed)
    return Finding(last(done.log, "kl", 2), {"reward": last(done.log, "reward", 2)}, done.log)


def sampler(is_broken, seed):
    """Nats per token between the log-probs of the model that samples and of the one that learns."""
    done = run("grpo", seed)
    samples_from = done.start if is_broken else done.model
    texts = evaluate.sample(samples_from, done.tok, chats(), 0, ROOM)
    prompts = [chat_ids(done.tok, chat) for chat in chats()]
    both = (likelihood(model, done.tok, prompts, texts) for model in (samples_from, done.model))
    change = np.subtract(*both)
    gap = float(np.abs(change).mean())
    ratios = {"smallest ratio": np.exp(-change.max()), "largest ratio": np.exp(-change.min())}
    seen = {name: float(ratio) for name, ratio in ratios.items()}
    return Finding(gap, seen, [done.log[-1] | {health.GAP: gap}])


def padding(is_broken, seed):
    """Share of the prompts that are continued otherwise in a batch than alone."""
    base, tok = run("sft", seed).start, run("sft", seed).tok
    texts = [lead.format(a, b) for (a, b), lead in zip(questions(), tasks.LEADS * 3)]
    alone = [continued(base, tok, [text], "left")[0] for text in texts]
    together = continued(base, tok, texts, "right" if is_broken else "left")
    changed = sum(one != other for one, other in zip(alone, together)) / len(texts)
    return Finding(changed, {"alone": alone[0], "in a batch": together[0]}, [])


def adapter(is_broken, seed):
    """Share of tokens whose log-prob in the model that is served is the one of the model before SFT."""
    base, sft, tok = run("sft", seed).start, run("grpo", seed).start, run("sft", seed).tok
    served = base if is_broken else sft
    prompts = [chat_ids(tok, chat) for chat in chats()]
    gap = np.abs(likelihood(base, tok, prompts) - likelihood(served, tok, prompts))
    return Finding(float((gap < 1e-6).mean()), {"right": right(served, tok)}, [])


CASES = dict(
    zip(
        "ABCDEFGHIJ",
        (labels, end_of_turn, template, rate, spread, golds, penalty, sampler, padding, adapter),
    )
)


# ---------------------------------------------------------------- what is measured


def questions(n=64):
    """Pairs (a, b) that nothing trains on."""
    return tasks.sample(n, "heldout", seed=5)


def chats():
    return [tasks.prompt(a, b) for a, b in questions()]


def answer(a, b):
    return tasks.completion(a, b, "terse")


def ids(tok, text):
    return tok(text, add_special_tokens=False).input_ids


def chat_ids(tok, chat):
    return tok.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)


def last(log, key="loss", n=5):
    """The mean of a metric over the last steps that logged it."""
    return float(np.mean([entry[key] for entry in log if key in entry][-n:]))


def likelihood(model, tok, prompts, texts=None):
    """The log-probs of all tokens of some answers, (N,) in nats: by default of the right ones to `questions`.

    prompts    [token ids], one for each answer
    """
    texts = texts or [answer(a, b) for a, b in questions()]
    rows = [prompt + ids(tok, text) for prompt, text in zip(prompts, texts, strict=True)]
    inputs = tok.pad({"input_ids": rows}, padding_side="right", return_tensors="pt")
    found = batch.token_logps(model, inputs)
    return np.concatenate(
        [row[len(p) - 1 : len(r) - 1] for row, p, r in zip(found, prompts, rows, strict=True)]
    )


def right(model, tok):
    """The share of `questions` that a plain model answers right in the chat, at temperature 0."""
    texts = evaluate.sample(model, tok, chats(), 0, ROOM, temperature=0.0)
    told = accuracy_reward(completions=texts, solution=[str(a + b) for a, b in questions()])
    return sum(told) / len(told)


def continued(model, tok, texts, side, n=20):
    """Continue plain texts by n tokens at temperature 0, all in one batch that is padded on one side."""
    inputs = tok.pad(
        {"input_ids": [ids(tok, t) for t in texts]}, padding_side=side, return_tensors="pt"
    )
    out = model.generate(**inputs, max_new_tokens=n, do_sample=False)
    return tok.batch_decode(out[:, inputs["input_ids"].shape[1] :])


def named_by_the_log(log):
    """What `lab.health` calls the ailments of the last log; [] where it says nothing."""
    return [name for name, reason in health.examine(log[-1]).items() if reason] if log else []


# ---------------------------------------------------------------- what is shown


def quantity(letter):
    """What a case measures, in words.

    >>> quantity("E")
    'Share of the groups in which all rewards are the same, over 3 steps.'
    """
    return " ".join(CASES[letter].__doc__.split())


def compare(letter, sick, well):
    """Show a case: its quantity, what is seen from outside, and what `lab.health` says of the last log."""
    show.table(
        [
            {"": name, "quantity": found.value}
            | found.seen
            | {"lab.health says": ", ".join(named_by_the_log(found.log)) or "nothing"}
            for name, found in (("broken", sick), ("cured", well))
        ],
        title=f"Case {letter}. {quantity(letter)}",
    )


def sheet(found, title=""):
    """Draw the quantity of each case, broken beside cured: found = {letter: (Finding, Finding)}."""
    import matplotlib.pyplot as plt

    columns = min(5, len(found))
    figure, panels = plt.subplots(
        -(-len(found) // columns),
        columns,
        figsize=(2.0 * columns, 2.4 * -(-len(found) // columns)),
        squeeze=False,
    )
    said = []
    for ax, (letter, sides) in zip(panels.flat, found.items()):
        values = [side.value for side in sides]
        bars = ax.bar(
            ["broken", "cured"],
            values,
            color=plots.COLOURS[1::-1],
            hatch=["//", ""],
            edgecolor="white",
        )
        ax.bar_label(bars, [f"{value:.2g}" for value in values], fontsize=9)
        ax.set_title(
            f"{letter}: {CASES[letter].__name__.replace('_', ' ')}", loc="left", fontsize=10
        )
        ax.set(ylim=(0, 1.25 * max(values)), yticks=[])
        ax.tick_params(labelsize=9)
        ax.spines[["top", "right", "left"]].set_visible(False)
        said.append(f"{letter}, {quantity(letter)} Broken {values[0]:.2g}, cured {values[1]:.2g}.")
    for ax in panels.flat[len(found) :]:
        ax.set_axis_off()
    figure.suptitle(title, fontsize=11, fontweight="bold")
    figure.tight_layout()
    plots.show_with_alt(figure, f"{title}. {' '.join(said)}")


def measured():
    """Return what is kept of the cases on several seeds: where they ran, and {letter: {"broken", "cured"}} in `cases`."""
    return kept.read("clinic")


def table(cases):
    """Return one line per case for `show.table`: the quantity of each seed, broken and cured."""
    return [
        {"case": letter, "number": quantity(letter)}
        | {side: ", ".join(f"{value:.2g}" for value in values) for side, values in sides.items()}
        for letter, sides in cases.items()
    ]


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m lab.clinic", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=runs.root() / "clinic.json")
    args = parser.parse_args(argv)
    show.quiet()
    train.ensure("sft", "tiny")
    cases = {letter: {"broken": [], "cured": []} for letter in CASES}
    where = kept.where("python -m lab.clinic")
    for seed in args.seeds:
        for letter, case in CASES.items():
            for name, found in zip(
                ("broken", "cured"), (broken(letter, seed), cured(letter, seed))
            ):
                said = ", ".join(
                    f"{k} {v!r}" if isinstance(v, str) else f"{k} {v:.3g}"
                    for k, v in found.seen.items()
                )
                named = named_by_the_log(found.log)
                cases[letter][name].append(found.value)
                print(
                    f"{letter} {case.__name__} {name}, seed {seed}: {found.value:.3g}; {said}; log: {named}"
                )
        kept.write(args.out, where | {"cases": cases})
    show.table(table(cases))
    print(args.out)


if __name__ == "__main__":
    main()
