"""`check` has every library of the tables as its reference, for every objective that the tables have."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import conformance
from reference_math.conformance import by_tables, checking, tables
from reference_math.conformance.objectives import OBJECTIVES

F = torch.nn.functional
EACH = [
    (name, row)
    for name in by_tables.names()
    for row in by_tables.rows_of(name)[1]
    if row is by_tables._row(name, row.library, by_tables.rows_of(name)[1])
]


def from_its_call(name, row):
    """A row's call, with the gradient that its proof holds, as a loss in torch."""
    table, rows = by_tables.rows_of(name)
    of = by_tables._Topic(table, rows, row, lambda: None)

    def loss(**tensors):
        arrays = {k: x.detach().numpy() for k, x in tensors.items()}
        value, grad = of.reference(row)(arrays, {})
        value = torch.tensor(value)
        if not of.wrt:
            return value
        if grad is None:
            grad = checking._slope(lambda a: of.reference(row)(a, {})[0], arrays, of.wrt)
        x = torch.cat([tensors[wrt].ravel() for wrt in of.wrt])
        slope = torch.tensor(grad) * (x - x.detach())  # 0, with that gradient
        return value + (slope.view_as(value) if value.ndim else slope.sum())

    return loss


@pytest.mark.parametrize("name, row", EACH, ids=lambda x: x if isinstance(x, str) else x.name)
def test_every_row_of_an_objective_is_a_reference_that_it_is_named_by(name, row):
    verdict = conformance.check(from_its_call(name, row), name, like=row.name)
    assert verdict.agrees and verdict.reference == row.call
    table, rows = by_tables.rows_of(name)
    alike = {by_tables._label(row, rows)}
    for one, other, gaps in tables.compared(rows, table):  # on the seeded batch
        if row in (one, other) and max(gaps.values()) < 1e-6:
            alike |= {by_tables._label(one, rows), by_tables._label(other, rows)}
    assert by_tables._label(row, rows) in verdict.follows and set(verdict.follows) <= alike


def test_the_objectives_are_those_of_the_field_and_most_libraries_have_some():
    """No name of the tables is one of `check`'s own but where `like` chooses between them."""
    asked = {"dpo", "ipo", "kto", "orpo", "simpo", "cpo", "sft", "dft", "gae", "returns", "value_loss", "kl", "k1", "k2", "k3"}  # fmt: skip
    assert asked <= set(by_tables.names()) and len(by_tables.names()) > 40
    assert set(by_tables.names()) & set(OBJECTIVES) == {"sft", "dpo", "kl"}
    assert len({row.library for _, row in EACH}) == len(tables.libraries())
    assert len(EACH) > 200


def test_each_argument_has_one_meaning_in_a_topic():
    for table in tables.tables():
        for topic in table.topics:
            _, rows = by_tables.rows_of(topic)
            used = {n for row in rows for n in by_tables._letters(row.call)}
            named = by_tables.NAMES | table.named.get(topic, {})
            said = [named[k] for k in tables.letters() if k in used and k in named]
            assert len(said) == len(set(said)), (topic, said)
            assert set(table.named.get(topic, {})) <= used
            assert set(table.given.get(topic, {})) - set(said) == set(table.given.get(topic, {}))


# Losses by hand, in plain torch, which read no line of this package -----------------------------


def cdpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, smoothing=0.1):
    d = 0.1 * (chosen_logps - ref_chosen_logps - rejected_logps + ref_rejected_logps)
    return ((1 - smoothing) * F.softplus(-d) + smoothing * F.softplus(d)).mean()


def test_smoothing_that_trl_ignores_is_openrlhfs():
    verdict = conformance.check(cdpo, "cdpo", like="OpenRLHF")
    assert verdict.agrees and {"OpenRLHF", "torchtune", "Open Instruct"} <= set(verdict.follows)
    assert not {"TRL", "Liger-Kernel"} & set(verdict.follows)
    verdict = conformance.check(cdpo, "cdpo")
    assert not verdict.agrees and verdict.explained_by[0].startswith("as in OpenRLHF, ")
    assert "cpo.pair_loss" in verdict.explained_by[0] and "The reference: dpo.sigmoid(" in str(
        verdict
    )


def by_token(per_token_logps, ref_per_token_logps, completion_mask):
    """The same without smoothing, from tokens: chosen answers first."""
    u = ((per_token_logps - ref_per_token_logps) * completion_mask).sum(1)
    chosen, rejected = u.chunk(2)
    return F.softplus(-0.1 * (chosen - rejected)).mean()


@pytest.mark.parametrize("library", ["verl", "OpenRLHF", "torchtune", "AReaL", "Tinker cookbook"])
def test_a_loss_of_tokens_is_held_against_a_call_of_answers(library):
    if library == "verl":
        with pytest.raises(
            ValueError, match="no dpo of verl; they have it of TRL, OpenRLHF, ms-swift"
        ):
            conformance.check(by_token, "dpo", like=library)
        return
    verdict = conformance.check(by_token, "dpo", like=library)
    assert verdict.agrees and library in verdict.follows and "NeMo-RL" not in verdict.follows


def test_another_beta_is_named_and_asked_for():
    verdict = conformance.check(by_token, "dpo", like="NeMo-RL")
    assert verdict.explained_by[0].startswith("as in TRL, OpenRLHF")
    assert conformance.check(by_token, "dpo", like="NeMo-RL", beta=0.1).agrees
    verdict = conformance.check(cdpo, "cdpo", like="torchtune", beta=0.3)
    assert verdict.explained_by == () or "0.1" in verdict.explained_by[0]


def orpo(per_token_logps, completion_mask, beta=0.1, nll=0.0):
    chosen, rejected = ((per_token_logps * completion_mask).sum(1) / completion_mask.sum(1)).chunk(
        2
    )
    odds = chosen - rejected - torch.log1p(-chosen.exp()) + torch.log1p(-rejected.exp())
    return (beta * F.softplus(-odds) - nll * chosen).mean()


def test_orpo_with_its_likelihood_is_llama_factorys():
    def with_likelihood(per_token_logps, completion_mask, beta):
        return orpo(per_token_logps, completion_mask, beta, nll=1.0)

    verdict = conformance.check(with_likelihood, "orpo", like="LLaMA-Factory", beta=0.3)
    assert verdict.agrees and verdict.follows == ()  # of those with the beta of their own
    verdict = conformance.check(orpo, "orpo", like="LLaMA-Factory")
    assert not verdict.agrees and verdict.follows == ("Liger-Kernel", "TRL")


def kto(logps, ref_logps, labels, kl, beta):
    u = logps - ref_logps
    wanted = labels * 2 - 1
    return (1 - torch.sigmoid(beta * wanted * (u - kl))).mean()


def test_kto_is_liger_and_trls():
    for library in ("Liger-Kernel", "TRL"):
        verdict = conformance.check(kto, "kto", like=library)
        assert verdict.agrees and set(verdict.follows) == {"Liger-Kernel", "TRL"}

    def forgotten(logps, ref_logps, labels, beta):
        return kto(logps, ref_logps, labels, 0.0, beta)

    assert not conformance.check(forgotten, "kto", like="Liger-Kernel").agrees


def nll(per_token_logps, completion_mask, num_items_in_batch):
    return -(per_token_logps * completion_mask).sum() / num_items_in_batch


def test_sft_has_each_librarys_own_denominator():
    assert conformance.check(nll, "sft", like="verl").agrees
    assert conformance.check(nll, "sft", like="NeMo-RL", num_items_in_batch=20).agrees
    assert conformance.check(nll, "sft", like="SkyRL").agrees  # a sum: its denominator is 1

    def per_row(per_token_logps, completion_mask):
        return -((per_token_logps * completion_mask).sum(1) / completion_mask.sum(1)).mean()

    verdict = conformance.check(per_row, "sft", like="OpenRLHF")
    assert not verdict.agrees and verdict.explained_by[0].startswith("as in OpenRLHF: ")
    assert verdict.follows == ("OpenRLHF (NLL, mean of the rows' means)", "slime")


def gae(token_rewards, values, completion_mask, shift=True, gamma=0.97):
    """Of rows without holes, gamma 0.97, lambda 0.9; values in the padding are not read."""
    B, T = values.shape
    rows = []
    for b in range(B):
        n, last, A = int(completion_mask[b].sum()), 0.0, torch.zeros(T, dtype=values.dtype)
        for t in reversed(range(n)):
            after = values[b, t + 1] if t + 1 < n else 0.0
            last = token_rewards[b, t] + gamma * after - values[b, t] + gamma * 0.9 * last
            A[t] = last
        rows.append(A)
    A = torch.stack(rows)
    counted = A[completion_mask == 1]
    return (A - counted.mean()) / (counted.var(correction=1) + 1e-8).sqrt() + (
        0 if shift else counted.mean()
    )


def test_gae_is_verls_and_torchtunes_keeps_the_mean():
    verdict = conformance.check(gae, "gae", like="verl")
    assert verdict.agrees and {"verl", "TRL"} <= set(verdict.follows)
    assert not {"torchtune", "OpenRLHF"} & set(verdict.follows)

    def kept(token_rewards, values, completion_mask):
        return gae(token_rewards, values, completion_mask, shift=False)

    assert conformance.check(kept, "gae", like="torchtune").follows == ("torchtune",)
    assert conformance.check(kept, "gae", like="verl").explained_by[0].startswith("as in torchtune")


def test_another_discount_is_named_and_one_that_is_none_is_not_tried():
    def shorter(token_rewards, values, completion_mask):
        return gae(token_rewards, values, completion_mask, gamma=0.9)

    verdict = conformance.check(shorter, "gae", like="verl")
    assert verdict.explained_by == ("gamma: 0.9, not 0.97",)
    nothing = conformance.check(lambda token_rewards: token_rewards, "gae", like="verl")
    assert not nothing.agrees and nothing.explained_by == ()


def test_a_row_without_a_gradient_of_its_own_has_that_of_its_value():
    """NeMo-RL's DPO."""

    def half_detached(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps):
        d = chosen_logps - ref_chosen_logps - rejected_logps.detach() + ref_rejected_logps
        return F.softplus(-0.05 * d).mean()

    verdict = conformance.check(half_detached, "dpo", like="NeMo-RL")
    assert verdict.value_error < 1e-12 and verdict.gradient_error > 0.1 and not verdict.agrees


def test_a_value_loss_without_its_half_is_slimes():
    def squared(values, old_values, returns, completion_mask):
        near = old_values + (values - old_values).clamp(-0.3, 0.3)
        worst = ((values - returns) ** 2).maximum((near - returns) ** 2)
        return (worst * completion_mask).sum() / completion_mask.sum()

    assert conformance.check(squared, "value_loss", like="slime").follows == ("slime",)
    verdict = conformance.check(squared, "value_loss", like="verl")
    assert not verdict.agrees and verdict.explained_by[0].startswith(
        "as in slime: 2 * ppo.value_loss"
    )


def test_a_kl_whose_gradient_is_another_is_told_from_k3():
    def k3(per_token_logps, ref_per_token_logps):
        d = ref_per_token_logps - per_token_logps
        return d.exp() - 1 - d

    def nemos(per_token_logps, ref_per_token_logps):
        now = (per_token_logps - per_token_logps.detach()).exp()
        return now * k3(per_token_logps, ref_per_token_logps)

    verdict = conformance.check(k3, "kl", like="verl")
    assert verdict.agrees and "ms-swift" in verdict.follows and "NeMo-RL" not in verdict.follows
    verdict = conformance.check(nemos, "kl", like="NeMo-RL")
    assert verdict.follows == ("NeMo-RL",)
    verdict = conformance.check(nemos, "kl", like="verl")
    assert verdict.value_error < 1e-12 < verdict.gradient_error
    assert verdict.explained_by[0].startswith("as in NeMo-RL: kl.k3")


def test_planted_mistakes_are_named():
    def detached(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps):
        tensors = (chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
        return cdpo(*(x.detach() for x in tensors))

    verdict = conformance.check(detached, "cdpo", like="OpenRLHF")
    assert verdict.explained_by == ("detach: everything, no gradient reaches the policy",)

    def summed(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps):
        tensors = (chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
        return 6 * cdpo(*tensors)

    assert conformance.check(summed, "cdpo", like="OpenRLHF").constant == pytest.approx(6.0)
    other = conformance.check(
        lambda chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps: cdpo(
            chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, 0.2
        ),
        "cdpo",
        like="OpenRLHF",
    )
    assert other.explained_by == ("label_smoothing: 0.2, not 0.1",)


@pytest.mark.parametrize(
    "objective, library, options, message",
    [("rloo", "verl", {}, "the tables have no 'rloo'; there are .*leave_one_out"),
     ("kto", "ms-swift", {}, "the tables have no kto of ms-swift; they have it of Liger-Kernel, TRL"),
     ("dpo", "veril", {}, "no library 'veril'; there are TRL, verl"),
     ("dpo", "OpenRLHF", {"gamma": 0.5}, "OpenRLHF has no option gamma in dpo; there are beta"),
     ("AOT, unpaired", "verl", {}, "no AOT, unpaired of verl; they have it of TRL, ms-swift"),
     ("every prompt weighs the same", "SkyRL", {}, "the tables have no 'every prompt"),
     ("dppo", None, {}, "the tables have no dppo of TRL; they have it of verl, SkyRL"),
     ("dpoo", None, {}, "objective must be one of 'sft', 'dpo', .*'kto'")],
)  # fmt: skip
def test_what_the_tables_do_not_have_is_refused_with_what_they_have(
    objective, library, options, message
):
    with pytest.raises(ValueError, match=message):
        conformance.check(by_token, objective, like=library, **options)


def test_a_topic_is_known_by_its_whole_name():
    verdict = conformance.check(
        lambda per_token_loss, completion_mask: (per_token_loss * completion_mask).sum(1).mean(),
        "mean of the rows' sums",
        like="PipelineRL",
    )
    assert verdict.agrees and set(verdict.follows) == {
        "TRL",
        "verl",
        "cosmos-rl",
        "Unsloth",
        "PipelineRL",
    }


def test_the_batches_differ_and_keep_what_a_letter_is():
    first, other = (by_tables.redrawn(np.random.default_rng(seed)) for seed in (0, 1))
    for letter in ("l", "o", "r", "q", "far", "pc", "mc"):
        assert (first[letter] < 0).all() and not np.array_equal(first[letter], other[letter])
    assert set(np.unique(first["m"])) == {0.0, 1.0}
    plain = tables.letters()
    ratio = np.sort(np.ravel(first["l"] / first["o"]))
    np.testing.assert_allclose(ratio, np.sort(np.ravel(plain["l"] / plain["o"])), rtol=1e-12)
