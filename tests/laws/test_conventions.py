"""The table of conventions says what it can be held to.

TRL's rows are compared with the installed library in tests/parity/test_grpo_trainer.py. The rows
with a proof are held to what the releases computed in tests/parity/test_libraries.py. The others were
read from papers and from source code at a named commit: no test can confirm a reading, so each row has
to name its source.
"""

import numpy as np
import pytest

from reference_math import advantages, grpo_trainer, multi_reward, reductions
from reference_math.conventions import COLUMNS, TABLE

BY_NAME = {row["name"]: row for row in TABLE}


def test_every_row_has_the_documented_columns_a_source_and_a_name_of_its_own():
    assert all(tuple(row) == COLUMNS for row in TABLE)
    assert all(row["source"] for row in TABLE) and len(BY_NAME) == len(TABLE)


@pytest.mark.parametrize(
    "column, choices",
    [
        ("kind", {"trl", "paper", "library"}),
        ("surrogate", {"grpo", "cispo", "sapo", "vespo", "rloo", "reinforce", "dppo"}),
        ("centre", {"group", "others", "none", None}),
        ("scale", {*multi_reward.SCALE_REWARDS, "whiten", "others", None}),
        ("ddof", {0, 1, None}),
        ("reduction", {*reductions.REDUCTIONS, None}),
        ("level", {"token", "sequence", "product", "none", None}),
        (
            "kl",
            {
                "k1 in the reward",
                "k1",
                "k3",
                "w k3",
                "k3 per row",
                "k3, gradient l - r",
                "2 k2 to the sampler",
                None,
            },
        ),
        ("delta", {3.0, None}),
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
