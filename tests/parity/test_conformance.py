"""The conformance report and `check`: planted conventions are named, and what is right agrees."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import reference_math
from reference_math import conformance, dpo_trainer, grpo_trainer
from reference_math.conformance import checking, report, rows
from reference_math.conformance.cases import OF_SCORES
from reference_math.conformance.departures import DEPARTURES
from reference_math.conformance.objectives import OBJECTIVES
from reference_math.torch import advantages as twin_advantages
from reference_math.torch import cispo as twin_cispo
from reference_math.torch import dpo as twin_dpo
from reference_math.torch import grpo as twin_grpo
from reference_math.torch import kl as twin_kl
from reference_math.torch import sft as twin_sft

ROSETTA = Path(__file__).with_name("test_rosetta.py")
NAMES = ("per_token_logps", "old_per_token_logps", "advantages", "completion_mask")


def grpo(per_token_logps, old_per_token_logps, advantages, completion_mask, **changed):
    """A from-scratch DAPO loss."""
    options = {"epsilon_low": 0.2, "epsilon_high": 0.2, "reduction": "dapo"}
    options |= {"importance_sampling_level": "token"}
    options |= {"tokens_per_micro_batch": completion_mask.sum()} | changed
    tokens = (per_token_logps, old_per_token_logps, advantages, completion_mask)
    return twin_grpo.loss(*tokens, **options)


def changed(**options):
    """The same loss with other options, under the plain four names."""

    def loss(per_token_logps, old_per_token_logps, advantages, completion_mask, **_):
        tokens = (per_token_logps, old_per_token_logps, advantages, completion_mask)
        return grpo(*tokens, **options)

    return loss


def dpo(per_token_logps, ref_per_token_logps, completion_mask, beta=0.1):
    u = twin_dpo.sequence_logps(per_token_logps - ref_per_token_logps, completion_mask)
    return twin_dpo.sigmoid(*u.chunk(2), beta=beta).mean()


def nll(per_token_logps, completion_mask):
    return twin_sft.nll(per_token_logps, completion_mask, reduction="batch_token")


def dft(per_token_logps, completion_mask):
    return twin_sft.dft(per_token_logps, completion_mask, reduction="batch_token")


@pytest.mark.parametrize(
    "mine, objective, options",
    [
        (nll, "sft", {}),
        (dft, "sft", {"loss_type": "dft"}),
        (dpo, "dpo", {}),
        (lambda **x: dpo(**x, beta=0.4), "dpo", {"beta": 0.4}),
        (twin_kl.k2, "kl", {"estimator": "k2"}),
        (changed(), "grpo", {"loss_type": "dapo"}),
        (changed(reduction="luspo"), "grpo", {"loss_type": "luspo"}),
    ],
)
def test_what_is_right_agrees(mine, objective, options):
    verdict = conformance.check(mine, objective, **options)
    assert verdict.agrees and verdict.explained_by == ()
    assert verdict.value_error < 1e-9 and verdict.gradient_error < 1e-9
    assert str(verdict).startswith("agrees with the reference")


def undetached_dft(per_token_logps, completion_mask):
    return nll(per_token_logps * per_token_logps.exp(), completion_mask)


def shifted_nll(per_token_logps, completion_mask):
    late = torch.nn.functional.pad(completion_mask[:, :-1], (1, 0))
    return nll(per_token_logps, late)


def summed_and_negated_nll(per_token_logps, completion_mask):
    return (per_token_logps * completion_mask).sum()


def undetached_cispo(per_token_logps, old_per_token_logps, advantages, completion_mask):
    w = (per_token_logps - old_per_token_logps).exp().clamp(max=5.0)
    c = -w * advantages[:, None] * per_token_logps
    return (c * completion_mask).sum() / completion_mask.sum()


def cdpo(per_token_logps, ref_per_token_logps, completion_mask):
    u = twin_dpo.sequence_logps(per_token_logps - ref_per_token_logps, completion_mask)
    right, wrong = u.chunk(2)
    one, other = (twin_dpo.sigmoid(*pair, beta=0.1) for pair in ((right, wrong), (wrong, right)))
    return (0.9 * one + 0.1 * other).mean()


@pytest.mark.parametrize(
    "mine, objective, options, explained_by",
    [
        (shifted_nll, "sft", {}, ["mask shift: one position too late"]),
        (lambda **x: -nll(**x), "sft", {}, ["sign: negated"]),
        (summed_and_negated_nll, "sft", {}, ["sign: negated", "reduction: sum over the tokens"]),
        (undetached_dft, "sft", {"loss_type": "dft"}, ["detach: missing"]),
        (dft, "sft", {}, ["loss_type: 'dft'"]),
        (lambda **x: dpo(**x) * 3, "dpo", {}, ["reduction: sum over the pairs"]),
        (cdpo, "dpo", {}, ["label smoothing: 0.1, not 0"]),
        (dpo, "dpo", {"loss_type": "sigmoid_norm"}, ["length: answers' summed"]),
        (lambda **x: -dpo(**x), "dpo", {}, ["sign: negated"]),
        (
            lambda per_token_logps, ref_per_token_logps: twin_kl.k3(
                ref_per_token_logps, per_token_logps
            ),
            "kl",
            {},
            ["KL direction"],
        ),
        (twin_kl.k1, "kl", {}, ["estimator: k1"]),
        (changed(reduction="grpo"), "grpo", {}, ["reduction: of loss_type 'grpo'"]),
        (changed(reduction="luspo"), "grpo", {}, ["reduction: of loss_type 'luspo'"]),
        (changed(importance_sampling_level="sequence"), "grpo", {}, ["ratio: one per sequence"]),
        (
            changed(importance_sampling_level="sequence", reduction="grpo"),
            "grpo",
            {},
            ["reduction: of loss_type 'grpo'", "ratio: one per sequence"],
        ),
        (changed(epsilon_low=1.0, epsilon_high=np.inf), "grpo", {}, ["clip: none"]),
        (
            undetached_cispo,
            "grpo",
            {"loss_type": "cispo", "epsilon_high": 5.0},
            ["detach: missing"],
        ),
        (lambda **x: 0.7 * changed()(**x), "grpo", {}, []),
    ],
)
def test_a_planted_convention_is_named(mine, objective, options, explained_by):
    verdict = conformance.check(mine, objective, **options)
    assert not verdict.agrees
    assert len(verdict.explained_by) == len(explained_by), verdict
    for name in explained_by:
        assert any(said.startswith(name) for said in verdict.explained_by), verdict
    assert all(said in str(verdict) for said in verdict.explained_by)


# One faulty line at a time in a loss that reads no line of this package ---------------------------


def dapo(ddof=1, eps=1e-4, detach=True, mirrored=False, shift=0, sign=1.0, per_sequence=False):
    """DAPO on-policy with a k3 penalty, in plain torch, from the rewards.  Its defaults are right."""

    def loss(per_token_logps, ref_per_token_logps, rewards, completion_mask):
        grouped = rewards.view(-1, 4)
        std = grouped.std(dim=1, keepdim=True, correction=ddof)
        advantages = ((grouped - grouped.mean(dim=1, keepdim=True)) / (std + eps)).view(-1, 1)
        old = per_token_logps.detach() if detach else per_token_logps
        ratio = (per_token_logps - old).exp()
        surrogate = torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
        log_r = ref_per_token_logps - per_token_logps
        log_r = -log_r if mirrored else log_r
        penalty = log_r.exp() - 1 - log_r
        mask = completion_mask.roll(shift, dims=1)
        mask[:, :1] *= shift <= 0
        mask[:, -1:] *= shift >= 0
        losses = (0.3 * penalty - surrogate) * mask
        if per_sequence:
            return sign * (losses.sum(1) / mask.sum(1).clamp(min=1)).mean()
        return sign * losses.sum() / mask.sum()

    return loss


RIGHT = {"loss_type": "dapo", "beta": 0.3, "use_bias_correction_kl": False}
ON_POLICY = "ratio: always 1, the old log-probabilities unused"
FAULTS = [
    ({"ddof": 0}, "ddof: 0"),
    ({"eps": 1e-8}, "eps: 1e-08"),
    ({"eps": 1e-6}, "eps: 1e-06"),
    ({"per_sequence": True}, "reduction: of loss_type 'grpo'"),
    ({"mirrored": True}, "KL direction: policy minus reference, not reference minus policy"),
    ({"sign": -1.0}, "sign: negated"),
    ({"shift": 1}, "mask shift: one position too late"),
    ({"shift": -1}, "mask shift: one position too early"),
    ({"detach": False}, "detach: missing, the gradient flows through what is held constant"),
]


def named(verdict):
    """Which conventions, without those who share them."""
    return {name.split(" (")[0] for name in verdict.explained_by}


@pytest.mark.parametrize("fault, name", FAULTS)
def test_one_faulty_line_of_a_dapo_loss_is_named_and_nothing_else(fault, name):
    # on-policy itself is the one difference of the faultless loss: its ratio is e^0
    assert named(conformance.check(dapo(), "grpo", **RIGHT)) == {ON_POLICY}
    verdict = conformance.check(dapo(**fault), "grpo", **RIGHT)
    assert not verdict.agrees and named(verdict) == {ON_POLICY, name}
    assert name in str(verdict)


@pytest.mark.parametrize("seed", [1])
def test_no_draw_of_the_batches_changes_what_is_named(seed):
    for fault, name in FAULTS:
        verdict = conformance.check(dapo(**fault), "grpo", seed=seed, **RIGHT)
        assert named(verdict) == {ON_POLICY, name}


def test_two_faults_beside_on_policy_are_not_guessed_at():
    verdict = conformance.check(dapo(ddof=0, mirrored=True), "grpo", **RIGHT)
    assert verdict.explained_by == () and not verdict.agrees


def of_variant(objective, variant, options):
    """A torch loss whose value and gradient are those of a variant of the reference."""
    known = OBJECTIVES[objective]
    f, wrt = variant(known["reference"]), known["wrt"]

    def mine(**tensors):
        arrays = {name: x.detach().numpy() for name, x in tensors.items()}
        value, grad = checking._theirs(f, arrays, options, (wrt,) if wrt else (), "torch")
        value = torch.tensor(np.asarray(value))
        if not wrt:
            return value
        x = tensors[wrt]
        slope = torch.tensor(grad()).view_as(x) * (x - x.detach())  # 0, with that gradient
        return value + (slope if value.ndim else slope.sum())

    return mine


@pytest.mark.parametrize(
    "objective, options",
    [
        ("sft", {}),
        ("sft", {"loss_type": "dft", "reduction": "sequence"}),
        ("dpo", {}),
        ("dpo", {"loss_type": "ipo"}),
        ("dpo", {"loss_type": "apo_zero"}),
        ("dpo", {"loss_type": "apo_down"}),
        ("dpo", {"loss_type": "nca_pair"}),
        ("dpo", {"loss_type": "hinge", "f_divergence_type": "js_divergence"}),
        ("dpo", {"loss_type": "aot", "label_smoothing": 0.1}),
        ("kl", {}),
        ("kl", {"estimator": "k2"}),
        ("grpo", {"loss_type": "dapo", "beta": 0.3}),
        ("grpo", {"loss_type": "luspo", "importance_sampling_level": "sequence"}),
        ("grpo", {"loss_type": "cispo", "epsilon_high": 5.0}),
        ("grpo", {"loss_type": "sapo"}),
        ("grpo", {"loss_type": "vespo"}),
        ("rloo", {}),
        ("advantages", {}),
    ],
)
def test_no_two_conventions_look_alike(objective, options, monkeypatch):
    monkeypatch.setattr(checking, "BATCHES", 2)  # half the time; two tell them apart as well
    found = OBJECTIVES[objective]["conventions"](options)
    verdicts = {
        name: conformance.check(of_variant(objective, variant, options), objective, **options)
        for name, variant in found.items()
    }
    wrong = {n: v.explained_by for n, v in verdicts.items() if not v.agrees}
    assert {n: said for n, said in wrong.items() if said != (n,)} == {}
    assert len(wrong) >= 3  # the others change nothing under these options


# Numbers that differ from those asked for, and departures written in plain torch -------------------


def grpo_by_hand(
    per_token_logps,
    old_per_token_logps,
    advantages,
    completion_mask,
    ref_per_token_logps=None,
    *,
    low=0.2,
    high=0.2,
    cap=None,
    how="min",
    level="token",
    normaliser="tokens",
    kl=None,
    beta=0.0,
):
    """A clipped loss that reads no line of this package; its defaults are DAPO's."""
    mask, s = completion_mask, (per_token_logps - old_per_token_logps) * completion_mask
    n = mask.sum(1, keepdim=True).clamp(min=1)
    s = {"token": s, "mean": s.sum(1, keepdim=True) / n, "sum": s.sum(1, keepdim=True)}[level]
    w, A = s if how == "log-ratio" else s.exp(), advantages[:, None]
    clipped = w.clamp(1 - low, 1 + high) * A
    first = w.clamp(max=cap) * A if cap else w * A
    surrogate = {"clip": clipped, "max": torch.max(first, clipped)}.get(how)
    losses = -(torch.min(first, clipped) if surrogate is None else surrogate)
    losses = losses.expand_as(mask)
    if kl:
        d = ref_per_token_logps - per_token_logps
        losses = losses + beta * {"k1": -d, "k2": d**2 / 2, "k3": d.exp() - 1 - d}[kl]
    if normaliser == "sequences":
        return ((losses * mask).sum(1) / n[:, 0]).mean()
    total = {"tokens": mask.sum(), "nothing": 1.0, "positions": mask.numel()}[normaliser]
    return (losses * mask).sum() / total


PAPER = {"beta": 0.3, "use_bias_correction_kl": False}
GSPO = {"loss_type": "grpo", "importance_sampling_level": "sequence"}


@pytest.mark.parametrize(
    "fault, options, name",
    [
        ({"how": "clip"}, {}, "clip: without the min"),
        ({"how": "clip", "low": 0.3, "high": 0.4}, {"epsilon_low": 0.3, "epsilon_high": 0.4},
         "clip: without the min"),
        ({"how": "max"}, {}, "clip: the larger of the two"),
        ({"how": "log-ratio"}, {}, "ratio: the log-ratio itself, without exp"),
        ({"high": 0.28}, {}, "epsilon_high: 0.28, not 0.2"),
        ({"high": 0.35}, {}, "epsilon_high: 0.35, not 0.2"),
        ({"high": 0.2}, {"epsilon_high": 0.28}, "clip: [0.8, 1.2]"),
        ({"low": 0.1}, {}, "epsilon_low: 0.1, not 0.2"),
        ({"low": 0.15, "high": 0.15}, {}, "epsilon, low and high: 0.15, not 0.2"),
        ({"cap": 2.5}, {}, "delta: 2.5, not None"),
        ({"normaliser": "nothing"}, {}, "reduction: sum over the tokens"),
        ({"normaliser": "positions"}, {}, "reduction: mean over B x T positions"),
        ({"kl": "k1", "beta": 0.3}, PAPER, "KL: k1, not k3"),
        ({"kl": "k2", "beta": 0.3}, PAPER, "KL: k2, not k3"),
        ({"kl": "k2", "beta": 0.04}, {"beta": 0.04}, "KL: k2, not k3"),
        ({"kl": "k3", "beta": 0.04}, PAPER, "beta: 0.04, not 0.3"),
        ({"kl": "k3", "beta": -0.3}, PAPER, "KL sign: subtracted"),
        ({"level": "sum", "normaliser": "sequences"}, GSPO, "ratio: of the whole sequence, the pro"),
        ({"level": "sum", "normaliser": "sequences", "low": 3e-4, "high": 4e-4},
         GSPO | {"epsilon_low": 3e-4, "epsilon_high": 4e-4},
         "ratio: of the whole sequence, the pro"),
    ],
)  # fmt: skip
def test_a_usual_departure_of_grpo_is_named(fault, options, name):
    def mine(**arrays):
        arrays.pop("rewards")
        return grpo_by_hand(**arrays, **fault)

    verdict = conformance.check(mine, "grpo", **{"loss_type": "dapo"} | options)
    assert not verdict.agrees and len(verdict.explained_by) == 1, verdict
    assert verdict.explained_by[0].startswith(name), verdict


def test_a_number_and_a_convention_are_named_together():
    def mine(**arrays):
        arrays.pop("rewards")
        return grpo_by_hand(**arrays, high=0.3, normaliser="sequences")

    said = conformance.check(mine, "grpo", loss_type="dapo").explained_by
    assert len(said) == 2 and said[0].startswith("epsilon_high: 0.3, not 0.2"), said
    assert said[1].startswith("reduction: of loss_type 'grpo'")


@pytest.mark.parametrize("loss_type", ["sigmoid", "hinge", "ipo", "apo_zero"])
@pytest.mark.parametrize("mine, asked", [(0.5, 0.1), (0.1, 0.5), (0.03, 0.1), (2.0, 0.1)])
def test_another_beta_of_dpo_is_named_with_its_number(loss_type, mine, asked):
    theirs = conformance_loss(loss_type, mine)
    verdict = conformance.check(theirs, "dpo", loss_type=loss_type, beta=asked)
    if (
        loss_type == "hinge" and max(mine, asked) <= 0.1
    ):  # no pair reaches the margin: L = 1 - beta h
        assert not verdict.agrees
    assert verdict.explained_by == (f"beta: {mine:.4g}, not {asked}",), verdict


def conformance_loss(loss_type, beta):
    """DPO by hand, from the answers' log-ratios."""

    def loss(per_token_logps, ref_per_token_logps, completion_mask):
        u = ((per_token_logps - ref_per_token_logps) * completion_mask).sum(1)
        n = completion_mask.sum(1).clamp(min=1)
        chosen, rejected = (u / n if loss_type == "ipo" else u).chunk(2)
        h = chosen - rejected
        losses = {
            "sigmoid": -torch.nn.functional.logsigmoid(beta * h),
            "hinge": torch.relu(1 - beta * h),
            "ipo": (h - 1 / (2 * beta)) ** 2,
            "apo_zero": 1 - (beta * chosen).sigmoid() + (beta * rejected).sigmoid(),
        }
        return losses[loss_type].mean()

    return loss


@pytest.mark.parametrize("eps, asked", [(1e-5, 1e-4), (1e-3, 1e-8)])
def test_another_eps_of_the_std_is_named_with_its_number(eps, asked):
    def mine(rewards):
        return twin_advantages.group(rewards, 4, ddof=1, eps=eps)

    said = conformance.check(mine, "advantages", eps=asked).explained_by
    assert said == (f"eps: {eps:.4g}, not {asked}",)


def without_log(per_token_logps, ref_per_token_logps, completion_mask):
    u = ((per_token_logps - ref_per_token_logps) * completion_mask).sum(1)
    chosen, rejected = u.chunk(2)
    return -(0.1 * (chosen - rejected)).sigmoid().mean()


@pytest.mark.parametrize(
    "mine, objective, name",
    [
        (without_log, "dpo", "log: missing, -sigmoid in place of -log sigmoid"),
        (lambda **x: dpo(**{k: v.detach() for k, v in x.items()}), "dpo", "detach: everything"),
        (lambda per_token_logps, completion_mask: -(per_token_logps * completion_mask).mean(),
         "sft", "reduction: mean over B x T positions"),
        (lambda per_token_logps, completion_mask: nll(per_token_logps.exp(), completion_mask),
         "sft", "log: missing"),
        (lambda per_token_logps, ref_per_token_logps: (per_token_logps - ref_per_token_logps) ** 2,
         "kl", "estimator: k2 without its half"),
    ],
)  # fmt: skip
def test_a_usual_departure_of_the_other_losses_is_named(mine, objective, name):
    verdict = conformance.check(mine, objective)
    assert len(verdict.explained_by) == 1 and verdict.explained_by[0].startswith(name), verdict


def test_a_constant_factor_is_found():
    verdict = conformance.check(lambda **x: 0.7 * changed()(**x), "grpo")
    assert verdict.constant == pytest.approx(0.7) and "reference times 0.7" in str(verdict)


def test_what_nothing_explains_is_said_to_be_so():
    verdict = conformance.check(lambda **x: dpo(**x).sin(), "dpo")
    assert verdict.explained_by == () and np.isnan(verdict.constant)
    assert "no known convention" in str(verdict)


@pytest.mark.parametrize(
    "ddof, eps, explained_by",
    [(0, 1e-4, ["ddof: 0"]), (1, 1e-8, ["eps: 1e-08"]), (0, 1e-8, ["ddof: 0", "eps: 1e-08"])],
)
def test_the_std_of_the_advantages_is_told_apart(ddof, eps, explained_by):
    def mine(rewards):
        return twin_advantages.group(rewards, 4, ddof=ddof, eps=eps)

    verdict = conformance.check(mine, "advantages", rtol=1e-9)
    assert [said.split(" (")[0] for said in verdict.explained_by] == explained_by
    assert "open-instruct" in str(verdict)  # who does so, from the table of conventions
    assert np.isnan(verdict.gradient_error)


def test_kl_in_the_wrong_direction_inside_grpo():
    def mine(per_token_logps, ref_per_token_logps, completion_mask, **rest):
        k = twin_kl.k3(ref_per_token_logps, per_token_logps)  # the other way round
        penalty = (k * completion_mask).sum() / completion_mask.sum()
        tokens = {"per_token_logps": per_token_logps, "completion_mask": completion_mask}
        return changed()(**tokens, **rest) + 0.3 * penalty

    options = {"loss_type": "dapo", "beta": 0.3, "use_bias_correction_kl": False}
    verdict = conformance.check(mine, "grpo", **options)
    assert verdict.explained_by == (
        "KL direction: policy minus reference, not reference minus policy",
    )


def test_cispos_twin_agrees_and_so_the_list_above_blames_the_missing_detach():
    def mine(per_token_logps, old_per_token_logps, advantages, completion_mask):
        return twin_cispo.loss(
            per_token_logps,
            old_per_token_logps,
            advantages,
            completion_mask,
            importance_sampling_level="token",
            epsilon_max=5.0,
            reduction="dapo",
            tokens_per_micro_batch=completion_mask.sum(),
        )

    assert conformance.check(mine, "grpo", loss_type="cispo", epsilon_high=5.0).agrees


def test_numpy_losses_are_checked_by_differences():
    def mine(per_token_logps, completion_mask):
        return -(per_token_logps * completion_mask).sum() / completion_mask.sum()

    assert conformance.check(mine, "sft", framework="numpy").agrees
    verdict = conformance.check(lambda **x: -mine(**x), "sft", framework="numpy")
    assert verdict.explained_by == ("sign: negated",)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: conformance.check(nll, "ppo"), "objective must be one of 'sft'"),
        (lambda: conformance.check(nll, "sft", framework="jax"), "framework must be one of"),
        (
            lambda: conformance.check(lambda logits: logits, "sft"),
            "my_loss must take its arrays by",
        ),
    ],
)
def test_what_cannot_be_checked_is_refused(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value)


# The report ------------------------------------------------------------------------------------

REFUSED = {  # see test_dpo.py and test_lora_init.py
    "hinge, use_weighting": "RuntimeError",
    "sft, use_weighting": "RuntimeError",
    "pissa: the part of W taken": "TypeError",
    "olora: the part of W taken": "TypeError",
}
REFUSED |= {f"{name}, alpha_divergence": "KeyError" for name in OF_SCORES}


def reach(record):
    """The relative error that the dtype allows."""
    if record["dtype"] == "bfloat16":
        # 10 roundings; a sum of rounded probabilities crosses top_p's threshold a token later
        return float("inf") if record["objective"] == "sampling" else 10 * 2.0**-7
    # float32: sums of 100 terms; TRL has float32 constants and accumulators inside float64, too;
    # bitsandbytes has nothing else; transformers' token classification takes float32 logits
    single = record["dtype"] == "float32" or record["library"] in ("trl", "bitsandbytes")
    single = single or record["objective"] == "prm"
    return 1e-5 if single else 1e-12


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_every_row_of_the_report_is_within_its_dtypes_reach(device):
    pytest.importorskip("trl")
    here = [place for place in report.places() if place.device == device]
    records = report.measure(rows.every_row(), here)
    kept = device == "cpu"  # the golden vectors of a release that is gone
    assert {r["objective"] for r in records} == {
        row.objective for row in rows.every_row() if kept or not row.release
    }
    for record in records:
        if "refused" in record:
            assert record["refused"].startswith(REFUSED[record["option"]]), record
        else:
            assert max(record["value"], record.get("gradient", 0.0)) < reach(record), record
    for objective, loss_types in [
        ("dpo", dpo_trainer.LOSS_TYPES),
        ("grpo", grpo_trainer.LOSS_TYPES),
    ]:
        options = {r["option"].split(",")[0] for r in records if r["objective"] == objective}
        assert set(loss_types) <= options


def test_a_planted_difference_shows_in_the_report():
    at = report.places()[0]
    row = next(row for row in rows.every_row() if row.objective == "kl")
    wrong = row._replace(
        run=lambda place: {k: (1.01 * x, y) for k, (x, y) in row.run(place).items()}
    )
    (record,) = report.measure([wrong], [at])
    assert record["value"] == pytest.approx(0.01) and record["gradient"] == pytest.approx(0.01)
    assert "1e-02 / 1e-02" in report.as_html([record])
    assert report.relative_error([np.nan], [1.0]) == np.inf
    assert report.relative_error([1.0, 2.0], [1.0]) == np.inf


def test_the_report_is_written_as_text_html_and_json():
    every = [row for row in rows.every_row() if row.objective == "kl"]
    records = report.measure(every, report.places()[:1])
    text, page = report.as_text(records), report.as_html(records)
    assert "k3" in page and "departs: grpo, cispo" in text
    by = f"torch twin {torch.__version__}"
    line = next(line for line in text.splitlines() if line.split()[:2] == ["kl", "k3"])
    assert by in line and line.count(" / ") == 1 and "cpu float64" in text.splitlines()[2]
    kept = json.loads(report.as_json(records))
    assert kept["records"] == records and len(kept["departures"]) > 10
    (golden,) = [row for row in rows.every_row() if row.objective == "bco"]
    (record,) = report.measure([golden], report.places())  # not once for each place
    assert (record["version"], record["dtype"]) == (golden.release, "float64")
    gone = [row._replace(library="no_such_library") for row in every]
    assert report.missing(gone) == ["no_such_library"] and report.measure(gone, []) == []


def test_a_departure_is_of_an_objective_of_the_matrix_or_of_a_module():
    objectives = {row.objective for row in rows.every_row()}
    objectives |= {path.stem for path in Path(reference_math.__file__).parent.glob("*.py")}
    assert {name for d in DEPARTURES for name in d["objective"].split(", ")} <= objectives
    assert all(d["option"] and d["departure"].endswith(".") for d in DEPARTURES)


def test_each_departure_names_its_tests_and_each_defect_that_is_shown_is_a_departure():
    """test_rosetta.py has departures of its own, in reference_math/conformance/rosetta."""
    named = {name for departure in DEPARTURES for name in departure["proof"]}
    assert all(departure["proof"] for departure in DEPARTURES)
    there, shown = set(), set()
    for path in set(Path(__file__).parent.glob("test_*.py")) - {ROSETTA}:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                there.add(f"{path.name}::{node.name}")
                if any("library_defect" in ast.unparse(mark) for mark in node.decorator_list):
                    shown.add(f"{path.name}::{node.name}")
    assert named <= there and len(shown) > 40
    assert shown - named == set()


def test_importing_it_brings_in_no_torch():
    script = "import sys, reference_math.conformance; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
