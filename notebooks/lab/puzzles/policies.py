"""Lessons 3, 5 and 6: from a reward to a gradient, groups, clips, ratios, means, and a reward of one's own."""

import re

import numpy as np

from lab.puzzles.engine import Puzzle
from lab.puzzles.tokens import softmax

_rng = np.random.default_rng(3)


def group_advantages(rewards, num_generations):
    groups = np.asarray(rewards, float).reshape(-1, num_generations)
    centred = groups - groups.mean(1, keepdims=True)
    return (centred / (groups.std(1, ddof=1, keepdims=True) + 1e-4)).ravel()


def _scaled(rewards, n, scale, centre=lambda groups: groups.mean(1, keepdims=True)):
    groups = np.asarray(rewards, float).reshape(-1, n)
    return ((groups - centre(groups)) / scale(groups)).ravel()


def _std(groups):
    return groups.std(1, ddof=1, keepdims=True) + 1e-4


def _by_columns(rewards, n):
    groups = np.asarray(rewards, float).reshape(-1, n)
    return ((groups - groups.mean(0)) / (groups.std(0, ddof=1) + 1e-4)).ravel()


advantage = Puzzle(
    number="3.1",
    title="the advantage of a group",
    minutes=6,
    stars=2,
    idea="a completion is compared with the others of its own prompt, so a prompt whose answers are all right gives no gradient",
    task=r"""$A_i = \dfrac{r_i - \text{mean}(r_1 \dots r_G)}{\text{std}(r_1 \dots r_G) + \epsilon}$ for
each completion, with the mean and the standard deviation (ddof 1, as torch has it) of **its own
prompt's group** of `num_generations` neighbours, and $\epsilon = 10^{-4}$.""",
    answer=group_advantages,
    cases={
        "a group of equal rewards": (np.array([1.0, 1, 1, 1, 0, 0, 1, 0]), 4),
        "rewards of 0 and 1": (_rng.integers(0, 2, 24).astype(float), 8),
        "any numbers": (_rng.standard_normal(12), 3),
    },
    tolerance={"atol": 1e-9},
    mistakes={
        "numpy's std divides by n; TRL's (torch's) by n - 1: ddof=1": ("ddof=1, ", ""),
        "the mean and std are those of the prompt's own group, not of the batch": (
            "group_advantages(rewards, len(rewards))"
        ),
        "the std is missing (that is Dr. GRPO)": "_scaled(rewards, num_generations, lambda g: 1.0)",
        "eps is 1e-4, and missing or far smaller here": lambda rewards, n: np.nan_to_num(
            _scaled(rewards, n, lambda g: g.std(1, ddof=1, keepdims=True))
        ),
        "eps is 1e-4, not 1e-6": ("1e-4", "1e-6"),
        "eps is 1e-4, not 1e-5": ("1e-4", "1e-5"),
        "eps is added to the std, not to the variance under the root": lambda rewards, n: _scaled(
            rewards, n, lambda g: np.sqrt(g.var(1, ddof=1, keepdims=True) + 1e-4)
        ),
        "eps is added to the std, not to the quotient": lambda rewards, n: np.nan_to_num(
            _scaled(rewards, n, lambda g: g.std(1, ddof=1, keepdims=True)) + 1e-4
        ),
        "this divides by the variance; divide by its root": ("groups.std(", "groups.var("),
        "the mean is the group's and the std the batch's: both are the group's": (
            "groups.std(1, ddof=1, keepdims=True)",
            "groups.std(ddof=1)",
        ),
        "the mean is not taken off": (" - groups.mean(1, keepdims=True)", ""),
        "the baseline is the mean, not the median": (
            "groups.mean(1, keepdims=True)",
            "np.median(groups, 1, keepdims=True)",
        ),
        "the smallest reward is the baseline and the range the scale: take mean and std": (
            lambda rewards, n: _scaled(
                rewards,
                n,
                lambda g: np.ptp(g, axis=1, keepdims=True) + 1e-4,
                centre=lambda g: g.min(1, keepdims=True),
            )
        ),
        "this is RLOO's advantage: the mean of the others is taken off, and no std divides it": "leave_one_out(rewards, num_generations)",
        "a group is n neighbours: reshape(-1, n), not reshape(n, -1)": lambda rewards, n: _scaled(
            np.asarray(rewards).reshape(n, -1).ravel(), len(rewards) // n, _std
        ),
        "a group is n neighbours; this takes rewards that are B / n apart": (
            "_by_columns(rewards, len(rewards) // num_generations)"
        ),
        "mean and std go over axis 1, the group; these go over axis 0": (
            "_by_columns(rewards, num_generations)"
        ),
    },
    hints=(
        "`rewards.reshape(-1, num_generations)` makes one row of each group.",
        "`keepdims=True` keeps the row's mean a column, so that it can be subtracted.",
        "torch's std divides by n - 1: `ddof=1`.",
    ),
)


def clipped_loss(ratio, advantages, epsilon):
    advantages = advantages[:, None]
    clipped = np.clip(ratio, 1 - epsilon, 1 + epsilon)
    return -np.minimum(ratio * advantages, clipped * advantages)


_ratio = np.exp(0.5 * _rng.standard_normal((6, 5)))
_steps = {
    "ordinary ratios": (_ratio, _rng.standard_normal(6), 0.2),
    "on-policy: every ratio is 1": (np.ones((2, 3)), np.array([1.0, -1.0]), 0.2),
    "ratios near 0 and far above 1": (_ratio**4, 3 * _rng.standard_normal(6), 0.2),
}

clip = Puzzle(
    number="3.2",
    title="the clip of PPO and GRPO",
    minutes=8,
    stars=2,
    idea="the clip bounds the objective above and not below: a token with A < 0 that became likelier keeps its whole gradient",
    task=r"""The loss of each token, $-\min\left(wA,\ \text{clip}(w, 1-\epsilon, 1+\epsilon)\,A\right)$,
for ratios $w$ $(B,T)$ and one advantage for each completion $(B,)$. Before you write: fill in the four
cases by hand, $w = 0.5$ and $1.5$ with $A = 1$ and $-1$.""",
    answer=clipped_loss,
    cases=_steps,
    mistakes={
        "the sign: a loss is minus the objective": ("return -", "return "),
        "the clip is missing": "-ratio * advantages[:, None]",
        "min of the two is missing: clipped only": "-np.clip(ratio, 1 - epsilon, 1 + epsilon) * advantages[:, None]",
        "max of the objectives instead of their min": ("np.minimum", "np.maximum"),
        "the min is taken for negative advantages too, not the max": (
            "-np.minimum(ratio, np.clip(ratio, 1 - epsilon, 1 + epsilon)) * advantages[:, None]"
        ),
        "the product is clipped; clip the ratio": (
            "-np.clip(ratio * advantages[:, None], 1 - epsilon, 1 + epsilon)"
        ),
        "the min of the product and the clipped product: clip the ratio": (
            "-np.minimum(ratio * advantages[:, None],"
            " np.clip(ratio * advantages[:, None], 1 - epsilon, 1 + epsilon))"
        ),
        "clipped above only: where A < 0 the bound is below": (
            "np.clip(ratio, 1 - epsilon, 1 + epsilon)",
            "np.minimum(ratio, 1 + epsilon)",
        ),
        "clipped below only: where A > 0 the bound is above": (
            "np.clip(ratio, 1 - epsilon, 1 + epsilon)",
            "np.maximum(ratio, 1 - epsilon)",
        ),
        "the lower bound is 1 - epsilon": ("1 - epsilon", "epsilon"),
        "the bounds are 1 - epsilon and 1 + epsilon, not exp(-epsilon) and exp(epsilon)": (
            "1 - epsilon, 1 + epsilon",
            "np.exp(-epsilon), np.exp(epsilon)",
        ),
        "the ratio comes in as it is: do not take its logarithm": (
            "clipped_loss(np.log(ratio), advantages, epsilon)"
        ),
    },
    hints=(
        "One advantage for each row: `advantages[:, None]`.",
        "Two objectives, w A and clip(w) A; their minimum; a loss is minus an objective.",
    ),
)


def loss_types(per_token_loss, completion_mask, max_completion_length, num_items_in_batch):
    counted = per_token_loss * completion_mask
    grpo = (counted.sum(1) / completion_mask.sum(1)).mean()
    bnpo = counted.sum() / completion_mask.sum()
    dapo = counted.sum() / num_items_in_batch
    dr_grpo = counted.sum() / (len(counted) * max_completion_length)
    return np.stack([grpo, bnpo, dapo, dr_grpo])


_lengths = np.array([[1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1]])

reductions = Puzzle(
    number="3.3",
    title="four means of one loss",
    minutes=8,
    stars=2,
    idea="with grpo a token of a long answer weighs less, so a long wrong answer is penalised less per token",
    task=r"""The losses of the tokens $(B,T)$ become one number in four ways of TRL: **grpo**, the mean
over completions of each one's own mean; **bnpo**, the mean over the counted tokens here; **dapo**, the
sum over the counted tokens of the *whole* batch, `num_items_in_batch`, of which this is a part;
**dr_grpo**, the sum over $B$ times the longest length allowed. Shape $(4,)$ in this order. Before you
write: which of them penalises a long wrong answer least?""",
    answer=loss_types,
    cases={
        "answers of 2 and 8 tokens": (_rng.standard_normal((2, 8)), _lengths, 16, 30),
        "three answers": (
            _rng.exponential(1.0, (3, 4)),
            np.array([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]),
            4,
            8,
        ),
    },
    mistakes={
        "grpo gives each completion its own mean first": (
            "(counted.sum(1) / completion_mask.sum(1)).mean()",
            "counted.sum() / completion_mask.sum()",
        ),
        "bnpo is one mean over all counted tokens": (
            "bnpo = counted.sum() / completion_mask.sum()",
            "bnpo = grpo",
        ),
        "dapo divides by the tokens of the whole batch, num_items_in_batch": (
            "dapo = counted.sum() / num_items_in_batch",
            "dapo = bnpo",
        ),
        "dr_grpo divides by B times the longest length: B is missing": (
            "(len(counted) * max_completion_length)",
            "max_completion_length",
        ),
        "dr_grpo takes the longest length that is allowed, not the longest in the batch": (
            "* max_completion_length",
            "* counted.shape[1]",
        ),
        "dr_grpo divides by a constant, not by the counted tokens": (
            "(len(counted) * max_completion_length)",
            "completion_mask.sum()",
        ),
        "the padding counts nowhere: multiply by the mask": (
            "per_token_loss * completion_mask",
            "per_token_loss",
        ),
        "grpo's own mean is over the counted tokens, not over all T": (
            "(counted.sum(1) / completion_mask.sum(1)).mean()",
            "counted.mean()",
        ),
        "grpo is the mean over completions, not their sum": (
            "completion_mask.sum(1)).mean()",
            "completion_mask.sum(1)).sum()",
        ),
        "the order is grpo, bnpo, dapo, dr_grpo": (
            "[grpo, bnpo, dapo, dr_grpo]",
            "[grpo, dapo, bnpo, dr_grpo]",
        ),
    },
    hints=(
        "All four begin with `per_token_loss * completion_mask`.",
        "Only grpo divides row by row; the others divide one sum.",
    ),
)


def reward(completions, solution):
    rewards = []
    for text, gold in zip(completions, solution):
        found = re.fullmatch(
            r"\s*<think>(.+?)</think>\s*<answer>(.+?)</answer>\s*", text, re.DOTALL
        )
        if not found or "<" in "".join(found.groups()) or not found[1].strip():
            rewards.append(0.0)  # not exactly one of each tag, in order
            continue
        number = found[2].strip().strip("$").strip()
        number = number.removesuffix(".") if not number.endswith("..") else number
        right = re.fullmatch(r"[+-]?\d+(\.\d+)?", number) and float(number) == float(gold)
        rewards.append(1.0 if right else 0.0)
    return rewards


_TRIED = [  # (completion, gold, what is right, why)
    ("<think>2+2</think><answer>4</answer>", "4", 1.0, "the plain case"),
    ("<think>2\n+2</think>\n<answer>\n4\n</answer>\n", "4", 1.0, "line breaks and spaces"),
    ("<think>2+2</think><answer>$4$</answer>", "4", 1.0, "math delimiters"),
    ("<think>2+2</think><answer>4.0</answer>", "4", 1.0, "the same number, written otherwise"),
    ("<think>2+2</think><answer>4.</answer>", "4", 1.0, "a full stop"),
    ("<think>2+2</think><answer>+4</answer>", "4", 1.0, "a plus sign"),
    ("<think>2-6</think><answer>-4</answer>", "-4", 1.0, "a negative number"),
    ("<think>2+2</think><answer>5</answer>", "4", 0.0, "another number"),
    ("<think>2+2</think><answer>-4</answer>", "4", 0.0, "the sign counts"),
    ("<think>2+2</think><answer>44</answer>", "4", 0.0, "the gold is a part of the answer"),
    ("<think>2+2</think><answer>4 or 5</answer>", "4", 0.0, "two answers"),
    ("<think>2+2</think><answer>not 4</answer>", "4", 0.0, "the answer is taken back"),
    ("<think>2+2</think><answer>2+2</answer>", "4", 0.0, "the question copied"),
    ("<think>2+2</think><answer>4...</answer>", "4", 0.0, "a number that goes on"),
    ("4", "4", 0.0, "no tags at all"),
    ("<answer>4</answer>", "4", 0.0, "no reasoning"),
    ("<think></think><answer>4</answer>", "4", 0.0, "empty reasoning"),
    ("<think>4</think><answer>5</answer>", "4", 0.0, "the right number in the reasoning alone"),
    ("<think>2+2</think><answer>5</answer><answer>4</answer>", "4", 0.0, "two answers in tags"),
    ("<think>2+2</think><answer>4</answer> I hope that helps", "4", 0.0, "text after the answer"),
    ("<think>2+2</think><answer></answer>", "4", 0.0, "an empty answer"),
]


def _scored(given, completions, solution):
    if np.shape(given) != (len(_TRIED),):
        return f"one reward for each completion is asked for: {len(_TRIED)} numbers"
    if not np.isin(given, (0.0, 1.0)).all():
        return "each reward is 0 or 1"
    paid = [why for g, (_, _, right, why) in zip(given, _TRIED) if g == 1 and right == 0]
    refused = [why for g, (_, _, right, why) in zip(given, _TRIED) if g == 0 and right == 1]
    if not paid and not refused:
        return ""
    return (
        f"paid though wrong: {len(paid)} ({'; '.join(paid) or 'none'}); "
        f"not paid though right: {len(refused)} ({'; '.join(refused) or 'none'})"
    )


_COMPLETIONS = [completion for completion, *_ in _TRIED]
_GOLDS = [gold for _, gold, *_ in _TRIED]
_TAGGED = r"\s*<think>(.+?)</think>\s*<answer>(.+?)</answer>\s*"


def _each(pays):
    """A reward from a rule for one completion and its gold."""
    return lambda completions, golds: [float(bool(pays(*pair))) for pair in zip(completions, golds)]


def _number(text):
    """The number that a text is, or None."""
    return float(text) if re.fullmatch(r"\s*[+-]?\d+(\.\d*)?\s*", text) else None


def _answers(text):
    return re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)


_LEAKS = [  # rewards that people write
    _each(lambda text, gold: gold in text),
    _each(lambda text, gold: text.endswith(f"<answer>{gold}</answer>")),
    _each(lambda text, gold: f"<answer>{gold}</answer>" in text),
    _each(lambda text, gold: _answers(text) and gold in _answers(text)[-1]),
    _each(lambda text, gold: _answers(text) and _number(_answers(text)[0]) == float(gold)),
    _each(lambda text, gold: re.findall(r"\d+", text) and re.findall(r"\d+", text)[-1] == gold),
    _each(lambda text, gold: (m := re.fullmatch(_TAGGED, text, re.DOTALL)) and m[2] == gold),
    _each(lambda text, gold: (m := re.fullmatch(_TAGGED, text, re.DOTALL)) and gold in m[2]),
    _each(lambda text, gold: re.fullmatch(_TAGGED, text, re.DOTALL)),
    lambda completions, golds: [1.0] * len(completions),
    lambda completions, golds: [0.0] * len(completions),
]

reward_design = Puzzle(
    number="3.4",
    title="a reward that cannot be fooled",
    minutes=15,
    stars=3,
    idea="a policy learns to write whatever its reward pays for; check the whole answer, not a part of it",
    task=rf"""Write the accuracy reward: 1 for a completion of exactly one `<think>` block that is not
empty and one `<answer>` block that holds the number of `solution` and nothing else, and else 0.
Completions and solutions are lists of texts. The check has {len(_TRIED)} completions, and counts those that
are paid though wrong and those that are not paid though right.""",
    answer=reward,
    cases={f"{len(_TRIED)} completions": (_COMPLETIONS, _GOLDS)},
    mistakes={
        _scored(np.array(leak(_COMPLETIONS, _GOLDS)), _COMPLETIONS, _GOLDS): leak for leak in _LEAKS
    },
    hints=(
        "`re.fullmatch` reads all of a text, `re.search` finds a part of it.",
        "Compare numbers, not texts: 4, 4.0 and +4 are one number.",
        "`(.+?)` may run over a tag: look for `<` in what it found.",
    ),
    verify=_scored,
)


def reinforce(logits, arm, reward, baseline):
    push = -softmax(logits)
    push[arm] += 1.0  # the gradient of log p(arm)
    return (reward - baseline) * push


policy_gradient = Puzzle(
    number="6.1",
    title="from a reward to a gradient",
    minutes=10,
    stars=2,
    idea="the gradient of an expectation is an expectation: of the reward times the gradient of log p",
    task=r"""One arm of a bandit is sampled from $p = \text{softmax}(\text{logits})$ and earns a reward.
Give this sample's estimate of the gradient of $\mathbb E[r]$ with respect to the logits (uphill):
$(r - b)\,\nabla\log p(\text{arm})$, where $\partial\log p(a)/\partial z_v = \mathbb 1[v=a] - p_v$.""",
    answer=reinforce,
    cases={
        "the first arm pays": (np.array([0.2, -0.4, 1.0]), 0, 1.0, 0.0),
        "with a baseline": (np.array([0.2, -0.4, 1.0]), 2, 0.5, 0.7),
        "a likely arm with a negative reward": (np.array([3.0, 0.0, -1.0, 0.5]), 0, -2.0, 0.25),
    },
    mistakes={
        "the logarithm is missing: this is the gradient of p(arm)": (
            "softmax(logits)[arm] * reinforce(logits, arm, reward, baseline)"
        ),
        "the sign: a step along this gradient has to raise the expected reward": "-reinforce(logits, arm, reward, baseline)",
        "the baseline is taken off the reward": ("(reward - baseline)", "reward"),
        "the baseline is taken off, not added": ("(reward - baseline)", "(reward + baseline)"),
        "the other arms have a gradient too: -p": ("-softmax(logits)", "np.zeros_like(logits)"),
        "1 has to be added at the arm that was sampled": ("+= 1.0", "+= 0.0"),
        "the arm was sampled with probability p already: do not divide by p": (
            "reinforce(logits, arm, reward, baseline) / softmax(logits)[arm]"
        ),
        "p is the softmax of the logits": ("-softmax(logits)", "-logits"),
        "the sign of p: 1 - p at the arm, -p elsewhere": ("-softmax(logits)", "softmax(logits)"),
        "one number per logit is asked for, not that of the arm alone": (
            "reinforce(logits, arm, reward, baseline)[arm]"
        ),
        "the gradient is weighed by the reward less the baseline, not by their product": (
            "(reward - baseline)",
            "reward * baseline",
        ),
    },
    hints=(
        "log p(a) = z_a - log sum exp z. What is its derivative by each z?",
        "One at the arm, minus p everywhere, times (reward - baseline).",
    ),
)


def leave_one_out(rewards, num_generations):
    groups = np.asarray(rewards, float).reshape(-1, num_generations)
    others = (groups.sum(1, keepdims=True) - groups) / (num_generations - 1)
    return (groups - others).ravel()


_group_rewards = _rng.standard_normal(12)

rloo = Puzzle(
    number="6.2",
    title="the mean of the others",
    minutes=5,
    stars=1,
    idea="RLOO's advantage is GRPO's without the std, times n / (n - 1)",
    task=r"""RLOO compares each completion with the mean of the **other** completions of its prompt:
$A_i = r_i - \frac{1}{G-1}\sum_{j \ne i} r_j$. Then compare: what is $A_i$ divided by $r_i - \text{mean}(r)$?""",
    answer=leave_one_out,
    cases={
        "groups of four": (_group_rewards, 4),
        "groups of two": (_group_rewards[:6], 2),
        "one of four is right": (np.array([0.0, 1.0, 0.0, 0.0]), 4),
    },
    mistakes={
        "the completion itself is in its baseline: leave it out": lambda rewards, n: _scaled(
            rewards, n, lambda g: 1.0
        ),
        "the others are n - 1, not n": ("/ (num_generations - 1)", "/ num_generations"),
        "the mean of the others, not their sum": (" / (num_generations - 1)", ""),
        "the sign: better than the others is positive": ("(groups - others)", "(others - groups)"),
        "RLOO does not divide by the std": (
            "(groups - others).ravel()",
            "((groups - others) / groups.std(1, ddof=1, keepdims=True)).ravel()",
        ),
        "the others of the same prompt, not of the batch": "leave_one_out(rewards, len(rewards))",
        "a group is n neighbours: reshape(-1, n), not reshape(n, -1)": lambda rewards, n: (
            leave_one_out(rewards, len(rewards) // n)
        ),
        "this is the baseline; take it off the reward": ("(groups - others)", "others"),
        "the factor is n / (n - 1), not (n - 1) / n": lambda rewards, n: (
            (n - 1) / n * _scaled(rewards, n, lambda g: 1.0)
        ),
        "take off the mean of the others, not the reward of the completion before": lambda rewards, n: (
            ((g := np.reshape(rewards, (-1, n))) - np.roll(g, 1, axis=1)).ravel()
        ),
    },
    hints=(
        "The sum of the others is the sum of all minus the completion's own reward.",
        "There are n - 1 others.",
    ),
)


def stopped_by_the_clip(ratio, advantages, epsilon):
    advantages = advantages[:, None]
    too_likely = (advantages > 0) & (ratio > 1 + epsilon)
    too_unlikely = (advantages < 0) & (ratio < 1 - epsilon)
    return too_likely | too_unlikely


_advantages = np.array([1.0, -1.0, 0.5, -2.0, 0.0, 1.5])

clipped_tokens = Puzzle(
    number="6.3",
    title="which tokens the clip stops",
    minutes=5,
    stars=2,
    idea="only a token that has already moved in its advantage's direction, and beyond the bound, is stopped",
    task=r"""Where does the clip of $-\min(wA, \text{clip}(w)A)$ leave a token without a gradient? Give
True or False for each ratio $(B,T)$, with one advantage for each row.""",
    answer=stopped_by_the_clip,
    cases={
        "ratios around 1": (_ratio, _advantages, 0.2),
        "ratios near 0 and far above 1": (_ratio**3, _advantages[::-1].copy(), 0.3),
    },
    mistakes={
        "a token that moved against its advantage is not stopped: it keeps its whole gradient": (
            "(np.abs(ratio - 1) > epsilon) & (advantages[:, None] != 0)"
        ),
        "where A < 0 a token is stopped as well, below 1 - epsilon": (
            "too_likely | too_unlikely",
            "too_likely",
        ),
        "where A > 0 a token is stopped as well, above 1 + epsilon": (
            "too_likely | too_unlikely",
            "too_unlikely",
        ),
        "the sides are swapped: the bound is above where A > 0 and below where A < 0": (
            "stopped_by_the_clip(ratio, -advantages, epsilon)"
        ),
        "True is what is stopped; this is what is not": (
            "return too_likely | too_unlikely",
            "return ~(too_likely | too_unlikely)",
        ),
        "where A = 0 there is no gradient, but not because of the clip: A > 0 is the condition": (
            "(advantages > 0)",
            "(advantages >= 0)",
        ),
        "where A = 0 there is no gradient, but not because of the clip: A < 0 is the condition": (
            "(advantages < 0)",
            "(advantages <= 0)",
        ),
        "the lower bound is 1 - epsilon": ("ratio < 1 - epsilon", "ratio < 1 / (1 + epsilon)"),
        "both conditions never hold at once: one of them is enough": (
            "too_likely | too_unlikely",
            "too_likely & too_unlikely",
        ),
        "the bounds are around 1": ("ratio > 1 + epsilon", "ratio > 1"),
        "the advantage decides which bound counts": "np.abs(ratio - 1) > epsilon",
    },
    hints=(
        "Where the minimum is the clipped term, its derivative by w is 0.",
        "For A > 0 that is above 1 + epsilon, for A < 0 below 1 - epsilon.",
    ),
)


def sequence_weights(logps, sampling_logps, completion_mask, cap):
    log_ratio = ((logps - sampling_logps) * completion_mask).sum(1)
    ratio = np.exp(log_ratio)
    truncated = np.minimum(ratio, cap)
    masked = np.where(ratio <= cap, ratio, 0.0)
    return np.stack([truncated, masked])


_logps = -_rng.exponential(1.0, (4, 6))
_mask = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0]])
_sampling = _logps - np.array([[0.5], [0.02], [-0.4], [0.1]]) * [1.0, 0.2, 1.5, 0.8, 1.1, -0.3]

sampler_ratio = Puzzle(
    number="6.4",
    title="samples of another policy",
    minutes=8,
    stars=2,
    idea="the ratio of a sequence is the product over its tokens; a cap bounds it, a mask drops the sequence",
    task=r"""The sampler's probabilities are not quite the trainer's. Give the importance ratio of each
completion, $\rho = \prod_t p_{trainer}(y_t)/p_{sampler}(y_t)$ over its counted tokens, **truncated** at
`cap`, and **masked**: 0 where it is above `cap`. Shape $(2,B)$.""",
    answer=sequence_weights,
    cases={
        "one sequence above the cap": (_logps, _sampling, _mask, 3.0),
        "a small cap": (_logps, _sampling, _mask, 1.05),
    },
    mistakes={
        "take the product over the tokens, not their geometric mean": (
            "completion_mask).sum(1)",
            "completion_mask).sum(1) / completion_mask.sum(1)",
        ),
        "the ratios are multiplied, not averaged": (
            "np.exp(log_ratio)",
            "(np.exp(logps - sampling_logps) * completion_mask).sum(1) / completion_mask.sum(1)",
        ),
        "the ratios are multiplied, not added": (
            "np.exp(log_ratio)",
            "(np.exp(logps - sampling_logps) * completion_mask).sum(1)",
        ),
        "the trainer's over the sampler's, not the other way round": (
            "sequence_weights(sampling_logps, logps, completion_mask, cap)"
        ),
        "the padding counts for nothing: multiply by the mask": (
            "((logps - sampling_logps) * completion_mask)",
            "(logps - sampling_logps)",
        ),
        "first truncated, then masked": ("[truncated, masked]", "[masked, truncated]"),
        "what is masked counts as 0, not as 1": ("ratio, 0.0)", "ratio, 1.0)"),
        "what is masked counts as 0, not as the cap": ("ratio, 0.0)", "ratio, cap)"),
        "the cap bounds the ratio, not its logarithm": (
            "np.minimum(ratio, cap)",
            "np.exp(np.minimum(log_ratio, cap))",
        ),
        "only large ratios are bounded: there is no lower cap": (
            "np.minimum(ratio, cap)",
            "np.clip(ratio, 1 / cap, cap)",
        ),
        "the ratio is asked for, not its logarithm": (
            "ratio = np.exp(log_ratio)",
            "ratio = log_ratio",
        ),
        "the cap is on the sequence, not on each token": (
            "np.minimum(ratio, cap)",
            "np.exp((np.log(np.minimum(np.exp(logps - sampling_logps), cap)) * completion_mask).sum(1))",
        ),
    },
    hints=(
        "A product of ratios is exp of a sum of differences of log-probs.",
        "Multiply the differences by the mask before you add them up.",
    ),
)


def gae_advantages(rewards, values, gamma, lam):
    advantages, after = np.zeros(len(rewards)), 0.0
    for t in reversed(range(len(rewards))):
        next_value = values[t + 1] if t + 1 < len(values) else 0.0  # nothing follows the end
        delta = rewards[t] + gamma * next_value - values[t]
        after = advantages[t] = delta + gamma * lam * after
    return advantages


_path = (np.array([0.0, 0.2, 0.0, -0.1, 1.0]), np.array([0.3, 0.1, 0.5, 0.4, 0.7]))

generalised_advantage = Puzzle(
    number="5.2",
    title="generalised advantage estimation",
    minutes=10,
    stars=3,
    idea="lambda 0 relies on the critic's next value, lambda 1 on the rewards that were received",
    task=r"""From the rewards and a critic's values of one completion's $T$ tokens, with the value 0
after the end: $\delta_t = r_t + \gamma V_{t+1} - V_t$ and $A_t = \delta_t + \gamma\lambda A_{t+1}$.""",
    answer=gae_advantages,
    cases={
        "gamma 0.9, lambda 0.8": (*_path, 0.9, 0.8),
        "lambda 0: one step and the critic": (*_path, 0.9, 0.0),
        "lambda 1: all rewards": (*_path, 1.0, 1.0),
    },
    mistakes={
        "the value after this token, not its own: V[t + 1]": (
            "values[t + 1] if t + 1 < len(values) else 0.0",
            "values[t]",
        ),
        "nothing follows the end: the value there is 0": ("else 0.0", "else values[t]"),
        "gamma is missing before the next value": ("gamma * next_value", "next_value"),
        "gamma is missing before lambda": ("gamma * lam * after", "lam * after"),
        "lambda is missing": ("gamma * lam * after", "gamma * after"),
        "its own value has to be taken off": (" - values[t]\n", "\n"),
        "the next value is missing in delta: nothing is bootstrapped": (
            "+ gamma * next_value",
            "+ 0 * next_value",
        ),
        "time runs backwards: A[t] needs A[t + 1]": (
            "reversed(range(len(rewards)))",
            "range(len(rewards))",
        ),
        "these are the returns; the advantage is without V[t]": "gae_advantages(rewards, values, gamma, lam) + values",
        "delta alone is the case of lambda 0: add what follows": (
            "delta + gamma * lam * after",
            "delta",
        ),
        "the sign: a reward above the value is an advantage": "-gae_advantages(rewards, values, gamma, lam)",
        "lambda weighs what follows, not delta": (
            "delta + gamma * lam * after",
            "lam * delta + gamma * after",
        ),
    },
    hints=(
        "Go from the last token to the first and keep A[t + 1].",
        "At the last token V[t + 1] and A[t + 1] are 0.",
    ),
)
