"""Define the words of the lessons: one line each, a formula where there is one, and the lesson that says it first.

    lab.term("KL")                   show one; a word that is not there names the nearest
    python -m lab.glossary           the list as a page and as flashcards: docs/glossary.md, docs/flashcards.csv

A lesson writes a word in bold where it says what the word means: where any lesson uses it first, in their order.

Proof     tests/lab/test_glossary.py
"""

import csv
import io
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple


class Term(NamedTuple):
    """One word: what it means, in a line; its formula in LaTeX or ""; the lesson that uses it first."""

    line: str
    formula: str
    lesson: str


TERMS = {
    "adapter": Term("Small trained weights beside frozen ones; here LoRA's two matrices for each linear layer.", "", "00"),
    "advantage": Term("How much better an answer scored than what was to be expected.", r"A = r - b", "03"),
    "baseline": Term("What is taken off a reward before it weighs a gradient; it changes the spread, not the mean.", r"b", "03"),
    "base model": Term("A model after pre-training: it continues text, and does not yet answer.", "", "00"),
    "batch": Term("The rows that one step of training looks at together.", "", "00"),
    "beta": Term("The price of one nat of distance from the reference.", r"\beta\,\mathrm{KL}(p_\theta\,\|\,p_{ref})", "02"),
    "Bradley-Terry": Term("A model of preferences: the higher reward wins with a probability that grows with the difference.", r"P(y_w \succ y_l) = \sigma(r_w - r_l)", "02"),
    "carry": Term("The digit that a column of a sum hands on to the next.", "", "00"),
    "chat template": Term("The rule that writes a list of messages as one text with the ends of turns.", "", "00"),
    "clip": Term("The bound beyond which a token of a PPO or GRPO loss has nothing more to gain.", r"\min(wA,\ \mathrm{clip}(w, 1-\varepsilon, 1+\varepsilon)A)", "03"),
    "completion": Term("What the model writes after a prompt.", "", "00"),
    "completion mask": Term("1 on the tokens that count in a loss, 0 on the prompt and on padding.", r"m_t", "01"),
    "control": Term("The same run without the part that is said to matter.", "", "02"),
    "critic": Term("A model that predicts the reward to come; PPO has one, GRPO has none.", r"V(s)", "05"),
    "cross-entropy": Term("The mean surprise at the tokens that came.", r"-\frac1N\sum_t \log p(y_t\mid y_{<t})", "00"),
    "dequantise": Term("Read 4-bit codes back as numbers.", r"\hat W", "03"),
    "displacement": Term("Under DPO both answers of a pair can become less likely, and another text gains.", "", "02"),
    "distillation": Term("Training on what a teacher model says of every next token.", "", "05"),
    "DPO": Term("Direct preference optimisation: a loss on pairs of answers.", r"-\log\sigma(h)", "00"),
    "effective sample size": Term("How many fresh samples the late ones of a batch are worth, by their ratios.", r"\left(\sum_i\rho_i\right)^2/\sum_i\rho_i^2", "14"),
    "entropy": Term("How undecided a distribution is, in nats.", r"-\sum_v p_v\log p_v", "01"),
    "exact McNemar test": Term("Whether two models differ on the same problems: only those that one of them got right count.", r"p = 2\,P(X \le \min(n_{10}, n_{01}))", "01"),
    "format reward": Term("1 for a completion with exactly one <think> and one <answer>, in order.", "", "03"),
    "gold": Term("The answer that is known to be right.", "", "03"),
    "gradient": Term("How a loss changes with each weight.", r"\nabla_\theta L", "01"),
    "gradient norm": Term("The length of the gradient; 0 means that nothing is learnt.", r"\|\nabla_\theta L\|", "03"),
    "greedy": Term("Temperature 0: the likeliest token each time.", "", "00"),
    "group": Term("The completions of one prompt, whose rewards GRPO compares.", r"r_1 \dots r_G", "03"),
    "GRPO": Term("Group relative policy optimisation: a policy gradient whose baseline is the group's mean.", "", "00"),
    "held out": Term("Kept away from all training, to be scored on.", "", "00"),
    "implicit reward": Term("What DPO takes for the reward of an answer.", r"\beta\log\frac{p_\theta(y\mid x)}{p_{ref}(y\mid x)}", "02"),
    "importance ratio": Term("How much likelier the trainer finds a sample than the sampler did.", r"\rho = p_{old}/p_{sampler}", "03"),
    "k3": Term("An estimate of a KL from samples that is never negative.", r"r - 1 - \log r,\quad r = p_{ref}/p", "03"),
    "KL": Term("The distance of one distribution from another, in nats; not the same in both directions.", r"\sum_v p_v\log\frac{p_v}{q_v}", "02"),
    "KTO": Term("A loss on single answers that are marked as wanted or not.", "", "05"),
    "likelihood": Term("The probability that a model gives to a text.", r"p_\theta(y\mid x)", "02"),
    "logit": Term("The number that a model gives a token before the softmax.", r"z_v", "00"),
    "LoRA": Term("Low-rank adaptation: the update of a weight as the product of two thin matrices.", r"W + \frac{\alpha}{r}BA", "01"),
    "loss": Term("The number that training makes smaller.", r"L", "00"),
    "manifest": Term("The file of a stage that says what was run and what came out.", "", "00"),
    "margin": Term("How much higher an answer of a pair ranks than the other.", r"h = \beta(\ldots)_w - \beta(\ldots)_l", "00"),
    "merge": Term("Add an adapter into the plain weights, once.", r"\hat W + \frac{\alpha}{r}BA", "04"),
    "nat": Term("The unit of information with the natural logarithm; 1.44 bits.", "", "00"),
    "NF4": Term("Four-bit codes whose 16 values lie closer near 0, with a scale for each block of weights.", "", "01"),
    "on-policy": Term("Trained on samples that the present model wrote.", "", "03"),
    "pair": Term("A prompt with a chosen and a rejected answer.", r"(x, y_w, y_l)", "00"),
    "pass@k": Term("The share of problems with a right answer among k samples.", r"1 - \binom{n-c}{k}/\binom nk", "00"),
    "policy": Term("A model seen as something that chooses its answers.", r"p_\theta", "00"),
    "policy gradient": Term("The gradient of the mean reward, estimated from samples.", r"\mathbb E[A\,\nabla\log p_\theta(y)]", "00"),
    "PPO": Term("Proximal policy optimisation: a clipped policy gradient whose baseline is a critic.", "", "05"),
    "preference": Term("A label that says which of two answers is better, not by how much.", "", "00"),
    "pre-training": Term("Next-token training from scratch on much text.", "", "00"),
    "proxy": Term("The reward that a run is paid by, in the place of what was meant.", "", "10"),
    "QLoRA": Term("LoRA over a frozen base in 4 bits.", "", "00"),
    "reference": Term("The policy as it was when training began; it stays.", r"p_{ref}", "02"),
    "rejection sampling": Term("Training on one's own samples that passed a check.", "", "02"),
    "reward": Term("The number that says how good an answer is.", r"r(x, y)", "00"),
    "reward hacking": Term("A policy that earns the reward without doing what was meant.", "", "10"),
    "reward model": Term("A model of what people prefer, used as a reward.", "", "02"),
    "RLOO": Term("REINFORCE with the mean of the other samples as the baseline.", r"r_i - \frac1{G-1}\sum_{j\ne i} r_j", "05"),
    "sampling": Term("Drawing each next token from the model's distribution.", "", "00"),
    "SFT": Term("Supervised fine-tuning: next-token training on demonstrated answers.", "", "00"),
    "sigmoid": Term("Maps any number to one between 0 and 1.", r"\sigma(x) = \frac1{1+e^{-x}}", "00"),
    "softmax": Term("Turns logits into probabilities.", r"p_v = e^{z_v}/\sum_u e^{z_u}", "00"),
    "staleness": Term("How many updates ago the sampler's weights were the policy's.", "k", "14"),
    "sync": Term("Bringing the sampler's weights up to date with the trainer's.", "", "03"),
    "temperature": Term("Divides the logits before sampling: below 1 sharper, 0 greedy.", r"p_v \propto e^{z_v/\tau}", "00"),
    "token": Term("The piece of text that a model reads and writes at a time.", "", "00"),
    "vLLM": Term("An engine that generates text for many prompts at once.", "", "00"),
    "Wilson interval": Term("A 95% interval of a share that stays valid at 0 of n and at n of n.", r"\frac{\hat p+\frac{z^2}{2n}\pm\ldots}{1+\frac{z^2}{n}}", "00"),
}  # fmt: skip

NOTATION = (  # ours, the papers', TRL's
    ("p_theta, policy", r"\pi_\theta", "model"),
    ("p_ref, reference", r"\pi_{ref}", "ref_model, ref_per_token_logps"),
    ("p_old", r"\pi_{\theta_{old}}", "old_per_token_logps"),
    ("w, ratio", r"r_t(\theta)\ \text{(PPO)},\ r_{i,t}\ \text{(GRPO)}", "coef_1"),
    ("r, reward", r"R, r", "rewards"),
    ("A, advantage", r"\hat A", "advantages"),
    ("m, completion mask", "", "completion_mask"),
    ("y_w, y_l: chosen, rejected", r"y^+, y^-", "chosen, rejected"),
    ("G completions of a prompt", r"G, K, n", "num_generations"),
    ("epsilon", r"\varepsilon", "epsilon, epsilon_high"),
    ("rho, sampler's ratio", r"\rho, c", "importance_sampling_ratio"),
    ("N, tokens that count", r"\sum_i |o_i|", "num_items_in_batch"),
)


def find(word):
    """Return the entry of a word, as (word, Term); case does not matter.

    Raises KeyError with the nearest words for one that is not there.
    """
    names = {name.lower(): name for name in TERMS}
    if word.lower() not in names:
        near = get_close_matches(word.lower(), names, n=3, cutoff=0.5)
        raise KeyError(f"no term {word!r}; near: {', '.join(names[n] for n in near) or 'none'}")
    return names[word.lower()], TERMS[names[word.lower()]]


def term(*words):
    """Show what words of the lessons mean."""
    from lab import show

    found = [find(word) for word in words]
    show.table(
        {"word": name, "meaning": entry.line, "formula": entry.formula, "lesson": entry.lesson}
        for name, entry in found
    )


def markdown():
    """Return the glossary and the notation as one Markdown page."""
    lines = [
        "# Glossary",
        "",
        "The words of the lessons, and the lesson that uses each first. Made by",
        "",
    ]
    lines[2] += (
        " `python -m lab.glossary`; `docs/flashcards.csv` has the same as cards, to import into Anki and its like."
    )
    lines += ["| word | meaning | formula | lesson |", "|---|---|---|---|"]
    for name, entry in TERMS.items():
        formula = _cell(entry.formula)
        meaning = entry.line.replace("<", "&lt;")
        lines.append(f"| **{name}** | {meaning} | {formula} | `{entry.lesson}` |")
    lines += ["", "## Notation", "", "| here | in papers | in TRL |", "|---|---|---|"]
    lines += [f"| {ours} | {_cell(paper)} | `{trl}` |" for ours, paper, trl in NOTATION]
    return "\n".join(lines) + "\n"


def flashcards():
    """Return the glossary as CSV: front, back, the lesson; the formulas in \\( \\), as Anki reads them."""
    file = io.StringIO()
    cards = csv.writer(file, lineterminator="\n")
    cards.writerow(["front", "back", "lesson"])
    for name, entry in TERMS.items():
        formula = f" \\({entry.formula}\\)" if entry.formula else ""
        cards.writerow([name, entry.line.replace("<", "&lt;") + formula, entry.lesson])
    return file.getvalue()


def _cell(formula):
    """Inline mathematics that a table can hold: a bar would end the cell."""
    return (
        f"${formula.replace('|', chr(92) + 'vert ')}$".replace("\\\\vert ", "\\Vert ")
        if formula
        else ""
    )


def main():
    docs = Path(__file__).resolve().parents[2] / "docs"
    for name, text in (("glossary.md", markdown()), ("flashcards.csv", flashcards())):
        (docs / name).write_text(text, encoding="utf-8")
        print(docs / name)


if __name__ == "__main__":
    main()
