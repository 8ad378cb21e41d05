"""The rows of libraries reproduce what the releases computed, and `check` holds a loss against them."""

import numpy as np
import pytest

from reference_math import conformance
from reference_math.conformance import libraries, rosetta
from reference_math.conventions import TABLE

PROVED = [row for row in TABLE if row["proof"]]
EACH = pytest.mark.parametrize("row", PROVED, ids=lambda row: row["name"])
ERROR = 1e-6  # the loosest tolerance of a case: float32 in the library


def errors(row):
    """{array: how far the row's columns are from what the release computed}, the clip's end at 0.28."""
    library, of_advantages, *of_losses = row["proof"]
    arrays, cases = rosetta.golden(library), {case.name: case for case in rosetta.rows(library)}
    said, found = libraries.calls(row | {"epsilon_high": 0.28, "beta": 0.0}), {}
    if of_advantages:
        rewards = cases[of_advantages].shared.get("total", "R")  # ms-swift: of two rewards
        here = arrays | {"batch/R": rosetta.evaluate(rewards, arrays, {})}
        theirs = arrays[f"{of_advantages}/value"]
        ours = np.asarray(rosetta.evaluate(said["advantages"], here, {}))
        if theirs.shape == arrays["batch/m"].shape and ours.ndim == 1:
            ours = ours[:, None] * arrays["batch/m"]
        found["advantages"] = rosetta.error(theirs, ours.reshape(theirs.shape))
    for of_loss in of_losses:
        old = "far" if "far off-policy" in of_loss else "o"
        here = arrays | {"batch/o": arrays[f"batch/{old}"]}
        for part, name in (("loss", "value"), ("gradient", "grad")):
            ours = rosetta.evaluate(said[part], here, {})
            found[f"{of_loss}: {part}"] = rosetta.error(arrays[f"{of_loss}/{name}"], ours)
    return found


@EACH
def test_a_rows_columns_give_what_the_release_computed(row):
    assert row["kind"] == "library" and (found := errors(row))
    assert {part: error for part, error in found.items() if not error <= ERROR} == {}


@EACH
def test_a_rows_source_is_the_release_that_its_proof_comes_from(row):
    release = rosetta.release(row["proof"][0])
    assert row["source"].startswith(release.replace("==", " ") + ":")


OTHERS = {
    "ddof": {0: 1, 1: 0},
    "eps": {1e-4: 1e-6, 1e-6: 1e-4, 1e-9: 1e-4},
    "scale": {"group": "none", "whiten": "none", "none": "group"},
    "reduction": {"bnpo": "grpo", "dapo": "grpo", "grpo": "bnpo"},
    "level": {"token": "sequence"},
    "epsilon_low": {0.2: 0.1},
    "delta": {3.0: None},
}
OF_ADVANTAGES = ("ddof", "eps", "scale")
WRONG = [
    (row, key)
    for row in PROVED
    for key in OTHERS
    if row[key] in OTHERS[key]
    if (
        row["proof"][1] if key in OF_ADVANTAGES else row["proof"][2:]
    )  # what is not computed: no proof
]


@pytest.mark.parametrize("row, key", WRONG, ids=lambda x: x if isinstance(x, str) else x["name"])
def test_a_wrong_column_is_seen(row, key):
    wrong = {"ddof": 1, "eps": 1e-4} if key == "scale" else {}
    assert max(errors(row | wrong | {key: OTHERS[key][row[key]]}).values()) > 5 * ERROR


def test_every_library_that_has_advantages_or_a_clipped_loss_of_its_own_has_a_row():
    assert {row["proof"][0] for row in PROVED} == {
        "areal", "cosmos", "liger", "openrlhf", "skyrl", "swift", "tinker", "unsloth", "verl",
    }  # fmt: skip
    assert len(libraries.rows()) >= 25


def test_the_gradient_of_a_kl_that_is_averaged_row_by_row():
    row, arrays = libraries.find("SkyRL") | {"beta": 0.3}, rosetta.golden("skyrl")
    said, h = libraries.calls(row), 1e-6
    grad = rosetta.evaluate(said["gradient"], arrays, {})
    for at in ((0, 0), (1, 1), (5, 0)):
        step = np.zeros_like(arrays["batch/l"])
        step[at] = h
        ends = [rosetta.evaluate(said["loss"], arrays | {"batch/l": arrays["batch/l"] + s}, {})
                for s in (step, -step)]  # fmt: skip
        # central differences of a smooth loss are good to h^2; round-off takes the rest
        np.testing.assert_allclose((ends[0] - ends[1]) / (2 * h), grad[at], rtol=1e-7, atol=1e-9)


def test_two_libraries_are_compared_by_what_their_tables_say():
    columns, gaps = libraries.compare("verl", "ms-swift")
    assert columns == {
        "eps": (1e-6, 1e-4), "reduction": ("bnpo", "grpo"), "delta": (3.0, None),
        "beta": (0.0, 0.04),
    }  # fmt: skip
    assert 1e-5 < gaps["advantages"] < 1e-3 and gaps["gradient"] > 0.1 and gaps["loss"] > 0.1
    columns, gaps = libraries.compare("verl grpo", "verl")
    assert columns == {} and gaps == {"advantages": 0.0, "loss": 0.0, "gradient": 0.0}
    gaps = libraries.compare("nemo-rl grpo", "pipelinerl")[1]
    assert [*gaps] == ["advantages", "loss", "gradient"] and min(gaps.values()) > 0.1
    assert [*libraries.compare("Tinker", "pipelinerl")[1]] == ["advantages"]  # it has no loss


def test_the_command_lists_and_compares(capsys):
    libraries.main([])
    assert "cosmos-rl grpo" in capsys.readouterr().out
    libraries.main(["cosmos-rl", "openrlhf group_norm"])
    said = capsys.readouterr().out
    assert "A = advantages.group(R, G, ddof=0, eps=1e-06)" in said
    assert "delta          3.0 | None" in said and "clamped to 10" in said


def by_hand(*, eps, delta=None, per_row=False, kl=0.0):
    """A clipped loss from the rewards, in plain torch, which reads no line of this package."""

    def loss(
        per_token_logps, old_per_token_logps, rewards, completion_mask, ref_per_token_logps=None
    ):
        R = rewards.view(-1, 4)
        A = ((R - R.mean(1, keepdim=True)) / (R.std(1, keepdim=True) + eps)).view(-1, 1)
        w = (per_token_logps - old_per_token_logps).exp()
        losses = -(w * A).minimum(w.clamp(0.8, 1.2) * A)
        if delta:
            losses = losses.where(A >= 0, losses.minimum(-delta * A))
        if kl:
            d = ref_per_token_logps - per_token_logps
            losses = losses + kl * (d.exp() - 1 - d)
        summed, n = (losses * completion_mask).sum(1), completion_mask.sum(1)
        return (summed / n).mean() if per_row else summed.sum() / n.sum()

    return loss


VERL, SWIFT = {"eps": 1e-6, "delta": 3.0}, {"eps": 1e-4, "per_row": True, "kl": 0.04}


def test_a_loss_agrees_with_the_library_that_it_was_taken_from():
    verdict = conformance.check(by_hand(**VERL), "grpo", like="verl")
    assert verdict.agrees and verdict.follows == ("verl grpo",)
    assert str(verdict).endswith("; as by default in verl grpo")
    verdict = conformance.check(by_hand(**SWIFT), "grpo", like="ms-swift")
    assert verdict.agrees and verdict.follows == ("ms-swift grpo",)


def test_options_go_before_a_librarys_defaults():
    assert conformance.check(
        by_hand(**SWIFT | {"kl": 0.5}), "grpo", like="ms-swift", beta=0.5
    ).agrees
    assert conformance.check(by_hand(eps=1e-6), "grpo", like="SkyRL", beta=0.0).agrees


def from_its_calls(row):
    """A library's defaults as the calls that its golden vectors prove, or that were compared at a commit."""
    said = libraries.calls(row)

    def given(per_token_logps, old_per_token_logps, completion_mask, ref_per_token_logps, **known):
        letters = {"l": per_token_logps, "o": old_per_token_logps, "m": completion_mask}
        arrays = {
            f"batch/{k}": x for k, x in (letters | known | {"r": ref_per_token_logps}).items()
        }
        if "advantages" in said and "R" in known:
            arrays["batch/A"] = rosetta.evaluate(said["advantages"], arrays, {})
        return rosetta.evaluate(said["loss"], arrays, {})

    if "advantages" in said:
        return lambda per_token_logps, old_per_token_logps, rewards, completion_mask, ref_per_token_logps=None: (
            given(per_token_logps, old_per_token_logps, completion_mask, ref_per_token_logps, R=rewards))  # fmt: skip
    return lambda per_token_logps, old_per_token_logps, advantages, completion_mask, ref_per_token_logps=None: (
        given(per_token_logps, old_per_token_logps, completion_mask, ref_per_token_logps, A=advantages))  # fmt: skip


CHECKED = [
    row
    for row in libraries.rows()
    if row["kind"] == "library" and libraries.has_loss(row)
    if row["scale"] != "whiten" and row["kl"] != "k3, gradient l - r"
]


@pytest.mark.parametrize("row", CHECKED, ids=lambda row: row["name"])
def test_check_has_every_librarys_defaults_as_its_calls_have_them(row):
    loss = from_its_calls(row)
    verdict = conformance.check(loss, "grpo", like=row["name"], framework="numpy")
    assert verdict.agrees and row["name"] in verdict.follows
    others = (
        {"TRL bnpo", "TRL grpo"} if "advantages" in libraries.calls(row) else {"PipelineRL ppo"}
    )
    assert not others & set(verdict.follows)


def test_most_libraries_can_be_compared_with():
    assert len({row["name"].split()[0] for row in CHECKED}) >= 12


def test_a_ratio_that_is_always_one_is_told_from_a_clipped_one():
    def simple(per_token_logps, rewards, ref_per_token_logps, completion_mask):
        R = rewards.view(-1, 4)
        A = ((R - R.mean(1, keepdim=True)) / (R.std(1, keepdim=True) + 1e-4)).view(-1, 1)
        d = ref_per_token_logps - per_token_logps
        losses = -(per_token_logps - per_token_logps.detach()).exp() * A + 0.01 * (d.exp() - 1 - d)
        return ((losses * completion_mask).sum(1) / completion_mask.sum(1)).mean()

    verdict = conformance.check(simple, "grpo", like="torchtune GRPOSimpleLoss")
    assert verdict.agrees and verdict.follows == ("torchtune GRPOSimpleLoss",)


def test_a_loss_of_another_library_is_named_and_so_is_what_differs():
    verdict = conformance.check(by_hand(eps=1e-9), "grpo", like="TRL bnpo")
    assert not verdict.agrees and verdict.follows == ("OpenRLHF group_norm",)
    assert [said.split(" (")[0] for said in verdict.explained_by] == ["eps: 1e-09"]
    assert str(verdict).endswith("; as by default in OpenRLHF group_norm")
    verdict = conformance.check(by_hand(**VERL), "grpo", loss_type="dapo")
    assert not verdict.agrees and verdict.follows == ("verl grpo",)
    assert conformance.check(by_hand(eps=0.03), "grpo").follows == ()


def test_of_a_loss_that_is_given_advantages_their_conventions_are_not_asked():
    def given(per_token_logps, old_per_token_logps, advantages, completion_mask):
        w, A = (per_token_logps - old_per_token_logps).exp(), advantages[:, None]
        losses = -(w * A).minimum(w.clamp(0.8, 1.2) * A) * completion_mask
        return losses.sum() / completion_mask.sum()

    follows = set(conformance.check(given, "grpo").follows)
    assert {"TRL dapo", "TRL bnpo", "OpenRLHF group_norm", "OpenRLHF reinforce_baseline"} <= follows
    assert not follows & {"verl grpo", "cosmos-rl grpo", "ms-swift grpo", "TRL grpo", "slime grpo"}


def test_advantages_name_their_libraries():
    def centred(rewards):
        return (rewards.view(-1, 4) - rewards.view(-1, 4).mean(1, keepdim=True)).view(-1)

    verdict = conformance.check(centred, "advantages", like="Tinker")
    assert verdict.agrees
    assert verdict.follows == ("Tinker cookbook", "open-instruct centered", "prime-rl")
    assert conformance.check(centred, "advantages", like="verl").follows == verdict.follows


def test_the_others_std_is_named():
    def others(rewards):
        R = rewards.view(-1, 4)
        rest = R[:, [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]]  # (P, 4, 3)
        return ((R - rest.mean(2)) / (rest.std(2) + 1e-6)).view(-1)

    verdict = conformance.check(others, "advantages", like="NeMo-RL")
    assert verdict.agrees and verdict.follows == ("NeMo-RL grpo",)
    verdict = conformance.check(others, "advantages", eps=1e-6)
    assert verdict.explained_by == (
        "scale: the others' std, the others' mean is taken off (NeMo-RL)",
    )


@pytest.mark.parametrize(
    "name, objective, message",
    [("openrlhf", "grpo", "names 2 libraries, not one; there are OpenRLHF group_norm, OpenRLHF rein"),
     ("veril", "grpo", "'veril' names 0 libraries"),
     ("verl", "dpo", "the tables have no dpo of verl; they have it of TRL, OpenRLHF, ms-swift"),
     ("OpenRLHF reinforce_baseline", "grpo", "does not say all that OpenRLHF reinforce_baseline does"),
     ("prime-rl", "grpo", "does not say all that prime-rl does in grpo"),
     ("NeMo-RL", "grpo", "does not compute the KL of NeMo-RL grpo; leave it out of my_loss"),
     ("Liger-Kernel", "grpo", "does not say all that Liger grpo does in grpo"),
     ("torchtune", "advantages", "names 2 libraries, not one; there are torchtune GRPOLoss, torchtune GRPOS")],
)  # fmt: skip
def test_what_the_table_cannot_say_is_refused_by_name(name, objective, message):
    with pytest.raises(ValueError) as error:
        conformance.check(by_hand(eps=1e-6), objective, like=name)
    assert message in str(error.value)
