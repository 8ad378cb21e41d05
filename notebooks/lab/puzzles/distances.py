"""Lessons 3 and 7: how far a policy is from its reference, estimated, and as a loss."""

import numpy as np

from lab.puzzles.engine import Puzzle
from lab.puzzles.tokens import softmax

_rng = np.random.default_rng(4)


def k3(logps, ref_logps):
    log_r = ref_logps - logps  # the reference over the policy
    return np.expm1(log_r) - log_r


_logps = -_rng.exponential(2.0, (3, 4))
_tokens = {
    "tokens near the reference": (_logps, _logps + 0.05 * _rng.standard_normal((3, 4))),
    "tokens far from it": (_logps, _logps + 4.0 * _rng.standard_normal((3, 4))),
}

kl_term = Puzzle(
    number="3.5",
    title="the KL term of GRPO",
    minutes=4,
    stars=1,
    idea="k3 is never negative, and its mean over the policy's samples is KL(policy || reference)",
    task=r"""Schulman's estimate of $\mathrm{KL}(p_\theta\|p_{ref})$ for each sampled token:
$k_3 = r - 1 - \log r$ with $r = p_{ref}/p_\theta$.""",
    answer=k3,
    cases=_tokens,
    mistakes={
        "log r is reference minus policy, here it is the other way round": "k3(ref_logps, logps)",
        "that is k1, which can be negative": "logps - ref_logps",
        "that is k2, which is biased": "0.5 * (ref_logps - logps) ** 2",
        "that is k1 with the sign turned": "ref_logps - logps",
        "that is k2 without its half, and k2 is biased": "(ref_logps - logps) ** 2",
        "the - 1 is missing: at r = 1 the estimate is 0": ("np.expm1(log_r)", "np.exp(log_r)"),
        "- log r is missing: r - 1 - log r": ("np.expm1(log_r) - log_r", "np.expm1(log_r)"),
        "r - 1 - log r, not 1 - r - log r": ("np.expm1(log_r)", "-np.expm1(log_r)"),
        "r - 1 + log r has the logarithm with the wrong sign": ("- log_r\n", "+ log_r\n"),
        "r is the exponential of the log-ratio, and missing here": (
            "np.expm1(log_r) - log_r",
            "log_r - 1 - np.log(np.abs(log_r) + 1e-12)",
        ),
        "r and log r go in opposite directions: both are reference over policy": (
            "np.expm1(log_r)",
            "np.expm1(-log_r)",
        ),
        "the arguments are log-probs: r = exp(ref - policy), not ref / policy": (
            "ref_logps / logps - 1 - np.log(np.abs(ref_logps / logps))"
        ),
        "the values are clipped: leave them as they are": "np.clip(k3(logps, ref_logps), -10, 10)",
    },
    hints=("log r is a difference of log-probs.", "`np.expm1(x)` is e^x - 1, exact near 0."),
)


def kl_estimates(logps, ref_logps):
    log_r = ref_logps - logps
    return np.stack([-log_r, 0.5 * log_r**2, np.expm1(log_r) - log_r])


three_estimates = Puzzle(
    number="7.1",
    title="k1, k2 and k3",
    minutes=6,
    stars=1,
    idea="k1 and k3 are unbiased and k2 is not; k2 and k3 are never negative",
    task=r"""Three estimates of $\mathrm{KL}(p_\theta\|p_{ref})$ from tokens that the policy sampled,
with $r = p_{ref}/p_\theta$: $k_1 = -\log r$, $k_2 = \frac12(\log r)^2$, $k_3 = r - 1 - \log r$. Stack
them on a first axis.""",
    answer=kl_estimates,
    cases=_tokens,
    mistakes={
        "r is reference over policy, not policy over reference": "kl_estimates(ref_logps, logps)",
        "k1 is minus log r": ("[-log_r,", "[log_r,"),
        "k1 can be negative: no absolute value": ("[-log_r,", "[np.abs(log_r),"),
        "k2 has a half": ("0.5 * log_r**2", "log_r**2"),
        "k2 is half the square of log r, not of r - 1": (
            "0.5 * log_r**2",
            "0.5 * np.expm1(log_r) ** 2",
        ),
        "k2 squares: the half of the absolute value is not it": ("log_r**2", "np.abs(log_r)"),
        "k3 is r - 1 - log r: the 1 is missing": (
            "np.expm1(log_r) - log_r",
            "np.exp(log_r) - log_r",
        ),
        "k3 is r - 1 - log r: log r is missing": ("np.expm1(log_r) - log_r", "np.expm1(log_r)"),
        "k3 takes r, not 1 / r, in its first term": (
            "np.expm1(log_r) - log_r",
            "np.expm1(-log_r) + log_r",
        ),
        "the order is k1, k2, k3": "kl_estimates(logps, ref_logps)[::-1]",
        "estimates of each token are asked for, not their means": (
            "kl_estimates(logps, ref_logps).mean(axis=(1, 2))"
        ),
    },
    hints=(
        "All three are functions of log r = ref_logps - logps.",
        "`np.stack([...])` makes the first axis.",
    ),
)


def expected_gradients(logits, ref_logits):
    p, q = softmax(logits), softmax(ref_logits)
    score = np.eye(len(p)) - p  # row y: the gradient of log p(y) by the logits
    slopes = np.stack([np.ones_like(p), np.log(p / q), 1 - q / p])  # of k1, k2, k3 by log p
    return (p * slopes) @ score


gradients_of_estimates = Puzzle(
    number="7.2",
    title="the estimates as losses",
    minutes=10,
    stars=3,
    idea="as losses: k1's mean gradient is 0, k2's is that of KL(policy || reference), k3's that of KL(reference || policy)",
    task=r"""Which gradients do $k_1, k_2, k_3$ have as losses? The sampled token $y$ is held, so
$\nabla k_i = \frac{dk_i}{d\log p(y)}\nabla\log p(y)$ with slopes $1$, $\log\frac{p}{q}$ and
$1 - \frac{q}{p}$. Give the expectation over $y \sim p$ of each gradient by the logits, by going through
all $V$ tokens. Shape $(3,V)$.""",
    answer=expected_gradients,
    cases={
        "six tokens": (_rng.standard_normal(6), _rng.standard_normal(6)),
        "three tokens": (np.array([1.0, 0.0, -1.0]), np.array([0.0, 0.5, 0.0])),
    },
    mistakes={
        "each token is weighed by its p; this weighs all tokens alike": ("(p * slopes)", "slopes"),
        "the mean over tokens is no expectation: weigh by p": ("(p * slopes)", "slopes / len(p)"),
        "the samples come from the policy p, not from the reference": (
            "(p * slopes)",
            "(q * slopes)",
        ),
        "policy and reference are swapped": "expected_gradients(ref_logits, logits)",
        "the sign: this is minus the gradient of the loss": "-expected_gradients(logits, ref_logits)",
        "k1's slope is 1: the samples are held, so log p alone is differentiated": (
            "[np.ones_like(p),",
            "[np.log(p / q),",
        ),
        "k2's slope is log(p / q): the 2 of the square cancels the half": (
            "np.log(p / q), 1",
            "0.5 * np.log(p / q), 1",
        ),
        "k2's slope is log(p / q), not log(q / p)": ("np.log(p / q), 1", "np.log(q / p), 1"),
        "k3's slope is 1 - q / p": ("1 - q / p", "1 - p / q"),
        "k3's slope is 1 - q / p, with its 1": ("1 - q / p", "-q / p * np.log(q / p)"),
        "the gradient of log p(y) is one-hot minus p": ("np.eye(len(p)) - p", "np.eye(len(p))"),
        "k3 = r - 1 - log r: its slope is 1 - r, not r - 1": ("1 - q / p", "q / p - 1"),
    },
    hints=(
        "Row y of `np.eye(V) - p` is the gradient of log p(y).",
        "Three rows of slopes times p, times that matrix.",
        "Compare your rows with p - q and with p (log(p / q) - KL).",
    ),
)


def two_kls(p, candidates):
    def kl(p, q):
        ratio = np.where(p > 0, p / q, 1.0)  # 0 log 0 = 0
        return (p * np.log(ratio)).sum(-1)

    with np.errstate(all="ignore"):
        return np.stack([kl(p, candidates), kl(candidates, p)])


def _bell(x, mean, width):
    density = np.exp(-0.5 * ((x - mean) / width) ** 2)
    return density / density.sum()


_x = np.linspace(-4, 4, 17)
_two_humps = 0.5 * _bell(_x, -2.5, 0.5) + 0.5 * _bell(_x, 2.5, 0.5)
_one_hump = np.stack([_bell(_x, m, w) for m, w in [(-2.5, 0.5), (0, 2.5), (2.5, 0.5), (0, 0.5)]])

covering = Puzzle(
    number="7.3",
    title="the two KLs",
    minutes=8,
    stars=2,
    idea="KL(p || q) is small only if q covers all of p; KL(q || p) can be small if q covers one hump",
    task=r"""A distribution `p` $(X,)$ has two humps, each candidate $q$ $(M,X)$ has one. Give
$\mathrm{KL}(p\|q)$ and $\mathrm{KL}(q\|p)$ for each candidate. Shape $(2,M)$. Then look: which candidate
is nearest by the one, and which by the other?""",
    answer=two_kls,
    cases={
        "two humps": (_two_humps, _one_hump),
        "a place that both leave empty": (
            np.array([0.5, 0.0, 0.5]),
            np.array([[0.5, 0.0, 0.5], [0.9, 0.0, 0.1]]),
        ),
    },
    mistakes={
        "the two are swapped: first KL(p || q)": "two_kls(p, candidates)[::-1]",
        "the sign: a KL is never negative": "-two_kls(p, candidates)",
        "this is the cross-entropy: log p belongs to it": ("p / q, 1.0)", "1 / q, 1.0)"),
        "the logarithms are weighed by the first distribution": (
            "(p * np.log(ratio))",
            "np.log(ratio)",
        ),
        "a sum, not a mean": (".sum(-1)", ".mean(-1)"),
        "natural logarithms: nats, not bits": ("np.log(ratio)", "np.log2(ratio)"),
        "0 log 0 is 0, not nan": ("np.where(p > 0, p / q, 1.0)", "p / q"),
        "this is one KL twice: in the second p and q change places": (
            "kl(candidates, p)]",
            "kl(p, candidates)]",
        ),
        "the mean of both is Jeffreys' divergence; each is asked for": (
            "np.stack([two_kls(p, candidates).mean(0)] * 2)"
        ),
        "the weight is the first distribution, not the second": ("(p * np.log", "(q * np.log"),
        "differences of the logarithms, not of the distributions": (
            "np.log(ratio)",
            "(p - q)",
        ),
    },
    hints=(
        "KL(p || q) = sum p log(p / q).",
        "Where p is 0 the term is 0, whatever q is: `np.where`.",
    ),
)
