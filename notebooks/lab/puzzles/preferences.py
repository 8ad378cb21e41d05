"""Lessons 2 and 5: from preferences to DPO, its displacement, and KTO."""

import numpy as np

from lab.puzzles.engine import Puzzle
from lab.puzzles.tokens import log_softmax

_rng = np.random.default_rng(2)


def sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))  # never overflows


def bradley_terry(chosen_rewards, rejected_rewards):
    h = chosen_rewards - rejected_rewards
    loss = np.logaddexp(0, -h)  # -log sigmoid(h)
    return np.stack([loss, -sigmoid(-h)])


preference = Puzzle(
    number="2.1",
    title="Bradley and Terry's loss",
    minutes=6,
    stars=1,
    idea="only the difference of two rewards counts: adding a constant to both changes nothing",
    task=r"""A judge prefers $w$ to $l$ with probability $\sigma(r_w - r_l)$. Give, for each pair, the
loss $-\log\sigma(r_w - r_l)$ and its derivative with respect to $r_w$. Shape $(2, B)$. Differences of
a thousand have to work.""",
    answer=bradley_terry,
    cases={
        "ordinary rewards": (_rng.standard_normal(4), _rng.standard_normal(4)),
        "rewards in the thousands": (
            np.array([2000.0, -900.0, 3.0]),
            np.array([900.0, 800.0, 3.0]),
        ),
    },
    mistakes={
        "chosen and rejected are the wrong way round": "bradley_terry(rejected_rewards, chosen_rewards)",
        "the derivative is negative: a higher chosen reward lowers the loss": (
            "-sigmoid(-h)",
            "sigmoid(-h)",
        ),
        "the derivative is -sigma(-h): it is small where the pair is ranked right already": (
            "-sigmoid(-h)",
            "-sigmoid(h)",
        ),
        "the loss is -log of the probability, not the probability": (
            "[loss, -sigmoid(-h)]",
            "[sigmoid(h), -sigmoid(-h)]",
        ),
        "the loss is -log sigma(h), not 1 - sigma(h)": (
            "[loss, -sigmoid(-h)]",
            "[sigmoid(-h), -sigmoid(-h)]",
        ),
        "exp overflows for large differences: np.logaddexp(0, -h) does not": (
            "np.logaddexp(0, -h)",
            "np.log(1 + np.exp(-h))",
        ),
        "exp of the rewards themselves overflows: take their difference first": (
            "np.logaddexp(0, -h)",
            "-np.log(np.exp(chosen_rewards) / (np.exp(chosen_rewards) + np.exp(rejected_rewards)))",
        ),
        "this is a hinge; Bradley and Terry take -log sigma(h)": (
            "np.logaddexp(0, -h)",
            "np.maximum(0, 1 - h)",
        ),
        "the rejected reward does not come in": "bradley_terry(chosen_rewards, 0 * rejected_rewards)",
        "the rewards are subtracted, not divided": (
            "chosen_rewards - rejected_rewards",
            "chosen_rewards / rejected_rewards",
        ),
        "the first derivative is -sigma(-h); sigma(h) sigma(-h) belongs to the second": (
            "-sigmoid(-h)",
            "-sigmoid(h) * sigmoid(-h)",
        ),
    },
    hints=(
        "-log sigma(h) = log(1 + e^(-h)), and `np.logaddexp(0, x)` is log(1 + e^x) without overflow.",
        "The derivative of -log sigma(h) is sigma(h) - 1 = -sigma(-h).",
    ),
)


def optimum(ref_logps, rewards, beta):
    logps = log_softmax(ref_logps + rewards / beta)
    implicit_rewards = beta * (logps - ref_logps)
    return np.stack([np.exp(logps), implicit_rewards])


where_dpo_comes_from = Puzzle(
    number="2.2",
    title="the policy that DPO looks for",
    minutes=10,
    stars=3,
    idea="the best policy is p_ref e^(r / beta) / Z, so its log-ratio times beta is the reward up to a constant",
    task=r"""Among all policies over $V$ answers, $\mathbb E[r] - \beta\,\mathrm{KL}(p\|p_{ref})$ is
highest at $p^*_v \propto p_{ref,v}\,e^{r_v/\beta}$. Give $p^*$, and the implicit reward
$\beta\log(p^*_v/p_{ref,v})$. Shape $(2,V)$. Then compare the second row with the rewards: what is the
same in every column is $\beta\log Z$.""",
    answer=optimum,
    cases={
        "three answers": (np.log([0.2, 0.3, 0.5]), np.array([1.0, 0.0, 0.5]), 0.5),
        "a small beta": (np.log([0.7, 0.2, 0.1]), np.array([0.0, 40.0, 39.5]), 0.05),
    },
    mistakes={
        "p* has to be divided by Z, its sum": (
            "np.stack([np.exp(ref_logps + rewards / beta), rewards])"
        ),
        "beta divides the reward: the smaller beta is, the more the reward counts": (
            "rewards / beta",
            "rewards * beta",
        ),
        "beta is missing in p*": ("rewards / beta", "rewards"),
        "the reference is missing in p*": (
            "log_softmax(ref_logps +",
            "log_softmax(0 * ref_logps +",
        ),
        "the implicit reward is asked for, with its constant: not the reward itself": (
            "[np.exp(logps), implicit_rewards]",
            "[np.exp(logps), rewards]",
        ),
        "beta is missing in the implicit reward": ("beta * (logps", "(logps"),
        "the reference is missing in the implicit reward": ("(logps - ref_logps)", "logps"),
        "the implicit reward is the log of p* / p_ref, not of p_ref / p*": (
            "(logps - ref_logps)",
            "(ref_logps - logps)",
        ),
        "a higher reward makes an answer likelier: the sign of r / beta": (
            "ref_logps + rewards / beta",
            "ref_logps - rewards / beta",
        ),
        "exp(r / beta) overflows: work with logarithms until the end": (
            "log_softmax(ref_logps + rewards / beta)",
            "np.log(np.exp(ref_logps + rewards / beta) / np.exp(ref_logps + rewards / beta).sum())",
        ),
        "probabilities are asked for in the first row, not their logarithms": (
            "np.exp(logps), ",
            "logps, ",
        ),
    },
    hints=(
        "Take logarithms: log p* = log p_ref + r / beta - log Z, a log-softmax.",
        "Solve the same line for r: r = beta log(p* / p_ref) + beta log Z.",
        "In a difference of two answers of one prompt log Z cancels. That difference is DPO's h.",
    ),
)


def dpo_loss(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta):
    chosen = chosen_logps - ref_chosen_logps
    rejected = rejected_logps - ref_rejected_logps
    return np.logaddexp(0, -beta * (chosen - rejected))  # -log sigmoid(h)


def _h(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta):
    return beta * ((chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps))


_near, _far = -_rng.exponential(10, (4, 4)), -_rng.exponential(3000, (4, 4))
_pairs = {
    "ordinary pairs": (*_near, 0.1),
    "a large beta": (*_near, 2.0),
    "margins in the thousands: -log(1 / (1 + exp(-h))) overflows": (*_far, 1.0),
}

pair_loss = Puzzle(
    number="2.3",
    title="the loss of DPO",
    minutes=8,
    stars=2,
    idea="-log sigma of beta times how much more the policy prefers the chosen answer than the reference does",
    task=r"""$L = -\log\sigma(h)$ with
$h = \beta\left[(\log p_\theta(y_w) - \log p_{ref}(y_w)) - (\log p_\theta(y_l) - \log p_{ref}(y_l))\right]$,
one number for each pair. Margins in the thousands have to work.""",
    answer=dpo_loss,
    cases=_pairs,
    mistakes={
        "chosen and rejected are the wrong way round": ("-beta * (chosen", "beta * (chosen"),
        "the reference is missing: compare log-ratios, not log-probs": (
            "np.logaddexp(0, -beta * (chosen_logps - rejected_logps))"
        ),
        "beta is missing": ("-beta * ", "-1.0 * "),
        "beta multiplies the margin inside the sigmoid, not the loss": (
            "beta * dpo_loss(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, 1.0)"
        ),
        "one loss per pair is asked for, not their mean": (
            "dpo_loss(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta).mean()"
        ),
        "the reference is added; take it off each log-prob": (
            "dpo_loss(chosen_logps, rejected_logps, -ref_chosen_logps, -ref_rejected_logps, beta)"
        ),
        "beta is on the policy's part alone": (
            "dpo_loss(beta * chosen_logps, beta * rejected_logps,"
            " ref_chosen_logps, ref_rejected_logps, 1.0)"
        ),
        "beta multiplies the margin; it does not divide it": ("-beta *", "-1 / beta *"),
        "the rejected log-ratio is taken off the chosen one, not added": (
            "(chosen - rejected)",
            "(chosen + rejected)",
        ),
        "the margin is the argument of -log sigmoid; this returns the margin": (
            "_h(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta)"
        ),
        "this is the sigmoid of minus the margin; the loss is -log sigmoid(h)": (
            "sigmoid(-_h(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta))"
        ),
        "this is the hinge of SLiC; DPO takes -log sigmoid": (
            "np.maximum(0, 1 - _h(chosen_logps, rejected_logps,"
            " ref_chosen_logps, ref_rejected_logps, beta))"
        ),
        "this is IPO's square; DPO takes -log sigmoid": (
            "((chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)"
            " - 1 / (2 * beta)) ** 2"
        ),
        "the margin is clipped: a loss in the thousands is right there": (
            "np.logaddexp(0, -np.clip(_h(chosen_logps, rejected_logps,"
            " ref_chosen_logps, ref_rejected_logps, beta), -30, 30))"
        ),
    },
    hints=(
        "Two log-ratios, their difference, times beta.",
        "-log sigma(h) = log(1 + e^(-h)) = `np.logaddexp(0, -h)`.",
    ),
)


def dpo_push(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta):
    chosen = chosen_logps - ref_chosen_logps
    rejected = rejected_logps - ref_rejected_logps
    weight = beta * sigmoid(-beta * (chosen - rejected))
    return np.stack([-weight, weight])


push_of_dpo = Puzzle(
    number="2.4",
    title="the gradient of DPO",
    minutes=6,
    stars=2,
    idea="the two derivatives differ only in sign, and both are near 0 where the margin is large",
    task=r"""The derivatives of DPO's loss with respect to $\log p_\theta(y_w)$ and
$\log p_\theta(y_l)$: $\mp\beta\,\sigma(-h)$. Shape $(2,B)$.""",
    answer=dpo_push,
    cases=_pairs,
    mistakes={
        "the chosen answer's derivative is negative: the loss falls when it gets likelier": (
            "[-weight, weight]",
            "[weight, -weight]",
        ),
        "the weight is sigma(-h): it is small where the margin is large": (
            "sigmoid(-beta * ",
            "sigmoid(beta * ",
        ),
        "beta is missing before the sigmoid": ("weight = beta * ", "weight = "),
        "beta is missing inside the sigmoid": ("sigmoid(-beta *", "sigmoid(-1.0 *"),
        "beta stands twice before the sigmoid": ("weight = beta *", "weight = beta**2 *"),
        "the two have opposite signs": ("[-weight, weight]", "[-weight, -weight]"),
        "the rejected answer's derivative is not 0: it is as large as the chosen one's": (
            "[-weight, weight]",
            "[-weight, 0 * weight]",
        ),
        "the reference is missing": (
            "dpo_push(chosen_logps, rejected_logps, 0 * chosen_logps, 0 * rejected_logps, beta)"
        ),
        "this is the derivative of the sigmoid, not of its -log": (
            "sigmoid(-beta * (chosen - rejected))",
            "sigmoid(-beta * (chosen - rejected)) * sigmoid(beta * (chosen - rejected))",
        ),
        "without the sigmoid the derivative does not fall as the margin grows": (
            "beta * sigmoid(-beta * (chosen - rejected))",
            "beta * np.ones_like(chosen)",
        ),
        "exp overflows for margins in the thousands": (
            "sigmoid(-beta * (chosen - rejected))",
            "(np.exp(-beta * (chosen - rejected)) / (1 + np.exp(-beta * (chosen - rejected))))",
        ),
    },
    hints=(
        "The derivative of -log sigma(h) by h is -sigma(-h).",
        "h holds beta log p(chosen) and -beta log p(rejected).",
    ),
)


def sinking_pair():
    before = [-10.0, -10.0]
    after = [-12.0, -20.0]  # both sink, the rejected answer further
    return [before, after]


def _sinks(pair):
    if np.shape(pair) != (2, 2):
        return "two rows are asked for, before and after, of two log-probs, chosen and rejected"
    if not np.isfinite(pair).all():
        return "every log-prob has to be a finite number"
    if (pair > 0).any():
        return "a log-probability is never above 0"
    (chosen, rejected), (chosen_after, rejected_after) = pair
    if (pair[0] == pair[1]).all():
        return "nothing has moved"
    if chosen_after >= chosen and rejected_after >= rejected:
        return "neither answer has sunk"
    if chosen_after >= chosen:
        return "the chosen answer has not sunk"
    if rejected_after >= rejected:
        return "the rejected answer has not sunk"
    margin = (chosen_after - chosen) - (rejected_after - rejected)
    if margin == 0:
        return "both sink by as much, so the loss stays"
    return "" if margin > 0 else "the loss has risen: the chosen answer sank further"


displacement = Puzzle(
    number="2.5",
    title="a loss that falls while both answers sink",
    minutes=5,
    stars=2,
    idea="DPO's loss depends on the difference alone; a falling loss does not say that the chosen answer got likelier",
    task=r"""Find numbers, no formula: the log-probs of a chosen and a rejected answer before a step
(the policy is then the reference) and after it, so that DPO's loss falls **and both answers are less
likely than before**. Return `[[chosen, rejected], [chosen_after, rejected_after]]`.""",
    answer=sinking_pair,
    cases={"your four numbers": ()},
    mistakes={
        "nothing has moved": "[[-10, -12], [-10, -12]]",
        "neither answer has sunk": "[[-10, -12], [-8, -11]]",
        "the chosen answer has not sunk": "[[-10, -12], [-8, -20]]",
        "the rejected answer has not sunk": "[[-10, -12], [-12, -10]]",
        "the loss has risen: the chosen answer sank further": "[[-10, -12], [-20, -13]]",
        "both sink by as much, so the loss stays": "[[-10, -12], [-11, -13]]",
        "a log-probability is never above 0": "[[0.5, 0.4], [0.4, 0.1]]",
        "every log-prob has to be a finite number": "[[-10, -12], [-11, -np.inf]]",
        "two rows are asked for, before and after, of two log-probs, chosen and rejected": (
            "[-10, -12, -11, -20]"
        ),
    },
    hints=(
        "The loss falls if (chosen_after - chosen) - (rejected_after - rejected) is above 0.",
        "Let both fall, and one of them further.",
    ),
    verify=_sinks,
)


def kto_loss(logps, ref_logps, label, kl, beta):
    u = logps - ref_logps
    gained = np.where(label == 1, sigmoid(beta * (u - kl)), sigmoid(beta * (kl - u)))
    return (1 - gained).mean()


_logps, _ref_logps = -_rng.exponential(10, (2, 6))

labelled = Puzzle(
    number="5.1",
    title="the loss of KTO",
    minutes=8,
    stars=2,
    idea="a label for each answer instead of pairs: gains and losses are measured against a common baseline",
    task=r"""With $u = \log p_\theta - \log p_{ref}$ and the baseline $z$ (`kl`), an answer with label 1
gains $\sigma(\beta(u-z))$, one with label 0 gains $\sigma(\beta(z-u))$. The loss is the mean of one
minus what is gained.""",
    answer=kto_loss,
    cases={
        "ordinary answers": (_logps, _ref_logps, np.array([1, 0, 0, 1, 1, 0]), 0.8, 0.1),
        "more of one kind": (_logps, _ref_logps, np.array([0, 0, 0, 0, 1, 0]), 0.3, 0.5),
    },
    mistakes={
        "an undesirable answer gains where u is below z: its argument is z - u": (
            "sigmoid(beta * (kl - u))",
            "sigmoid(beta * (u - kl))",
        ),
        "label 1 is desirable (and this is a loss, not what is gained)": ("(1 - gained)", "gained"),
        "the baseline z is missing": "kto_loss(logps, ref_logps, label, 0.0, beta)",
        "the reference is missing: compare log-ratios": ("logps - ref_logps", "logps"),
        "beta is missing": "kto_loss(logps, ref_logps, label, kl, 1.0)",
        "this is the sum; divide by the number of answers": (".mean()", ".sum()"),
        "z belongs inside beta (u - z)": "kto_loss(logps, ref_logps, label, kl / beta, beta)",
        "z is taken off u, not added": "kto_loss(logps, ref_logps, label, -kl, beta)",
        "for an undesirable answer both signs change: z - u, not -z - u": (
            "sigmoid(beta * (kl - u))",
            "sigmoid(beta * (-kl - u))",
        ),
        "average over all answers at once, not over each kind": (
            "(1 - sigmoid(beta * (logps - ref_logps - kl)))[label == 1].mean()"
            " + (1 - sigmoid(beta * (kl - logps + ref_logps)))[label == 0].mean()"
        ),
        "u is the policy's log-prob less the reference's": (
            "kto_loss(ref_logps, logps, label, kl, beta)"
        ),
    },
    hints=(
        "`np.where(label == 1, ..., ...)` chooses between two arrays, entry by entry.",
        "1 - sigma(x) = sigma(-x).",
    ),
)
