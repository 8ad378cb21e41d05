"""Kinds of answers that rewards are known to get wrong, with variations around each.

tests/rewards/kinds.jsonl, sorted by kind. `reward` is what `accuracy_reward` gives; None where the
gold is refused. `prompt`, where there is one, is passed as TRL passes it.
"""

import json
from collections import defaultdict
from pathlib import Path

import pytest

from rewards import explain

KINDS = defaultdict(list)
for line in Path(__file__).with_name("kinds.jsonl").read_text(encoding="utf-8").splitlines():
    case = json.loads(line)
    KINDS[case["kind"]].append(case)


def completion(case):
    return case.get("completion") or f"<think>t</think><answer>{case['answer']}</answer>"


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_scored_as_it_should_be(kind):
    cases = KINDS[kind]
    prompts = [case.get("prompt") for case in cases]
    verdicts = explain(list(map(completion, cases)), [case["gold"] for case in cases], prompts)
    wrong = {
        (str(case["gold"]), completion(case)): (verdict, case["reward"])
        for case, verdict in zip(cases, verdicts, strict=True)
        if verdict.reward != case["reward"]
    }
    assert wrong == {}
