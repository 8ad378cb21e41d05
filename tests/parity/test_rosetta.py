"""What other libraries computed equals the calls of reference_math that the tables name for it."""

import sys

import numpy as np
import pytest

from reference_math.conformance import rosetta

CASES = [case for library in rosetta.libraries() for case in rosetta.rows(library)]
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.library}: {case.name}")
DEPARTURES = [case for case in CASES if case.departs]


@EACH
def test_the_call_gives_the_librarys_value_and_gradient(case):
    errors = case.errors(rosetta.golden(case.library))
    assert {array: error for array, error in errors.items() if not error <= case.rtol} == {}


@EACH
def test_a_tolerance_has_a_reason_and_is_not_looser_than_it_must_be(case):
    assert (case.rtol == 1e-12) == (case.reason == "")
    worst = max(case.errors(rosetta.golden(case.library)).values())
    assert worst > 0 or case.rtol == 1e-12
    assert case.rtol <= max(1e-12, 1000 * worst)


@pytest.mark.library_defect
@pytest.mark.parametrize("case", DEPARTURES, ids=lambda case: f"{case.library}: {case.name}")
def test_the_library_does_not_compute_what_a_reader_expects(case):
    assert case.gap(rosetta.golden(case.library)) > max(case.by, 100 * case.rtol)
    assert case.note


@pytest.mark.parametrize("library", rosetta.libraries())
def test_every_array_of_a_library_has_its_row_and_every_row_its_arrays(library):
    kept = {name.rpartition("/")[0] for name in rosetta.golden(library)} - {"batch"}
    rows = [case.name for case in rosetta.rows(library)]
    assert set(rows) == kept and len(rows) == len(set(rows)) == len(kept)


def test_eleven_libraries_and_hundreds_of_arrays_are_compared():
    arrays = sum(1 + len(case.grads) for case in CASES)
    assert len(rosetta.libraries()) >= 12 and arrays > 450 and len(DEPARTURES) >= 20


def test_the_batch_is_the_same_for_every_library():
    """So that two libraries can be compared on it."""
    first = rosetta.golden(rosetta.libraries()[0])
    for library in rosetta.libraries():
        arrays = rosetta.golden(library)
        for letter in ("m", "l", "o", "r", "q", "A", "R", "v", "pc"):
            np.testing.assert_array_equal(arrays[f"batch/{letter}"], first[f"batch/{letter}"])


def test_a_wrong_call_is_seen():
    case = next(case for case in CASES if case.name == "vanilla token-mean")
    wrong = case._replace(call=case.call.replace("bnpo", "grpo"), grads={})
    assert wrong.errors(rosetta.golden("verl"))["value"] > 0.01


@pytest.mark.parametrize(
    "theirs, ours, expected",
    [([1.0, 2.0], [1.0, 2.5], 0.2), ([0.0], [1e-3], 1.0), ([1e-3], [0.0], 1e-3), ([np.nan], [np.nan], 0.0),
     ([np.inf], [800.0], np.inf), ([1.0], [np.nan], np.nan)],
)  # fmt: skip
def test_the_error_is_a_share_of_the_largest_entry(theirs, ours, expected):
    assert rosetta.error(np.array(theirs), np.array(ours)) == pytest.approx(expected, nan_ok=True)


def test_an_unknown_library_is_named_with_those_that_there_are():
    with pytest.raises(ValueError, match="no library 'veril'; there are .*verl"):
        rosetta.rows("veril")


def test_the_command_prints_a_librarys_cases(capsys):
    rosetta.main([])
    assert "verl" in capsys.readouterr().out
    rosetta.main(["openrlhf"])
    said = capsys.readouterr().out
    assert "cpo.pair_loss(pc - rc" in said and "expected instead" in said


def test_a_stand_in_has_every_name_and_computes_nothing(monkeypatch):
    from pathlib import Path

    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.syspath_prepend(str(Path(__file__).with_name("golden")))
    import stand_ins

    stand_ins.stub_roots("no_such_engine")
    from no_such_engine.deep import Base, decorate

    @decorate
    def kept():
        return 1

    class Child(Base):
        value: "Base | None" = None

    assert kept() == 1 and Child().value is None and not Base()
    assert list(Base()) == []
    with pytest.raises(TypeError):
        np.asarray(float(Base().anything(1, 2)))
    assert not hasattr(Base(), "__len__")
    assert "no_such_engine.deep" in sys.modules
    for name in [name for name in sys.modules if name.startswith("no_such_engine")]:
        monkeypatch.delitem(sys.modules, name)


def test_one_file_loads_beside_stand_ins_that_go_away(tmp_path, monkeypatch):
    from pathlib import Path

    monkeypatch.syspath_prepend(str(Path(__file__).with_name("golden")))
    import stand_ins

    (tmp_path / "loss.py").write_text(
        "from absent.engine import run\ndef loss(x):\n    return 2 * x\n"
    )
    module = stand_ins.load_file(tmp_path / "loss.py", "a_loss", "absent")
    assert module.loss(3) == 6
    assert not [name for name in sys.modules if name.startswith("absent")]
    with pytest.raises(ModuleNotFoundError):
        __import__("absent.engine")
