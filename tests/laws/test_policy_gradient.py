"""What the losses are for: over every completion there is, their mean gradient is that of E[reward].

A policy over 3 tokens, the last of which ends the completion; at most 3 tokens: 15 completions of
1 to 3 tokens, written out. Nothing is sampled, so nothing is approximate.
"""

from itertools import product

import numpy as np
import pytest

from reference_math import (
    advantages,
    cispo,
    grpo,
    importance_sampling,
    reinforce,
    rloo,
    sapo,
    vespo,
)

END, T = 2, 3


def _completions():
    for tokens in product(range(3), repeat=T):
        end = tokens.index(END) + 1 if END in tokens else T
        if not any(tokens[end:]):  # one of the many that differ only behind the end
            yield tokens[:end]


COMPLETIONS = list(_completions())
PREFIXES = sorted({c[:t] for c in COMPLETIONS for t in range(len(c))})
MASK = np.array([[t < len(c) for t in range(T)] for c in COMPLETIONS], dtype=float)
STATES = np.array(
    [[PREFIXES.index(c[:t]) if t < len(c) else 0 for t in range(T)] for c in COMPLETIONS]
)
TOKENS = np.array([[c[t] if t < len(c) else 0 for t in range(T)] for c in COMPLETIONS])
REWARDS = np.random.default_rng(0).normal(size=len(COMPLETIONS))
N = len(COMPLETIONS)
WIDE = {"epsilon_low": np.inf, "epsilon_high": np.inf}
EACH = {"reduction": "luspo", "importance_sampling_level": "token"}


def a_policy(seed):
    return np.random.default_rng(seed).normal(size=(len(PREFIXES), 3))  # logits in each state


def per_token_logps(logits):
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return log_p[STATES, TOKENS] * MASK


def probabilities(logits):
    return np.exp(per_token_logps(logits).sum(axis=1))


def to_logits(grad_logps, logits):
    """The chain rule through log-softmax, added up over the tokens that met each state."""
    grad = np.zeros_like(logits)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for row, t in zip(*np.nonzero(MASK), strict=True):
        state = STATES[row, t]
        grad[state] += grad_logps[row, t] * (np.eye(3)[TOKENS[row, t]] - p[state])
    return grad


@pytest.fixture
def gradient_of_the_expected(numeric_grad):
    def gradient(rewards, logits):
        return numeric_grad(lambda z: probabilities(z) @ rewards, logits)

    return gradient


def assert_climbs(grad_logps, logits, expected):
    """Minus the gradient of a loss, carried to the logits, is the expected one."""
    got = -to_logits(grad_logps, logits)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)  # numeric_grad's own error


def test_every_completion_is_there_once():
    assert N == 15
    np.testing.assert_allclose(probabilities(a_policy(0)).sum(), 1.0, rtol=1e-14)


@pytest.mark.parametrize("baseline", [0.0, 5.0])
def test_reinforce_climbs_the_expected_reward_whatever_the_baseline(
    baseline, gradient_of_the_expected
):
    logits = a_policy(1)
    weighted = N * probabilities(logits) * (REWARDS - baseline)
    grad = reinforce.loss_grad(per_token_logps(logits), weighted, MASK)
    assert_climbs(grad, logits, gradient_of_the_expected(REWARDS, logits))


def on_policy_grads(weighted, logps):
    gamma = {"k_pos": 2.0, "lambda_pos": 3.0, "k_neg": 3.0, "lambda_neg": 2.0}
    gate = {"temperature_pos": 1.0, "temperature_neg": 1.05}
    tokens = logps, logps, weighted, MASK
    clip = {"epsilon_low": 0.2, "epsilon_high": 0.2}
    return {
        "grpo": grpo.loss_grad(*tokens, **clip, **EACH),
        "gspo": grpo.loss_grad(*tokens, **clip, **EACH | {"importance_sampling_level": "sequence"}),
        "cispo": cispo.loss_grad(*tokens, epsilon_max=5.0, **EACH),
        "sapo": sapo.loss_grad(*tokens, **gate, **EACH),
        "vespo": vespo.loss_grad(*tokens, **gamma, **EACH),
        "rloo": rloo.loss_grad(logps, logps.sum(axis=1), weighted, MASK, **clip),
    }


@pytest.mark.parametrize("member", ["grpo", "gspo", "cispo", "sapo", "vespo", "rloo"])
def test_on_policy_every_member_climbs_the_expected_reward(member, gradient_of_the_expected):
    logits = a_policy(1)
    weighted = N * probabilities(logits) * REWARDS
    grad = on_policy_grads(weighted, per_token_logps(logits))[member]
    assert_climbs(grad, logits, gradient_of_the_expected(REWARDS, logits))


def test_dr_grpos_constant_only_rescales_that_gradient(gradient_of_the_expected):
    logits = a_policy(1)
    weighted, logps = N * probabilities(logits) * REWARDS, per_token_logps(logits)
    constant = EACH | {"reduction": "dr_grpo", "max_completion_length": 8}
    grad = grpo.loss_grad(logps, logps, weighted, MASK, **WIDE, **constant)
    assert_climbs(grad, logits, gradient_of_the_expected(REWARDS, logits) / 8)


def test_grpos_mean_over_a_completion_climbs_the_reward_per_token_instead(gradient_of_the_expected):
    """The length bias of GRPO, exactly: it maximises E[r / length]."""
    logits = a_policy(1)
    weighted, logps = N * probabilities(logits) * REWARDS, per_token_logps(logits)
    grad = grpo.loss_grad(logps, logps, weighted, MASK, **WIDE, **EACH | {"reduction": "grpo"})
    assert_climbs(grad, logits, gradient_of_the_expected(REWARDS / MASK.sum(axis=1), logits))


def mean_over_groups(logits, advantages_of):
    """The gradient by REINFORCE on average over all N * N groups of two completions."""
    p = probabilities(logits)
    pairs = np.array(list(product(range(N), repeat=2)))
    chances = p[pairs].prod(axis=1)
    a = advantages_of(REWARDS[pairs].reshape(-1), 2).reshape(-1, 2)
    weighted = np.zeros(N)
    np.add.at(weighted, pairs, chances[:, None] * a)
    return reinforce.loss_grad(per_token_logps(logits), N * weighted / 2, MASK)


def test_leave_one_out_is_unbiased(gradient_of_the_expected):
    logits = a_policy(2)
    grad = mean_over_groups(logits, advantages.leave_one_out)
    assert_climbs(grad, logits, gradient_of_the_expected(REWARDS, logits))


def test_the_groups_own_mean_shrinks_the_gradient_by_one_over_the_group(gradient_of_the_expected):
    logits = a_policy(2)
    grad = mean_over_groups(logits, advantages.dr_grpo)
    assert_climbs(grad, logits, gradient_of_the_expected(REWARDS, logits) / 2)


def test_dividing_by_the_std_of_a_pair_climbs_something_else(gradient_of_the_expected):
    """In a group of two only the sign of the difference is left: who won, not by how much."""
    logits = a_policy(2)
    p = probabilities(logits)
    grad = mean_over_groups(logits, lambda r, n: advantages.group(r, n, ddof=0, eps=0.0))
    wins = np.sign(REWARDS[:, None] - REWARDS[None]) @ p  # against a rival, held fixed
    assert_climbs(grad, logits, gradient_of_the_expected(wins, logits))


@pytest.fixture
def off_policy():
    old_logits, logits = a_policy(3), a_policy(3) + 0.3 * a_policy(4)
    weighted = N * probabilities(old_logits) * REWARDS
    return logits, per_token_logps(logits), per_token_logps(old_logits), weighted


def test_rloos_ratio_of_the_whole_completion_corrects_for_an_old_policy(
    off_policy, gradient_of_the_expected
):
    """Value and gradient: E_old[w r] = E[r]."""
    logits, logps, old, weighted = off_policy
    tokens = logps, old.sum(axis=1), weighted, MASK
    expected = probabilities(logits) @ REWARDS
    np.testing.assert_allclose(-rloo.loss(*tokens, **WIDE), expected, rtol=1e-12)
    grad = rloo.loss_grad(*tokens, **WIDE)
    assert_climbs(grad, logits, gradient_of_the_expected(REWARDS, logits))


def test_token_ratios_do_not_correct_for_the_tokens_before(off_policy, gradient_of_the_expected):
    logits, logps, old, weighted = off_policy
    grad = -to_logits(grpo.loss_grad(logps, old, weighted, MASK, **WIDE, **EACH), logits)
    assert np.abs(grad - gradient_of_the_expected(REWARDS, logits)).max() > 1e-2


def test_an_unbounded_sequence_ratio_corrects_for_another_sampler():
    old, sampling = per_token_logps(a_policy(5)), per_token_logps(a_policy(6))
    options = {"mode": "sequence_truncate", "clip_min": None, "clip_max": None}
    rho = importance_sampling.ratio(old, sampling, MASK, **options)[:, 0]
    expected = probabilities(a_policy(5)) @ REWARDS
    np.testing.assert_allclose(probabilities(a_policy(6)) @ (rho * REWARDS), expected, rtol=1e-12)
