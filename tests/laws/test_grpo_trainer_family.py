"""Laws that the surrogates of all loss types share: grpo, cispo, sapo, vespo."""

import numpy as np
import pytest

from reference_math import cispo, grpo, grpo_terms, ratios, reinforce, sapo, vespo

MASK = np.array([[1.0, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]])
ADVANTAGES = np.array([1.3, -0.7, -0.4, 0.9])
GAMMA = {"k_pos": 2.0, "lambda_pos": 3.0, "k_neg": 3.0, "lambda_neg": 2.0}
CLIP = {"epsilon_low": 0.2, "epsilon_high": 0.3}
FAMILY = {
    "grpo": (grpo, CLIP | {"delta": None}),
    "delta": (grpo, CLIP | {"delta": 1.5}),
    "cispo": (cispo, {"epsilon_max": 1.2}),
    "sapo": (sapo, {"temperature_pos": 1.0, "temperature_neg": 1.4}),
    "vespo": (vespo, GAMMA),
}
members = pytest.mark.parametrize("member", FAMILY)
levels = pytest.mark.parametrize("level", ratios.LEVELS)


def two_policies(seed=29):  # whose ratios lie on all sides of every clip, and near none
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(size=MASK.shape)
    return logps, logps + 0.4 * rng.normal(size=MASK.shape)


def log_weights(x, old, level):
    """Of the policy x near its place, with what the level holds constant there held."""
    if level != "sequence_token":
        return ratios.log_importance_weights(x, old, MASK, level)
    here = two_policies()[0]
    return ratios.log_importance_weights(here, old, MASK, level) + MASK * (x - here)


def both(member, level="token", policies=None, advantages=ADVANTAGES, mask=MASK, **terms):
    """(the loss, its gradient)"""
    module, options = FAMILY[member]
    tokens = *(two_policies() if policies is None else policies), advantages, mask
    options = options | {"importance_sampling_level": level, "reduction": "grpo"} | terms
    return module.loss(*tokens, **options), module.loss_grad(*tokens, **options)


def some_terms(seed=1):
    rng = np.random.default_rng(seed)
    ref_logps = two_policies()[0] + 0.5 * rng.normal(size=MASK.shape)
    kl = {"beta": 0.3, "ref_per_token_logps": ref_logps, "use_bias_correction_kl": True}
    return {
        "plain": {},
        "factor of each token": {"factor": rng.random(MASK.shape)},
        "factor of each row": {"factor": rng.random((len(MASK), 1))},
        "corrected KL": kl,
        "plain KL": kl | {"use_bias_correction_kl": False},
        "everything": kl | {"factor": rng.random(MASK.shape), "reduction": "luspo"},
    }


@pytest.mark.parametrize("terms", some_terms())
@levels
@pytest.mark.parametrize("member", ["grpo", "delta", "sapo"])
def test_the_gradient_by_hand_is_the_numeric_one(member, level, terms, numeric_grad):
    (logps, old), (module, options) = two_policies(), FAMILY[member]
    w = ratios.ratio(ratios.log_importance_weights(logps, old, MASK, level))
    edges = np.abs(w[..., None] - [0.8, 1.3, 1.5])
    assert edges.min() > 5e-3  # the numeric steps of 2e-3 stay on one side of every clip

    def value(x):
        s = log_weights(x, old, level)
        c = module.per_token_loss(s, ADVANTAGES, **options)
        return grpo_terms.loss(c, s, x, MASK, **{"reduction": "grpo"} | some_terms()[terms])

    loss, grad = both(member, level, **some_terms()[terms])
    np.testing.assert_allclose(loss, value(logps), rtol=1e-14)
    np.testing.assert_allclose(grad, numeric_grad(value, logps), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("terms", some_terms())
@levels
@pytest.mark.parametrize("member", ["cispo", "vespo"])
def test_the_gradient_by_hand_is_the_numeric_one_with_the_weight_held(
    member, level, terms, numeric_grad
):
    """cispo and vespo stop the gradient of their weight; that of the KL's ratio goes on."""
    (logps, old), (module, options) = two_policies(), FAMILY[member]
    held = ratios.log_importance_weights(logps, old, MASK, level)
    if member == "vespo":
        held = vespo.sequence_log_ratio(logps, old, MASK)

    def value(x):
        c = module.per_token_loss(x, held, ADVANTAGES, **options)
        s = log_weights(x, old, level)
        return grpo_terms.loss(c, s, x, MASK, **{"reduction": "grpo"} | some_terms()[terms])

    loss, grad = both(member, level, **some_terms()[terms])
    np.testing.assert_allclose(loss, value(logps), rtol=1e-14)
    np.testing.assert_allclose(grad, numeric_grad(value, logps), rtol=1e-9, atol=1e-11)


@levels
@members
def test_on_policy_all_are_reinforce(member, level):
    """w = 1: with the same reduction the gradient is REINFORCE's, -A on every token."""
    logps, _ = two_policies()
    _, grad = both(member, level, (logps, logps), reduction="luspo")
    np.testing.assert_allclose(grad, reinforce.loss_grad(logps, ADVANTAGES, MASK), rtol=1e-12)


@levels
@members
def test_no_advantage_means_no_push(member, level):
    value, grad = both(member, level, advantages=0 * ADVANTAGES)
    assert value == 0.0 and not grad.any()


@levels
@members
def test_longer_padding_changes_nothing(member, level):
    wider = [np.pad(x, ((0, 0), (0, 3)), constant_values=-9.0) for x in two_policies()]
    value, grad = both(member, level, wider, mask=np.pad(MASK, ((0, 0), (0, 3))))
    expected = both(member, level)
    np.testing.assert_allclose(value, expected[0], rtol=1e-14)  # numpy may pair the sum anew
    np.testing.assert_allclose(grad[:, :5], expected[1], rtol=1e-14)
    assert not grad[:, 5:].any()


@levels
@members
def test_the_order_of_the_completions_does_not_matter(member, level):
    order = [2, 0, 3, 1]
    policies = [x[order] for x in two_policies()]
    value, grad = both(member, level, policies, ADVANTAGES[order], MASK[order])
    expected = both(member, level)
    np.testing.assert_allclose(value, expected[0], rtol=1e-13)
    np.testing.assert_allclose(grad, expected[1][order], rtol=1e-13)


@levels
@members
def test_an_advantage_a_token_holds_for_its_token(member, level):
    repeated = np.repeat(ADVANTAGES[:, None], 5, axis=1)
    value, grad = both(member, level, advantages=repeated)
    np.testing.assert_allclose(value, both(member, level)[0], rtol=1e-14)
    np.testing.assert_allclose(grad, both(member, level)[1], rtol=1e-14)


@levels
@members
def test_doubling_positive_advantages_doubles_the_loss(member, level):
    value, grad = both(member, level, advantages=2 * ADVANTAGES)
    np.testing.assert_allclose(value, 2 * both(member, level)[0], rtol=1e-14)
    np.testing.assert_allclose(grad, 2 * both(member, level)[1], rtol=1e-14)


@pytest.mark.parametrize("gap", [-1e4, -700.0, 700.0, 1e4])
@pytest.mark.parametrize("sign", [-1.0, 0.0, 1.0])
@levels
@members
def test_nothing_overflows_however_far_the_policy_has_gone(member, level, sign, gap):
    logps, _ = two_policies()
    kl = {"beta": 0.1, "ref_per_token_logps": logps + 1e3, "use_bias_correction_kl": True}
    for terms in ({}, kl):
        policies = logps, logps - gap
        value, grad = both(member, level, policies, sign * np.ones(4), **terms)
        assert np.isfinite(value) and np.isfinite(grad).all()


@pytest.mark.parametrize("gap", [700.0, 1e4])
@pytest.mark.parametrize("member", ["grpo", "delta", "sapo"])
def test_a_good_token_far_beyond_the_clip_is_left_alone(member, gap):
    """TRL's gradient is NaN there: 0 from the clip, times inf from the ratio."""
    logps, _ = two_policies()
    value, grad = both(member, "token", (logps, logps - gap), np.ones(4))
    assert not grad.any()
    np.testing.assert_allclose(value, -0.75 * (4.0 if member == "sapo" else 1.3), rtol=1e-14)


@pytest.mark.parametrize("terms", ["plain", "corrected KL"])
@members
def test_gspo_token_is_gspo_while_a_row_has_one_advantage_and_one_weight(member, terms):
    """With the corrected KL it is not: k3 differs from token to token, and so does what each gets."""
    whole, own = (both(member, f"sequence{end}", **some_terms()[terms]) for end in ("", "_token"))
    np.testing.assert_allclose(own[0], whole[0], rtol=1e-14)
    if terms == "plain":
        np.testing.assert_allclose(own[1], whole[1], rtol=1e-13)
    else:
        assert np.abs(own[1] - whole[1]).max() > 1e-3
        np.testing.assert_allclose(own[1].sum(axis=1), whole[1].sum(axis=1), rtol=1e-12)


def test_gspo_token_pushes_each_token_by_its_own_advantage():
    """GSPO shares a row's push among its tokens, whatever the advantage of each."""
    (logps, old), m = two_policies(), MASK[2:3]
    per_token = np.array([[1.0, 0.0, -1.0, 0.0, 0.0]])
    options = {"epsilon_low": 0.2, "epsilon_high": 1.0, "reduction": "luspo"}
    whole, own = (
        grpo.loss_grad(
            logps[2:3], old[2:3], per_token, m, importance_sampling_level=level, **options
        )
        for level in ("sequence", "sequence_token")
    )
    w = np.exp((m * (logps - old)[2:3]).sum() / 3)
    assert 0.8 < w < 2.0
    np.testing.assert_allclose(own, -w * per_token, rtol=1e-13)
    np.testing.assert_allclose(whole, 0.0, atol=1e-15)  # 1 and -1 cancel


@members
def test_a_group_of_one_token_is_the_same_at_both_levels(member):
    policies = [x[:, :1] for x in two_policies()]
    token = both(member, "token", policies, mask=MASK[:, :1])
    sequence = both(member, "sequence", policies, mask=MASK[:, :1])
    assert token[0] == sequence[0]
    np.testing.assert_array_equal(token[1], sequence[1])
