"""Laws of CISPO: every token counts, none too much."""

import numpy as np
import pytest

from reference_math import cispo, grpo

RATIOS = np.array([[1e-3, 0.5, 1.0, 2.0, 4.9, 5.1, 1e3]])
S = np.log(RATIOS)
signs = pytest.mark.parametrize("a", [1.0, -1.0])


@signs
def test_cispo_never_drops_a_token_and_caps_its_weight(a):
    weight = -a * cispo.per_token_loss_grad(S, [a], epsilon_max=5.0)
    np.testing.assert_allclose(weight, [[1e-3, 0.5, 1.0, 2.0, 4.9, 5.0, 5.0]], rtol=1e-12)


@signs
def test_cispo_at_a_high_cap_weighs_like_an_open_clip(a):
    """-w A on log p here, -w A through the ratio there: the same policy gradient."""
    wide = {"epsilon_low": np.inf, "epsilon_high": np.inf, "delta": None}
    expected = grpo.per_token_loss_grad(S, [a], **wide)
    grad = cispo.per_token_loss_grad(S, [a], epsilon_max=1e9)
    np.testing.assert_allclose(grad, expected, rtol=1e-14)


def test_a_cap_below_1_shrinks_even_on_policy_gradients():
    """TRL's default for cispo: epsilon_high = 0.2 is the cap itself, not 1.2."""
    grad = cispo.per_token_loss_grad(np.zeros((1, 1)), [1.0], epsilon_max=0.2)
    np.testing.assert_allclose(grad, [[-0.2]], rtol=1e-15)


def test_cispo_is_linear_in_the_log_probability():
    logps = -np.arange(1.0, 8.0)[None]
    value = cispo.per_token_loss(logps, S, [0.5], epsilon_max=5.0)
    slope = cispo.per_token_loss_grad(S, [0.5], epsilon_max=5.0)
    np.testing.assert_array_equal(value, slope * logps)


def test_a_cap_must_be_positive():
    for wrong in (0.0, -1.0, np.inf):
        with pytest.raises(ValueError, match="epsilon_max must be"):
            cispo.per_token_loss_grad(S, [1.0], epsilon_max=wrong)


@signs
def test_a_floor_raises_the_small_weights_alone(a):
    weight = -a * cispo.per_token_loss_grad(S, [a], epsilon_max=5.0, epsilon_min=0.8)
    np.testing.assert_allclose(weight, [[0.8, 0.8, 1.0, 2.0, 4.9, 5.0, 5.0]], rtol=1e-12)
    logps = -np.arange(1.0, 8.0)[None]
    value = cispo.per_token_loss(logps, S, [a], epsilon_max=5.0, epsilon_min=0.8)
    np.testing.assert_allclose(value, -a * weight * logps, rtol=1e-15)


def test_scalerl_averages_per_prompt_whatever_the_length_of_its_completions():
    """One call per prompt with bnpo: on-policy, at A = 1, the weights of each prompt sum to 1."""
    logps, prompts = -np.ones((2, 4)), [[[1, 0, 0, 0]] * 2, [[1, 1, 1, 1]] * 2]  # 2 and 8 tokens
    options = {"importance_sampling_level": "token", "reduction": "bnpo", "epsilon_max": 5.0}
    for mask in prompts:
        grad = cispo.loss_grad(logps, logps, [1.0, 1.0], mask, **options)
        np.testing.assert_allclose(grad.sum(), -1.0, rtol=1e-14)
    both = np.concatenate([logps] * 2), np.concatenate([logps] * 2), np.ones(4)
    grad = cispo.loss_grad(*both, np.concatenate(prompts), **options)  # one call for both prompts
    np.testing.assert_allclose([grad[:2].sum(), grad[2:].sum()], [-0.2, -0.8], rtol=1e-14)


def test_floor_and_cap_at_1_leave_reinforce():
    tokens = np.log([[0.5, 0.2], [0.9, 0.1]]), np.log([[0.1, 0.4], [0.3, 0.3]]), [2.0, -1.0]
    options = {"importance_sampling_level": "token", "reduction": "bnpo", "epsilon_max": 1.0}
    mask = np.ones((2, 2))
    value = cispo.loss(*tokens, mask, epsilon_min=1.0, **options)
    np.testing.assert_allclose(value, np.log(9.0) / 4, rtol=1e-14)  # -(2 ln 0.1 - ln 0.09) / 4
    grad = cispo.loss_grad(*tokens, mask, epsilon_min=1.0, **options)
    np.testing.assert_allclose(grad, [[-0.5, -0.5], [0.25, 0.25]], rtol=1e-15)


def test_a_floor_is_not_below_0_nor_above_the_cap():
    for wrong in (-0.1, 5.1, np.nan):
        with pytest.raises(ValueError, match="epsilon_min must be"):
            cispo.per_token_loss_grad(S, [1.0], epsilon_max=5.0, epsilon_min=wrong)
    cispo.per_token_loss_grad(S, [1.0], epsilon_max=5.0, epsilon_min=5.0)
