"""reference_math.orpo against TRL's ORPOTrainer (trl.experimental)."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from reference_math import logprobs, orpo
from reference_math.conformance import trl_cpo


def both(*args, **options):
    return orpo.loss(*args, **options), orpo.loss_grad(*args, **options)


# TRL takes the odds in float32 whatever the model: 6e-8 of log-odds of a few units
FLOAT32_ODDS = {"rtol": 1e-6, "atol": 1e-7}


def a_batch(seed=0, B=4, T=6, V=7):
    """Logits, tokens, the answers' mask and the mask of everything that is not padding.

    A prompt of one predicted token stands in front of each answer; no answer is empty.
    """
    rng = np.random.default_rng(seed)
    length = rng.integers(2, T + 1, size=(2 * B, 1))
    attention = (np.arange(T) < length).astype(int)
    answer = attention * (np.arange(T) > 0)
    logits = rng.normal(scale=2.0, size=(2 * B, T, V))
    return logits, rng.integers(0, V, size=(2 * B, T)), answer, attention


def trls(logits, tokens, answer, attention, **options):
    """Value, gradient to the logits, and what was logged."""
    z = torch.tensor(logits, requires_grad=True)
    metrics = {}
    rest = (torch.tensor(x) for x in (tokens, answer, attention))
    value = trl_cpo.orpo(z, *rest, **options, metrics=metrics)
    value.backward()
    return value.item(), z.grad.numpy(), metrics


def ours(logits, tokens, answer, attention, **options):
    logps = logprobs.per_token_logps(logits, tokens)
    value, grad = both(logps, answer, nll_mask=attention, **options)
    return value, logprobs.logits_grad(logits, tokens, grad)


@pytest.mark.parametrize("beta", [0.1, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_trls_loss_and_gradient_to_the_logits(seed, beta):
    batch = a_batch(seed)
    value, grad, _ = trls(*batch, beta=beta)
    expected, expected_grad = ours(*batch, beta=beta)
    np.testing.assert_allclose(value, expected, **FLOAT32_ODDS)
    np.testing.assert_allclose(grad, expected_grad, **FLOAT32_ODDS)


def test_without_the_odds_the_nll_agrees_to_every_digit():
    """It is not rounded to float32: torch's own cross-entropy over prompt and answer."""
    batch = a_batch()
    value, grad, _ = trls(*batch, beta=0.0)
    expected, expected_grad = ours(*batch, beta=0.0)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-12, atol=1e-15)


def test_trls_nll_reads_the_prompt_and_the_papers_does_not():
    logits, tokens, answer, attention = a_batch()
    paper = orpo.loss(logprobs.per_token_logps(logits, tokens), answer)
    value, grad, _ = trls(logits, tokens, answer, attention)
    assert abs(value - paper) > 0.01
    assert np.abs(grad[:4, 0]).max() > 0.01  # the prompt's own token is trained
    value, _, _ = trls(logits, tokens, answer, answer)
    np.testing.assert_allclose(value, paper, **FLOAT32_ODDS)


def test_trl_logs_the_odds_and_the_mean_log_probabilities():
    logits, tokens, answer, attention = a_batch()
    _, _, metrics = trls(logits, tokens, answer, attention)
    logps = logprobs.per_token_logps(logits, tokens)
    means = np.split((orpo.mean_weights(answer) * logps).sum(axis=1), 2)
    np.testing.assert_allclose(metrics["logps/chosen"], means[0].mean(), rtol=1e-12)
    expected = -orpo.pair_loss(*means, beta=1.0).mean()
    np.testing.assert_allclose(metrics["log_odds_ratio"], expected, **FLOAT32_ODDS)
    np.testing.assert_allclose(metrics["rewards/rejected"], 0.1 * means[1].mean(), **FLOAT32_ODDS)


# Where TRL is wrong ----------------------------------------------------------------------------


def trls_pair(chosen, rejected, dtype=torch.float64, beta=0.1):
    """TRL's -beta log sigmoid(h) of bare mean log-probabilities, and the two gradients."""
    from types import SimpleNamespace

    from trl.experimental.orpo import ORPOTrainer

    pair = [torch.tensor(x, dtype=dtype, requires_grad=True) for x in (chosen, rejected)]
    trainer = SimpleNamespace(beta=beta, accelerator=SimpleNamespace(device="cpu"))
    losses, *_ = ORPOTrainer.odds_ratio_loss(trainer, *pair)
    (-losses).sum().backward()
    return -losses.detach().numpy(), [x.grad.numpy() for x in pair]


def test_away_from_certainty_a_pair_is_trls():
    chosen, rejected = -np.random.default_rng(0).uniform(0.05, 5.0, size=(2, 8))
    losses, grads = trls_pair(chosen, rejected)
    np.testing.assert_allclose(losses, orpo.pair_loss(chosen, rejected, beta=0.1), **FLOAT32_ODDS)
    ours = orpo.pair_loss_grad(chosen, rejected, beta=0.1)
    np.testing.assert_allclose(grads, ours, **FLOAT32_ODDS)


@pytest.mark.library_defect
@pytest.mark.parametrize("nearly", [0.0, -1e-12, -1e-8])
def test_an_answer_that_is_almost_certain_has_a_nan_gradient_in_trl(nearly):
    """log1p(-e^x), the branch that is not taken, is -inf where e^x rounds to 1: 0 times inf."""
    chosen, rejected = np.array([nearly]), np.array([-1.0])
    _, grads = trls_pair(chosen, rejected)
    assert np.isnan(grads[0]).all()
    to_chosen, to_rejected = orpo.pair_loss_grad(chosen, rejected, beta=0.1)
    # p / (1 - p) cancels the 1 - p of sigmoid(-h): -beta times the rejected answer's odds
    odds = np.exp(-1.0) / (1 - np.exp(-1.0))
    np.testing.assert_allclose(to_chosen, 0.0 if nearly == 0 else -0.1 * odds, rtol=1e-7)
    assert np.isfinite(to_rejected).all()


@pytest.mark.library_defect
def test_a_rejected_answer_that_is_certain_costs_infinity_in_trl_and_700_nats_here():
    losses, grads = trls_pair(np.array([-1.0]), np.array([0.0]))
    assert np.isinf(losses).all() and np.isnan(grads[1]).all()
    assert 70 < orpo.pair_loss([-1.0], [0.0], beta=0.1)[0] < 70.1


@pytest.mark.library_defect
@pytest.mark.parametrize("empty", [0, 4])  # a chosen answer, a rejected one
def test_an_empty_answer_is_nan_in_trl(empty):
    """0 tokens in 0: the mean is NaN. Ours is 0, saturated."""
    logits, tokens, answer, attention = a_batch()
    answer[empty] = 0
    value, _, _ = trls(logits, tokens, answer, attention)
    assert np.isnan(value)
    value, grad = ours(logits, tokens, answer, attention)
    assert np.isfinite(value) and np.isfinite(grad).all()


@pytest.mark.library_defect
def test_trl_rounds_the_odds_of_a_float64_model_to_float32():
    batch = a_batch()
    value, _, _ = trls(*batch, beta=1.0)
    assert 1e-11 < abs(value / ours(*batch, beta=1.0)[0] - 1) < 1e-6


# A tiny model through the whole trainer --------------------------------------------------------

ROWS = [
    {"prompt": "w3 w4", "chosen": " w5 w6 w7", "rejected": " w8"},
    {"prompt": "w9 w10 w11", "chosen": " w12", "rejected": " w13 w14 w15 w16"},
    {"prompt": "w17", "chosen": " w18 w19", "rejected": " w20 w21"},
]


def test_a_whole_trainers_loss_and_gradient(
    tiny_qwen2, tokenizer, trainer_args, concatenated_batch
):
    from datasets import Dataset
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    trainer = ORPOTrainer(
        model=tiny_qwen2(),
        args=ORPOConfig(**trainer_args, per_device_train_batch_size=3, beta=0.4, max_length=32),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=tokenizer,
    )
    got, logits, tokens, answer, attention, hidden = concatenated_batch(
        trainer, padding_value=trainer.padding_value
    )
    value, grad = ours(logits, tokens, answer, attention, beta=0.4)
    np.testing.assert_allclose(got, value, rtol=1e-5)  # a float32 model
    expected = np.einsum("btv,btd->vd", grad, hidden)
    weight = trainer.model.lm_head.weight
    np.testing.assert_allclose(weight.grad, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
