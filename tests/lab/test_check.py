"""The exercises' checks accept another right way, refuse a wrong one, and say what differs."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lab import check


def torch_sft_loss(logits, input_ids, completion_mask):
    labels = torch.tensor(np.where(completion_mask, input_ids, -100))[:, 1:]
    shifted = torch.tensor(logits)[:, :-1]
    return F.cross_entropy(shifted.flatten(0, 1), labels.flatten(), ignore_index=-100).numpy()


def torch_dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta):
    h = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
    return -F.logsigmoid(torch.tensor(h)).numpy()


def torch_kto_loss(logps, ref_logps, label, kl, beta):
    h = beta * (torch.tensor(logps - ref_logps) - kl)
    return torch.where(torch.tensor(label) == 1, (-h).sigmoid(), h.sigmoid()).mean().numpy()


def torch_group_advantages(rewards, num_generations):
    groups = torch.tensor(rewards).view(-1, num_generations)
    centred = groups - groups.mean(1, keepdim=True)
    return (centred / (groups.std(1, keepdim=True) + 1e-4)).flatten().numpy()


def torch_k3(logps, ref_logps):
    log_r = torch.tensor(ref_logps - logps)
    return (torch.expm1(log_r) - log_r).numpy()


def torch_clipped_loss(ratio, advantages, epsilon):
    ratio, advantages = torch.tensor(ratio), torch.tensor(advantages)[:, None]
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    return -torch.minimum(ratio * advantages, clipped * advantages).numpy()


def torch_served_weight(weight, lora_A, lora_B, r, lora_alpha):
    return torch.addmm(*map(torch.tensor, (weight, lora_B, lora_A)), alpha=lora_alpha / r).numpy()


def wilson_by_its_definition(successes, n):
    """The shares p from which the one seen is 1.96 of p's own standard errors away."""
    share, z = successes / n, 1.959964
    low, high = sorted(np.roots([1 + z * z / n, -2 * share - z * z / n, share * share]).real)
    return max(low, 0.0), min(high, 1.0)


SOLUTIONS = {
    check.wilson: wilson_by_its_definition,
    check.sft_loss: torch_sft_loss,
    check.dpo_loss: torch_dpo_loss,
    check.kto_loss: torch_kto_loss,
    check.group_advantages: torch_group_advantages,
    check.k3: torch_k3,
    check.clipped_loss: torch_clipped_loss,
    check.served_weight: torch_served_weight,
}
every_check = pytest.mark.parametrize("exercise", SOLUTIONS, ids=lambda f: f.__name__)


@every_check
def test_a_right_solution_from_another_library_is_accepted_and_kept(exercise, capsys):
    assert exercise(SOLUTIONS[exercise]) is SOLUTIONS[exercise]
    assert f"{exercise.__name__}: right" in capsys.readouterr().out


@every_check
def test_an_unsolved_stub_goes_on_with_a_reference_that_is_right(exercise, capsys):
    going_on_with = exercise(lambda *arguments: None)
    said = capsys.readouterr().out
    assert "not solved yet" in said and "Going on with the reference" in said
    assert exercise(going_on_with) is going_on_with


@every_check
def test_a_stub_that_raises_not_implemented_is_unsolved_too(exercise, capsys):
    def stub(*arguments):
        raise NotImplementedError

    assert exercise(stub) is not stub
    assert "not solved yet" in capsys.readouterr().out


@every_check
def test_a_solution_that_is_off_by_a_hundred_thousandth_is_refused(exercise, capsys):
    def nearly(*arguments):
        return np.multiply(SOLUTIONS[exercise](*arguments), 1.00001)

    assert exercise(nearly) is not nearly
    assert "not right yet" in capsys.readouterr().out


@every_check
def test_each_mistake_it_knows_is_told_apart_by_its_hint(exercise, capsys, monkeypatch):
    """Two mistakes with the same results on every case, or one with the right ones, would not be."""
    monkeypatch.setattr(check, "compare", lambda *arguments, **options: (arguments, options))
    (_, _, reference, cases, mistakes), options = exercise(None)
    for say, mistaken in mistakes.items():
        verdict, detail = check.judge(mistaken, reference, cases, mistakes, **options)
        assert verdict == check.WRONG and f"Hint: {say}." in detail


def fourth_axis(right):
    return np.asarray(right)[..., None]


GENERAL = {  # what anyone may do to a right result: (change, a word of the sentence that names it)
    "sign": (np.negative, "the sign"),
    "factor": (lambda right: 3 * np.asarray(right), "times|percent|divide by"),
    "offset": (lambda right: np.asarray(right) + 0.5, "0.5 too high"),
    "exponential": (np.exp, "exponential|overflows"),
    "digits": (lambda right: np.asarray(right) * (1 + 1e-5), "last digits|times"),
    "shape": (fourth_axis, "shape|the mean|the sum"),
    "nan": (lambda right: np.where(np.asarray(right) > -np.inf, np.nan, 0), "nan on"),
}


@every_check
@pytest.mark.parametrize("kind", GENERAL)
def test_a_mistake_that_no_exercise_lists_is_named_all_the_same(exercise, kind, capsys):
    change, words = GENERAL[kind]

    def mistaken(*arguments):
        return change(SOLUTIONS[exercise](*arguments))

    assert exercise(mistaken) is not mistaken
    said = capsys.readouterr().out
    assert "Hint: " in said
    assert re.search(words, said.partition("Hint: ")[2]), said


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
    verdict, detail = check.judge(mistaken, lambda a, b: a - 2 * b, cases)
    assert verdict == check.WRONG and words in detail


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
    assert "is a `return` missing?" in capsys.readouterr().out


def test_two_numbers_that_differ_late_are_shown_to_where_they_differ(capsys):
    check.wilson(lambda k, n: np.multiply(wilson_by_its_definition(k, n), 1 + 1e-5))
    got, expected = re.search(
        r"got (\S+) at .* expected (\S+)\.\n", capsys.readouterr().out
    ).groups()
    assert got != expected


def test_an_error_in_the_solution_is_told_and_does_not_stop_the_notebook(capsys):
    assert check.k3(lambda logps, ref_logps: logps @ ref_logps) is not None
    assert "raised ValueError" in capsys.readouterr().out


def test_a_wrong_shape_is_named_with_the_one_expected(capsys):
    check.dpo_loss(lambda *arguments: torch_dpo_loss(*arguments)[:, None])
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
