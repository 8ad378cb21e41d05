"""reference_math.ppo and gae against the golden vectors of TRL 1.12.0, the last to have a PPOTrainer.

One whole update of a policy and a critic that are tables (golden/drive_ppo.py): recomputed in numpy
from the tables before it to the tables after it.
"""

import numpy as np
import pytest

pytest.importorskip("torch")  # conftest

from reference_math import gae, logprobs, optim, ppo

CASES = {  # of golden/drive_ppo.py; the rest are TRL's defaults
    "k1": {"kl_estimator": "k1", "whiten": False, "gamma": 1.0, "micro_batches": 2},
    "whitened": {"kl_estimator": "k3", "whiten": True, "gamma": 0.9, "micro_batches": 1},
}
TEMPERATURE = 0.7 + 1e-7
CLIP, VALUE_CLIP, VF_COEF = {"cliprange": 0.2}, {"cliprange_value": 0.2}, 0.1
# float64 but for the whitening, where count / (count - 1) is a float32: 6e-8 of an advantage
TOLERANCE = {"rtol": 1e-6, "atol": 1e-7}


@pytest.fixture(params=CASES)
def case(request, golden):
    """The arrays of one update, and its options."""
    prefix = f"{request.param}/"
    found = {k.removeprefix(prefix): v for k, v in golden("ppo").items() if k.startswith(prefix)}
    found["completion_mask"] = 1.0 - found["padding_mask"]
    found["state_mask"] = 1.0 - found["padding_mask_p1"]
    return found, CASES[request.param]


def read(x):
    """The token that each position of the response is predicted from; TRL reads 0 for a pad."""
    before = np.concatenate([x["queries"], x["responses"]], axis=1)
    start = x["queries"].shape[1] - 1
    return before[:, start:-1]


def rollout(x, options):
    """Rewards, advantages and returns from scores, log-probs and values."""
    mask, states = x["completion_mask"], x["state_mask"]
    kl = {"kl_coef": 0.05, "kl_estimator": options["kl_estimator"]}
    logps = x["scores"], x["logprobs"], x["ref_logprobs"]
    rewards = ppo.token_rewards(*logps, mask, score_at="next_state", **kl)
    if options["whiten"]:
        rewards = gae.masked_whiten(rewards, states, ddof=1, eps=1e-8, shift_mean=False)
    a = gae.advantages(rewards, x["values"], states, gamma=options["gamma"], lam=0.95)
    returns = gae.returns(a, x["values"], states)
    return rewards, gae.masked_whiten(a, mask, ddof=1, eps=1e-8), returns


def test_the_states_that_have_a_value_are_trls(case):
    x, _ = case
    np.testing.assert_array_equal(ppo.state_mask(x["completion_mask"]), x["state_mask"])
    lengths = x["completion_mask"].sum(axis=1)
    assert lengths.min() < 5 and lengths.max() == 5  # one is short, one is full


def test_the_rewards_advantages_and_returns_are_trls(case):
    x, options = case
    rewards, a, returns = rollout(x, options)
    np.testing.assert_allclose(x["rewards"], rewards, **TOLERANCE)
    np.testing.assert_allclose(x["advantages"], a, **TOLERANCE)
    np.testing.assert_allclose(x["returns"] * x["state_mask"], returns, **TOLERANCE)
    assert not (x["advantages"] * x["padding_mask"]).any()


def test_each_step_loses_and_pushes_as_trls_does(case):
    x, options = case
    mask, states = x["completion_mask"], x["state_mask"]
    for step, rows in enumerate(x["steps/rows"]):
        of = {name: x[f"steps/{name}"][step] for name in ("new_logprobs", "vpred")}
        tokens = of["new_logprobs"], x["logprobs"][rows], x["advantages"][rows], mask[rows]
        critic = of["vpred"], x["values"][rows], x["returns"][rows], states[rows]
        pg, vf = ppo.policy_loss(*tokens, **CLIP), ppo.value_loss(*critic, **VALUE_CLIP)
        np.testing.assert_allclose(x["steps/pg_loss"][step], pg, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(x["steps/vf_loss"][step], vf, rtol=1e-12)
        np.testing.assert_allclose(x["steps/loss"][step], pg + VF_COEF * vf, rtol=1e-12)
        n = options["micro_batches"]  # accelerate divides by the accumulation steps
        grad = ppo.policy_loss_grad(*tokens, **CLIP) / n
        np.testing.assert_allclose(x["steps/logps_grad"][step], grad, rtol=1e-12, atol=1e-15)
        grad = VF_COEF * ppo.value_loss_grad(*critic, **VALUE_CLIP) / n
        np.testing.assert_allclose(x["steps/values_grad"][step], grad, rtol=1e-12, atol=1e-15)
    assert (x["steps/logps_grad"] == 0).sum() > (mask == 0).sum()  # some were clipped


def test_the_whole_update_is_trls_from_table_to_table(case):
    x, options = case
    at, mask, states = read(x), x["completion_mask"], x["state_mask"]
    policy, table, head = (x[f"{n}_before"] for n in ("policy_table", "value_table", "value_head"))
    theirs = logprobs.per_token_logps(x["ref_table"][at], x["responses"], temperature=TEMPERATURE)
    np.testing.assert_allclose((x["ref_logprobs"] * mask), theirs * mask, rtol=1e-12)
    start = logprobs.per_token_logps(policy[at], x["responses"], temperature=TEMPERATURE)
    # the old log-probabilities come from generate, which is float32
    np.testing.assert_allclose(x["logprobs"] * mask, start * mask, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(x["values"], states * (table[at] @ head[0]), rtol=1e-12)

    _, a, returns = rollout(x, options)
    params = [policy, table, head]
    moments = [(np.zeros_like(p), np.zeros_like(p)) for p in params]
    grads = [np.zeros_like(p) for p in params]
    n, adamw = options["micro_batches"], {"lr": 0.05, "betas": (0.9, 0.999), "eps": 1e-8}
    for micro, rows in enumerate(x["steps/rows"], start=1):
        policy, table, head = params
        here, said = at[rows], x["responses"][rows]
        logps = logprobs.per_token_logps(policy[here], said, temperature=TEMPERATURE)
        tokens = logps, x["logprobs"][rows], a[rows], mask[rows]
        dlogps = ppo.policy_loss_grad(*tokens, **CLIP) / n
        dz = logprobs.logits_grad(policy[here], said, dlogps, temperature=TEMPERATURE)
        np.add.at(grads[0], here, dz)
        critic = table[here] @ head[0], x["values"][rows], returns[rows], states[rows]
        dv = VF_COEF * ppo.value_loss_grad(*critic, **VALUE_CLIP) / n
        np.add.at(grads[1], here, dv[..., None] * head[0])
        grads[2] += np.einsum("bt,btv->v", dv, table[here])
        if micro % n == 0:
            for i, (m, v) in enumerate(moments):
                step = {"step": micro // n, "weight_decay": 0.0}
                params[i], *moments[i] = optim.adamw_step(
                    params[i], grads[i], m, v, **step, **adamw
                )
            grads = [np.zeros_like(p) for p in params]

    for name, ours in zip(("policy_table", "value_table", "value_head"), params):
        # Adam's first steps are lr times the gradient's sign: they forget its size, not its errors
        np.testing.assert_allclose(x[f"{name}_after"], ours, rtol=1e-6, atol=1e-7)
        assert np.abs(ours - x[f"{name}_before"]).max() > 0.1


@pytest.mark.library_defect
def test_whitening_one_token_is_nan_in_trl_and_so_is_the_mean_of_none(golden):
    vectors = golden("ppo")
    assert np.isnan(vectors["edges/whiten_one"]).all() and np.isnan(vectors["edges/mean_of_none"])
    one, none = np.array([[1.0, 0.0]]), np.zeros((1, 2))
    assert not gae.masked_whiten([[2.0, 3.0]], one, ddof=1, eps=1e-8).any()
    assert ppo.policy_loss(none, none, none, none, **CLIP) == 0.0
