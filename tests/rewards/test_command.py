"""`python -m rewards FILE.jsonl`."""

import json

import pytest

from rewards.__main__ import main

ROWS = [
    {"completion": "<think>a</think><answer>4</answer>", "solution": "4"},
    {"completion": "<think>a</think>4", "solution": "4"},
    {"completion": "<think>a</think><answer>\\boxed{4}\\boxed{5}</answer>", "solution": "4"},
    {"completion": "<think>a</think><answer>4</answer>", "solution": "to be proved by the reader"},
    {"completion": [{"role": "assistant", "content": None}], "solution": "4"},
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "completions.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    return path


def test_it_says_which_rows_scored_what_and_why(file, capsys):
    main([str(file)])
    shown = capsys.readouterr().out.splitlines()
    assert not any(line.startswith("row 1 ") for line in shown)  # right: nothing to explain
    assert "accuracy 0.0   format 0.0  no <answer> tag" in shown[0]
    assert "accuracy 0.0   format 1.0  two boxes" in shown[1]
    assert "accuracy none" in shown[2]
    assert "gold not verifiable" in shown[2]
    assert "empty completion" in shown[3]
    assert "5 rows, 3 in form, 1 of 4 with a gold are right" in shown[5]


def test_it_shows_every_row_on_request(file, capsys):
    main([str(file), "--all"])
    assert capsys.readouterr().out.startswith("row 1 ")


def test_a_missing_column_and_a_broken_line_are_one_sentence_each(file, tmp_path):
    with pytest.raises(SystemExit, match="line 1: no column 'gold'.*--gold"):
        main([str(file), "--gold", "gold"])
    broken = tmp_path / "broken.jsonl"
    for line in ("{", "[" * 10_000, '{"completion": "", "solution": ' + "9" * 5_000 + "}"):
        broken.write_text(line, encoding="utf-8")
        with pytest.raises(SystemExit, match="line 1: not JSON"):
            main([str(broken)])
