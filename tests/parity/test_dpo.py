"""reference_math's preference losses against the torch twin and TRL's DPOTrainer."""

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import dpo, dpo_trainer, f_divergences, implicit_rewards, logprobs, sft, wpo
from reference_math.conformance import trl_dpo
from reference_math.torch import dpo as twin


def both(*args, **options):
    return dpo_trainer.loss(*args, **options), dpo_trainer.loss_grad(*args, **options)


# float64, the same operations in another order; atol: what cancels from terms of order one
EXACT = {"rtol": 1e-12, "atol": 1e-14}
STOPS_WITH_WPO = ("hinge", "sft")  # in TRL: test_wpo_with_hinge_or_sft_stops_in_trl
OF_SCORES = {"sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft"}


def a_batch(seed=0, B=4, T=6, dtype=np.float64):
    """Log-probs of policy and reference, log sum p^2, and a mask of unequal answers: (2B, T)."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(T) < rng.integers(1, T + 1, size=(2 * B, 1))).astype(int)
    logps = -rng.exponential(size=(2 * B, T))
    ref_logps = logps + rng.normal(scale=0.7, size=(2 * B, T))
    log_sum_sq = -rng.exponential(size=(2 * B, T))
    return (*(x.astype(dtype) for x in (logps, ref_logps, log_sum_sq)), mask)


# The twin --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sigmoid", "hinge", "ipo"])
@pytest.mark.parametrize("gap", [0.0, 1.0, 30.0, 700.0])  # the last: no overflow in float32
def test_the_twins_losses_agree_wherever_they_run(place, name, gap):
    rng = np.random.default_rng(0)
    chosen, rejected = (place.tensor(gap * x, requires_grad=True) for x in rng.normal(size=(2, 5)))
    got = getattr(twin, name)(chosen, rejected, beta=0.25)
    got.sum().backward()
    pair = place.numpy(chosen), place.numpy(rejected)
    # the margin is rounded to the dtype: an eps of it, in a loss and a slope at most twice as steep
    scale = (
        place.eps * (1 + 4 * np.abs(pair).max()) * (1 + 4 * np.abs(pair).max() * (name == "ipo"))
    )
    loss = getattr(dpo, name)(*pair, beta=0.25)
    np.testing.assert_allclose(place.numpy(got), loss, rtol=8 * place.eps, atol=scale)
    grads = getattr(dpo, name + "_grad")(*pair, beta=0.25)
    for x, grad in zip((chosen, rejected), grads):
        np.testing.assert_allclose(place.numpy(x.grad), grad, rtol=8 * place.eps, atol=scale)


@pytest.mark.parametrize("ld_alpha", [None, 0.3])
def test_the_twins_answers_agree_wherever_they_run(place, ld_alpha):
    logps, _, _, mask = a_batch()
    mask[:, 2] = 0  # a hole, as a tool's reply would be
    x = place.tensor(np.where(mask == 1, logps, np.nan), requires_grad=True)
    got = twin.sequence_logps(x, place.tensor(mask), ld_alpha=ld_alpha)
    got.sum().backward()
    expected = dpo.sequence_logps(place.numpy(x), mask, ld_alpha=ld_alpha)
    eps = min(place.eps, torch.finfo(torch.float32).eps)  # summed in float32 or better
    np.testing.assert_allclose(place.numpy(got), expected, rtol=8 * eps)
    weights = dpo.sequence_weights(mask, ld_alpha=ld_alpha)
    np.testing.assert_allclose(place.numpy(x.grad), weights, rtol=place.eps)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda x: twin.sigmoid(x[0], x[0, :1], beta=0.1),
            "rejected_logratios must have shape (3,)",
        ),
        (lambda x: twin.ipo(x[0], x[0], beta=0.0), "beta must be > 0, got 0.0"),
        (lambda x: twin.sequence_weights(x[:1]), "completion_mask must be (2B, T)"),
        (lambda x: twin.sequence_logps(x[:1], x), "completion_mask must have the shape of per_tok"),
    ],
)
def test_the_twin_refuses_what_does_not_fit(call, message):
    with pytest.raises(ValueError) as error:
        call(torch.ones(2, 3))
    assert message in str(error.value)


# TRL's own loss: every loss type x every option that goes with it ------------------------------


def grid():
    """Every combination that DPOConfig accepts, of each option's default and another value."""
    for name, beta, smoothing, ld_alpha, weighting in itertools.product(
        dpo_trainer.LOSS_TYPES, (0.1, 0.8), (0.0, 0.15), (None, 0.4), (False, True)
    ):
        if (name == "exo_pair" and not smoothing) or (
            weighting and name in ("aot", "aot_unpaired")
        ):
            continue  # TRL's __init__ refuses both
        if weighting and name in STOPS_WITH_WPO:
            continue
        for f in ("reverse_kl", "forward_kl", "js_divergence") if name in OF_SCORES else (None,):
            options = {"loss_type": name, "beta": beta, "label_smoothing": smoothing}
            options |= {"ld_alpha": ld_alpha, "use_weighting": weighting}
            yield options | ({"f_divergence_type": f} if f else {})


def compare(options, dtype=np.float64, **close):
    """Value and gradient of one batch, by TRL and by reference_math."""
    logps, ref_logps, log_sum_sq, mask = a_batch(dtype=dtype)
    x = torch.tensor(logps, requires_grad=True)
    got = trl_dpo.loss(
        x,
        torch.tensor(ref_logps),
        torch.tensor(mask),
        log_sum_sq_probs=torch.tensor(log_sum_sq),
        **options,
    )
    got.backward()
    ours = {key: value for key, value in options.items() if key != "use_weighting"}
    ours["log_sum_sq_probs"] = log_sum_sq if options.get("use_weighting") else None
    value, grad = both(logps, ref_logps, mask, **ours)
    close = close or EXACT
    np.testing.assert_allclose(got.item(), value, **close)
    np.testing.assert_allclose(x.grad, grad, **close)
    return value, grad


def in_words(options):
    return " ".join(f"{key}={value}" for key, value in options.items())


@pytest.mark.parametrize("name", dpo_trainer.LOSS_TYPES)
def test_trls_loss_and_gradient_over_every_combination_of_options(name):
    cases = [options for options in grid() if options["loss_type"] == name]
    assert len(cases) >= 8
    for options in cases:
        # exo: TRL rounds eps and its two logs to float32, 6e-8 of numbers up to 2
        close = {"rtol": 2e-7, "atol": 2e-7} if name == "exo_pair" else EXACT
        try:
            compare(options, **close)
        except AssertionError as error:
            raise AssertionError(in_words(options)) from error


@pytest.mark.parametrize("tau", [0.05, 0.5, 2.0])
def test_trls_discopop_at_other_temperatures(tau):
    compare({"loss_type": "discopop", "discopop_tau": tau, "beta": 0.5})


@pytest.mark.parametrize(
    "name, weighting",
    [(n, w) for n in sorted(OF_SCORES) for w in (False, True) if not w or n not in STOPS_WITH_WPO],
)
@pytest.mark.parametrize("ld_alpha", [None, 0.4])
@pytest.mark.parametrize("coef", [0.0, 0.5, 1.0, 2.0])
def test_trls_alpha_divergence_in_float32(name, coef, ld_alpha, weighting):
    """TRL knows no float64 here: test_the_alpha_divergence_of_float64_stops_in_trl."""
    options = {"loss_type": name, "f_divergence_type": "alpha_divergence", "ld_alpha": ld_alpha}
    options |= {"f_alpha_divergence_coef": coef, "label_smoothing": 0.15}
    options |= {"use_weighting": weighting}
    # float32: log-ratios of a few units in the exponent, tau = 0.05 in discopop: 50 eps or so
    compare(options, dtype=np.float32, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "names, weights",
    [
        (["sigmoid", "bco_pair", "sft"], [0.8, 0.2, 1.0]),  # MPO, arXiv 2411.10442
        (["sigmoid", "sft"], None),  # RPO
        (list(dpo_trainer.LOSS_TYPES), list(np.linspace(-1, 1, 15))),
    ],
)
def test_trls_weighted_mixtures(names, weights):
    options = {"loss_type": names, "loss_weights": weights, "label_smoothing": 0.15}
    # a mixture with exo_pair inherits its float32 logs
    close = {"rtol": 2e-7, "atol": 2e-7} if "exo_pair" in names else EXACT
    compare(options | {"ld_alpha": 0.4}, **close)


@pytest.mark.parametrize("ld_alpha", [None, 0.4])
@pytest.mark.parametrize("f_divergence_type", ["reverse_kl", "js_divergence"])
@pytest.mark.parametrize("name", ["sigmoid", "ipo"])
def test_trl_logs_the_plain_implicit_rewards_whatever_the_loss(name, f_divergence_type, ld_alpha):
    logps, ref_logps, _, mask = a_batch()
    metrics = {}
    trl_dpo.loss(
        *(torch.tensor(x) for x in (logps, ref_logps, mask)),
        loss_type=name,
        f_divergence_type=f_divergence_type,
        ld_alpha=ld_alpha,
        beta=0.3,
        metrics=metrics,
    )
    s, ref_s = (dpo.sequence_logps(x, mask, ld_alpha=ld_alpha) for x in (logps, ref_logps))
    chosen, rejected = np.split(implicit_rewards.rewards(s, ref_s, beta=0.3), 2)
    for key, expected in {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": implicit_rewards.margins(chosen, rejected),
        "rewards/accuracies": implicit_rewards.accuracies(chosen, rejected),
        "logps/chosen": s[:4],
        "logps/rejected": s[4:],
    }.items():
        np.testing.assert_allclose(metrics[key], expected.mean(), **EXACT)


@pytest.mark.parametrize("empty", [[0], [4], [0, 4]])  # a chosen answer, its rival, both
@pytest.mark.parametrize("name", ["sigmoid", "ipo", "sigmoid_norm", "sft"])
def test_an_empty_answer_has_log_probability_zero(name, empty):
    logps, ref_logps, _, mask = a_batch()
    mask[empty] = 0
    x = torch.tensor(logps, requires_grad=True)
    got = trl_dpo.loss(x, torch.tensor(ref_logps), torch.tensor(mask), loss_type=name)
    got.backward()
    value, grad = both(logps, ref_logps, mask, loss_type=name)
    np.testing.assert_allclose(got.item(), value, **EXACT)
    np.testing.assert_allclose(x.grad, grad, **EXACT)


@pytest.mark.parametrize("name", sorted(set(dpo_trainer.LOSS_TYPES) - {"sft"}))
def test_a_batch_without_a_single_token_is_a_tie_without_gradient(name):
    """sft: test_sft_without_a_chosen_token_is_nan_in_trl."""
    logps, ref_logps, _, mask = a_batch()
    x = torch.tensor(logps, requires_grad=True)
    options = {"loss_type": name, "label_smoothing": 0.15}
    got = trl_dpo.loss(x, torch.tensor(ref_logps), torch.tensor(0 * mask), **options)
    got.backward()
    value, grad = both(logps, ref_logps, 0 * mask, **options)
    # exo: TRL rounds eps and its two logs to float32
    np.testing.assert_allclose(got.item(), value, rtol=2e-7 if name == "exo_pair" else 1e-12)
    assert (x.grad == 0).all() and (grad == 0).all()


def test_wpos_weights_are_trls():
    """A loss that is 1 for every pair shows them: apo_zero of a policy that is its reference."""
    logps, _, log_sum_sq, mask = a_batch()
    got = trl_dpo.loss(
        *(torch.tensor(x) for x in (logps, logps, mask)),
        loss_type="apo_zero",
        use_weighting=True,
        log_sum_sq_probs=torch.tensor(log_sum_sq),
    )
    expected = wpo.pair_weights(logps, log_sum_sq, mask).mean()
    np.testing.assert_allclose(got.item(), expected, **EXACT)


# Where TRL is wrong, or not what its name says -------------------------------------------------


def trl_value_and_grad(logps, ref_logps, mask, **options):
    x = torch.tensor(logps, requires_grad=True)
    value = trl_dpo.loss(x, torch.tensor(ref_logps), torch.tensor(mask), **options)
    value.backward()
    return value.item(), x.grad.numpy()


def far_apart(chosen, rejected, dtype=np.float32):
    """One pair of one token, this many nats from the reference."""
    drift = np.array([[chosen], [rejected]], dtype=dtype)
    return drift, np.zeros_like(drift), np.ones((2, 1), dtype=int)


@pytest.mark.library_defect
@pytest.mark.parametrize("name", ["hinge", "sft"])
def test_wpo_with_hinge_or_sft_stops_in_trl(name):
    """`per_sequence_loss *= weights` writes into relu's output, and into an expanded tensor."""
    logps, ref_logps, log_sum_sq, mask = a_batch()
    options = {"loss_type": name, "use_weighting": True}
    with pytest.raises(RuntimeError, match=r"in-?place|single memory location"):
        trl_value_and_grad(
            logps, ref_logps, mask, log_sum_sq_probs=torch.tensor(log_sum_sq), **options
        )
    value, grad = both(logps, ref_logps, mask, loss_type=name, log_sum_sq_probs=log_sum_sq)
    assert np.isfinite(value) and np.isfinite(grad).all()


@pytest.mark.library_defect
def test_the_alpha_divergence_of_float64_stops_in_trl():
    """Its table of clamps knows float16, bfloat16 and float32."""
    with pytest.raises(KeyError):
        trl_value_and_grad(*(a_batch()[i] for i in (0, 1, 3)), f_divergence_type="alpha_divergence")


def test_trl_takes_alpha_for_one_within_a_millionth():
    """Ours only at exactly 1: expm1 needs no such neighbourhood.  They differ by 5e-7 u / 2."""
    u = np.linspace(-3, 3, 7)
    ours = f_divergences.alpha_divergence(u, alpha=1 + 5e-7, max_exponent=80.0)
    np.testing.assert_allclose(ours, u, rtol=1e-6)
    options = {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 1 + 5e-7}
    batch = [a_batch()[i] for i in (0, 1, 3)]
    assert trl_value_and_grad(*batch, **options)[0] == trl_value_and_grad(*batch)[0]


@pytest.mark.library_defect
def test_forward_kl_of_two_answers_that_drifted_far_is_nan_in_trl():
    """e^89 is inf in float32, the gradient's weight 0.  Ours: a tie of two hopeless answers."""
    batch = far_apart(-89.0, -89.0)
    value, _ = trl_value_and_grad(*batch, f_divergence_type="forward_kl")
    assert np.isnan(value)
    ours, grad = both(*batch, f_divergence_type="forward_kl")
    np.testing.assert_allclose(ours, np.log(2.0), rtol=1e-15)
    assert np.isfinite(grad).all()


@pytest.mark.library_defect
def test_discopop_of_a_hopeless_pair_is_nan_in_trl():
    """0 x e^100 in float32.  Ours: the logistic branch, h = -100."""
    batch = far_apart(-500.0, 500.0)
    value, grad = trl_value_and_grad(*batch, loss_type="discopop")
    assert np.isnan(value) and np.isnan(grad).all()
    ours, grad = both(*batch, loss_type="discopop")
    np.testing.assert_allclose(ours, 100.0, rtol=1e-15)
    np.testing.assert_allclose(grad, [[-0.1], [0.1]], rtol=1e-15)


@pytest.mark.parametrize("f_divergence_type", ["reverse_kl", "js_divergence"])
def test_sigmoid_stays_finite_and_equal_where_those_fail(f_divergence_type):
    batch = far_apart(-500.0, 500.0, dtype=np.float64)
    options = {"f_divergence_type": f_divergence_type}
    value, grad = trl_value_and_grad(*batch, **options)
    ours, our_grad = both(*batch, **options)
    np.testing.assert_allclose(value, ours, **EXACT)
    np.testing.assert_allclose(grad, our_grad, **EXACT)


@pytest.mark.library_defect
def test_sft_without_a_chosen_token_is_nan_in_trl():
    logps, ref_logps, _, mask = a_batch()
    mask[:4] = 0
    value, _ = trl_value_and_grad(logps, ref_logps, mask, loss_type="sft")
    assert np.isnan(value)
    ours, grad = both(logps, ref_logps, mask, loss_type="sft")
    assert ours == 0.0 and (grad == 0).all()


@pytest.mark.library_defect
@pytest.mark.parametrize("name", ["ipo", "sppo_hard"])
def test_beta_zero_divides_by_zero_in_trl_and_is_refused_here(name):
    logps, ref_logps, _, mask = a_batch()
    with pytest.raises(ZeroDivisionError):
        trl_value_and_grad(logps, ref_logps, mask, loss_type=name, beta=0.0)
    with pytest.raises(ValueError, match="beta must be > 0"):
        both(logps, ref_logps, mask, loss_type=name, beta=0.0)


@pytest.mark.library_defect
def test_exo_rounds_its_label_smoothing_to_float32_in_trl():
    logps, ref_logps, _, mask = a_batch()
    options = {"loss_type": "exo_pair", "label_smoothing": 0.15}
    value, _ = trl_value_and_grad(logps, ref_logps, mask, **options)
    ours = dpo_trainer.loss(logps, ref_logps, mask, **options)
    assert 1e-10 < abs(value / ours - 1) < 1e-6


@pytest.mark.library_defect
@pytest.mark.parametrize("name", ["ipo", "sigmoid_norm"])
def test_without_a_prompt_trl_counts_a_token_that_was_never_predicted(name):
    """The unshifted mask: an answer of n predicted tokens is divided by n + 1."""
    logps, ref_logps, _, mask = a_batch()
    mask[:] = 1
    value, _ = trl_value_and_grad(logps, ref_logps, mask, loss_type=name, prompt_length=0)
    ours = dpo_trainer.loss(logps, ref_logps, mask, loss_type=name)
    assert abs(value / ours - 1) > 1e-4
    padded = [np.pad(x, ((0, 0), (1, 0))) for x in (logps, ref_logps)]  # as if it had log p = 0
    one_more = np.pad(mask, ((0, 0), (1, 0)), constant_values=1)
    counted = dpo_trainer.loss(*padded, one_more, loss_type=name)
    np.testing.assert_allclose(value, counted, **EXACT)


def test_sigmoid_ignores_label_smoothing():
    """cDPO is aot of one pair; TRL's sigmoid is not."""
    batch = [a_batch()[i] for i in (0, 1, 3)]
    plain = trl_value_and_grad(*batch)[0]
    assert trl_value_and_grad(*batch, label_smoothing=0.3)[0] == plain
    one = [x[[0, 4]] for x in batch]
    options = {"loss_type": "aot", "label_smoothing": 0.3}
    assert abs(trl_value_and_grad(*one, **options)[0] - trl_value_and_grad(*one)[0]) > 1e-3


# A tiny model through the whole trainer --------------------------------------------------------

pytest.importorskip("trl")

ROWS = [
    {"prompt": "w3 w4", "chosen": " w5 w6 w7", "rejected": " w8"},
    {"prompt": "w9 w10 w11", "chosen": " w12", "rejected": " w13 w14 w15 w16"},
    {"prompt": "w17", "chosen": " w18 w19", "rejected": " w20 w21"},
]


@pytest.mark.parametrize(
    "options",
    [
        {"loss_type": ["sigmoid"]},
        {"loss_type": ["ipo"], "ld_alpha": 0.4},
        {"loss_type": ["sigmoid_norm"], "f_divergence_type": "js_divergence"},
        {"loss_type": ["sigmoid"], "f_divergence_type": "alpha_divergence"},
        {"loss_type": ["sigmoid"], "use_weighting": True},
        {"loss_type": ["robust", "sft"], "loss_weights": [1.0, 0.5], "label_smoothing": 0.2},
    ],
    ids=in_words,
)
def test_a_whole_trainers_loss_gradient_and_metrics(tiny_qwen2, tokenizer, trainer_args, options):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    model, ref_model = tiny_qwen2(seed=0), tiny_qwen2(seed=1)
    config = DPOConfig(**trainer_args, per_device_train_batch_size=3, beta=0.3, **options)
    rows = Dataset.from_list(ROWS)
    trainer = DPOTrainer(
        model=model,
        ref_model=ref_model,
        args=config,
        train_dataset=rows,
        processing_class=tokenizer,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    got = trainer.compute_loss(trainer.model, dict(batch))
    got.backward()

    plain = {key: batch[key] for key in ("input_ids", "attention_mask")}
    tokens = batch["input_ids"][:, 1:].numpy()
    mask = sft.loss_mask(batch["completion_mask"].numpy())
    with torch.no_grad():
        logits, ref_logits = (
            m(**plain).logits[:, :-1].double().numpy() for m in (model, ref_model)
        )
        hidden = model.model(**plain).last_hidden_state[:, :-1].double().numpy()
    logps, ref_logps = (logprobs.per_token_logps(z, tokens) for z in (logits, ref_logits))
    ours = {key: value for key, value in options.items() if key != "use_weighting"}
    if options.get("use_weighting"):
        ours["log_sum_sq_probs"] = logprobs.log_sum_sq_probs(logits)
    value, grad = both(logps, ref_logps, mask, beta=0.3, **ours)
    # float32 model and head: answers' log-probs of up to 50 carry 1e-5, e^(u/2) of them a bit more
    np.testing.assert_allclose(got.item(), value, rtol=1e-4)
    to_logits = logprobs.logits_grad(logits, tokens, grad)
    expected = np.einsum("btv,btd->vd", to_logits, hidden)
    weight = trainer.model.lm_head.weight
    np.testing.assert_allclose(weight.grad, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    logged = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    s, ref_s = (
        dpo.sequence_logps(x, mask, ld_alpha=options.get("ld_alpha")) for x in (logps, ref_logps)
    )
    chosen, rejected = np.split(implicit_rewards.rewards(s, ref_s, beta=0.3), 2)
    margin = implicit_rewards.margins(chosen, rejected)
    np.testing.assert_allclose(logged["rewards/margins"], margin.mean(), rtol=1e-4)
    np.testing.assert_allclose(logged["logps/chosen"], s[:3].mean(), rtol=1e-5)
    entropy = sft.mean_entropy(logprobs.entropy(logits), mask)
    np.testing.assert_allclose(logged["entropy"], entropy, rtol=1e-5)
