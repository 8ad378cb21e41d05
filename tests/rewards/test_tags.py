"""The one scan behind format and accuracy is linear, and the two never disagree."""

import time

import pytest
from lab import red_team

from rewards import explain, format_reward
from rewards.tags import scan

STORMS = {
    "opening tags": "<think>" * 140_000,
    "closing tags": "</answer>" * 110_000,
    "whole blocks": "<think>a</think><answer>4</answer>" * 30_000,
    "angle brackets": "<" * 1_000_000,
    "half tags": "<think" * 160_000,
    "one huge block": "<think>" + "a" * 1_000_000 + "</think><answer>4</answer>",
    "white space": "<think>a</think>" + " " * 1_000_000 + "<answer>4</answer>",
    "line breaks": "\n" * 1_000_000,
    "nothing visible": "\u200b" * 1_000_000,
}


@pytest.mark.parametrize("storm", STORMS)
def test_a_million_characters_are_scanned_in_linear_time(storm):
    start = time.process_time()
    scan(STORMS[storm])
    # four passes over a megabyte take milliseconds; the slowest here asks Unicode about each
    # character. A quadratic scan would need hours.
    assert time.process_time() - start < 2.0


def test_format_and_accuracy_read_the_same_blocks():
    for case in red_team.cases():
        (verdict,) = explain([case["completion"]], ["4"])
        in_form = format_reward([case["completion"]]) == [1.0]
        assert in_form or verdict.reward == 0.0
        assert in_form == (verdict.reason == "right" or not _is_about_form(verdict.reason))


def _is_about_form(reason):
    about = ("tag", "block", "empty completion", "out of order", "outside")
    return any(word in reason for word in about)
