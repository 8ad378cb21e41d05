"""Laws of everything put together: from token log-probs to one loss and its gradient."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_math import dpo, dpo_trainer, logprobs, sft, wpo


def both(*args, **options):
    return dpo_trainer.loss(*args, **options), dpo_trainer.loss_grad(*args, **options)


CLOSE = {"rtol": 1e-12, "atol": 1e-14}  # a few roundings of terms of order one
BY_DIFFERENCES = {"rtol": 1e-8, "atol": 1e-10}  # conftest: five points, errors of about 1e-12
OF_SCORES = ["sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft"]


def answers(seed=0, B=3, T=5):
    """Log-probs of policy and reference (2B, T), and a mask; no answer is empty."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(T) < rng.integers(1, T + 1, size=(2 * B, 1))).astype(float)
    return -rng.exponential(size=(2 * B, T)), -rng.exponential(size=(2 * B, T)), mask


CASES = [{"loss_type": name, "label_smoothing": 0.1} for name in dpo_trainer.LOSS_TYPES]
CASES += [case | {"ld_alpha": 0.3} for case in CASES]
CASES += [
    {"loss_type": name, "f_divergence_type": f, "label_smoothing": 0.1, "beta": 0.4}
    for name in OF_SCORES
    for f in ("forward_kl", "js_divergence", "alpha_divergence")
]
CASES += [{"loss_type": ["sigmoid", "sft", "aot"], "loss_weights": [0.5, 2.0, -1.0]}]


def case_id(case):
    return " ".join(str(value) for key, value in case.items() if key != "label_smoothing")


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_the_gradient_is_the_slope_of_the_loss(numeric_grad, case):
    logps, ref_logps, mask = answers()
    grad = dpo_trainer.loss_grad(logps, ref_logps, mask, **case)
    slope = numeric_grad(lambda x: dpo_trainer.loss(x, ref_logps, mask, **case), logps)
    # discopop's default tau of 0.05 makes its fifth derivative 1e5 times the value
    rtol = 1e-3 if "discopop" in case["loss_type"] else 1e-8
    np.testing.assert_allclose(grad, slope, rtol=rtol, atol=rtol * np.abs(grad).max())
    assert np.abs(grad).max() > 1e-4


@pytest.mark.parametrize("name", sorted(set(dpo_trainer.LOSS_TYPES) - {"sft", "discopop"}))
def test_a_policy_that_is_its_reference_is_pushed_towards_the_chosen_answer(name):
    logps, _, mask = answers()
    grad = dpo_trainer.loss_grad(logps, logps, mask, loss_type=name, label_smoothing=0.1)
    chosen, rejected = np.split(grad.sum(axis=1), 2)
    assert (rejected > 0).all()
    if name == "apo_down":  # it lowers the rejected one alone, at first
        np.testing.assert_allclose(chosen, 0.0, atol=1e-17)
    else:
        assert (chosen < 0).all()


def test_discopop_starts_by_pushing_the_chosen_answer_down():
    """At h = 0 and tau = 0.05 the mixture turns from ln 2 to 1 faster than either falls."""
    logps, _, mask = answers()
    grad = dpo_trainer.loss_grad(logps, logps, mask, loss_type="discopop")
    chosen, rejected = np.split(grad.sum(axis=1), 2)
    assert (chosen > 0).all() and (rejected < 0).all()


@pytest.mark.parametrize("name", ["ipo", "sigmoid_norm"])
def test_normalised_losses_see_the_mean_of_an_answers_tokens(name):
    """Each token twice: the same means, the same loss.  Summed losses see twice the margin."""
    logps, ref_logps, mask = answers()
    twice = [np.repeat(x, 2, axis=1) for x in (logps, ref_logps, mask)]
    once = dpo_trainer.loss(logps, ref_logps, mask, loss_type=name)
    np.testing.assert_allclose(dpo_trainer.loss(*twice, loss_type=name), once, rtol=1e-12)
    summed = dpo_trainer.loss(logps, ref_logps, mask, loss_type="sigmoid", beta=0.2)
    doubled = dpo_trainer.loss(*twice, loss_type="sigmoid", beta=0.1)
    np.testing.assert_allclose(doubled, summed, rtol=1e-12)


def test_sigmoid_norm_of_answers_of_one_token_is_sigmoid():
    logps, ref_logps, _ = answers(T=1)
    losses = [
        dpo_trainer.loss(logps, ref_logps, np.ones_like(logps), loss_type=name)
        for name in ("sigmoid", "sigmoid_norm")
    ]
    assert losses[0] == losses[1]


def test_aot_pairs_policies_and_aot_unpaired_pairs_answers():
    """With one pair both are the sigmoid; over a batch they sort different things."""
    logps, ref_logps, mask = answers(B=1)
    one = [
        dpo_trainer.loss(logps, ref_logps, mask, loss_type=name)
        for name in ("sigmoid", "aot", "aot_unpaired")
    ]
    np.testing.assert_allclose(one, one[0], rtol=1e-12)
    logps, ref_logps, mask = answers(B=4)
    for name, swap in [("aot", [2, 1, 0, 3]), ("aot_unpaired", [0, 1, 2, 3])]:
        # aot: whole pairs of the reference trade places.  aot_unpaired: rejected answers do.
        ref_rows = np.array([*swap, *(4 + np.array(swap))])
        rejected = np.array([0, 1, 2, 3, 6, 5, 4, 7])
        same_mask = np.ones_like(mask)
        base = dpo_trainer.loss(logps, ref_logps, same_mask, loss_type=name)
        moved = (
            (logps, ref_logps[ref_rows])
            if name == "aot"
            else (logps[rejected], ref_logps[rejected])
        )
        np.testing.assert_allclose(
            dpo_trainer.loss(*moved, same_mask, loss_type=name), base, rtol=1e-12
        )
        other = "aot_unpaired" if name == "aot" else "aot"
        changed = dpo_trainer.loss(*moved, same_mask, loss_type=other)
        unmoved = dpo_trainer.loss(logps, ref_logps, same_mask, loss_type=other)
        assert abs(changed - unmoved) > 1e-3


def test_sft_is_the_nll_of_the_chosen_answers():
    logps, ref_logps, mask = answers()
    loss, grad = both(logps, ref_logps, mask, loss_type="sft")
    assert loss == sft.nll(logps[:3], mask[:3], reduction="batch_token")
    assert (grad[3:] == 0).all()
    empty = np.concatenate([0 * mask[:3], mask[3:]])
    loss, grad = both(logps, ref_logps, empty, loss_type="sft")
    assert loss == 0.0 and (grad == 0).all()


def test_a_mixture_is_the_weighted_sum_of_its_losses():
    logps, ref_logps, mask = answers()
    names, weights = ["sigmoid", "bco_pair", "sft"], [0.8, 0.2, 1.5]
    mixed = both(logps, ref_logps, mask, loss_type=names, loss_weights=weights)
    alone = [both(logps, ref_logps, mask, loss_type=name) for name in names]
    for i in (0, 1):
        expected = sum(w * one[i] for w, one in zip(weights, alone))
        np.testing.assert_allclose(mixed[i], expected, **CLOSE)
    plain = dpo_trainer.loss(logps, ref_logps, mask, loss_type=names)
    np.testing.assert_allclose(plain, sum(one[0] for one in alone), **CLOSE)


@pytest.mark.parametrize("name", sorted(set(dpo_trainer.LOSS_TYPES) - {"aot", "aot_unpaired"}))
def test_wpo_multiplies_each_pair_and_its_push_by_a_constant(name):
    logps, ref_logps, mask = answers()
    normaliser = answers(seed=5)[0]
    options = {"loss_type": name, "label_smoothing": 0.1}
    loss, grad = both(logps, ref_logps, mask, log_sum_sq_probs=normaliser, **options)
    weights = wpo.pair_weights(logps, normaliser, mask)
    if name == "sft":  # one number for the whole batch, so the weights are averaged
        plain, plain_grad = both(logps, ref_logps, mask, **options)
        np.testing.assert_allclose(loss, weights.mean() * plain, rtol=1e-12)
        np.testing.assert_allclose(grad, weights.mean() * plain_grad, **CLOSE)
        return
    total, total_grad = 0.0, np.zeros_like(grad)
    for i in range(3):
        rows = [i, i + 3]
        one, one_grad = both(logps[rows], ref_logps[rows], mask[rows], **options)
        total += weights[i] * one / 3
        total_grad[rows] = weights[i] * one_grad / 3
    np.testing.assert_allclose(loss, total, rtol=1e-12)
    np.testing.assert_allclose(grad, total_grad, **CLOSE)


@given(seed=st.integers(0, 50), name=st.sampled_from([n for n in dpo_trainer.LOSS_TYPES]))
def test_the_order_of_the_pairs_does_not_matter(seed, name):
    logps, ref_logps, mask = answers(seed)
    order = np.array([2, 0, 1, 5, 3, 4])
    options = {"loss_type": name, "label_smoothing": 0.1}
    loss, grad = both(logps, ref_logps, mask, **options)
    shuffled = (x[order] for x in (logps, ref_logps, mask))
    moved, moved_grad = both(*shuffled, **options)
    np.testing.assert_allclose(moved, loss, rtol=1e-12)
    np.testing.assert_allclose(moved_grad, grad[order], **CLOSE)


def test_nothing_to_compare_is_the_loss_of_a_tie():
    logps, ref_logps, mask = answers()
    nothing = 0 * mask
    for name, value in {"sigmoid": np.log(2), "ipo": 25.0, "sft": 0.0, "hinge": 1.0}.items():
        loss, grad = both(logps, ref_logps, nothing, loss_type=name)
        np.testing.assert_allclose(loss, value, rtol=1e-14)
        assert (grad == 0).all()


@pytest.mark.parametrize("f_divergence_type", dpo_trainer.F_DIVERGENCES)
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", ["sigmoid", "hinge", "exo_pair", "robust", "discopop"])
def test_both_answers_drifting_by_700_nats_leave_it_finite(name, sign, f_divergence_type):
    """TRL in float32: inf - inf = NaN with forward_kl from 89 nats on, 0 inf with discopop."""
    drifted, origin = np.full((2, 1), 700.0 * sign), np.zeros((2, 1))
    drifted[1] *= 0.9
    loss, grad = both(
        drifted,
        origin,
        np.ones((2, 1)),
        loss_type=name,
        label_smoothing=0.1,
        f_divergence_type=f_divergence_type,
    )
    assert np.isfinite(loss) and np.isfinite(grad).all()


def test_the_gradient_reaches_the_logits_by_the_chain_rule(numeric_grad):
    rng = np.random.default_rng(0)
    logits, tokens = rng.normal(size=(4, 3, 5)), rng.integers(0, 5, size=(4, 3))
    ref_logps, mask = -rng.exponential(size=(4, 3)), np.array([[1, 1, 0], [1, 1, 1]] * 2)

    def loss(z):
        logps = logprobs.per_token_logps(z, tokens)
        return both(logps, ref_logps, mask, beta=0.5, ld_alpha=0.5)

    grad = logprobs.logits_grad(logits, tokens, loss(logits)[1])
    slope = numeric_grad(lambda z: loss(z)[0], logits)
    np.testing.assert_allclose(grad, slope, **BY_DIFFERENCES)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"loss_type": "dpo"}, "loss_type must be one of 'sigmoid'"),
        ({"f_divergence_type": "kl"}, "f_divergence_type must be one of 'reverse_kl'"),
        (
            {"loss_type": "nca_pair", "f_divergence_type": "forward_kl"},
            "loss_type 'nca_pair' takes f_divergence_type 'reverse_kl' only",
        ),
        (
            {"loss_type": ["sigmoid", "aot"], "f_divergence_type": "js_divergence"},
            "loss_type 'aot' takes",
        ),
        ({"loss_weights": [1.0, 2.0]}, "loss_weights must have shape (1,), got (2,)"),
        (
            {"loss_type": "aot", "log_sum_sq_probs": np.zeros((6, 5))},
            "loss_type 'aot' sorts the pairs",
        ),
        (
            {"loss_type": "aot_unpaired", "log_sum_sq_probs": np.zeros((6, 5))},
            "loss_type 'aot_unpaired' sorts the pairs",
        ),
        ({"loss_type": "exo_pair"}, "label_smoothing must be > 0, got 0.0"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(options, message):
    logps, ref_logps, mask = answers()
    with pytest.raises(ValueError) as error:
        both(logps, ref_logps, mask, **options)
    assert message in str(error.value)


def test_defaults_are_plain_dpo():
    logps, ref_logps, mask = answers()
    u = np.split(dpo.sequence_logps(logps, mask) - dpo.sequence_logps(ref_logps, mask), 2)
    loss = dpo_trainer.loss(logps, ref_logps, mask)
    np.testing.assert_allclose(loss, dpo.sigmoid(*u, beta=0.1).mean(), rtol=1e-14)


def test_the_other_defaults_are_those_that_trl_documents():
    tokens = answers()
    for named, default in [
        ({"loss_type": "discopop"}, {"discopop_tau": 0.05}),
        ({"f_divergence_type": "alpha_divergence"}, {"f_alpha_divergence_coef": 0.5}),
    ]:
        silent, said = (both(*tokens, **named | x) for x in ({}, default))
        assert silent[0] == said[0]
        np.testing.assert_array_equal(silent[1], said[1])


def test_the_alpha_divergence_is_cut_off_at_e_to_the_80_as_in_trl():
    """A rejected answer that has drifted by u is pushed down e^u as hard, and from 80 on no more."""
    options = {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 2.0}
    pushes = []
    for u in (79.0, 80.0, 81.0):
        logps = np.array([[-1.0], [-1.0]])
        ref_logps = logps - [[0.0], [u]]
        pushes.append(dpo_trainer.loss_grad(logps, ref_logps, [[1], [1]], **options)[1, 0])
    np.testing.assert_allclose(
        pushes, 0.1 * np.array([np.exp(79.0), np.exp(80.0), 0.0]), rtol=1e-14
    )
