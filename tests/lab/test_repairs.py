"""Eight data sets: each is broken, its repair is right, and what is half repaired is told apart."""

import pytest
from lab import repairs

every_set = pytest.mark.parametrize("number", repairs.ALL)


@every_set
def test_a_data_set_is_broken_as_it_came_and_right_after_its_repair(number):
    came, found = repairs.broken(number), repairs.ALL[number]
    assert repairs.wrong_with(number, came) and repairs.refusal(came, found.kind)
    assert repairs.wrong_with(number, found.repair(came)) == ""
    assert repairs.refusal(found.repair(repairs.broken(number)), found.kind) == ""


@every_set
def test_rows_that_are_left_out_or_doubled_are_no_repair(number):
    right = repairs.ALL[number].repair(repairs.broken(number))
    for rows in (right[1:], right + right[:1], [], None, "rows"):
        assert repairs.wrong_with(number, rows)


def test_what_is_meant_is_what_the_task_makes():
    """The rows are those of the task: prompt, one answer, EOS trained last, the template's line break after it."""
    for row in repairs.clean("sft"):
        (prompt, off), (answer, on) = repairs.spans(row)
        assert not off and on and prompt.endswith("<|im_start|>assistant\n")
        assert answer == row["completion"][0]["content"] + "<|im_end|>\n"


def test_the_right_words_with_another_mask_are_no_repair():
    """Chats in `messages` have the same tokens: the mask alone tells."""
    chats = repairs.broken(2)
    assert repairs.wrong_with(1, chats).startswith("the words are right; trained is")


def test_another_gold_or_another_word_is_named():
    golds = repairs.ALL[8].repair(repairs.broken(8))
    assert "the gold of row 0 is '7'" in repairs.wrong_with(
        8, [golds[0] | {"solution": "7"}, *golds[1:]]
    )
    rows = repairs.ALL[5].repair(repairs.broken(5))
    rows[2]["completion"][0]["content"] += "!"
    assert repairs.wrong_with(5, rows).startswith("sequence 2 is ")


def test_a_learners_code_stops_nothing(capsys):
    def raises(rows):
        return rows[99]

    def stub(rows):
        raise NotImplementedError

    def takes_it_apart(rows):
        rows.clear()
        return rows

    for repair, said in (
        (raises, "IndexError"),
        (stub, "Going on with"),
        (takes_it_apart, "not repaired"),
    ):
        rows = repairs.check(6, repair)
        assert rows == repairs.ALL[6].repair(repairs.broken(6))
        assert said in capsys.readouterr().out


def test_a_right_repair_is_gone_on_with_and_the_reference_is_shown_after_a_try(capsys):
    repairs._tried.clear()
    repairs.solution(7)
    assert "Try it first" in capsys.readouterr().out
    mine = repairs.ALL[7].repair(repairs.broken(7))
    assert repairs.check(7, lambda rows: mine) is mine
    repairs.solution(7)
    said = capsys.readouterr().out
    assert "repaired." in said and "def pairs_that_differ" in said


def test_a_number_that_does_not_exist_names_those_that_do():
    with pytest.raises(ValueError, match="no data set 9; there are: 1, 2, 3, 4, 5, 6, 7, 8"):
        repairs.broken(9)
