"""The table of conventions says what it can be held to.

Most of it is read from papers and other people's code, and no law of mathematics can check that.
So it is kept by double entry: SAID was read from the sources a second time, as whole sentences.
"""

import re

import numpy as np
import pytest

from reference_math import advantages, grpo_trainer, multi_reward, reductions
from reference_math.conventions import COLUMNS, TABLE

BY_NAME = {row["name"]: row for row in TABLE}
SAID = {
    "TRL dapo": "std with ddof 1, plus eps 0.0001; beta 0.0; epsilon_low 0.2, epsilon_high 0.2",
    "TRL RLOOTrainer": "beta 0.05; epsilon_low 0.2, epsilon_high 0.2",
    "REINFORCE": "beta 0.0: there is no reference",
    "GRPO (DeepSeekMath)": "the KL coefficient, beta 0.04",
    "Dr. GRPO": "the KL term is left out: beta 0.0",
    "DAPO": "Clip-Higher: epsilon_low 0.2 and epsilon_high 0.28; no KL: beta 0.0",
    "GSPO": "left and right clipping ranges: epsilon_low 3e-4, epsilon_high 4e-4",
    "verl grpo": "torch's std, ddof 1, plus eps 1e-6; KL off: beta 0.0; epsilon_low, epsilon_high 0.2",
    "OpenRLHF group_norm": "torch's std, ddof 1, plus eps 1e-9",
    "OpenRLHF reinforce_baseline": "the mean square of what is left: ddof 0",
    "open-instruct standard": "numpy's std, ddof 0, plus eps 1e-8; beta 0.05; "
    "epsilon_low 0.2, epsilon_high 0.272",
    "torchtune GRPOLoss": "torch's std, ddof 1, plus eps 1e-4; epsilon_low 0.1, epsilon_high 0.1; "
    "beta 0.1",
}


def test_every_row_has_the_documented_columns_a_source_and_a_name_of_its_own():
    assert all(tuple(row) == COLUMNS for row in TABLE)
    assert all(row["source"] for row in TABLE) and len(BY_NAME) == len(TABLE)


@pytest.mark.parametrize(
    "column, choices",
    [
        ("kind", {"trl", "paper", "library"}),
        ("surrogate", {"grpo", "cispo", "sapo", "vespo", "rloo", "reinforce"}),
        ("scale", {*multi_reward.SCALE_REWARDS, "whiten"}),
        ("ddof", {0, 1, None}),
        ("reduction", {*reductions.REDUCTIONS, None}),
        ("level", {"token", "sequence", "product", None}),
        ("kl", {"k1 in the reward", "k2", "k3", "w k3", None}),
    ],
)
def test_a_column_holds_only_what_it_is_documented_to_hold(column, choices):
    assert {row[column] for row in TABLE} <= choices


def test_trls_rows_are_the_loss_types_with_their_defaults():
    for loss_type, (module, reduction, _) in grpo_trainer.LOSS_TYPES.items():
        row = BY_NAME[f"TRL {loss_type}"]
        assert row["surrogate"] == module.__name__.rpartition(".")[2]
        assert row["reduction"] == reduction
        assert row["beta"] == grpo_trainer.DEFAULTS["beta"]
        assert row["level"] == grpo_trainer.DEFAULTS["importance_sampling_level"]
        if row["surrogate"] == "grpo":
            assert row["epsilon_low"] == grpo_trainer.DEFAULTS["epsilon_low"]
            assert row["epsilon_high"] == grpo_trainer.DEFAULTS["epsilon_high"]


def test_a_row_can_be_computed_with():
    """The std by ddof 0 is the smaller, so those advantages are the larger, by sqrt(4 / 3)."""
    rewards, by_ddof = [1.0, 0.0, 0.0, 1.0], {}
    for name in ("OpenRLHF group_norm", "open-instruct standard"):
        options = {k: BY_NAME[name][k] for k in ("ddof", "eps")}
        by_ddof[options["ddof"]] = advantages.group(rewards, 4, **options)
    np.testing.assert_allclose(by_ddof[0] / by_ddof[1], np.sqrt(4 / 3), rtol=1e-7)


def test_the_numbers_are_those_of_a_second_reading():
    for name, said in SAID.items():
        for column, number in re.findall(r"(ddof|eps|epsilon_low|epsilon_high|beta) (\S*\d)", said):
            assert BY_NAME[name][column] == float(number), (name, column)


def test_no_number_was_read_only_once():
    numbers = ("ddof", "eps", "epsilon_low", "epsilon_high", "beta")
    for name, row in BY_NAME.items():
        said = SAID.get("TRL dapo" if row["kind"] == "trl" and name not in SAID else name, "")
        assert all(column in said for column in numbers if row[column] is not None), name
