"""The golden vectors are what golden/make.py says they are: made by its drivers, byte by byte."""

import importlib.util
import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from reference_math.conformance import rows

GOLDEN = Path(__file__).with_name("golden")
FILES = sorted(Path(rows.__file__).with_name("golden").glob("*.npz"))


@pytest.fixture
def make():
    spec = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_driver_has_its_file_and_every_file_its_driver(make):
    assert [path.stem for path in FILES] == make.names()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_says_what_made_it_and_holds_nothing_else(make, path):
    with np.load(path) as content:
        metadata = json.loads(content["metadata.json"])
        arrays = {name: content[name] for name in content.files if name != "metadata.json"}
    needs = make.driver(path.stem).NEEDS
    assert metadata["release"] == needs[0]
    assert metadata["with"] == [*needs[1:], *make.FITTING]
    assert metadata["command"] == f"python tests/parity/golden/make.py {path.stem}"
    assert all("==" in need for need in [metadata["release"], *metadata["with"]])
    assert make.as_bytes(arrays, metadata) == path.read_bytes()  # nothing in it but its content
    assert path.stat().st_size < 200_000


def test_the_bytes_know_no_clock_and_no_order(make):
    arrays = {"a/x": np.arange(3.0), "a/y": np.float32(2.5)}
    one = make.as_bytes(arrays, {"date": "2001-01-01"})
    assert one == make.as_bytes(dict(reversed(arrays.items())), {"date": "2001-01-01"})
    assert one != make.as_bytes(arrays | {"a/x": np.arange(1.0, 4.0)}, {"date": "2001-01-01"})
    with zipfile.ZipFile(io.BytesIO(one)) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    with np.load(io.BytesIO(one)) as back:
        np.testing.assert_array_equal(back["a/x"], np.arange(3.0))
        assert back["a/y"].dtype == np.float32


def test_a_file_keeps_its_date_while_its_numbers_stay(make, tmp_path, monkeypatch):
    """A driver of one line, run by this very interpreter: no environment is made."""
    (tmp_path / "drive_few.py").write_text(
        "NEEDS = ('a==1',)\ndef vectors():\n    return {'x': 1.0}"
    )
    (tmp_path / "make.py").write_text((GOLDEN / "make.py").read_text())
    monkeypatch.setattr(make, "HERE", tmp_path)
    monkeypatch.setattr(make, "VECTORS", tmp_path)
    monkeypatch.setattr(make, "__file__", str(tmp_path / "make.py"))
    assert not make.make("few", sys.executable, check=True)
    assert not (tmp_path / "few.npz").exists()  # a check writes nothing
    assert not make.make("few", sys.executable, check=False)
    path = tmp_path / "few.npz"
    with np.load(path) as content:
        metadata = json.loads(content["metadata.json"]) | {"date": "2001-01-01"}
    path.write_bytes(make.as_bytes({"x": 1.0}, metadata))  # the same file, of another day
    once = path.read_bytes()
    assert make.make("few", sys.executable, check=True)
    assert make.make("few", sys.executable, check=False)
    assert path.read_bytes() == once
    (tmp_path / "drive_few.py").write_text(
        "NEEDS = ('a==1',)\ndef vectors():\n    return {'x': 2.25}"
    )
    assert not make.make("few", sys.executable, check=False)
    assert make.date_of(path) != "2001-01-01"
