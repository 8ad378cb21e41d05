"""Golds as they stand in the data sets of the field, with right and wrong answers to each.

tests/rewards/answers.jsonl, written by hand; judged in this process, without a deadline.
"""

import json
from pathlib import Path

import pytest

from rewards.comparison import RIGHT
from rewards.policy import judge, judge_gold

LINES = Path(__file__).with_name("answers.jsonl").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("line", LINES)
def test_answers(line):
    case = json.loads(line)
    assert judge_gold(case["gold"]) == RIGHT
    reasons = {answer: judge(case["gold"], answer) for answer in case["right"] + case["wrong"]}
    assert {a: reasons[a] for a in case["right"] if reasons[a] != RIGHT} == {}
    assert [a for a in case["wrong"] if reasons[a] == RIGHT] == []
