"""What each library's defaults make of one right answer in eight, against numbers by hand and its own arrays."""

import numpy as np
import pytest
from lab import programs

from reference_math.conformance import libraries, rosetta


@pytest.fixture(scope="module")
def said():
    return programs.pushes(right=10, wrong=30)


def test_the_advantages_are_those_by_hand(said):
    """The mean is 1/8; the deviation 7/8, the std sqrt(1/8) with ddof 1 and sqrt(7)/8 with ddof 0."""
    std = np.sqrt(1 / 8)
    by_hand = {"TRL dapo": 7 / 8 / (std + 1e-4), "verl grpo": 7 / 8 / (std + 1e-6), "prime-rl": 7 / 8,
               "cosmos-rl grpo": 7 / 8 / (np.sqrt(7) / 8 + 1e-6), "PipelineRL ppo": 1 / (std + 1e-4),
               "NeMo-RL grpo": 1.0}  # fmt: skip
    for name, advantage in by_hand.items():
        assert said[name]["advantage"] == pytest.approx(advantage, rel=1e-12)


def test_the_push_is_the_advantage_over_what_the_sum_is_divided_by(said):
    over = {"TRL dapo": 220, "verl grpo": 220, "ms-swift grpo": 8 * 10, "slime grpo": 8 * 10, "PipelineRL ppo": 8,
            "torchtune GRPOSimpleLoss": 8 * 10, "open-instruct centered": 220, "prime-rl": 220}  # fmt: skip
    for name, count in over.items():
        assert said[name]["push"] == pytest.approx(said[name]["advantage"] / count, rel=1e-12)


@pytest.mark.parametrize("lengths", [(10, 30), (30, 10), (5, 80)])
def test_programs_that_average_over_tokens_ask_a_long_answer_and_a_short_one_alike(lengths):
    found = programs.pushes(*lengths)
    tokens = lengths[0] + 7 * lengths[1]
    for name in ("TRL dapo", "SkyRL grpo", "NeMo-RL grpo"):
        assert found[name]["push"] * tokens == pytest.approx(found[name]["advantage"])
    assert found["ms-swift grpo"]["push"] * 8 * lengths[0] == pytest.approx(
        found["ms-swift grpo"]["advantage"]
    )


def test_each_program_has_a_proof_or_a_commit():
    for name in programs.LIBRARIES:
        row = libraries.find(name)
        assert row["kind"] == "trl" or (row["proof"] and row["proof"][0] in rosetta.libraries()) or (
            "compared at that commit, not made again here" in row["note"])  # fmt: skip
    assert len({name.split()[0] for name in programs.LIBRARIES}) == len(programs.LIBRARIES) == 12


def test_the_picture_says_every_number_in_words(said, capsys):
    programs.draw(said)
    words = capsys.readouterr().out
    assert words.startswith("One right answer in eight: the same GRPO in 12 programs.")
    assert all(
        f"{name} {x['advantage']:.3g} and {x['push']:.3g}" in words for name, x in said.items()
    )
