"""Rows of the report: what learns from its own samples, and two small relatives."""

import numpy as np

from reference_math import a2po, gae, gmpo, logprobs, nash_md, online_dpo, ppo, tpo, xpo
from reference_math.conformance.rows import Row, golden, running

TOKENS = ("per_token_logps", "ref_per_token_logps")


def rows():
    yield from online_dpo_rows()
    yield from xpo_rows()
    yield from nash_md_rows()
    yield from ppo_rows()
    yield from tpo_rows()
    yield from a2po_rows()
    yield from gmpo_rows()


def _trl(name, **options):
    def theirs(**tensors):
        from reference_math.conformance import trl_experimental

        return getattr(trl_experimental, name)(**tensors, **options)

    return theirs


def _both(module, **options):
    return lambda **given: (module.loss(**given, **options), module.loss_grad(**given, **options))


def _tokens(rows, seed=0):
    rng = np.random.default_rng(seed)
    mask = (np.arange(5) < rng.integers(1, 6, size=(rows, 1))).astype(float)
    logps = -rng.exponential(size=mask.shape)
    ref = logps + rng.normal(scale=0.5, size=mask.shape)
    return rng, dict(zip(TOKENS, (logps, ref))) | {"completion_mask": mask}


def online_dpo_rows():
    rng, arrays = _tokens(8)
    arrays["rewards"] = rng.normal(size=8)
    for name in online_dpo.LOSS_TYPES:
        options = {"loss_type": name, "beta": 0.3}
        theirs, ours = _trl("online_dpo", **options), _both(online_dpo, **options)
        yield Row("online_dpo", name, "trl", running(theirs, ours, arrays, TOKENS[0]))


def _kept(name, case, ours):
    """A run of a release's own numbers against ours(batch) -> (value, gradient)."""
    vectors = golden(name)
    batch = {k.removeprefix(f"{case}/"): x for k, x in vectors.items() if k.startswith(f"{case}/")}

    def run(place):
        value, grad = ours(batch)
        return {
            "value": (batch["backward"], np.asarray(value)),
            "gradient": (batch["grad"], grad),
        }

    return run if batch else None


def xpo_rows():
    def ours(options):
        def both(batch):
            names = (*TOKENS, "rewards", "completion_mask")
            given = {name: batch[name] for name in names}
            return xpo.loss(**given, **options), xpo.loss_grad(**given, **options)

        return both

    for name in online_dpo.LOSS_TYPES:  # as tests/parity/golden/drive_xpo.py sets them
        run = _kept("xpo", name, ours({"loss_type": name, "alpha": 0.05, "beta": 0.3}))
        if run:
            yield Row("xpo", name, "trl", run, release="1.13.0")


def nash_md_rows():
    def ours(batch):
        win = nash_md.win_probability(batch["rewards"], batch["mixture_rewards"])
        given = {name: batch[name] for name in (*TOKENS, "completion_mask")}
        given |= {"win_probability": win, "beta": 0.3, "kl_level": "token"}
        return nash_md.loss(**given), nash_md.loss_grad(**given)

    if run := _kept("nash_md", "usual", ours):
        yield Row("nash_md", "KL of each token", "trl", run, release="1.13.0")


def ppo_rows():
    """Advantages from scores and log-probs; then the first step of the update, policy and critic."""
    kept = {k.removeprefix("k1/"): x for k, x in golden("ppo").items() if k.startswith("k1/")}
    if not kept:
        return
    mask, states = 1.0 - kept["padding_mask"], 1.0 - kept["padding_mask_p1"]

    def advantages(place):
        kl = {"kl_coef": 0.05, "kl_estimator": "k1", "score_at": "next_state"}
        logps = kept["scores"], kept["logprobs"], kept["ref_logprobs"]
        rewards = ppo.token_rewards(*logps, mask, **kl)
        a = gae.advantages(rewards, kept["values"], states, gamma=1.0, lam=0.95)
        return {"value": (kept["advantages"], gae.whiten(a, mask, ddof=1, eps=1e-8))}

    def first_step(place):
        rows = kept["steps/rows"][0]
        tokens = kept["steps/new_logprobs"][0], kept["logprobs"][rows], kept["advantages"][rows]
        critic = kept["steps/vpred"][0], kept["values"][rows], kept["returns"][rows]
        value = ppo.policy_loss(*tokens, mask[rows], cliprange=0.2)
        value += 0.1 * ppo.value_loss(*critic, states[rows], cliprange_value=0.2)
        grads = [
            ppo.policy_loss_grad(*tokens, mask[rows], cliprange=0.2),
            0.1 * ppo.value_loss_grad(*critic, states[rows], cliprange_value=0.2),
        ]
        theirs = [2 * kept[f"steps/{name}_grad"][0] for name in ("logps", "values")]  # of two
        return {
            "value": (kept["steps/loss"][0], np.asarray(value)),
            "gradient": (np.stack(theirs), np.stack(grads)),
        }

    yield Row("ppo", "whitened advantages", "trl", advantages, release="1.12.0")
    yield Row("ppo", "clipped policy and critic", "trl", first_step, release="1.12.0")


def tpo_rows():
    rng = np.random.default_rng(0)
    arrays = {
        "logits": rng.normal(size=(9, 4, 5)),
        "tokens": rng.integers(0, 5, size=(9, 4)),
        "completion_mask": (np.arange(4) < rng.integers(1, 5, size=(9, 1))).astype(float),
    }

    def ours(options):
        def both(logits, tokens, completion_mask):
            logps = logprobs.per_token_logps(logits, tokens)
            grad = tpo.loss_grad(logps, completion_mask, **options)
            value = tpo.loss(logps, completion_mask, **options)
            return value, logprobs.logits_grad(logits, tokens, grad)

        return both

    for name in tpo.LOSS_TYPES:
        options = {"loss_type": name, "beta": 0.3}
        yield Row(
            "tpo", name, "trl", running(_trl("tpo", **options), ours(options), arrays, "logits")
        )


def a2po_rows():
    rng, arrays = _tokens(6)
    arrays |= dict(zip(("rewards", "optimal_values"), rng.random((2, 6))))
    run = running(_trl("a2po", beta2=0.3), _both(a2po, beta2=0.3), arrays, TOKENS[0])
    yield Row("a2po", "regression", "trl", run)


def gmpo_rows():
    rng, arrays = _tokens(6)
    arrays["old_per_token_logps"] = arrays.pop("ref_per_token_logps")
    arrays["advantages"] = rng.normal(size=6)
    options = {"epsilon_low": 0.4, "epsilon_high": 0.4}
    run = running(_trl("gmpo", **options), _both(gmpo, **options), arrays, TOKENS[0])
    yield Row("gmpo", "clipped geometric mean", "trl", run)
