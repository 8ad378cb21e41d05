"""reference_math.cpo_trainer (CPO, SimPO, AlphaPO) against TRL's CPOTrainer (trl.experimental)."""

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from reference_math import alphapo, cpo_trainer, logprobs, orpo
from reference_math.conformance import trl_cpo


def both(*args, **options):
    return cpo_trainer.loss(*args, **options), cpo_trainer.loss_grad(*args, **options)


EXACT = {"rtol": 1e-11, "atol": 1e-13}  # float64; AlphaPO's powers of summed logps carry 20 eps
names = pytest.mark.parametrize("name", cpo_trainer.LOSS_TYPES)


def a_batch(seed=0, B=4, T=6, V=7):
    """Logits, tokens and the answers' mask; no answer is empty."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(T) < rng.integers(1, T + 1, size=(2 * B, 1))).astype(int)
    return rng.normal(scale=2.0, size=(2 * B, T, V)), rng.integers(0, V, size=(2 * B, T)), mask


def trls(logits, tokens, mask, **options):
    """Value, gradient to the logits, and what was logged."""
    z = torch.tensor(logits, requires_grad=True)
    metrics = {}
    value = trl_cpo.cpo(z, torch.tensor(tokens), torch.tensor(mask), **options, metrics=metrics)
    value.backward()
    return value.item(), z.grad.numpy(), metrics


def ours(logits, tokens, mask, **options):
    logps = logprobs.per_token_logps(logits, tokens)
    value, grad = both(logps, mask, **options)
    return value, logprobs.logits_grad(logits, tokens, grad)


def grid():
    steps = {
        "beta": [0.1, 2.0],
        "label_smoothing": [0.0, 0.2],
        "cpo_alpha": [0.0, 1.0, 0.3],
        "simpo_gamma": [0.5, 1.0],
        "alpha": [0.0, 0.1, -0.5],
    }
    return [dict(zip(steps, values)) for values in itertools.product(*steps.values())]


@names
def test_trls_loss_and_gradient_over_every_combination_of_options(name):
    for number, options in enumerate(grid()):
        batch = a_batch(number % 5)
        value, grad, _ = trls(*batch, loss_type=name, **options)
        expected, expected_grad = ours(*batch, loss_type=name, **options)
        np.testing.assert_allclose(value, expected, **EXACT, err_msg=str(options))
        scale = {"rtol": EXACT["rtol"], "atol": EXACT["atol"] * max(1, np.abs(grad).max())}
        np.testing.assert_allclose(grad, expected_grad, **scale, err_msg=str(options))


def test_the_options_that_are_not_given_are_trls():
    from trl.experimental.cpo import CPOConfig

    fields = CPOConfig.__dataclass_fields__
    assert trl_cpo.CPO_DEFAULTS == {name: fields[name].default for name in trl_cpo.CPO_DEFAULTS}
    value, grad, _ = trls(*a_batch())
    expected, expected_grad = ours(*a_batch())
    np.testing.assert_allclose(value, expected, **EXACT)
    np.testing.assert_allclose(grad, expected_grad, **EXACT)


@pytest.mark.parametrize("alpha", [0.0, 0.25])
def test_trl_logs_alphapos_reward_times_beta(alpha):
    logits, tokens, mask = a_batch()
    _, _, metrics = trls(logits, tokens, mask, loss_type="simpo", alpha=alpha, beta=2.0)
    logps = logprobs.per_token_logps(logits, tokens)
    r = alphapo.reward((orpo.mean_weights(mask) * logps).sum(axis=1), alpha=alpha)
    np.testing.assert_allclose(metrics["rewards/chosen"], 2 * r[:4].mean(), **EXACT)
    np.testing.assert_allclose(metrics["rewards/rejected"], 2 * r[4:].mean(), **EXACT)


def test_what_trl_calls_alphapo_is_simpo_without_nll_and_leaves_alpha_at_zero(tmp_path):
    from trl.experimental.cpo import CPOConfig

    config = CPOConfig(output_dir=str(tmp_path), loss_type="alphapo", bf16=False, use_cpu=True)
    assert (config.loss_type, config.cpo_alpha, config.alpha) == ("simpo", 0.0, 0.0)


# Where TRL is wrong ----------------------------------------------------------------------------


def one_token(log_p, dtype):
    """Two answers of one token: chosen with log-probability log_p and rejected with log_p - 1."""
    logits = torch.zeros((2, 1, 2), dtype=dtype)
    logits[:, 0, 0] = torch.tensor([log_p, log_p - 1.0], dtype=dtype)
    return logits.numpy(), np.zeros((2, 1), dtype=int), np.ones((2, 1), dtype=int)


@pytest.mark.library_defect
@pytest.mark.parametrize("name", ["sigmoid", "simpo"])
@pytest.mark.parametrize("log_p, dtype", [(-110.0, torch.float32), (-800.0, torch.float64)])
def test_alphapo_of_two_answers_whose_probability_rounds_to_zero_is_nan_in_trl(log_p, dtype, name):
    """0^-alpha is inf, and inf - inf. Ours takes e^(-alpha s): e^11 and e^12, or e^80."""
    batch = one_token(log_p, dtype)
    options = {"loss_type": name, "alpha": 0.1, "cpo_alpha": 0.0}
    value, grad, _ = trls(*batch, **options)
    assert np.isnan(value) and np.isnan(grad).any()
    value, grad = ours(*batch, **options)
    assert 0 <= value < 1 and np.isfinite(grad).all()  # the chosen one is much the better


@pytest.mark.library_defect
def test_alphapo_in_trl_bends_whole_answers_where_the_paper_has_means():
    """loss_type="sigmoid": an ordinary answer of 60 tokens is beyond float32 already."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 60, 7)).astype(np.float32)
    batch = logits, rng.integers(0, 7, size=(2, 60)), np.ones((2, 60), dtype=int)
    options = {"alpha": 0.1, "cpo_alpha": 0.0}
    assert np.isnan(trls(*batch, loss_type="sigmoid", **options)[0])
    value, grad = ours(*batch, loss_type="sigmoid", **options)
    assert np.isfinite(value) and np.isfinite(grad).all()
    theirs, _, _ = trls(*batch, loss_type="simpo", **options)  # of means, all is well
    expected, _ = ours(*batch, loss_type="simpo", **options)
    np.testing.assert_allclose(theirs, expected, rtol=1e-5)  # float32


@pytest.mark.library_defect
@pytest.mark.parametrize("name", ["ipo", "simpo"])
def test_beta_zero_divides_by_zero_in_trl_and_is_refused_here(name):
    with pytest.raises(ZeroDivisionError):
        trls(*a_batch(), loss_type=name, beta=0.0)
    with pytest.raises(ValueError, match="beta must be > 0"):
        ours(*a_batch(), loss_type=name, beta=0.0)


@pytest.mark.library_defect
@pytest.mark.parametrize("empty", [0, 4])  # a chosen answer, a rejected one
def test_the_mean_of_an_empty_answer_is_nan_in_trl(empty):
    logits, tokens, mask = a_batch()
    mask[empty] = 0
    assert np.isnan(trls(logits, tokens, mask, loss_type="simpo")[0])
    value, grad = ours(logits, tokens, mask, loss_type="simpo")
    assert np.isfinite(value) and np.isfinite(grad).all()
    value, grad, _ = trls(logits, tokens, mask, loss_type="sigmoid")  # a sum of nothing is 0
    expected, expected_grad = ours(logits, tokens, mask, loss_type="sigmoid")
    np.testing.assert_allclose(value, expected, **EXACT)
    np.testing.assert_allclose(grad, expected_grad, **EXACT)


@pytest.mark.library_defect
@names
def test_the_nll_of_no_chosen_token_is_nan_in_trl(name):
    logits, tokens, mask = a_batch()
    mask[:4] = 0
    assert np.isnan(trls(logits, tokens, mask, loss_type=name)[0])
    value, grad = ours(logits, tokens, mask, loss_type=name)
    assert np.isfinite(value) and np.isfinite(grad).all()


# A tiny model through the whole trainer --------------------------------------------------------

ROWS = [
    {"prompt": "w3 w4", "chosen": " w5 w6 w7", "rejected": " w8"},
    {"prompt": "w9 w10 w11", "chosen": " w12", "rejected": " w13 w14 w15 w16"},
    {"prompt": "w17", "chosen": " w18 w19", "rejected": " w20 w21"},
]


@pytest.mark.parametrize(
    "options",
    [
        {"beta": 0.3, "label_smoothing": 0.1},
        {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0, "cpo_alpha": 0.0},
        {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0, "cpo_alpha": 0.0, "alpha": 0.25},
    ],
    ids=["cpo", "simpo", "alphapo"],
)
def test_a_whole_trainers_loss_and_gradient(
    tiny_qwen2, tokenizer, trainer_args, concatenated_batch, options
):
    from datasets import Dataset
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    trainer = CPOTrainer(
        model=tiny_qwen2(),
        args=CPOConfig(**trainer_args, per_device_train_batch_size=3, max_length=32, **options),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=tokenizer,
    )
    got, logits, tokens, answer, _, hidden = concatenated_batch(
        trainer, padding_value=trainer.pad_token_id
    )
    value, grad = ours(logits, tokens, answer, **options)
    # a float32 model: sums of 30 and beta of 2 in the exponent
    np.testing.assert_allclose(got, value, rtol=1e-4)
    expected = np.einsum("btv,btd->vd", grad, hidden)
    weight = trainer.model.lm_head.weight
    np.testing.assert_allclose(weight.grad, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
