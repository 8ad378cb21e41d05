"""The exercises' checks: your function against the reference, on inputs drawn from a seed.

    loss = lab.check.sft_loss(my_loss)

A check prints what it found and returns the function to go on with: yours if it is right, the
reference if not, so that the rest of the notebook runs whatever you have written so far.
"""

import copy
import linecache
import traceback

import numpy as np

from lab import mistakes as general
from reference_math import advantages as reference_advantages
from reference_math import dpo, grpo, kl, kto, logprobs, lora, sft

SOLVED, UNSOLVED, WRONG = "right", "not solved yet", "not right yet"


def sft_loss(yours):
    """sft_loss(logits (B,T,V), input_ids (B,T), completion_mask (B,T)) -> a scalar."""

    def reference(logits, input_ids, completion_mask):
        logps = logprobs.per_token_logps(logits[:, :-1], input_ids[:, 1:])
        return sft.nll(logps, sft.loss_mask(completion_mask), reduction="batch_token")

    def unshifted(logits, input_ids, completion_mask):
        logps = logprobs.per_token_logps(logits, input_ids)
        return sft.nll(logps, completion_mask, reduction="batch_token")

    def mask_unshifted(logits, input_ids, completion_mask):
        logps = logprobs.per_token_logps(logits[:, :-1], input_ids[:, 1:])
        return sft.nll(logps, completion_mask[:, :-1], reduction="batch_token")

    def over_sequences(logits, input_ids, completion_mask):
        logps = logprobs.per_token_logps(logits[:, :-1], input_ids[:, 1:])
        return sft.nll(logps, sft.loss_mask(completion_mask), reduction="sequence")

    mistakes = {
        "logits[:, t] predict input_ids[:, t + 1]: shift one of them": unshifted,
        "the mask stands over input_ids: it has to be shifted like them": mask_unshifted,
        "the prompt and the padding count too: use completion_mask": lambda z, ids, mask: reference(
            z, ids, np.ones_like(mask)
        ),
        "this averages each sequence first; average over all counted tokens": over_sequences,
        "the sign: a loss is minus the log-likelihood": lambda *a: -reference(*a),
        "this is the sum; divide by the number of counted tokens": lambda z, ids, mask: (
            reference(z, ids, mask) * mask[:, 1:].sum()
        ),
        "divide by the number of counted tokens, not of rows": lambda z, ids, mask: (
            reference(z, ids, mask) * mask[:, 1:].sum() / len(mask)
        ),
        "divide by the number of counted tokens: this averages the product with the mask": (
            lambda z, ids, mask: reference(z, ids, mask) * mask[:, 1:].mean()
        ),
        "the mask is inverted: 1 is what counts": lambda z, ids, mask: reference(z, ids, 1 - mask),
        "these are the losses of the tokens; average those that count": lambda z, ids, mask: (
            -mask[:, 1:] * picked(z, ids)
        ),
        "this takes probabilities, not their logarithms": lambda z, ids, mask: _counted(
            -np.exp(picked(z, ids)), mask
        ),
        "this takes 1 - p; the loss takes -log p": lambda z, ids, mask: _counted(
            1 - np.exp(picked(z, ids)), mask
        ),
        "these are the raw logits: take their log-softmax first": lambda z, ids, mask: _counted(
            -np.take_along_axis(z[:, :-1], ids[:, 1:, None], -1)[..., 0], mask
        ),
        "the softmax goes over the vocabulary, the last axis": lambda z, ids, mask: _counted(
            -np.take_along_axis(_log_softmax(z[:, :-1], 1), ids[:, 1:, None], -1)[..., 0], mask
        ),
        "take the token that came, not the sum over the vocabulary": lambda z, ids, mask: _counted(
            -_log_softmax(z[:, :-1], -1).sum(-1), mask
        ),
        "this shifts the wrong way: position t predicts t + 1": lambda z, ids, mask: _counted(
            -logprobs.per_token_logps(z[:, 1:], ids[:, :-1]), mask
        ),
        "the last counted token, the end of the turn, is left out": lambda z, ids, mask: reference(
            z, ids, mask * (np.cumsum(mask, 1) < mask.sum(1, keepdims=True))
        ),
    }

    def picked(z, ids):
        return logprobs.per_token_logps(z[:, :-1], ids[:, 1:])

    rng = np.random.default_rng(0)
    cases = {}
    for name, scale in [("ordinary logits", 1.0), ("logits in the hundreds", 300.0)]:
        mask = np.array([[0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 0], [0, 1, 1, 1, 0, 0]])
        cases[name] = (
            scale * rng.standard_normal((3, 6, 7)),
            rng.integers(0, 7, size=(3, 6)),
            mask,
        )
    return compare("sft_loss", yours, reference, cases, mistakes)


def _counted(per_token, mask):
    """The mean over the counted predictions."""
    counts = mask[:, 1:]
    return (counts * per_token).sum() / counts.sum()


def _log_softmax(z, axis):
    z = z - z.max(axis, keepdims=True)
    return z - np.log(np.exp(z).sum(axis, keepdims=True))


def dpo_loss(yours):
    """dpo_loss(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta) -> (B,)."""

    def reference(chosen, rejected, ref_chosen, ref_rejected, beta):
        return dpo.sigmoid(chosen - ref_chosen, rejected - ref_rejected, beta=beta)

    def margin(c, r, rc, rr, beta):
        return beta * ((c - rc) - (r - rr))

    mistakes = {
        "chosen and rejected are the wrong way round": lambda c, r, rc, rr, beta: reference(
            r, c, rr, rc, beta
        ),
        "the reference is missing: compare log-ratios, not log-probs": lambda c, r, rc, rr, beta: (
            reference(c, r, 0 * rc, 0 * rr, beta)
        ),
        "beta is missing": lambda c, r, rc, rr, beta: reference(c, r, rc, rr, 1.0),
        "beta multiplies the margin inside the sigmoid, not the loss": lambda c, r, rc, rr, beta: (
            beta * reference(c, r, rc, rr, 1.0)
        ),
        "one loss a pair is asked for, not their mean": lambda *a: reference(*a).mean(),
        "the reference is added; take it off each log-prob": lambda c, r, rc, rr, beta: reference(
            c, r, -rc, -rr, beta
        ),
        "beta is on the policy's part alone": lambda c, r, rc, rr, beta: reference(
            beta * c, beta * r, rc, rr, 1.0
        ),
        "beta multiplies the margin; it does not divide it": lambda c, r, rc, rr, beta: reference(
            c, r, rc, rr, 1 / beta
        ),
        "the rejected log-ratio is taken off the chosen one, not added": (
            lambda c, r, rc, rr, beta: np.logaddexp(0, -beta * ((c - rc) + (r - rr)))
        ),
        "the margin is the argument of -log sigmoid; this returns the margin": margin,
        "this is the sigmoid of minus the margin; the loss is -log sigmoid(h)": (
            lambda *a: np.exp(-np.logaddexp(0, margin(*a)))
        ),
        "this is the hinge of SLiC; DPO takes -log sigmoid": lambda *a: np.maximum(
            0, 1 - margin(*a)
        ),
        "this is IPO's square; DPO takes -log sigmoid": lambda c, r, rc, rr, beta: (
            ((c - rc) - (r - rr) - 1 / (2 * beta)) ** 2
        ),
        "the margin is clipped: a loss in the thousands is right there": lambda *a: np.logaddexp(
            0, -np.clip(margin(*a), -30, 30)
        ),
    }
    rng = np.random.default_rng(0)
    near, far = -rng.exponential(10, (4, 4)), -rng.exponential(3000, (4, 4))
    cases = {
        "ordinary pairs": (*near, 0.1),
        "a large beta": (*near, 2.0),
        "margins in the thousands: -log(1 / (1 + exp(-h))) overflows": (*far, 1.0),
    }
    return compare("dpo_loss", yours, reference, cases, mistakes)


def kto_loss(yours):
    """kto_loss(logps, ref_logps, label, kl, beta), three (B,) and two numbers -> the mean loss."""

    def reference(logps, ref_logps, label, kl, beta):
        return kto.loss(logps, ref_logps, label, kl=kl, beta=beta)

    mistakes = {
        "an undesirable answer gains where u is below z: turn its sign": lambda p, ref, label, *z: (
            reference(p, ref, np.ones_like(label), *z)
        ),
        "label 1 is desirable (and this is a loss, not what is gained)": lambda p, ref, label, *z: (
            reference(p, ref, 1 - label, *z)
        ),
        "the baseline z is missing": lambda p, ref, label, kl, beta: reference(
            p, ref, label, 0.0, beta
        ),
        "the reference is missing: compare log-ratios": lambda p, ref, *rest: reference(
            p, 0 * ref, *rest
        ),
        "beta is missing": lambda p, ref, label, kl, beta: reference(p, ref, label, kl, 1.0),
        "this is the sum; divide by the number of answers": lambda *a: reference(*a) * len(a[0]),
        "z belongs inside beta (u - z)": lambda p, ref, label, kl, beta: reference(
            p, ref, label, kl / beta, beta
        ),
        "z is taken off u, not added": lambda p, ref, label, kl, beta: reference(
            p + 2 * kl, ref, label, kl, beta
        ),
        "z turns its sign with u where the answer is undesirable": lambda p, ref, label, kl, beta: (
            np.where(
                label == 1, _sigmoid(-beta * (p - ref - kl)), _sigmoid(beta * (p - ref + kl))
            ).mean()
        ),
        "average over all answers at once, not over each kind": lambda p, ref, label, kl, beta: (
            _sigmoid(-beta * (p - ref - kl))[label == 1].mean()
            + _sigmoid(beta * (p - ref - kl))[label == 0].mean()
        ),
        "u is the policy's log-prob less the reference's": lambda p, ref, label, kl, beta: (
            reference(ref, p, label, kl, beta)
        ),
    }
    rng = np.random.default_rng(0)
    logps, ref_logps = -rng.exponential(10, (2, 6))
    label = np.array([1, 0, 0, 1, 1, 0])
    cases = {
        "ordinary answers": (logps, ref_logps, label, 0.8, 0.1),
        "more of one kind": (logps, ref_logps, np.array([0, 0, 0, 0, 1, 0]), 0.3, 0.5),
    }
    return compare("kto_loss", yours, reference, cases, mistakes)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def group_advantages(yours):
    """group_advantages(rewards (B,), num_generations) -> (B,), std with ddof 1, eps 1e-4."""

    def reference(rewards, num_generations):
        return reference_advantages.group(rewards, num_generations, ddof=1, eps=1e-4)

    def eps(value):
        return lambda r, n: reference_advantages.group(r, n, ddof=1, eps=value)

    mistakes = {
        "numpy's std divides by n; TRL's (torch's) by n - 1: ddof=1": lambda r, n: (
            reference_advantages.group(r, n, ddof=0, eps=1e-4)
        ),
        "the mean and std are those of the prompt's own group, not of the batch": lambda r, n: (
            reference_advantages.whiten(r, ddof=1, eps=1e-4)
        ),
        "the std is missing (that is Dr. GRPO)": reference_advantages.dr_grpo,
        "eps is 1e-4, and missing or far smaller here": eps(0.0),
        "eps is 1e-4, not 1e-6": eps(1e-6),
        "eps is 1e-4, not 1e-5": eps(1e-5),
        "eps is added to the std, not to the variance under the root": lambda r, n: _scaled(
            r, n, lambda g: np.sqrt(g.var(1, ddof=1, keepdims=True) + 1e-4)
        ),
        "eps is added to the std, not to the quotient": lambda r, n: np.nan_to_num(
            _scaled(r, n, lambda g: g.std(1, ddof=1, keepdims=True)) + 1e-4
        ),
        "this divides by the variance; divide by its root": lambda r, n: _scaled(
            r, n, lambda g: g.var(1, ddof=1, keepdims=True) + 1e-4
        ),
        "the mean is the group's and the std the batch's: both are the group's": (
            lambda r, n: _scaled(r, n, lambda g: g.std(ddof=1) + 1e-4)
        ),
        "the mean is not taken off": lambda r, n: _scaled(r, n, _std, centre=np.zeros_like),
        "the baseline is the mean, not the median": lambda r, n: _scaled(
            r, n, _std, centre=lambda g: np.median(g, 1, keepdims=True)
        ),
        "the smallest reward is the baseline and the range the scale: take mean and std": (
            lambda r, n: _scaled(
                r,
                n,
                lambda g: np.ptp(g, axis=1, keepdims=True) + 1e-4,
                centre=lambda g: g.min(1, keepdims=True),
            )
        ),
        "this is RLOO: the mean of the others, and no std": lambda r, n: (
            reference_advantages.leave_one_out(r, n)
        ),
        "a group is n neighbours: reshape(-1, n), not reshape(n, -1)": lambda r, n: _scaled(
            np.asarray(r).reshape(n, -1).ravel(), len(r) // n, _std
        ),
        "a group is n neighbours; this takes rewards that are B / n apart": lambda r, n: (
            _by_columns(r, len(r) // n)
        ),
        "mean and std go over axis 1, the group; these go over axis 0": lambda r, n: _by_columns(
            r, n
        ),
    }
    rng = np.random.default_rng(0)
    cases = {
        "rewards of 0 and 1": (rng.integers(0, 2, 24).astype(float), 8),
        "a group of equal rewards teaches nothing": (np.array([1.0, 1, 1, 1, 0, 0, 1, 0]), 4),
        "any numbers": (rng.standard_normal(12), 3),
    }
    return compare("group_advantages", yours, reference, cases, mistakes, atol=1e-9)


def _std(groups):
    return groups.std(1, ddof=1, keepdims=True) + 1e-4


def _scaled(rewards, n, scale, centre=lambda groups: groups.mean(1, keepdims=True)):
    groups = np.asarray(rewards, float).reshape(-1, n)
    return ((groups - centre(groups)) / scale(groups)).ravel()


def _by_columns(rewards, n):
    groups = np.asarray(rewards, float).reshape(-1, n)
    return ((groups - groups.mean(0)) / (groups.std(0, ddof=1) + 1e-4)).ravel()


def k3(yours):
    """k3(per_token_logps (B,T), ref_per_token_logps (B,T)) -> (B,T)."""
    mistakes = {
        "log r is reference minus policy, here it is the other way round": lambda p, ref: kl.k3(
            ref, p
        ),
        "that is k1, which can be negative": kl.k1,
        "that is k2, which is biased": kl.k2,
        "that is k1 with the sign turned": lambda p, ref: ref - p,
        "that is k2 without its half, and k2 is biased": lambda p, ref: (ref - p) ** 2,
        "the - 1 is missing: at r = 1 the estimate is 0": lambda p, ref: (
            np.exp(ref - p) - (ref - p)
        ),
        "r - 1 - log r, not 1 - r - log r": lambda p, ref: 1 - np.exp(ref - p) - (ref - p),
        "r - 1 + log r has the logarithm with the wrong sign": lambda p, ref: (
            np.exp(ref - p) - 1 + (ref - p)
        ),
        "r is the exponential of the log-ratio, and missing here": lambda p, ref: (
            (ref - p) - 1 - np.log(np.abs(ref - p) + 1e-12)
        ),
        "r and log r go in opposite directions: both are reference over policy": lambda p, ref: (
            np.exp(p - ref) - 1 - (ref - p)
        ),
        "the arguments are log-probs: r = exp(ref - policy), not ref / policy": lambda p, ref: (
            ref / p - 1 - np.log(np.abs(ref / p))
        ),
        "the values are clipped: leave them as they are": lambda p, ref: np.clip(
            kl.k3(p, ref), -10, 10
        ),
    }
    rng = np.random.default_rng(0)
    logps = -rng.exponential(size=(3, 5))
    cases = {"near": (logps, logps - 0.1 * rng.random((3, 5)))}
    cases["far"] = (logps, logps - 8 * rng.standard_normal((3, 5)))
    return compare("k3", yours, kl.k3, cases, mistakes)


def clipped_loss(yours):
    """clipped_loss(ratio (B,T), advantages (B,), epsilon) -> (B,T), per token, minus included."""

    def reference(ratio, advantages, epsilon):
        return grpo.per_token_loss(
            np.log(ratio), advantages, epsilon_low=epsilon, epsilon_high=epsilon, delta=None
        )

    mistakes = {
        "the sign: a loss is minus the objective": lambda *a: -reference(*a),
        "the clip is missing": lambda ratio, adv, eps: -ratio * adv[:, None],
        "min of the two is missing: clipped only": lambda ratio, adv, eps: (
            -np.clip(ratio, 1 - eps, 1 + eps) * adv[:, None]
        ),
        "max of the objectives instead of their min": lambda ratio, adv, eps: (
            -np.maximum(ratio * adv[:, None], np.clip(ratio, 1 - eps, 1 + eps) * adv[:, None])
        ),
        "the min is taken for negative advantages too, not the max": lambda ratio, adv, eps: (
            -np.where(
                adv[:, None] >= 0,
                np.minimum(ratio, np.clip(ratio, 1 - eps, 1 + eps)) * adv[:, None],
                np.minimum(ratio, np.clip(ratio, 1 - eps, 1 + eps)) * adv[:, None],
            )
        ),
        "the product is clipped; clip the ratio": lambda ratio, adv, eps: (
            -np.clip(ratio * adv[:, None], 1 - eps, 1 + eps)
        ),
        "the min of the product and the clipped product: clip the ratio": lambda ratio, adv, eps: (
            -np.minimum(ratio * adv[:, None], np.clip(ratio * adv[:, None], 1 - eps, 1 + eps))
        ),
        "clipped above only: bad tokens have a bound below": lambda ratio, adv, eps: (
            -np.minimum(ratio * adv[:, None], np.minimum(ratio, 1 + eps) * adv[:, None])
        ),
        "clipped below only: good tokens have a bound above": lambda ratio, adv, eps: (
            -np.minimum(ratio * adv[:, None], np.maximum(ratio, 1 - eps) * adv[:, None])
        ),
        "the lower bound is 1 - epsilon": lambda ratio, adv, eps: (
            -np.minimum(ratio * adv[:, None], np.clip(ratio, eps, 1 + eps) * adv[:, None])
        ),
        "the bounds are 1 - epsilon and 1 + epsilon, not exp(-epsilon) and exp(epsilon)": (
            lambda ratio, adv, eps: (
                -np.minimum(
                    ratio * adv[:, None], np.clip(ratio, np.exp(-eps), np.exp(eps)) * adv[:, None]
                )
            )
        ),
        "the ratio comes in as it is: do not take its logarithm": lambda ratio, adv, eps: (
            -np.minimum(
                np.log(ratio) * adv[:, None],
                np.clip(np.log(ratio), 1 - eps, 1 + eps) * adv[:, None],
            )
        ),
    }
    rng = np.random.default_rng(0)
    ratio = np.exp(0.5 * rng.standard_normal((6, 5)))
    cases = {
        "ordinary ratios": (ratio, rng.standard_normal(6), 0.2),
        "on-policy: every ratio is 1": (np.ones((2, 3)), np.array([1.0, -1.0]), 0.2),
        "ratios near 0 and far above 1": (ratio**4, 3 * rng.standard_normal(6), 0.2),
    }
    return compare("clipped_loss", yours, reference, cases, mistakes)


def served_weight(yours):
    """served_weight(weight (out,in), lora_A (r,in), lora_B (out,r), r, lora_alpha) -> (out,in)."""

    def reference(weight, lora_A, lora_B, r, lora_alpha):
        scaling = lora.scaling(r, lora_alpha, use_rslora=False)
        return lora.merge(weight, lora_A, lora_B, scaling=scaling)

    mistakes = {
        "the scaling alpha / r is missing": lambda w, a, b, r, alpha: w + b @ a,
        "the scaling is alpha / r, not alpha": lambda w, a, b, r, alpha: w + alpha * b @ a,
        "the base weight is missing": lambda w, a, b, r, alpha: alpha / r * b @ a,
        "the scaling is alpha / r, not r / alpha": lambda w, a, b, r, alpha: w + r / alpha * b @ a,
        "the scaling is alpha / r, not 1 / r": lambda w, a, b, r, alpha: w + b @ a / r,
        "alpha / r is a fraction: / and not //": lambda w, a, b, r, alpha: w + alpha // r * b @ a,
        "alpha over the root of r is rsLoRA's scaling": lambda w, a, b, r, alpha: (
            w + alpha / np.sqrt(r) * b @ a
        ),
        "the update is added, not taken off": lambda w, a, b, r, alpha: w - alpha / r * b @ a,
        "the scaling stands once, not on both factors": lambda w, a, b, r, alpha: (
            w + (alpha / r) ** 2 * b @ a
        ),
        "the base weight is not scaled": lambda w, a, b, r, alpha: alpha / r * (w + b @ a),
        "B @ A is a product of matrices, not of numbers in the same place": (
            lambda w, a, b, r, alpha: w + alpha / r * (b[:, :1] * a[:1])
        ),
    }
    rng = np.random.default_rng(0)
    cases = {
        f"r={r}, alpha={alpha}": (
            rng.standard_normal((6, 4)),
            rng.standard_normal((r, 4)),
            rng.standard_normal((6, r)),
            r,
            alpha,
        )
        for r, alpha in [(2, 4), (3, 3), (4, 6)]
    }
    return compare("served_weight", yours, reference, cases, mistakes)


def wilson(yours):
    """wilson(successes, n) -> (low, high), the 95% interval."""
    from lab import evaluate

    def textbook(successes, n):
        share = successes / n
        half = 1.959964 * np.sqrt(share * (1 - share) / n)
        return share - half, share + half

    mistakes = {
        "that is the textbook's interval, which has no width at 0 or n": textbook,
        "z = 1.645 leaves 5% on each side; 1.959964 leaves 2.5%": lambda successes, n: (
            evaluate.wilson(successes, n, z=1.644854)
        ),
        "that is the textbook's interval, cut off at 0 and 1": lambda successes, n: (
            max(0.0, textbook(successes, n)[0]),
            min(1.0, textbook(successes, n)[1]),
        ),
        "divide by 1 + z^2 / n": lambda k, n: tuple(
            side * (1 + Z * Z / n) for side in evaluate.wilson(k, n)
        ),
        "the root holds z^2 / (4 n^2): z is squared": lambda k, n: _wilson(k, n, Z / (4 * n * n)),
        "the root holds z^2 / (4 n^2): n is squared": lambda k, n: _wilson(k, n, Z * Z / (4 * n)),
        "the root is missing": lambda k, n: _wilson(k, n, Z * Z / (4 * n * n), root=1.0),
        "that is Agresti and Coull's interval": _agresti_coull,
        "low comes first, then high": lambda k, n: evaluate.wilson(k, n)[::-1],
        "shares, not percent": lambda k, n: tuple(100 * side for side in evaluate.wilson(k, n)),
        "the centre is not k / n: it is drawn towards one half": lambda k, n: _wilson(
            k, n, Z * Z / (4 * n * n), centre=0.0
        ),
    }
    cases = {"30 of 100": (30, 100), "none of 600": (0, 600), "all of 7": (7, 7)}
    cases["1 of 10"] = (1, 10)
    # 1e-6: z is as good written with seven digits as with sixteen
    return compare("wilson", yours, evaluate.wilson, cases, mistakes, rtol=1e-6)


Z = 1.959964


def _wilson(successes, n, under, root=0.5, centre=Z * Z / 2):
    """Wilson's interval with another term under the root, another power of it, or another centre."""
    share, scale = successes / n, 1 + Z * Z / n
    half = Z * (share * (1 - share) / n + under) ** root
    return (share + centre / n - half) / scale, (share + centre / n + half) / scale


def _agresti_coull(successes, n):
    n, share = n + Z * Z, (successes + Z * Z / 2) / (n + Z * Z)
    half = Z * (share * (1 - share) / n) ** 0.5
    return share - half, share + half


def compare(name, yours, reference, cases, mistakes=None, *, rtol=1e-7, atol=1e-12):
    """Say whether `yours` computes what `reference` does; returns the one to go on with.

    cases      {what is special about it: the arguments}
    mistakes   {what to say: a function that makes this mistake}; said when yours gives the same
    rtol       two honest float64 formulas for the same number differ by a few 1e-16 of the terms
               they add up; 1e-7 leaves room for cancellation and shows every real mistake
    """
    verdict, detail = judge(yours, reference, cases, mistakes, rtol=rtol, atol=atol)
    going = "" if verdict == SOLVED else "\nGoing on with the reference."
    print(f"{name}: {verdict}{'. ' + detail if detail else ''}{going}")
    return yours if verdict == SOLVED else reference


def judge(yours, reference, cases, mistakes=None, *, rtol=1e-7, atol=1e-12):
    """(SOLVED, UNSOLVED or WRONG, what to say), as in `compare`."""

    def run(function, arguments):
        with np.errstate(all="ignore"):
            return function(*copy.deepcopy(arguments))

    def same(got, wanted):
        return np.shape(got) == np.shape(wanted) and np.allclose(got, wanted, rtol=rtol, atol=atol)

    results = {}
    for case, arguments in cases.items():
        try:
            got = run(yours, arguments)
            if got is None or got is NotImplemented or got is Ellipsis:
                forgotten = got is None and not _is_stub(yours)
                return UNSOLVED, "It returned None: is a `return` missing?" if forgotten else ""
            results[case] = _numbers(got)
        except NotImplementedError:
            return UNSOLVED, ""
        except Exception as error:  # noqa: BLE001  whatever a learner's code may raise, the notebook goes on
            said = f"On {case!r} it raised {type(error).__name__}: {error}"
            return WRONG, said + _line_of(error, yours)
    wanted = {case: _numbers(run(reference, arguments)) for case, arguments in cases.items()}
    for case, got in results.items():
        if not same(got, wanted[case]):
            hint = _hint(results, wanted, cases, mistakes or {}, run, same, reference)
            return WRONG, f"On {case!r}: {_difference(got, wanted[case])}{hint}"
    return SOLVED, f"The same as the reference on {len(cases)} cases: {'; '.join(cases)}"


def _numbers(got):
    """What came, as an array of floats; a tensor is detached, on whatever device it is."""
    if hasattr(got, "detach"):
        got = got.detach().cpu()
    if isinstance(got, (list, tuple)):
        got = [_numbers(part) for part in got]
    try:
        return np.asarray(got, float)
    except (TypeError, ValueError) as error:
        raise TypeError(f"it returned {type(got).__name__}, not numbers") from error


def _is_stub(function):
    """Whether nothing has been written yet: a body of a few instructions, as `return None` has."""
    return len(getattr(getattr(function, "__code__", None), "co_code", b"")) <= 12


def _line_of(error, function):
    """The line of the learner's own code in which an error came up."""
    code = getattr(function, "__code__", None)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if code and frame.filename == code.co_filename]
    own = [frame for frame in own if frame.lineno and frame.lineno >= code.co_firstlineno]
    if not own:
        return ""
    text = linecache.getline(own[-1].filename, own[-1].lineno).strip()
    place = f", in its line {own[-1].lineno - code.co_firstlineno + 1}"
    return f"{place}: {text}" if text else place


def _hint(results, wanted, cases, mistakes, run, same, reference):
    for say, mistaken in mistakes.items():
        if all(same(results[case], _numbers(run(mistaken, cases[case]))) for case in cases):
            return f"\nHint: {say}."
    found = general.name(results, wanted, cases, run, reference)
    return f"\nHint: {found}." if found else ""


def _difference(got, wanted):
    if np.shape(got) != np.shape(wanted):
        return f"the shape is {np.shape(got)}; expected {np.shape(wanted)}."
    off = np.abs(got - wanted)
    where = np.unravel_index(np.argmax(np.where(np.isnan(off), np.inf, off)), off.shape)
    at = f" at {tuple(int(i) for i in where)}" if off.ndim else ""
    digits = 6
    while digits < 17 and f"{got[where]:.{digits}g}" == f"{wanted[where]:.{digits}g}":
        digits += 1  # until the two can be told apart
    return f"got {got[where]:.{digits}g}{at}; expected {wanted[where]:.{digits}g}."
