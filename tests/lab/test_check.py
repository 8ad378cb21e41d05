"""What a check says of any function: where it is wrong, which mistake it is, and that it never raises."""

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch
from lab import check
from lab.puzzles import puzzle

_spec = spec_from_file_location("wrong_answers", Path(__file__).with_name("wrong_answers.py"))
wrong_answers = module_from_spec(_spec)
_spec.loader.exec_module(wrong_answers)


@pytest.fixture(autouse=True)
def a_record_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RUNS", str(tmp_path))


@pytest.mark.parametrize("name", check.NAMES)
def test_each_check_stands_under_the_name_of_what_it_asks_for(name, capsys):
    def unwritten(*arguments):
        raise NotImplementedError

    going_on_with = getattr(check, name)(unwritten)
    assert f"{name}: not solved yet\nGoing on with the reference." in capsys.readouterr().out
    assert getattr(check, name)(going_on_with) is going_on_with
    assert name in dir(check)


@pytest.mark.parametrize(
    ("mistaken", "words"),
    [
        (lambda a, b: b - 2 * a, "a and b are swapped"),
        (lambda a, b: a + 2 * b, "b comes in with the wrong sign"),
        (lambda a, b: a, "b changes nothing in it: it counts as 0"),
        (lambda a, b: abs(a) - 2 * b, "the sign of a is lost"),
        (lambda a, b: np.where(a < 0, 0, a - 2 * b), "it is wrong only where a is negative"),
        (lambda a, b: a - 2 * b + (len(a) > 3) * a * b, "right on 'short'; wrong on 'long'"),
        (lambda a, b: (a - 2 * b).sum(), "the sum of the right numbers"),
        (lambda a, b: (a - 2 * b) / len(a), "divided by the size of a's axis 0"),
    ],
)
def test_a_wrong_use_of_the_arguments_is_named(mistaken, words):
    rng = np.random.default_rng(0)
    cases = {n: tuple(rng.standard_normal((2, k))) for n, k in (("short", 3), ("long", 5))}
    found = check.judge(mistaken, lambda a, b: a - 2 * b, cases)
    assert found.kind == check.WRONG and words in found.said


@pytest.mark.parametrize("name", check.NAMES)
def test_wrong_answers_of_someone_who_did_not_see_the_puzzles_are_refused_and_named(name):
    """The right one is taken; every wrong one is refused and gets the name of a mistake."""
    of = puzzle(check.NAMES[name])
    answers = dict(wrong_answers.ALL[name])
    with np.errstate(all="ignore"):  # some of them overflow
        told = {
            what: check.judge(answer, of.answer, of.cases, of.wrong(), **of.tolerance)
            for what, answer in answers.items()
        }
    assert told.pop("RIGHT").kind == check.SOLVED
    taken = {what for what, found in told.items() if found.kind != check.WRONG}
    unnamed = {what for what, found in told.items() if "\nHint: " not in found.said}
    assert taken == unnamed == set()


def with_gradient(logps, ref_logps):
    log_r = torch.tensor(ref_logps - logps, requires_grad=True)
    return torch.expm1(log_r) - log_r


def test_a_tensor_with_a_gradient_is_judged_like_any_other(capsys):
    assert check.k3(with_gradient) is with_gradient


@pytest.mark.parametrize("junk", ["text", {"a": 1}, object(), [[1, 2], [3]], lambda: 0])
def test_what_is_no_number_is_told_and_does_not_stop_the_notebook(junk, capsys):
    assert check.k3(lambda logps, ref_logps: junk) is not None
    assert "not numbers" in capsys.readouterr().out


def test_an_error_is_told_with_the_line_it_came_from(capsys):
    def broken(logps, ref_logps):
        log_r = ref_logps - logps
        return log_r @ log_r

    check.k3(broken)
    assert "in its line 3: return log_r @ log_r" in capsys.readouterr().out


def test_a_forgotten_return_is_not_taken_for_an_unwritten_function(capsys):
    def forgot(logps, ref_logps):
        log_r = ref_logps - logps
        np.exp(log_r) - 1 - log_r

    check.k3(forgot)
    said = capsys.readouterr().out
    assert "not right yet" in said and "is a return missing?" in said


def test_two_numbers_that_differ_late_are_shown_to_where_they_differ(capsys):
    right = puzzle("0.2").answer
    check.wilson(lambda k, n: np.multiply(right(k, n), 1 + 1e-5))
    got, expected = re.search(
        r"got (\S+) at .* expected (\S+)\.\n", capsys.readouterr().out
    ).groups()
    assert got != expected


def test_an_error_in_the_solution_is_told_and_does_not_stop_the_notebook(capsys):
    assert check.k3(lambda logps, ref_logps: logps @ ref_logps) is not None
    assert "raised ValueError" in capsys.readouterr().out


def test_a_wrong_shape_is_named_with_the_one_expected(capsys):
    right = puzzle("2.3").answer
    check.dpo_loss(lambda *arguments: right(*arguments)[:, None])
    assert "the shape is (4, 1); expected (4,)" in capsys.readouterr().out


def test_an_infinite_loss_at_a_large_margin_is_refused(capsys):
    def naive(chosen, rejected, ref_chosen, ref_rejected, beta):
        h = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
        return -np.log(1 / (1 + np.exp(-h)))

    assert check.dpo_loss(naive) is not naive
    said = capsys.readouterr().out
    assert "margins in the thousands" in said and "got inf" in said


def test_a_solution_that_writes_into_its_arguments_cannot_spoil_the_comparison(capsys):
    def in_place(weight, lora_A, lora_B, r, lora_alpha):
        weight += lora_alpha / r * lora_B @ lora_A
        return weight

    assert check.served_weight(in_place) is in_place


@pytest.mark.parametrize(
    "stop", [SystemExit(3), RecursionError("deep"), MemoryError(), AssertionError]
)
def test_whatever_is_raised_is_told_and_the_notebook_goes_on(stop, capsys):
    def stops(logps, ref_logps):
        raise stop

    assert check.k3(stops) is puzzle("3.5").answer
    assert "it raised" in capsys.readouterr().out


def test_what_a_function_prints_is_shown_once(capsys):
    def chatty(logps, ref_logps):
        print("log r", logps.shape)
        return logps

    check.k3(chatty)
    assert capsys.readouterr().out.count("log r (3, 4)") == 1


def test_a_result_is_not_taken_for_a_function(capsys):
    assert check.k3(np.zeros(3)) is puzzle("3.5").answer
    assert "give it the function itself" in capsys.readouterr().out
