"""reference_math.kto against TRL's KTOTrainer: its loss, its baseline, the rotation that makes it."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from reference_math import implicit_rewards, kto, logprobs, sft
from reference_math.conformance import trl_kto

EXACT = {"rtol": 1e-12, "atol": 1e-14}  # float64, a few roundings of terms of order one
LABELS = {"mixed": [1, 0, 0, 1, 1], "desirable": [1] * 5, "undesirable": [0] * 5}
WEIGHTS = [{}, {"desirable_weight": 1.33, "undesirable_weight": 0.5}]


def a_batch(seed=0, B=5, T=6, drift=0.7):
    """Matched and mismatched: per-token log-probs of policy and reference, and a mask."""
    rng = np.random.default_rng(seed)
    both = []
    for _ in range(2):
        mask = (np.arange(T) < rng.integers(1, T + 1, size=(B, 1))).astype(int)
        logps = -rng.exponential(size=(B, T))
        both.append((logps, logps - drift * rng.normal(size=(B, T)), mask))
    return both


def trls(matched, mismatched, label, **options):
    """Value, gradient to the matched per-token log-probs, and what was logged."""
    x = torch.tensor(matched[0], requires_grad=True)
    kl = torch.tensor(mismatched[0], requires_grad=True)
    rest = [torch.tensor(array) for array in (*matched[1:], label)]
    kl_rest = [torch.tensor(array) for array in mismatched[1:]]
    metrics = {}
    value = trl_kto.loss(x, *rest, kl, *kl_rest, **options, metrics=metrics)
    value.backward()
    assert kl.grad is None  # the baseline is a constant
    return value.item(), x.grad.numpy(), metrics


def whole(logps, ref_logps, mask):
    return [(x * mask).sum(axis=1) for x in (logps, ref_logps)]


@pytest.mark.parametrize("weights", WEIGHTS, ids=["plain", "weighted"])
@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("loss_type", ["kto", "apo_zero_unpaired"])
def test_trls_loss_and_gradient(loss_type, seed, label, weights):
    matched, mismatched = a_batch(seed)
    options = {"beta": (0.1, 0.5)[seed % 2]} | weights
    value, grad, metrics = trls(matched, mismatched, LABELS[label], loss_type=loss_type, **options)
    kl = kto.kl_baseline(*whole(*mismatched)) if loss_type == "kto" else 0.0
    np.testing.assert_allclose(metrics["kl"], kl, **EXACT)
    given = (*whole(*matched), LABELS[label])
    np.testing.assert_allclose(value, kto.loss(*given, kl=kl, **options), **EXACT)
    ours = kto.loss_grad(*given, kl=kl, **options)[:, None] * matched[2]
    np.testing.assert_allclose(grad, ours, **EXACT)


def test_the_seeds_see_the_baseline_above_zero_and_clamped():
    baselines = [kto.kl_baseline(*whole(*a_batch(seed)[1])) for seed in range(4)]
    assert 0.0 in baselines and max(baselines) > 0.1


@pytest.mark.parametrize("loss_type", ["kto", "apo_zero_unpaired"])
def test_trl_logs_the_implicit_rewards_of_each_class(loss_type):
    matched, mismatched = a_batch()
    _, _, metrics = trls(matched, mismatched, LABELS["mixed"], loss_type=loss_type)
    rewards = implicit_rewards.rewards(*whole(*matched), beta=0.1)
    chosen = np.array(LABELS["mixed"]) == 1
    np.testing.assert_allclose(metrics["rewards/chosen"], rewards[chosen].mean(), **EXACT)
    np.testing.assert_allclose(metrics["rewards/rejected"], rewards[~chosen].mean(), **EXACT)


@pytest.mark.parametrize("gap", [-1e4, -700.0, 700.0, 1e4])
def test_far_from_the_reference_trl_stays_finite_and_equal(gap):
    matched, mismatched = a_batch()
    matched = matched[0], matched[0] - gap / 6, matched[2]
    value, grad, metrics = trls(matched, mismatched, LABELS["mixed"], beta=1.0)
    given, options = (*whole(*matched), LABELS["mixed"]), {"kl": metrics["kl"], "beta": 1.0}
    np.testing.assert_allclose(value, kto.loss(*given, **options), **EXACT)
    ours = kto.loss_grad(*given, **options)[:, None] * matched[2]
    np.testing.assert_allclose(grad, ours, **EXACT)


@pytest.mark.library_defect
def test_trl_drops_an_answer_whose_log_probability_is_nan_without_a_word():
    """nanmean over four instead of five, and yet a NaN in the gradient. Ours names the argument."""
    matched, mismatched = a_batch()
    at = 2, int(matched[2][2].argmax())
    broken = matched[0].copy()
    broken[at] = np.nan
    value, grad, metrics = trls((broken, *matched[1:]), mismatched, LABELS["mixed"])
    others = [0, 1, 3, 4]
    rest = [x[others] for x in whole(*matched)]
    labels = np.array(LABELS["mixed"])[others]
    np.testing.assert_allclose(value, kto.loss(*rest, labels, kl=metrics["kl"], beta=0.1), **EXACT)
    assert np.isnan(grad[2]).any() and np.isfinite(grad[others]).all()
    with pytest.raises(ValueError, match="logps must be finite, got nan"):
        kto.loss(whole(broken, *matched[1:])[0], np.zeros(5), LABELS["mixed"], kl=0.0, beta=0.1)


# A tiny model through the whole trainer --------------------------------------------------------

ROWS = [
    {"prompt": "w3 w4", "completion": " w5 w6 w7", "label": True},
    {"prompt": "w9 w10 w11", "completion": " w12", "label": False},
    {"prompt": "w17", "completion": " w18 w19", "label": True},
    {"prompt": "w20", "completion": " w21 w22 w23 w24", "label": False},
    {"prompt": "w25 w26", "completion": " w27", "label": False},
]


def a_trainer(tiny_qwen2, tokenizer, trainer_args, **options):
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    return KTOTrainer(
        model=tiny_qwen2(seed=0),
        ref_model=tiny_qwen2(seed=1),
        args=KTOConfig(**trainer_args, **options),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=tokenizer,
    )


@pytest.mark.parametrize("batch_size", [2, 3, 5, 8])
def test_trls_rotation_of_the_completions(tiny_qwen2, tokenizer, trainer_args, batch_size):
    options = {"per_device_train_batch_size": batch_size}
    data = a_trainer(tiny_qwen2, tokenizer, trainer_args, **options).train_dataset
    partners = kto.kl_partners(len(ROWS), batch_size=batch_size)
    assert data["KL_completion_ids"][:] == [data["completion_ids"][i] for i in partners]


@pytest.mark.library_defect
def test_an_example_alone_in_the_last_batch_is_its_own_baseline(
    tiny_qwen2, tokenizer, trainer_args
):
    """u - z is then 0 wherever the policy goes: half the cost, a push that nothing stops."""
    options = {"per_device_train_batch_size": 2}
    data = a_trainer(tiny_qwen2, tokenizer, trainer_args, **options).train_dataset
    assert data["KL_completion_ids"][4] == data["completion_ids"][4]
    for u in (0.0, 3.0, 700.0):
        kl = kto.kl_baseline([u], [0.0])
        assert kto.loss([u], [0.0], [0], kl=kl, beta=0.1) == 0.5


@pytest.mark.parametrize(
    "options",
    [
        {"beta": 0.3, "desirable_weight": 1.3, "undesirable_weight": 0.8},
        {"beta": 0.3, "loss_type": "apo_zero_unpaired"},
    ],
    ids=["kto", "apo_zero_unpaired"],
)
def test_a_whole_trainers_loss_gradient_and_metrics(tiny_qwen2, tokenizer, trainer_args, options):
    trainer = a_trainer(
        tiny_qwen2, tokenizer, trainer_args, **options, per_device_train_batch_size=3
    )
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    got = trainer.compute_loss(trainer.model, dict(batch))
    got.backward()

    def scored(prefix):
        inputs = {key: batch[f"{prefix}{key}"] for key in ("input_ids", "attention_mask")}
        tokens = inputs["input_ids"][:, 1:].numpy()
        mask = sft.loss_mask(batch[f"{prefix}completion_mask"].numpy())
        with torch.no_grad():
            logits, ref_logits = (
                m(**inputs).logits[:, :-1].double().numpy()
                for m in (trainer.model, trainer.ref_model)
            )
            hidden = trainer.model.model(**inputs).last_hidden_state[:, :-1].double().numpy()
        logps = [logprobs.per_token_logps(z, tokens) for z in (logits, ref_logits)]
        return whole(*logps, mask), (logits, tokens, mask, hidden)

    pair, (logits, tokens, mask, hidden) = scored("")
    kl = 0.0 if "loss_type" in options else kto.kl_baseline(*scored("KL_")[0])
    ours = {key: value for key, value in options.items() if key != "loss_type"}
    label = batch["label"].numpy()
    np.testing.assert_allclose(trainer._metrics["train"]["kl"][-1], kl, rtol=1e-4)
    # float32 model and head: answers' log-probs of up to 50 carry 1e-5
    np.testing.assert_allclose(got.item(), kto.loss(*pair, label, kl=kl, **ours), rtol=1e-4)
    to_logps = kto.loss_grad(*pair, label, kl=kl, **ours)[:, None] * mask
    expected = np.einsum("btv,btd->vd", logprobs.logits_grad(logits, tokens, to_logps), hidden)
    weight = trainer.model.lm_head.weight
    np.testing.assert_allclose(weight.grad, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
