"""Define the gallery's small world in numpy: the policy is a table, and every quantity is exact.

Four questions; an answer is at most four letters of a, b, c and ends with a full stop (".").  The
policy is one table of logits, theta (P, T, V, V): question, position, letter before, letter next.  All
121 answers to a question can be written down, so its reward, KL and entropy are sums, not samples.

Shapes    N answers, T = 4 positions, V = 4 letters, P = 4 questions.
"""

import itertools
from typing import NamedTuple

import numpy as np

from reference_math import (
    a2po,
    advantages,
    cispo,
    clip_cov,
    dppo,
    dro,
    gmpo,
    grpo,
    kl_cov,
    logprobs,
    m2po,
    optim,
    rollout_is,
    sapo,
    sdft,
    tpo,
    uld,
    vespo,
)

LETTERS = "abc."
STOP = 3
WANTED = ("abc.", "bca.", "cab.", "acb.")  # the answer that each question asks for
P, T, V = len(WANTED), 4, len(LETTERS)


class Answers(NamedTuple):
    prompts: np.ndarray  # (N,)
    tokens: np.ndarray  # (N, T)
    completion_mask: np.ndarray  # (N, T)

    def take(self, rows):
        return Answers(*(x[rows] for x in self))


def everything():
    """Return each of the 121 answers to each of the four questions."""
    words = {
        w[: w.index(STOP) + 1] if STOP in w else w for w in itertools.product(range(V), repeat=T)
    }
    return answers([(p, w) for p in range(P) for w in sorted(words)])


def reference(rng):
    """Return a policy that answers, and is right once in a hundred times: where every trainer starts."""
    theta = rng.normal(scale=0.7, size=(P, T, V, V))
    theta[..., STOP] += np.array([-1.5, -0.5, 0.0, 1.0])[None, :, None]  # rarely stops early
    return theta


def join(first, second):
    return Answers(*(np.concatenate(both) for both in zip(first, second)))


def judged_pairs(ref, n, rng, sharpness=1.5):
    """Draw n pairs per question from ref: all the chosen first, by a judge who may err.

    He prefers the better one with probability sigmoid(sharpness x the difference of the rewards).
    """
    prompts = np.repeat(np.arange(P), n)
    one, other = sample(ref, prompts, rng), sample(ref, prompts, rng)
    h = sharpness * (reward(one) - reward(other))
    first = rng.random(len(prompts)) < 1.0 / (1.0 + np.exp(-h))
    i = np.arange(len(prompts))
    both = join(one, other)
    return both.take(
        np.concatenate([np.where(first, i, i + len(i)), np.where(first, i + len(i), i)])
    )


def answers(pairs):
    """Build answers from (question, letters) pairs, padded with stops."""
    prompts = np.array([p for p, _ in pairs])
    tokens = np.array([[*w, *[STOP] * (T - len(w))] for _, w in pairs])
    mask = np.array([[1.0] * len(w) + [0.0] * (T - len(w)) for _, w in pairs])
    return Answers(prompts, tokens, mask)


def text(answer_tokens, mask):
    return "".join(LETTERS[v] for v, counts in zip(answer_tokens, mask) if counts)


def reward(found):
    """Count the positions that hold the wanted letter, 0 to 4: the true reward, shown to no trainer."""
    wanted = np.array([[LETTERS.index(c) for c in w] for w in WANTED])[found.prompts]
    return ((found.tokens == wanted) * found.completion_mask).sum(axis=1)


# The policy ------------------------------------------------------------------------------------


def states(found):
    """Return where each position of each answer stands in the table: question, position, letter before."""
    before = np.hstack([np.full((len(found.tokens), 1), STOP), found.tokens[:, :-1]])
    return found.prompts[:, None], np.arange(T), before


def logits(theta, found):
    """Look up the policy's logits at each position of each answer, (N, T, V)."""
    return theta[states(found)]


def logps(theta, found):
    """Compute the log-probability of each letter, (N, T)."""
    return logprobs.per_token_logps(logits(theta, found), found.tokens)


def grad(theta, found, grad_logps):
    """Carry an objective's gradient to the log-probs (N, T) to the table, by the chain rule."""
    grad_logits = logprobs.logits_grad(logits(theta, found), found.tokens, grad_logps)
    return scatter(found, grad_logits, questions=len(theta))


def scatter(found, grad_logits, questions=P):
    """Add up a gradient to the logits (N, T, V) where each of them was looked up.

    questions   how many the table has: more than P where several worlds stand side by side
    """
    table = np.zeros((questions, T, V, V))
    np.add.at(table, states(found), found.completion_mask[..., None] * grad_logits)
    return table


def one_hot_states(found):
    """Return one-hot hidden states, (letters, P T V), of where each letter that counts was looked up."""
    at = np.ravel_multi_index(np.broadcast_arrays(*states(found)), (P, T, V))
    return np.eye(P * T * V)[at[found.completion_mask == 1]]


def as_head(theta):
    """Return the table as the weight of a head over such states, (V, P T V)."""
    return theta.reshape(-1, V).T


def from_head(weight):
    return weight.T.reshape(P, T, V, V)


def sample(theta, prompts, rng):
    """Sample one answer to each question, letter by letter."""
    tokens = np.full((len(prompts), T), STOP)
    before, open_ = np.full(len(prompts), STOP), np.ones(len(prompts))
    mask = np.zeros((len(prompts), T))
    for t in range(T):
        p = np.exp(logprobs.log_softmax(theta[prompts, t, before]))
        drawn = (p.cumsum(axis=1) < rng.random((len(prompts), 1))).sum(axis=1).clip(max=V - 1)
        tokens[:, t] = np.where(open_ == 1, drawn, STOP)
        mask[:, t] = open_
        before, open_ = tokens[:, t], open_ * (drawn != STOP)
    return Answers(np.asarray(prompts), tokens, mask)


def train(gradient, theta, steps=300, lr=0.05, seed=0):
    """Take AdamW steps along gradient(theta, rng); returns the table after the last step."""
    rng, m, v = np.random.default_rng(seed), np.zeros_like(theta), np.zeros_like(theta)
    for step in range(1, steps + 1):
        rate = lr * optim.linear_schedule(step - 1, num_warmup_steps=0, num_training_steps=steps)
        options = {"step": step, "lr": rate, "betas": (0.9, 0.999), "eps": 1e-8}
        theta, m, v = optim.adamw_step(
            theta, gradient(theta, rng), m, v, weight_decay=0.0, **options
        )
    return theta


# What is true of a policy ----------------------------------------------------------------------

EVERY = everything()


def whole(theta, found):
    """Compute the log-probability of whole answers, (N,)."""
    return (found.completion_mask * logps(theta, found)).sum(axis=1)


def measures(theta, ref):
    """Compute exact means over the four questions: true reward, right answers, KL to ref, entropy, length."""
    log_p, log_ref = whole(theta, EVERY), whole(ref, EVERY)
    p = np.exp(log_p) / P
    r = reward(EVERY)
    return {
        "reward": float(p @ r),
        "right": float(p @ (r == T)),
        "kl": float(p @ (log_p - log_ref)),
        "entropy": float(-p @ log_p),
        "length": float(p @ EVERY.completion_mask.sum(axis=1)),
    }


def frontier(ref, betas, score=None):
    """Compute the best reward that a KL allows: p ~ p_ref e^(score / beta), as [(kl, true reward)]."""
    score, points = reward(EVERY) if score is None else score, []
    for beta in betas:
        kl, gain = 0.0, 0.0
        for prompt in range(P):
            own = EVERY.prompts == prompt
            log_ref = whole(ref, EVERY)[own]
            log_p = logprobs.log_softmax(log_ref + score[own] / beta)
            kl += np.exp(log_p) @ (log_p - log_ref) / P
            gain += np.exp(log_p) @ reward(EVERY)[own] / P
        points.append((float(kl), float(gain)))
    return points


def moved(theta, ref, pairs):
    """Compute by how many nats the chosen and the rejected answers of the data moved, on average."""
    gains = np.split(whole(theta, pairs) - whole(ref, pairs), 2)
    return {"chosen": float(gains[0].mean()), "rejected": float(gains[1].mean())}


# Trainers that need more than one line -----------------------------------------------------------

QUESTIONS = np.repeat(np.arange(P), 8)  # 8 answers to each in a step


def optimal_advantage(ref, judge, beta, rng, n=64):
    """A*-PO: V* of each question from n answers of the reference, once; then regression on fresh answers."""
    asked = np.repeat(np.arange(P), n)
    values = a2po.optimal_value(judge(sample(ref, asked, rng)).reshape(P, n), beta1=beta)

    def gradient(theta, rng):
        found = sample(theta, QUESTIONS, rng)
        args = judge(found), values[found.prompts], found.completion_mask
        g = a2po.loss_grad(logps(theta, found), logps(ref, found), *args, beta2=beta)
        return grad(theta, found, g)

    return gradient


def triples(pairs, **options):
    """TPO: pairs, and the chosen answers once more as the gold ones that it is fine-tuned on."""
    three = join(pairs, pairs.take(np.arange(len(pairs.prompts) // 2)))

    def gradient(theta, rng):
        return grad(
            theta, three, tpo.loss_grad(logps(theta, three), three.completion_mask, **options)
        )

    return gradient


def self_distilled(informed):
    """SDFT: the teacher is the policy with the demonstrations in view.

    A table has no context; `informed` stands for what they do to it: the table that SFT made of them.
    """

    def gradient(theta, rng):
        found = sample(theta, QUESTIONS, rng)
        both = logits(theta, found), logits(informed, found), found.completion_mask
        return scatter(found, sdft.loss_grad(*both, alpha=0.5))

    return gradient


def other_alphabet(teacher):
    """ULD: the teacher's letters are not the student's, so only how sure it is can be compared."""

    def gradient(theta, rng):
        found = sample(theta, QUESTIONS, rng)
        counted = found.completion_mask == 1
        theirs = logits(teacher, found)[counted][
            :, ::-1
        ]  # in an order that the student does not know
        push = np.zeros(logits(theta, found).shape)
        push[counted] = uld.loss_grad(logits(theta, found)[counted], theirs)
        return scatter(found, push)

    return gradient


# One batch, many updates ---------------------------------------------------------------------------

OPEN, CLIP = ({"epsilon_low": e, "epsilon_high": e} for e in (np.inf, 0.2))
MEAN = {"reduction": "bnpo"}
TOKEN = MEAN | {"importance_sampling_level": "token"}
GAMMA = {"k_pos": 2.0, "lambda_pos": 3.0, "k_neg": 3.0, "lambda_neg": 2.0}
M2 = {"threshold": 0.04, "constrained": "trust_region"}
COV = {"share": 0.05, "cov_low": 0.5, "cov_high": 5.0}

# name: (the gradient's function, its options).  The first group weighs every token, the second stops some.
WEIGHING = {
    "importance weight": (grpo.loss_grad, TOKEN | OPEN),
    "CISPO": (cispo.loss_grad, TOKEN | {"epsilon_max": 2.0}),
    "two-sided CISPO": (cispo.loss_grad, TOKEN | {"epsilon_max": 1.2, "epsilon_min": 0.8}),
    "SAPO": (sapo.loss_grad, TOKEN | {"temperature_pos": 1.0, "temperature_neg": 1.05}),
    "VESPO": (vespo.loss_grad, TOKEN | GAMMA),
    "DRO": (dro.loss_grad, MEAN | {"beta": 0.3}),
    "KL-Cov": (kl_cov.loss_grad, MEAN | {"share": 0.05, "kl_coef": 1.0}),
}
STOPPING = {
    "GRPO": (grpo.loss_grad, TOKEN | CLIP),
    "DAPO": (grpo.loss_grad, TOKEN | CLIP | {"epsilon_high": 0.28}),
    "GSPO": (grpo.loss_grad, TOKEN | CLIP | {"importance_sampling_level": "sequence"}),
    "GMPO": (gmpo.loss_grad, {"epsilon_low": 0.4, "epsilon_high": 0.4}),
    "AIPO": (grpo.loss_grad, TOKEN | {"epsilon_low": np.inf, "epsilon_high": 1.0, "delta": 2.0}),
    "DPPO-TV": (dppo.loss_grad, MEAN | {"divergence": "tv", "delta_low": 0.15, "delta_high": 0.15, "truncation": 3.0}),
    "DPPO-KL": (dppo.loss_grad, MEAN | {"divergence": "kl", "delta_low": 0.05, "delta_high": 0.05, "truncation": 3.0}),
    "rollout_is": (rollout_is.loss_grad, MEAN | {"clip_min": 0.5, "clip_max": 2.0}),
    "Clip-Cov": (grpo.loss_grad, TOKEN | CLIP),
    "M2PO": (grpo.loss_grad, TOKEN | OPEN),
}  # fmt: skip
POLICIES = WEIGHING | STOPPING


def reusing(name, judge, updates=32):
    """Return the gradient of one of POLICIES, of answers that are sampled anew once in so many updates.

    On fresh answers the ratio is 1, and all are REINFORCE, but for Clip-Cov, which drops a few tokens, and
    GMPO, whose mean is one over answers.
    """
    loss_grad, options = POLICIES[name]
    kept, step = {}, itertools.count()

    def gradient(theta, rng):
        if next(step) % updates == 0:
            found = sample(theta, QUESTIONS, rng)
            a = advantages.group(judge(found), 8, ddof=1, eps=1e-4)
            kept.update(found=found, rest=(logps(theta, found), a, found.completion_mask))
        now, found, more = logps(theta, kept["found"]), kept["found"], {}
        if name == "M2PO":
            more = {"factor": m2po.keep_mask(now, *kept["rest"], **M2)}
        elif name == "Clip-Cov":
            more = {"factor": clip_cov.keep_mask(now, *kept["rest"], **COV, **CLIP, rng=rng)}
        return grad(theta, found, loss_grad(now, *kept["rest"], **options, **more))

    return gradient


def reused(ref, judge, seeds=range(3)):
    """Train with each of POLICIES on ten batches of 32 answers, 32 updates on each: {name: measures}.

    A mean over samples of their own for each seed: ten batches are few, and one run is luck.
    """
    found = {}
    for name in POLICIES:
        ends = [
            measures(train(reusing(name, judge), ref, steps=320, lr=0.1, seed=seed), ref)
            for seed in seeds
        ]
        found[name] = {key: float(np.mean([end[key] for end in ends])) for key in ends[0]}
    return found


def mean_of(found, names, key):
    """Return the mean of one measure over some of the trainers."""
    return float(np.mean([found[name][key] for name in names]))


# Pictures --------------------------------------------------------------------------------------

LOOKS = {  # the colour and the marker of what a trainer learnt from
    "pairs": ("#0072B2", "o"),
    "labels": ("#009E73", "s"),
    "samples": ("#D55E00", "^"),
    "steps": ("#E69F00", "D"),
    "truth": ("#CC79A7", "v"),
    "teacher": ("#000000", "X"),
}


def ends_picture(ends, frontiers, title):
    """Draw where each trainer ends: KL against true reward.

    ends        {name: (what it learnt from, measures)}
    frontiers   {label: [(kl, reward)]}
    """
    from lab.plots import plt  # which gives the picture a text for whoever does not see it

    _, ax = plt.subplots(figsize=(10, 6.4))
    for style, (label, points) in zip(("-", "--"), frontiers.items()):
        ax.plot(*zip(*points), style, color="grey", label=label, linewidth=1.4)
    for source, (colour, marker) in LOOKS.items():
        at = [(end["kl"], end["reward"]) for own, end in ends.values() if own == source]
        look = {"color": colour, "marker": marker, "zorder": 3}
        ax.scatter(*zip(*at), label=f"learnt from {source}", **look)
    beside = itertools.cycle([((-5, 4), "right"), ((5, -9), "left")])  # off the rising line
    for name, (_, end) in sorted(ends.items(), key=lambda item: item[1][1]["kl"]):
        offset, side = next(beside)
        where = {"xytext": offset, "textcoords": "offset points", "ha": side, "fontsize": 8}
        ax.annotate(name, (end["kl"], end["reward"]), **where)
    ax.set(
        xlabel="KL to the reference, nats per answer", ylabel="true reward, of 4", xlim=(-0.1, 5.4)
    )
    ax.set_title(title, loc="left", fontweight="bold", fontsize=11)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.3)
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.12), "ncols": 3}
    ax.legend(frameon=False, fontsize=9, **below)
    plt.tight_layout()


def moved_picture(gains, title):
    """Draw how far the chosen and the rejected answers moved: gains = {name: `moved`}."""
    from lab.plots import plt  # which gives the picture a text for whoever does not see it

    _, ax = plt.subplots(figsize=(9.5, 3.4))
    looks = [("chosen", "#009E73", ""), ("rejected", "#D55E00", "//")]
    for i, (key, colour, hatch) in enumerate(looks):
        where = np.arange(len(gains)) + 0.38 * i - 0.19
        look = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0}
        ax.bar(where, [g[key] for g in gains.values()], 0.38, label=f"the {key}", **look)
    ax.axhline(0.0, color="black", linewidth=0.8)
    ax.set_xticks(range(len(gains)), list(gains))
    ax.set_ylabel("log p, nats gained")
    ax.set_title(title, loc="left", fontweight="bold", fontsize=11)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    plt.tight_layout()
