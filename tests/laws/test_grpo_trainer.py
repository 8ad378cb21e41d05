"""Laws of TRL's loss put together: what a setting means, in the words of the parts."""

import numpy as np
import pytest

from reference_math import cispo, entropy_control, grpo, grpo_trainer, off_policy, sapo, vespo

MASK = np.array([[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])


def a_batch(seed=2, **more):  # some ratios on each side of the clip, some rows off-policy
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(size=MASK.shape)
    return {
        "per_token_logps": logps,
        "old_per_token_logps": logps + 0.5 * rng.normal(size=MASK.shape),
        "advantages": np.array([1.0, -2.0, -0.5]),
        "completion_mask": MASK,
        "ref_per_token_logps": logps + rng.normal(size=MASK.shape),
        "sampling_per_token_logps": logps + rng.normal(size=MASK.shape),
        "entropies": rng.exponential(size=MASK.shape),
    } | more


TOKENS = tuple(
    a_batch()[name]
    for name in ("per_token_logps", "old_per_token_logps", "advantages", "completion_mask")
)
LEVEL = {"importance_sampling_level": "token"}
CLIP = {"epsilon_low": 0.2, "epsilon_high": 0.2} | LEVEL
MEANS = {
    "grpo": lambda f: getattr(grpo, f)(*TOKENS, reduction="grpo", **CLIP),
    "bnpo": lambda f: getattr(grpo, f)(*TOKENS, reduction="bnpo", **CLIP),
    "dr_grpo": lambda f: getattr(grpo, f)(
        *TOKENS, reduction="dr_grpo", max_completion_length=512, **CLIP
    ),
    "dapo": lambda f: getattr(grpo, f)(*TOKENS, reduction="dapo", tokens_per_micro_batch=7, **CLIP),
    "luspo": lambda f: getattr(grpo, f)(*TOKENS, reduction="luspo", **CLIP),
    "cispo": lambda f: getattr(cispo, f)(
        *TOKENS, reduction="dapo", tokens_per_micro_batch=7, epsilon_max=0.2, **LEVEL
    ),
    "sapo": lambda f: getattr(sapo, f)(
        *TOKENS, reduction="grpo", temperature_pos=1.0, temperature_neg=1.05, **LEVEL
    ),
    "vespo": lambda f: getattr(vespo, f)(
        *TOKENS,
        reduction="dapo",
        tokens_per_micro_batch=7,
        k_pos=2.0,
        lambda_pos=3.0,
        k_neg=3.0,
        lambda_neg=2.0,
        **LEVEL,
    ),
}
every_type = pytest.mark.parametrize("loss_type", grpo_trainer.LOSS_TYPES)


def loss(batch=None, loss_type="grpo", **config):
    return grpo_trainer.loss(a_batch() if batch is None else batch, loss_type=loss_type, **config)


def loss_grad(batch=None, loss_type="grpo", **config):
    batch = a_batch() if batch is None else batch
    return grpo_trainer.loss_grad(batch, loss_type=loss_type, **config)


@every_type
def test_a_loss_type_is_a_surrogate_a_reduction_and_trls_defaults(loss_type):
    assert loss(loss_type=loss_type) == MEANS[loss_type]("loss")
    grad, entropies_grad = loss_grad(loss_type=loss_type)
    np.testing.assert_array_equal(grad, MEANS[loss_type]("loss_grad"))
    assert not entropies_grad.any()


@every_type
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_everything_at_once_has_the_numeric_gradient(loss_type, level, numeric_grad):
    config = {
        "importance_sampling_level": level,
        "epsilon_low": 1e3,  # no clip within the steps of the numeric derivative
        "epsilon_high": 1e3,
        "beta": 0.2,
        "use_bias_correction_kl": False,
        "top_entropy_quantile": 0.6,
        "off_policy_mask_threshold": 0.3,
        "entropy_coef": 0.05,
        "gradient_accumulation_steps": 3,
    }
    batch = a_batch(importance_sampling_ratio=np.full((3, 1), 0.5))
    grad, entropies_grad = loss_grad(batch, loss_type, **config)
    if loss_type not in ("cispo", "vespo"):  # theirs is not the derivative of their value
        moved = numeric_grad(
            lambda x: loss(batch | {"per_token_logps": x}, loss_type, **config),
            batch["per_token_logps"],
        )
        np.testing.assert_allclose(grad, moved, rtol=1e-9, atol=1e-12)
    moved = numeric_grad(
        lambda h: loss(batch | {"entropies": h}, loss_type, **config), batch["entropies"]
    )
    np.testing.assert_allclose(entropies_grad, moved, rtol=1e-9, atol=1e-12)


def test_without_an_old_policy_the_policy_has_not_moved():
    batch = a_batch()
    on_policy = batch | {"old_per_token_logps": batch["per_token_logps"]}
    del batch["old_per_token_logps"]
    assert loss(batch) == loss(on_policy) != loss()


def test_the_accumulation_divides_policy_and_bonus_alike():
    for config in ({}, {"entropy_coef": 0.1}):
        once = loss(**config)
        assert loss(**config, gradient_accumulation_steps=4) == once / 4
        for a, b in zip(
            loss_grad(**config, gradient_accumulation_steps=4), loss_grad(**config), strict=True
        ):
            np.testing.assert_array_equal(4 * a, b)


def test_the_bonus_is_taken_off_the_loss_and_follows_the_entropy_mask():
    entropies = a_batch()["entropies"]
    everywhere = entropy_control.bonus(entropies, MASK)
    np.testing.assert_allclose(loss(entropy_coef=0.1), loss() - 0.1 * everywhere, rtol=1e-14)
    keep = entropy_control.high_entropy_mask(entropies, MASK, top_entropy_quantile=0.4)
    masked = loss(top_entropy_quantile=0.4)
    expected = masked - 0.1 * entropy_control.bonus(entropies, keep)
    got = loss(top_entropy_quantile=0.4, entropy_coef=0.1)
    np.testing.assert_allclose(got, expected, rtol=1e-14)
    assert masked != loss()


@pytest.mark.parametrize("sampling", ["sampling_per_token_logps", "old_per_token_logps"])
def test_the_off_policy_mask_asks_the_sampler_if_there_is_one_else_the_old_policy(sampling):
    batch = a_batch()
    if sampling == "old_per_token_logps":
        del batch["sampling_per_token_logps"]
    tokens = batch["advantages"], batch["per_token_logps"], batch[sampling], MASK
    keep = off_policy.keep_mask(*tokens, threshold=0.1)
    assert 0 < keep.sum() < 3
    expected = grpo.loss(*TOKENS, reduction="grpo", factor=keep, **CLIP)
    assert loss(batch, off_policy_mask_threshold=0.1) == expected


def test_all_masks_and_the_samplers_ratio_multiply():
    batch = a_batch(importance_sampling_ratio=np.arange(12.0).reshape(3, 4))
    tokens = batch["advantages"], batch["per_token_logps"], batch["sampling_per_token_logps"], MASK
    factor = off_policy.keep_mask(*tokens, threshold=0.1) * batch["importance_sampling_ratio"]
    factor = factor * entropy_control.high_entropy_mask(
        batch["entropies"], MASK, top_entropy_quantile=0.8
    )
    expected = grpo.loss(*TOKENS, reduction="grpo", factor=factor, **CLIP)
    got = loss(batch, off_policy_mask_threshold=0.1, top_entropy_quantile=0.8)
    np.testing.assert_allclose(got, expected, rtol=1e-14)


def test_vespo_takes_the_samplers_ratio_into_its_weight_and_not_as_a_factor():
    rho = np.array([[0.5], [2.0], [1.5]])
    gamma = {"k_pos": 2.0, "lambda_pos": 3.0, "k_neg": 3.0, "lambda_neg": 2.0}
    options = {"reduction": "dapo", "tokens_per_micro_batch": 7} | gamma | LEVEL
    expected = vespo.loss(*TOKENS, importance_sampling_ratio=rho, **options)
    assert loss(a_batch(importance_sampling_ratio=rho), "vespo") == expected


@pytest.mark.parametrize("bias", [True, False])
def test_the_kl_has_the_reference_and_trls_correction_by_default(bias):
    kl = {"beta": 0.3, "ref_per_token_logps": a_batch()["ref_per_token_logps"]}
    expected = grpo.loss(*TOKENS, reduction="grpo", use_bias_correction_kl=bias, **kl, **CLIP)
    assert loss(beta=0.3, **{} if bias else {"use_bias_correction_kl": False}) == expected


@pytest.mark.parametrize(
    "loss_type, config",
    [
        ("grpo", {"delta": 1.1}),
        ("grpo", {"epsilon_low": 0.01}),
        ("grpo", {"epsilon_high": 0.01}),
        ("grpo", {"importance_sampling_level": "sequence"}),
        ("dr_grpo", {"max_completion_length": 10}),
        ("cispo", {"epsilon_high": 1.0}),
        ("sapo", {"sapo_temperature_pos": 2.0}),
        ("sapo", {"sapo_temperature_neg": 2.0}),
        ("vespo", {"vespo_k_pos": 1.0}),
        ("vespo", {"vespo_lambda_pos": 1.0}),
        ("vespo", {"vespo_k_neg": 1.0}),
        ("vespo", {"vespo_lambda_neg": 1.0}),
    ],
)
def test_every_setting_reaches_its_part(loss_type, config):
    assert loss(loss_type=loss_type, **config) != loss(loss_type=loss_type)


def test_dapo_counts_the_tokens_of_this_micro_batch_unless_told_otherwise():
    assert loss(loss_type="dapo") == loss(a_batch(tokens_per_micro_batch=7), "dapo")
    np.testing.assert_allclose(
        loss(a_batch(tokens_per_micro_batch=14), "dapo"), loss(loss_type="dapo") / 2, rtol=1e-15
    )


def test_an_unknown_loss_type_or_setting_is_named():
    for f in (loss, loss_grad):
        with pytest.raises(ValueError, match="loss_type must be one of 'grpo', 'bnpo'"):
            f(loss_type="gspo")
        with pytest.raises(ValueError, match="config must be one of .* got 'epsilon'"):
            f(epsilon=0.2)
