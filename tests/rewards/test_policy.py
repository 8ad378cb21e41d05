"""Every line of rewards/POLICY.md, read from the file itself."""

import re
from pathlib import Path

import pytest

import rewards
from rewards import accuracy_reward, explain
from rewards.policy import copied

POLICY = Path(rewards.__file__).with_name("POLICY.md").read_text(encoding="utf-8")


def lines():
    """(rule, gold, right answers, wrong answers) of each line of the table."""
    for line in POLICY.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("|") and len(cells) == 4 and "`" in cells[1]:
            rule, *spans = cells[0], *(re.findall(r"`([^`]+)`", cell) for cell in cells[1:])
            yield rule, spans[0][0], spans[1], spans[2]


def completion(answer):
    return f"<think>\nstep by step\n</think>\n<answer>{answer}</answer>"


def test_the_table_was_found():
    assert len(list(lines())) == POLICY.count("\n| ") - 1  # less its heading


@pytest.mark.parametrize(("rule", "gold", "right", "wrong"), list(lines()))
def test_policy(rule, gold, right, wrong):
    answers = [completion(answer) for answer in right + wrong]
    verdicts = explain(answers, [gold] * len(answers))
    assert right
    assert wrong
    got = {a: v for a, v in zip(right + wrong, verdicts, strict=True)}
    assert {a: got[a] for a in right if got[a].reward != 1.0} == {}, rule
    assert {a: got[a] for a in wrong if got[a].reward != 0.0} == {}, rule


@pytest.mark.parametrize(
    ("gold", "answer", "question"),
    [
        ("x+1", r"\frac{x^2-1}{x-1}", r"Simplify $\frac{x^2-1}{x-1}$."),
        (r"2\sqrt{2}", r"$\sqrt{8}$", r"Write $\sqrt{8}$ in simplest form."),
    ],
)
def test_a_copied_question_earns_nothing_where_the_prompt_is_known(gold, answer, question):
    chat = [{"role": "system", "content": "Think."}, {"role": "user", "content": question}]
    for prompt in (question, chat):
        arguments = {"completions": [completion(answer)], "solution": [gold]}
        assert accuracy_reward(**arguments, prompts=[prompt]) == [0.0]
        assert accuracy_reward(**arguments) == [1.0]  # nothing to compare it with


@pytest.mark.parametrize(
    ("gold", "answer", "question"),
    [
        ("4", "4", "Which is larger, 3 or 4?"),
        ("yes", "Yes", "Is 7 prime? Answer Yes or No."),
        ("B", "(B)", "(A) 3 (B) 4"),
        (r"\frac{1}{2}", "1/2", "Is 1/2 or 1/3 larger?"),
        ("x+1", "x+1", "Which is it: x+1 or x-1?"),
    ],
)
def test_what_the_question_may_offer_as_an_answer(gold, answer, question):
    assert not copied(gold, answer, question)
    assert accuracy_reward([completion(answer)], [gold], prompts=[question]) == [1.0]
