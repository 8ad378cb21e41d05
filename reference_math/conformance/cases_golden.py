"""Rows of the report for trainers that TRL has dropped, from the numbers of their last release."""

from collections.abc import Iterator

import numpy as np

from reference_math import bco, gae, gkd, grpo, logprobs, minillm, nash_md, online_dpo, ppo, xpo
from reference_math.conformance.rows import Row, golden

TOKENS = ("per_token_logps", "ref_per_token_logps")


def rows() -> Iterator[Row]:
    for name in online_dpo.LOSS_TYPES:  # as tests/parity/golden/drive_xpo.py sets them
        options = {"loss_type": name, "alpha": 0.05, "beta": 0.3}
        yield _row("xpo", name, "1.13.0", lambda options=options: _xpo(options))
    yield _row("nash_md", "KL of each token", "1.13.0", _nash_md)
    yield _row("bco", "running delta", "1.13.0", _bco)
    yield _row("ppo", "whitened advantages", "1.12.0", _ppo_advantages)
    yield _row("ppo", "clipped policy and critic", "1.12.0", _ppo_first_step)
    yield _row("minillm", "summed, advantage detached", "1.14.2", _minillm)


def _row(objective, option, release, compute):
    """compute() -> (their value, our value[, their gradient, our gradient])"""

    def run(place):
        theirs, ours, *gradients = compute()
        pairs = {"value": (theirs, np.asarray(ours))}
        return pairs | ({"gradient": tuple(gradients)} if gradients else {})

    return Row(objective, option, "trl", run, release=release)


def _case(name, case):
    prefix = f"{case}/"
    return {k.removeprefix(prefix): x for k, x in golden(name).items() if k.startswith(prefix)}


def _xpo(options):
    kept = _case("xpo", options["loss_type"])
    given = {name: kept[name] for name in (*TOKENS, "rewards", "completion_mask")} | options
    return kept["backward"], xpo.loss(**given), kept["grad"], xpo.loss_grad(**given)


def _nash_md():
    kept = _case("nash_md", "usual")
    win = nash_md.win_probability(kept["rewards"], kept["mixture_rewards"])
    given = {name: kept[name] for name in (*TOKENS, "completion_mask")}
    given |= {"win_probability": win, "beta": 0.3, "kl_level": "token"}
    return kept["backward"], nash_md.loss(**given), kept["grad"], nash_md.loss_grad(**given)


def _bco():
    """The running delta goes from step to step."""
    delta, count, results = 0.0, 0, []
    for step in range(5):
        at = _case("bco", f"float64/{step}")
        logps, ref_logps, theirs = (
            np.concatenate([at[name.format("chosen")], at[name.format("rejected")]])
            for name in ("{}_logps", "ref_{}_logps", "{}_grad")
        )
        label = np.arange(len(logps)) < len(at["chosen_logps"])
        delta, count = bco.running_delta(delta, count, 0.3 * (logps - ref_logps))
        options = {"delta": delta, "beta": 0.3}
        value = bco.loss(logps, ref_logps, label, **options)
        grad = bco.loss_grad(logps, ref_logps, label, **options)
        results.append(([at["losses"].mean()], [value], theirs, grad))
    return [np.concatenate(column) for column in zip(*results)]


def _ppo_masks():
    kept = _case("ppo", "k1")
    return kept, 1.0 - kept["padding_mask"], 1.0 - kept["padding_mask_p1"]


def _ppo_advantages():
    kept, mask, states = _ppo_masks()
    logps = kept["scores"], kept["logprobs"], kept["ref_logprobs"]
    kl = {"kl_coef": 0.05, "kl_estimator": "k1", "score_at": "next_state"}
    rewards = ppo.token_rewards(*logps, mask, **kl)
    a = gae.advantages(rewards, kept["values"], states, gamma=1.0, lam=0.95)
    return kept["advantages"], gae.masked_whiten(a, mask, ddof=1, eps=1e-8)


def _ppo_first_step():
    """The first step of the update, policy and critic; the release had two micro-batches."""
    kept, mask, states = _ppo_masks()
    at = kept["steps/rows"][0]
    policy = kept["steps/new_logprobs"][0], kept["logprobs"][at], kept["advantages"][at], mask[at]
    critic = kept["steps/vpred"][0], kept["values"][at], kept["returns"][at], states[at]
    value = ppo.policy_loss(*policy, cliprange=0.2)
    value += 0.1 * ppo.value_loss(*critic, cliprange_value=0.2)
    grads = [ppo.policy_loss_grad(*policy, cliprange=0.2)]
    grads += [0.1 * ppo.value_loss_grad(*critic, cliprange_value=0.2)]
    theirs = [2 * kept[f"steps/{name}_grad"][0] for name in ("logps", "values")]
    return kept["steps/loss"][0], value, np.stack(theirs), np.stack(grads)


def _minillm():
    """The advantage detached, as no release has it; padding left out; the exact step counted twice."""
    kept = _case("minillm", "summed_detached")
    student, teacher, tokens = (kept[k] for k in ("student_logits", "teacher_logits", "tokens"))
    mask, old = kept["completion_mask"], kept["old_per_token_logps"]
    options = {"gamma": 1.0, "length_normalization": False, "single_step_decomposition": False}
    clip = {"epsilon_low": 0.2, "epsilon_high": 0.2, "reduction": "bnpo"}
    clip["importance_sampling_level"] = "token"
    logps, of_teacher = (logprobs.per_token_logps(z, tokens) for z in (student, teacher))
    a = minillm.advantages(logps, of_teacher, mask, **options)
    value = grpo.loss(logps, old, a, mask, **clip) + gkd.loss(student, teacher, mask, beta=1.0)
    grad = logprobs.logits_grad(student, tokens, grpo.loss_grad(logps, old, a, mask, **clip))
    grad += gkd.loss_grad(student, teacher, mask, beta=1.0)
    return kept["loss"], value, kept["grad"], grad
