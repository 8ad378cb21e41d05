"""Every row of the tables is followed to its proof, and two libraries can be compared."""

import ast
import re

import numpy as np
import pytest

from reference_math import grpo_trainer
from reference_math import rosetta as command
from reference_math.conformance import libraries, rosetta, tables
from reference_math.conformance import rows as report
from reference_math.conventions import TABLE

ROWS = [row for t in tables.tables() for of_topic in t.topics.values() for row in of_topic]
CASES = [row for row in ROWS if row.case]
REPORTED = [row for row in ROWS if row.report]
OUTSIDE = [row for row in ROWS if "repository" in tables.libraries()[row.library]]
VIEW = {table.key: table.view for table in tables.tables()}


def name(row):
    return f"{row.table}, {row.topic}: {row.name}"


def functions(call):
    """{function of reference_math: the names of its options}."""
    found = {}
    for node in ast.walk(ast.parse(call, mode="eval")):
        if isinstance(node, ast.Call) and re.fullmatch(
            r"[a-z_0-9]+\.[a-z_0-9]+", ast.unparse(node.func)
        ):
            said = ast.unparse(node.func)
            if not said.startswith("np."):
                found.setdefault(said, set()).update(k.arg for k in node.keywords)
    return found


def blank(call):
    """A call without its numbers."""
    return re.sub(r"None|\b\d[\d.]*(e-?\d+)?", "#", call)


def test_each_row_has_one_proof():
    for row in ROWS:
        said = tables.libraries()[row.library]
        assert not (row.case and row.report), name(row)
        assert bool(row.report) == (row.library == "trl"), name(row)
        if not row.case and not row.report:
            assert "repository" in said or row.proof == "read in the source, not run", name(row)
        assert row.proof and row.place and row.call, name(row)


@pytest.mark.parametrize("row", CASES, ids=name)
def test_a_row_of_a_release_leads_to_arrays_that_it_computed(row):
    """The case stands; its error is within its tolerance; the row's call is the case's, with other numbers and
    inputs, or the part of it that the table's view takes."""
    library = tables.libraries()[row.library]
    case = next(case for case in rosetta.rows(library["cases"]) if case.name == row.case)
    assert row.error <= case.rtol
    assert library["release"] == rosetta.release(library["cases"])
    release = library["release"].partition("==")[2]
    assert row.place.endswith(f" @ {release}") and f"of {library['release']}" in row.proof
    proved, said = functions(tables._spelt(case.call, case.shared)), functions(row.call)
    if not row.whole and VIEW[row.table] == "reduction":
        of_losses = [options for options in proved.values() if "reduction" in options]
        proved["reductions.reduce"] = set.union(*of_losses)
    if (
        not row.whole
        and VIEW[row.table] == "tokens"
        and any("beta" in options for options in proved.values())
    ):
        proved |= {"kl.k3": set(), "kl_term.per_token_kl": set()}
    assert set(said) <= set(proved), (said, proved)
    for function, options in said.items():
        assert options <= proved[function]
    if (
        not row.whole and VIEW[row.table] == "factor"
    ):  # a part of the case's call, as it stands there
        assert blank(row.call) in blank(tables._spelt(case.call, case.shared))


@pytest.mark.parametrize("row", REPORTED, ids=name)
def test_a_row_of_trl_leads_to_a_row_of_the_report(row):
    """The report runs the installed TRL: tests/parity/test_conformance.py."""
    reported = {f"{r.objective}: {r.option}" for r in report.every_row() if r.library == "trl"}
    assert row.report in reported


@pytest.mark.parametrize(
    "row",
    [
        row
        for row in REPORTED
        if row.table == "policy_losses" and re.match(r"grpo: \w+, (token|seq)", row.report)
    ],
    ids=name,
)
def test_a_call_of_trl_is_what_the_trainers_options_compute(row):
    """`grpo_trainer` is held to the installed trainer with these options: tests/parity/test_grpo_trainer.py."""
    loss_type, level, *more = re.match(r"grpo: (\w+), (\w+) ratio(?:, (.*))?", row.report).groups()
    b = {k.removeprefix("batch/"): x for k, x in tables.batch().items()}
    options = {"loss_type": loss_type, "importance_sampling_level": level}
    given = {"per_token_logps": b["l"], "old_per_token_logps": b["far" if "far" in row.call else "o"],
             "advantages": b["A"], "completion_mask": b["m"]}  # fmt: skip
    if "0.28" in row.call:
        options["epsilon_high"] = 0.28
    if more == ["delta"]:
        options |= {"delta": 3.0, "loss_type": "bnpo"}
    if more == ["entropy mask"]:
        options["top_entropy_quantile"] = 0.3
        given["entropies"] = b["entropies"]
    if more == ["off-policy mask"]:
        options["off_policy_mask_threshold"] = 0.02
    ours = tables.evaluate(row.call)
    np.testing.assert_allclose(grpo_trainer.loss(given, **options), ours, rtol=1e-12)


def test_a_row_of_a_repository_says_at_which_commit_and_that_it_is_not_made_again():
    assert len(OUTSIDE) >= 50 and len({row.library for row in OUTSIDE}) == 6
    own = {row.library: [] for row in OUTSIDE}
    for row in OUTSIDE:
        said = tables.libraries()[row.library]
        assert re.fullmatch(r"[0-9a-f]{7}", said["commit"]) and said["date"]
        assert row.place.startswith(f"{said['repository']}: ") and row.place.endswith(
            f" @ {said['commit']}"
        )
        if row.error is None:
            assert row.proof == "read in the source, not run"
            continue
        assert row.error < 1e-6 and row.proof.startswith(
            "compared at that commit, not made again here: "
        )
        if not (
            alone := re.search(
                r"on this batch, by its function as it stands at [0-9a-f]{7}$", row.proof
            )
        ):
            assert row.error == said["measured"] and row.proof.endswith(
                "arrays, no figure of its own"
            )
        own[row.library].append(bool(alone))
    # Of Open Instruct and prime-rl no figure was kept per function: their worst over all is rounding, 1e-15.
    assert {key for key, found in own.items() if not any(found)} == {"open_instruct", "prime_rl"}
    assert all(
        tables.libraries()[key]["measured"] <= 1e-15 for key in ("open_instruct", "prime_rl")
    )
    assert sum(map(sum, own.values())) >= 29


@pytest.mark.parametrize("table", tables.tables(), ids=lambda t: t.key)
def test_every_call_computes_on_the_batch_and_rows_of_a_topic_in_one_shape(table):
    for topic, of_topic in table.topics.items():
        assert len({row.library for row in of_topic}) == len(of_topic), topic
        shapes = {"value": set(), "gradient": set()}
        for row in of_topic:
            if row.whole:
                tables.evaluate(row.call)
                continue
            for key, x in tables.arrays_of(table, row).items():
                shapes[key].add(x.shape)
                assert np.isfinite(x).all() or row.call in ("np.inf", "np.nan"), name(row)
        assert all(len(found) <= 1 for found in shapes.values()), (topic, shapes)


OWN_GRADIENT = [  # on-policy the ratio has no slope as a function; CISPO's weight is held constant
    row
    for row in OUTSIDE
    if row.table == "policy_losses" and row.grads
    if "(l, l," not in row.call and not row.call.startswith("cispo")
]


@pytest.mark.parametrize("row", OWN_GRADIENT, ids=name)
def test_the_gradient_of_a_row_that_has_no_case_is_that_of_its_value(row):
    grad, logps, h = tables.evaluate(row.grads["grad"]), tables.batch()["batch/l"], 1e-6
    for at in ((0, 0), (1, 1), (5, 0), (7, 1)):
        step = np.zeros_like(logps)
        step[at] = h
        ends = [tables.evaluate(row.call, {"l": logps + s}) for s in (step, -step)]
        # central differences of a smooth loss are good to h^2; round-off takes the rest
        np.testing.assert_allclose((ends[0] - ends[1]) / (2 * h), grad[at], rtol=1e-6, atol=1e-8)


def test_nearly_every_golden_case_of_a_library_stands_in_a_table():
    """The rest are combinations of options that stand there by themselves."""
    all_used = all_known = 0
    for key, said in tables.libraries().items():
        if "cases" in said:
            known = {case.name for case in rosetta.rows(said["cases"])}
            used = {row.case for row in tables.rows(key)} - {""}
            assert used <= known and len(used) >= 0.6 * len(known), (key, known - used)
            all_used, all_known = all_used + len(used), all_known + len(known)
    assert all_used >= 0.85 * all_known


def test_there_are_all_the_tables_and_all_the_libraries():
    assert [t.key for t in tables.tables()] == list(tables.ORDER)
    assert {path.stem for path in tables.FOLDER.glob("*.toml")} == {*tables.ORDER, "libraries"}
    assert len(tables.libraries()) == 19 and len(ROWS) > 380
    assert {said["cases"] for said in tables.libraries().values() if "cases" in said} == set(
        rosetta.libraries()
    )
    assert all(len(tables.rows(key)) >= 2 for key in tables.libraries())


def test_a_librarys_row_of_conventions_exists_and_says_the_same_of_its_default_loss():
    """Two tables, one library: the same clip, cap and reduction."""
    named = {row["name"]: row for row in TABLE}
    compared = 0
    for key, said in tables.libraries().items():
        if "grpo" not in said:
            continue
        row = named[said["grpo"]]
        (loss,) = [r for r in tables.rows(key) if r.topic == "clipped ratio"] or [None]
        if libraries.has_loss(row):
            plain = libraries.calls(row | {"beta": 0.0})["loss"]
            np.testing.assert_allclose(
                tables.evaluate(loss.call), tables.evaluate(plain), rtol=1e-12
            )
            compared += 1
    assert compared >= 14


# The command -----------------------------------------------------------------------------------


def topics(one, other):
    return {topic: gaps for _, topic, _, gaps in command.common(one, other)}


def test_what_two_libraries_differ_by_is_measured():
    found = topics("trl", "verl")
    assert found["a group of one"] == {"value": 1.0}  # 0 against the reward
    assert found["leave one out (RLOO)"] == {"value": 0.0}
    # an empty row leaves the count: 7 of 8
    assert found["mean of the rows' means, where a row is empty"]["value"] == pytest.approx(1 / 8)
    found = topics("pipelinerl", "trl")
    assert found["GRPO"]["value"] == pytest.approx(1 / 4)  # G / (G - 1) of groups of 4
    found = topics("cosmos", "slime")
    assert found["GRPO"]["value"] == pytest.approx(1 - np.sqrt(3 / 4), rel=1e-4)  # ddof 0 and 1
    found = topics("openrlhf", "trl")
    assert found["DPO with label_smoothing 0.1"]["value"] > 0.01 and found["DPO"]["value"] < 1e-12
    # two ways to the KL's gradient: other values, one gradient
    said = found["an estimator whose gradient is that of the KL"]
    assert said["value"] > 0.1 and said["gradient"] < 1e-12


def test_a_difference_is_the_same_from_both_sides_and_nothing_from_itself():
    for one, other in (("verl", "swift"), ("trl", "nemo_rl")):
        there, back = topics(one, other), topics(other, one)
        assert there == back and there
    row = ROWS[0]
    assert command.verdict([row, row], {"value": 0.0}) == "the same"
    assert (
        command.verdict([row, row._replace(call="2 * R")], {"value": 0.0})
        == "not apart on this batch"
    )
    assert (
        command.verdict([row, row._replace(call="2 * R")], {"value": 0.5}) == "value 5.0e-01 apart"
    )
    assert command.verdict([row, row], None).startswith("not compared")


def test_the_command_lists_says_one_and_compares_two(capsys):
    command.main([])
    said = capsys.readouterr().out
    assert "verl 0.9.1" in said and "NVIDIA-NeMo/RL 7ea279a" in said and "KL and entropy: " in said
    command.main(["NeMo-RL"])
    said = capsys.readouterr().out
    assert (
        "not made again here: 41 arrays, at most 1.5e-07" in said and "leave_one_out_scaled" in said
    )
    command.main(["openrlhf"])
    assert "golden case 'adv group_norm' of openrlhf==0.11.2" in capsys.readouterr().out
    command.main(["verl", "ms-swift"])
    said = capsys.readouterr().out
    assert "reduction      bnpo | grpo" in said and "soft clip (SAPO): the same" in said


@pytest.mark.parametrize(
    "argv, message",
    [
        (["veril"], "no library 'veril'; there are TRL, verl"),
        (["a", "b", "c"], "at most two libraries"),
    ],
)
def test_the_command_refuses_by_name(argv, message, capsys):
    with pytest.raises(SystemExit):
        command.main(argv)
    assert message in capsys.readouterr().err


def test_a_row_whose_case_has_no_such_option_is_refused():
    row = {
        "library": "verl",
        "case": "adv grpo",
        "file": "a.py",
        "with": [["delta=3.0", "delta=2.0"]],
    }
    with pytest.raises(ValueError, match="verl, adv grpo: no 'delta=3.0' in advantages.group"):
        tables._row("advantages", "completions", "GRPO", row)


def test_a_call_is_spelt_without_a_librarys_own_names():
    call = tables._spelt(
        "grpo.loss(l, W, **CLIP, reduction=x)", {"W": "2 * V", "V": "m", "x": "'dapo'"}
    )
    assert call == "grpo.loss(l, 2 * m, epsilon_low=0.2, epsilon_high=0.28, reduction='dapo')"
