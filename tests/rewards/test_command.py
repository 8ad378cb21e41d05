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


def test_a_missing_or_a_binary_file_is_one_sentence(tmp_path):
    with pytest.raises(SystemExit, match="none.jsonl: No such file.*JSON lines"):
        main([str(tmp_path / "none.jsonl")])
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(bytes(range(256)))
    with pytest.raises(SystemExit, match="not a text in UTF-8"):
        main([str(binary)])
    with pytest.raises(SystemExit, match="directory"):
        main([str(tmp_path)])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("4", "line 1: not an object but a value of type int"),
        ('"text"', "line 1: not an object but a value of type str"),
        (
            '[{"completion": "a", "solution": "4"}]',
            "line 1: a JSON array; write one object per line",
        ),
        (
            '[\n{"completion": "a", "solution": "4"}\n]',
            "line 1: not JSON, but one document over several lines",
        ),
        (
            '{"completion": ["a", "b"], "solution": "4"}',
            "a list of 2 completions; write one row per",
        ),
        ("\n\n", "no rows"),
    ],
)
def test_a_file_of_another_shape_is_one_sentence(tmp_path, text, why):
    file = tmp_path / "shape.jsonl"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match=why):
        main([str(file)])


@pytest.mark.parametrize("token", ["<|im_end|>", "</s>", "<|eot_id|>", "<|endoftext|>\n"])
def test_special_tokens_at_the_end_of_a_rollout_are_named(tmp_path, capsys, token):
    file = tmp_path / "rollouts.jsonl"
    row = {**ROWS[0], "completion": ROWS[0]["completion"] + token}
    file.write_text(json.dumps(row), encoding="utf-8")
    main([str(file)])
    shown = capsys.readouterr().out
    assert f"special tokens {token.strip()}: decode with skip_special_tokens=True" in shown
    assert "accuracy 0.0" in shown
