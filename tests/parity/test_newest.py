"""The weekly look at other libraries' newest releases says what moved, and nothing where nothing did."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from reference_math.conformance import rosetta

GOLDEN = Path(__file__).with_name("golden")


@pytest.fixture
def newest():
    spec = importlib.util.spec_from_file_location("golden_newest", GOLDEN / "newest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_same_numbers_did_not_move_and_every_change_is_named(newest):
    kept = {k: x for k, x in rosetta.golden("tinker").items() if not k.startswith("batch/")}
    assert list(newest.moved(kept, dict(kept), {})) == []
    now = dict(kept)
    now["adv/value"] = kept["adv/value"] * (1 + 1e-7)
    assert list(newest.moved(kept, now, {"adv": 1e-6})) == []  # within the case's own tolerance
    (line,) = newest.moved(kept, now, {})
    assert line.startswith("adv: value moved by 1.0e-07")
    del now["adv/value"]
    now["adv/other"] = np.zeros(2)
    now["dpo/grad_c"] = np.zeros(3)
    assert list(newest.moved(kept, now, {})) == [
        "adv: other is new",
        "adv: value is no longer computed",
        "dpo: grad_c has shape (3,), it had (6,)",
    ]
    assert "moved by" in next(newest.moved(kept, kept | {"dpo/value": np.array(np.nan)}, {}))


def test_a_file_that_a_release_no_longer_has_is_named(newest, tmp_path):
    for file in ("rl/data_processing.py", "distillation/train_on_policy.py"):
        (tmp_path / "tinker_cookbook" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tinker_cookbook" / file).touch()
    assert newest.gone("tinker", tmp_path) == ["preference/train_dpo.py"]


@pytest.fixture
def by_this_python(newest, monkeypatch, tmp_path):
    """look() with a driver of a few lines, which this very interpreter runs; nothing is installed."""

    def look(body, version="9.9"):
        for name in ("make.py", "newest.py"):
            (tmp_path / name).write_text((GOLDEN / name).read_text())
        (tmp_path / "drive_tinker.py").write_text(
            f"NEEDS = ('tinker-cookbook==0.6.1',)\ndef vectors():\n    {body}"
        )
        monkeypatch.setattr(newest, "HERE", tmp_path)
        monkeypatch.setattr(newest.make, "HERE", tmp_path)
        monkeypatch.setattr(
            newest, "install", lambda python, needs: (version, "" if version else "no such release")
        )
        monkeypatch.setattr(newest, "gone", lambda key, folder: [])
        return newest.look("tinker", sys.executable)

    return look


def test_a_release_is_the_same_or_moved_or_broke_its_driver(newest, by_this_python, tmp_path):
    np.savez(tmp_path / "kept.npz", **rosetta.golden("tinker"))
    load = f"import numpy as np; kept = dict(np.load({str(tmp_path / 'kept.npz')!r}))"
    same = by_this_python(f"{load}; return kept")
    assert same == (("tinker-cookbook", "0.6.1", "9.9", "the same"), [])
    row, lines = by_this_python(f"{load}; kept['adv/value'] = 2 * kept['adv/value']; return kept")
    assert row[3] == "1 moved" and lines == ["adv: value moved by 1.0e+00 of its largest entry"]
    row, lines = by_this_python("raise AttributeError('no compute_advantages')")
    assert row[3] == "the driver broke" and lines == ["AttributeError: no compute_advantages"]
    row, lines = by_this_python("return {}", version=None)
    assert row[3] == "not installed" and lines == ["no such release"]
    text = newest.report([same, (row, lines)])
    assert "| tinker-cookbook | 0.6.1 | 9.9 | the same |" in text and "- no such release" in text


def test_a_run_that_breaks_leaves_a_report_that_says_so(newest, monkeypatch, tmp_path):
    def no_index(folder):
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(newest, "environment", no_index)
    monkeypatch.setattr(newest.make, "ROOT", tmp_path)
    with pytest.raises(subprocess.CalledProcessError):
        newest.main(["tinker"])
    assert (tmp_path / "build/rosetta_newest.md").read_text() == newest.BROKE
    monkeypatch.setattr(newest, "environment", lambda folder: sys.executable)
    row = ("tinker-cookbook", "0.6.1", "0.6.2", "the same")
    monkeypatch.setattr(newest, "look", lambda name, python, release: (row, []))
    with pytest.raises(SystemExit) as done:
        newest.main(["tinker"])
    assert not done.value.code
    assert " | ".join(row) in (tmp_path / "build/rosetta_newest.md").read_text()


def test_the_command_refuses_an_unknown_library():
    done = subprocess.run(
        [sys.executable, GOLDEN / "newest.py", "veril"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "no library veril; there are areal" in done.stderr
