"""Instructions: each rule kept and broken, and what a completion may try instead of keeping them."""

import json
import pickle
import time

import pytest

from rewards import instruction_reward
from rewards.instruction import copied, verdicts
from rewards.rules import RULES, failures, read

RULE = {"word": "blue", "min_words": 5, "max_words": 8, "ends": "?", "sentences": 1}
GOOD = "Is the old bridge really blue?"
CASES = [  # rule, value, a text that keeps it, a text that breaks it, why
    ("word", "blue", "So Blue, so wide.", "The bluest sky.", "the word 'blue' is missing"),
    ("mentions", "bridge", "A bridge.", "A bridgehead.", "the word 'bridge' is missing"),
    ("min_words", 3, "one two three", "one two", "2 words, fewer than 3"),
    ("max_words", 2, "one two", "one two three", "3 words, more than 2"),
    ("ends", "?", "Is it? ", "It is.", "ends with '.', not with '?'"),
    ("sentences", 2, "It is 3.5 m. Is it?", "It is.", "1 sentence, not 2"),
    ("starts", "Once", "Once, it rained.", "once it rained.", "starts with 'once', not 'Once'"),
    ("no_comma", True, "one two", "one, two", "a comma"),
    ("lower_case", True, "it rained.", "It rained.", "a capital letter"),
    ("lower_case", True, "it rained.", "123 一二", "no small letter"),
    ("items", 2, "- one\n\n- two", "- one\nso: two", "1 item in 2 lines, not 2"),
]


@pytest.mark.parametrize("rule, value, kept, broken, why", CASES)
def test_each_rule_is_kept_or_broken_with_a_reason(rule, value, kept, broken, why):
    assert failures(kept, {rule: value}) == {rule: ""}
    assert failures(broken, {rule: value}) == {rule: why}


def test_every_rule_has_a_case():
    assert {case[0] for case in CASES} == set(RULES)


def test_only_a_completion_that_keeps_all_rules_earns_one():
    texts = [GOOD, "Is the old bridge really blue.", "Blue?", "no"]
    rewards = instruction_reward(texts, solution=[json.dumps(RULE)] * 4)
    # by hand: 5 of 5 and the half for all; 4 of 5; without the five words 4 of 5; one sentence
    # and at most 8 words
    assert rewards == [1.0, 0.4, 0.4, 0.2]


HOSTILE = {
    "empty": "",
    "spaces": " \n\t ",
    "marks alone": "?" * 50,
    "the word many times": "blue " * 300 + "?",
    "end token in words": "Is the old bridge really blue?<|im_end|>",
    "tags": "<b>Is the old bridge blue?</b> ?",
    "another script": "это синий мост blue да нет да нет да?",
    "no-break spaces": "Is\u00a0the\u00a0old bridge blue now then or not yet?",
    "zero-width inside the word": "Is the old bridge really bl\u200bue?",
    "Cyrillic letter in the word": "Is the old bridge really blu\u0435?",
    "the instruction": 'Use the word "blue", use at least 5 and at most 8 words?',
    "only the rules": "blue?",
    "a megabyte": "blue " * 200_000 + "?",
    "a megabyte without spaces": "b" * 10**6 + "?",
    "a megabyte of stops": "." * 10**6 + "?",
    "a megabyte of hyphens": "a-" * (5 * 10**5),
    "a megabyte of brackets": "<" * 10**6,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_hostile_completion_earns_what_a_good_one_does_or_takes_long(kind):
    prompt = 'Write one sentence. Use the word "blue", use at least 5 and at most 8 words.'
    began = time.perf_counter()
    (reward,) = instruction_reward([HOSTILE[kind]], solution=[RULE], prompts=[prompt])
    assert 0 <= reward <= 0.5
    assert time.perf_counter() - began < 2  # milliseconds measured; machines stall


@pytest.mark.parametrize("empty", ["", "...", None, [], [{"role": "user", "content": GOOD}], 7])
def test_what_has_no_words_keeps_no_rule_at_all(empty):
    assert instruction_reward([empty], solution=[RULE | {"no_comma": True}]) == [0.0]


def test_a_copied_instruction_earns_nothing_and_quoting_its_word_costs_nothing():
    prompt = (
        'Write one sentence about the bridge. Use the word "blue" and end with a question mark.'
    )
    rules = {"word": "blue", "ends": "?"}
    texts = ['write one sentence about the bridge use the word "blue"?', "Write one, blue?"]
    assert instruction_reward(texts, solution=[rules] * 2, prompts=[prompt] * 2) == [0.0, 1.0]
    assert not copied("", prompt) and not copied(GOOD, "")


def test_chats_count_by_their_last_assistant_message():
    chat = [{"role": "assistant", "content": "no"}, {"role": "assistant", "content": GOOD}]
    assert instruction_reward([chat], solution=[RULE]) == [1.0]


def test_trl_logs_one_share_a_rule_over_the_rows_that_have_it():
    shares, extra = {}, {}
    solution = [{"word": "blue"}, {"word": "blue", "no_comma": True}]
    instruction_reward(
        ["Blue.", "Red, red."],
        solution=solution,
        log_metric=shares.__setitem__,
        log_extra=extra.__setitem__,
    )
    assert shares == {
        "instruction/word": 0.5,
        "instruction/no_comma": 0.0,
        "instruction/all": 0.5,
    }
    assert extra == {"instruction_reason": ["all kept", "the word 'blue' is missing; a comma"]}


@pytest.mark.parametrize(
    "rules, said",
    [
        ("no json", "'no json' is no JSON object"),
        ("{}", "is no JSON object"),
        (None, "None is no JSON object"),
        ({"words": 3}, "no rule 'words'; there are word, mentions"),
        ({"max_words": "3"}, "max_words is '3'; expected int"),
        ({"max_words": True}, "max_words is True; expected int"),
        ({"word": ""}, "word is ''; expected str, not empty"),
    ],
)
def test_rules_that_cannot_be_read_are_one_clear_error(rules, said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        read(rules)
    with pytest.raises(ValueError, match="rules:"):
        instruction_reward([GOOD], solution=[rules])


def test_a_missing_or_short_column_is_an_error():
    with pytest.raises(ValueError, match="1 completions, rules in `solution`: none"):
        instruction_reward([GOOD])
    with pytest.raises(ValueError, match="2 completions, rules in `solution`: 1"):
        instruction_reward([GOOD] * 2, solution=[RULE])
    with pytest.raises(ValueError, match="one JSON object per completion"):
        instruction_reward([GOOD], solution=json.dumps(RULE))


def test_no_completions_give_no_rewards_and_trl_can_pickle_the_function():
    assert instruction_reward([], solution=[]) == [] == verdicts([], [])
    assert pickle.loads(pickle.dumps(instruction_reward)) is instruction_reward
