"""reference_math.grpo_trainer against TRL's own GRPOTrainer._compute_loss, over all that it can do."""

from itertools import product

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from reference_math import (
    cispo,
    conventions,
    entropy_control,
    grpo,
    grpo_trainer,
    kl_term,
    ratios,
    vespo,
)
from reference_math.conformance import trl_grpo
from reference_math.torch import entropy_control as twin

# float64, and the same operations in another order, on a loss of order one
EXACT = {"rtol": 1e-12, "atol": 1e-14}
MASK = np.array([[1.0] * 7, [1.0] * 3 + [0] * 4, [1.0] + [0] * 6, [0] * 7, [1, 0, 1, 1, 1, 0, 0]])
ADVANTAGES = np.array([1.3, -0.7, -0.4, 0.9, -1.1])


def some_tokens(seed=0):
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(size=MASK.shape)
    old = logps + 0.4 * rng.normal(size=MASK.shape)
    return {
        "per_token_logps": logps,
        "old_per_token_logps": old,
        "advantages": ADVANTAGES,
        "completion_mask": MASK,
        "ref": logps + 0.5 * rng.normal(size=MASK.shape),
        "sampling": old + 0.3 * rng.normal(size=MASK.shape),
        # float32 numbers: TRL takes their quantile in float32
        "entropies": rng.random(MASK.shape).astype(np.float32).astype(float),
        "token_ratio": np.where(MASK == 1, np.exp(0.3 * rng.normal(size=MASK.shape)), 1.0),
        "row_ratio": np.exp(0.3 * rng.normal(size=(len(MASK), 1))),
    }


def inputs(*names):
    """Those of `some_tokens`, by the names that a trainer gives them."""
    long = {"ref": "ref_per_token_logps", "sampling": "sampling_per_token_logps"}
    long |= dict.fromkeys(["token_ratio", "row_ratio"], "importance_sampling_ratio")
    return {long.get(name, name): some_tokens()[name] for name in names}


ALL = {"beta": 0.3, "delta": 1.5, "epsilon_low": 0.1, "epsilon_high": 0.3, "entropy_coef": 0.1}
ALL |= {"off_policy_mask_threshold": 0.05, "top_entropy_quantile": 0.4}
# What is set beside the loss type and the level: (fields of GRPOConfig, inputs, accumulation)
OPTIONS = {
    "plain": ({}, {}, {}),
    "on-policy, no old log-probs": ({}, {"old_per_token_logps": None}, {}),
    "asymmetric clip": ({"epsilon_low": 0.1, "epsilon_high": 0.4}, {}, {}),
    "delta": ({"delta": 1.5}, {}, {}),
    "delta below the clip": ({"delta": 1.1}, {}, {}),
    "KL": ({"beta": 0.3, "use_bias_correction_kl": False}, inputs("ref"), {}),
    "corrected KL": ({"beta": 0.3}, inputs("ref"), {}),
    "off-policy mask by the sampler": (
        {"off_policy_mask_threshold": 0.05},
        inputs("sampling"),
        {},
    ),
    "off-policy mask by the old policy": ({"off_policy_mask_threshold": 0.05}, {}, {}),
    "entropy mask": ({"top_entropy_quantile": 0.4}, {}, {}),
    "token ratio of a sampler": ({}, inputs("token_ratio"), {}),
    "row ratio of a sampler": ({}, inputs("row_ratio"), {}),
    "a sampler's masked ratios": ({}, {"importance_sampling_ratio": 1.0 - MASK}, {}),
    "entropy bonus": ({"entropy_coef": 0.1}, {}, {}),
    "bonus under the entropy mask": ({"entropy_coef": 0.1, "top_entropy_quantile": 0.4}, {}, {}),
    "accumulation": ({"max_completion_length": 9}, {}, {"accumulation": 4, "generation": 2}),
    "an advantage a token": ({}, {"advantages": np.arange(35.0).reshape(5, 7) / 9 - 2}, {}),
    "everything": (ALL, inputs("ref", "sampling", "token_ratio"), {"accumulation": 2}),
    "everything, row ratio": (ALL, inputs("ref", "sampling", "row_ratio"), {"generation": 3}),
}
LEVELS = tuple(
    level for level in ratios.LEVELS if level != "sequence_token"
)  # TRL has no GSPO-token
CASES = list(product(grpo_trainer.LOSS_TYPES, LEVELS, OPTIONS))


def both(loss_type, level="token", option="plain", batch=None, **more):
    """((value, dL/d(per_token_logps), dL/d(entropies)) of TRL, and ours)"""
    config, extra, steps = OPTIONS[option]
    config = config | {"importance_sampling_level": level} | more
    if loss_type == "sapo":  # 1.05 is no float32, in which TRL holds it: see below
        config = {"sapo_temperature_neg": 1.25} | config
    batch = inputs("per_token_logps", "old_per_token_logps", "advantages", "completion_mask",
                   "entropies") | extra | (batch or {})  # fmt: skip
    generation = steps.get("generation", 1)
    accumulation = {"gradient_accumulation_steps": steps.get("accumulation", 1)}

    tensors = {name: None if x is None else torch.tensor(x) for name, x in batch.items()}
    x, h = (tensors[n].requires_grad_(True) for n in ("per_token_logps", "entropies"))
    theirs = trl_grpo.loss(
        loss_type=loss_type,
        num_items_in_batch=5 * MASK.sum() if generation > 1 else None,
        steps_per_generation=generation,
        **tensors, **accumulation, **config,
    )  # fmt: skip
    theirs.backward()
    h_grad = np.zeros(h.shape) if h.grad is None else h.grad.numpy()

    ours = {name: x for name, x in batch.items() if x is not None}
    if generation > 1:
        ours["tokens_per_micro_batch"] = 5 * MASK.sum() / generation
    options = {"loss_type": loss_type} | accumulation | config
    value, grads = grpo_trainer.loss(ours, **options), grpo_trainer.loss_grad(ours, **options)
    return (theirs.item(), x.grad.numpy(), h_grad), (value, *grads)


@pytest.mark.parametrize("loss_type, level, option", CASES)
def test_the_loss_and_both_gradients_are_trls(loss_type, level, option):
    for theirs, ours in zip(*both(loss_type, level, option), strict=True):
        np.testing.assert_allclose(ours, theirs, **EXACT)


def test_there_are_at_least_the_176_combinations_that_the_library_was_first_read_for():
    assert len(CASES) >= 176 and len({case[0] for case in CASES}) == 8


def test_trl_still_has_no_gspo_token():
    with pytest.raises(ValueError, match="Unknown importance sampling level: sequence_token"):
        both("grpo", "sequence_token")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("loss_type", grpo_trainer.LOSS_TYPES)
def test_a_batch_in_which_nothing_counts_is_0_in_both(loss_type, level):
    for theirs, ours in zip(
        *both(loss_type, level, batch={"completion_mask": 0 * MASK}), strict=True
    ):
        assert not np.any(theirs) and not np.any(ours)


def test_in_evaluation_nothing_is_accumulated():
    tensors = [
        torch.tensor(some_tokens()[name]) for name in ("per_token_logps", "old_per_token_logps")
    ]
    tensors += [torch.tensor(ADVANTAGES), torch.tensor(MASK)]
    steps = {"gradient_accumulation_steps": 4, "steps_per_generation": 2}
    for loss_type in grpo_trainer.LOSS_TYPES:
        value = trl_grpo.loss(*tensors, loss_type=loss_type, training=False, **steps)
        batch = inputs("per_token_logps", "old_per_token_logps", "advantages", "completion_mask")
        # rtol: sapo's 1.05, see below
        np.testing.assert_allclose(grpo_trainer.loss(batch, loss_type=loss_type), value, rtol=1e-7)


def test_the_defaults_are_those_of_grpo_config(tmp_path):
    from trl import GRPOConfig

    config = GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    names = {"epsilon_low": "epsilon"}
    for name, value in trl_grpo.DEFAULTS.items():
        if name == "epsilon_high":
            assert config.epsilon_high is None  # the trainer then takes epsilon
        else:
            assert getattr(config, names.get(name, name)) == value, name
    assert config.loss_type == "dapo"


def test_the_conventions_of_trls_rows_are_the_defaults_of_its_configs(tmp_path):
    from trl import GRPOConfig, RLOOConfig

    options = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False}
    config, leave_one_out = GRPOConfig(**options), RLOOConfig(**options)
    rows = {row["name"]: row for row in conventions.TABLE if row["kind"] == "trl"}
    rloo = rows.pop("TRL RLOOTrainer")
    assert (rloo["beta"], rloo["epsilon_low"]) == (leave_one_out.beta, leave_one_out.epsilon)
    assert leave_one_out.epsilon_high is None and rloo["epsilon_high"] == rloo["epsilon_low"]
    assert not leave_one_out.normalize_advantages and rloo["scale"] == "none"
    for row in rows.values():
        assert (row["scale"], row["beta"]) == (config.scale_rewards, config.beta)
        assert row["level"] == config.importance_sampling_level
        assert (row["kl"] == "w k3") == config.use_bias_correction_kl
        if row["surrogate"] == "grpo":
            assert row["epsilon_low"] == row["epsilon_high"] == config.epsilon
    assert "default" in rows[f"TRL {config.loss_type}"]["note"]


# What TRL logs ---------------------------------------------------------------------------------


def logged(loss_type, level="token", **options):
    metrics, tensors = {}, {name: torch.tensor(x) for name, x in inputs(
        "per_token_logps", "old_per_token_logps", "advantages", "completion_mask", "entropies", "ref"
    ).items()}  # fmt: skip
    trl_grpo.loss(
        **tensors, loss_type=loss_type, metrics=metrics, importance_sampling_level=level, **options
    )
    return metrics


@pytest.mark.parametrize("delta", [None, 1.1])
def test_the_clip_ratios_are_the_shares_of_clipped_tokens(delta):
    tokens = some_tokens()
    s = ratios.log_importance_weights(
        *(tokens[n] for n in ("per_token_logps", "old_per_token_logps")), MASK, "token"
    )
    low, high = grpo.clipped(s, ADVANTAGES, epsilon_low=0.2, epsilon_high=0.2, delta=delta)
    metrics = logged("grpo", delta=delta)
    counts = MASK.sum()
    for name, part in {"low": low, "high": high, "region": low | high}.items():
        # TRL counts in float32
        np.testing.assert_allclose(
            metrics[f"clip_ratio/{name}_mean"], (part * MASK).sum() / counts, rtol=1e-6
        )


@pytest.mark.parametrize("corrected", [True, False])
def test_the_logged_kl_is_the_token_mean_of_the_kl_term(corrected):
    tokens = some_tokens()
    s = ratios.log_importance_weights(
        *(tokens[n] for n in ("per_token_logps", "old_per_token_logps")), MASK, "token"
    )
    k = kl_term.per_token_kl(tokens["per_token_logps"], tokens["ref"], s if corrected else 0.0)
    metrics = logged("grpo", beta=0.1, use_bias_correction_kl=corrected)
    np.testing.assert_allclose(metrics["kl"], (k * MASK).sum() / MASK.sum(), rtol=1e-12)


def test_the_logged_entropy_is_the_token_mean():
    expected = entropy_control.bonus(some_tokens()["entropies"], MASK)
    np.testing.assert_allclose(logged("grpo")["entropy"], expected, rtol=1e-12)


def test_the_logged_phi_is_the_mean_weight_of_the_rows():
    tokens = some_tokens()
    log_w = vespo.sequence_log_ratio(tokens["per_token_logps"], tokens["old_per_token_logps"], MASK)
    gamma = {"k_pos": 2.0, "lambda_pos": 3.0, "k_neg": 3.0, "lambda_neg": 2.0}
    phi = -vespo.per_token_loss_grad(log_w, ADVANTAGES, **gamma)[:, 0] / ADVANTAGES
    np.testing.assert_allclose(
        logged("vespo")["vespo/phi_seq_mean"], phi.mean(), rtol=1e-6
    )  # float32 k


# Where TRL is wrong, or not what its name says -------------------------------------------------


@pytest.mark.library_defect
def test_cispo_by_default_shrinks_every_on_policy_gradient_to_a_fifth_in_trl():
    """epsilon_high is the cap of the ratio itself there; anywhere else 0.2 means 1.2."""
    (_, theirs, _), _ = both("cispo", option="on-policy, no old log-probs")
    logps = some_tokens()["per_token_logps"]
    options = {"reduction": "dapo", "tokens_per_micro_batch": MASK.sum()}
    options["importance_sampling_level"] = "token"
    usual = cispo.loss_grad(logps, logps, ADVANTAGES, MASK, epsilon_max=5.0, **options)
    np.testing.assert_allclose(theirs, 0.2 * usual, **EXACT)


def one_token(gap, advantage, dtype=torch.float64, **options):
    """TRL's value and gradient for one token whose log-ratio is `gap`."""
    x = torch.zeros(1, 1, dtype=dtype, requires_grad=True)
    old, a = torch.full((1, 1), -float(gap), dtype=dtype), torch.tensor([advantage], dtype=dtype)
    value = trl_grpo.loss(x, old, a, torch.ones(1, 1), loss_type="grpo", **options)
    value.backward()
    return value.item(), x.grad.item()


def ours_of_one_token(gap, advantage, **options):
    batch = {"per_token_logps": [[0.0]], "old_per_token_logps": [[-float(gap)]]}
    batch |= {"advantages": [advantage], "completion_mask": [[1]]}
    options = {"loss_type": "grpo"} | options
    return grpo_trainer.loss(batch, **options), grpo_trainer.loss_grad(batch, **options)[0].item()


@pytest.mark.library_defect
@pytest.mark.parametrize("gap, dtype", [(100.0, torch.float32), (800.0, torch.float64)])
def test_a_clipped_token_far_away_has_a_nan_gradient_in_trl(gap, dtype):
    """0 from the clip times inf from the exponential. Ours: clipped is clipped."""
    value, grad = one_token(gap, 1.0, dtype)
    assert np.isclose(value, -1.2) and np.isnan(grad)
    assert ours_of_one_token(gap, 1.0) == (-1.2, 0.0)


@pytest.mark.library_defect
@pytest.mark.parametrize("gap, dtype", [(100.0, torch.float32), (800.0, torch.float64)])
def test_a_token_without_an_advantage_far_away_is_nan_in_trl(gap, dtype):
    value, grad = one_token(gap, 0.0, dtype)
    assert np.isnan(value) and np.isnan(grad)
    assert ours_of_one_token(gap, 0.0) == (0.0, 0.0)


@pytest.mark.library_defect
@pytest.mark.parametrize("gap, dtype", [(100.0, torch.float32), (800.0, torch.float64)])
def test_a_bad_token_far_away_is_inf_in_trl_and_nan_under_delta(gap, dtype):
    """Ours saturates at e^700, and under delta it is delta."""
    value, grad = one_token(gap, -1.0, dtype)
    assert np.isinf(value) and np.isinf(grad)
    assert np.isfinite(ours_of_one_token(gap, -1.0)).all()
    value, grad = one_token(gap, -1.0, dtype, delta=4.0)
    assert value == 4.0 and np.isnan(grad)
    assert ours_of_one_token(gap, -1.0, delta=4.0) == (4.0, 0.0)


@pytest.mark.library_defect
def test_the_corrected_kl_of_a_hated_token_is_nan_in_trl():
    """0 from the ratio times inf from k3. Ours: p_ref / p_old, here 1 / e."""
    x = torch.tensor([[-1000.0]], dtype=torch.float64, requires_grad=True)
    old, ref = (torch.tensor([[v]], dtype=torch.float64) for v in (-1.0, -2.0))
    options = {"loss_type": "grpo", "beta": 1.0}
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, 1)
    value = trl_grpo.loss(x, old, zero, one, ref_per_token_logps=ref, **options)
    assert torch.isnan(value)
    batch = {"per_token_logps": [[-1000.0]], "old_per_token_logps": [[-1.0]]}
    batch |= {"ref_per_token_logps": [[-2.0]], "advantages": [0.0], "completion_mask": [[1]]}
    np.testing.assert_allclose(grpo_trainer.loss(batch, **options), np.exp(-1.0), rtol=1e-12)


@pytest.mark.library_defect
def test_trl_holds_sapos_temperature_in_float32_whatever_the_model():
    (theirs, *_), (ours, *_) = both("sapo", sapo_temperature_neg=1.05)
    assert 1e-12 < abs(theirs - ours) < 1e-7
    (theirs, *_), (ours, *_) = both("sapo", sapo_temperature_neg=float(np.float32(1.05)))
    np.testing.assert_allclose(ours, theirs, **EXACT)


@pytest.mark.library_defect
def test_trl_refuses_the_entropy_mask_of_a_large_batch():
    """torch.quantile takes 16 million values at most; ours and our twin sort."""
    entropies = torch.linspace(0.0, 1.0, 2**24 + 2)[None]
    tokens, options = (entropies, torch.ones_like(entropies)), {"top_entropy_quantile": 0.25}
    with pytest.raises(RuntimeError, match="too large"):
        trl_grpo.high_entropy_mask(*tokens, **options)
    assert abs(twin.high_entropy_mask(*tokens, **options).mean() - 0.25) < 1e-6
