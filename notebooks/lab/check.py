"""The exercises' checks: your function against the reference, on inputs drawn from a seed.

    loss = lab.check.sft_loss(my_loss)

A check prints what it found and returns the function to go on with: yours if it is right, the
reference if not, so that the rest of the notebook runs whatever you have written so far.
"""

import copy

import numpy as np

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
    }
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


def dpo_loss(yours):
    """dpo_loss(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta) -> (B,)."""

    def reference(chosen, rejected, ref_chosen, ref_rejected, beta):
        return dpo.sigmoid(chosen - ref_chosen, rejected - ref_rejected, beta=beta)

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
    }
    rng = np.random.default_rng(0)
    logps, ref_logps = -rng.exponential(10, (2, 6))
    label = np.array([1, 0, 0, 1, 1, 0])
    cases = {
        "ordinary answers": (logps, ref_logps, label, 0.8, 0.1),
        "more of one kind": (logps, ref_logps, np.array([0, 0, 0, 0, 1, 0]), 0.3, 0.5),
    }
    return compare("kto_loss", yours, reference, cases, mistakes)


def group_advantages(yours):
    """group_advantages(rewards (B,), num_generations) -> (B,), std with ddof 1, eps 1e-4."""

    def reference(rewards, num_generations):
        return reference_advantages.group(rewards, num_generations, ddof=1, eps=1e-4)

    mistakes = {
        "numpy's std divides by n; TRL's (torch's) by n - 1: ddof=1": lambda r, n: (
            reference_advantages.group(r, n, ddof=0, eps=1e-4)
        ),
        "the mean and std are those of the prompt's own group, not of the batch": lambda r, n: (
            reference_advantages.whiten(r, ddof=1, eps=1e-4)
        ),
        "the std is missing (that is Dr. GRPO)": reference_advantages.dr_grpo,
    }
    rng = np.random.default_rng(0)
    cases = {
        "rewards of 0 and 1": (rng.integers(0, 2, 24).astype(float), 8),
        "a group of equal rewards teaches nothing": (np.array([1.0, 1, 1, 1, 0, 0, 1, 0]), 4),
        "any numbers": (rng.standard_normal(12), 3),
    }
    return compare("group_advantages", yours, reference, cases, mistakes, atol=1e-9)


def k3(yours):
    """k3(per_token_logps (B,T), ref_per_token_logps (B,T)) -> (B,T)."""
    mistakes = {
        "log r is reference minus policy, here it is the other way round": lambda p, ref: kl.k3(
            ref, p
        ),
        "that is k1, which can be negative": kl.k1,
        "that is k2, which is biased": kl.k2,
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
    }
    rng = np.random.default_rng(0)
    ratio = np.exp(0.5 * rng.standard_normal((6, 5)))
    cases = {
        "ordinary ratios": (ratio, rng.standard_normal(6), 0.2),
        "on-policy: every ratio is 1": (np.ones((2, 3)), np.array([1.0, -1.0]), 0.2),
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
        for r, alpha in [(2, 4), (3, 3)]
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
    }
    cases = {"30 of 100": (30, 100), "none of 600": (0, 600), "all of 7": (7, 7)}
    # 1e-6: z is as good written with seven digits as with sixteen
    return compare("wilson", yours, evaluate.wilson, cases, mistakes, rtol=1e-6)


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
        return np.shape(got) == np.shape(wanted) and np.allclose(
            np.asarray(got, float), wanted, rtol=rtol, atol=atol
        )

    results = {}
    for case, arguments in cases.items():
        try:
            got = run(yours, arguments)
        except NotImplementedError:
            return UNSOLVED, ""
        except Exception as error:  # noqa: BLE001  whatever a learner's code may raise, the notebook goes on
            return WRONG, f"On {case!r} it raised {type(error).__name__}: {error}"
        if got is None or got is NotImplemented or got is Ellipsis:
            return UNSOLVED, ""
        results[case] = got
    wanted = {case: run(reference, arguments) for case, arguments in cases.items()}
    for case, got in results.items():
        if not same(got, wanted[case]):
            hint = _hint(results, cases, mistakes or {}, run, same)
            return WRONG, f"On {case!r}: {_difference(got, wanted[case])}{hint}"
    return SOLVED, f"The same as the reference on {len(cases)} cases: {'; '.join(cases)}"


def _hint(results, cases, mistakes, run, same):
    for say, mistaken in mistakes.items():
        if all(same(results[case], run(mistaken, cases[case])) for case in cases):
            return f"\nHint: {say}."
    return ""


def _difference(got, wanted):
    if np.shape(got) != np.shape(wanted):
        return f"the shape is {np.shape(got)}; expected {np.shape(wanted)}."
    try:
        got = np.asarray(got, float)
    except (TypeError, ValueError):
        return f"got {type(got).__name__}; expected numbers."
    off = np.abs(got - wanted)
    where = np.unravel_index(np.argmax(np.where(np.isnan(off), np.inf, off)), off.shape)
    at = f" at {tuple(int(i) for i in where)}" if off.ndim else ""
    return f"got {got[where]:.6g}{at}; expected {np.asarray(wanted)[where]:.6g}."
