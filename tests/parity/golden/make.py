"""Golden vectors: what trainers that TRL has dropped and other libraries computed, kept as numbers.

    python tests/parity/golden/make.py bco prm        makes bco.npz and prm.npz (VECTORS)
    python tests/parity/golden/make.py --check bco    makes it elsewhere: are the bytes the same?
    python tests/parity/golden/make.py                names what can be made, and from which release

A driver, drive_<name>.py, has
    NEEDS       requirements, the library's release first, each pinned with ==
    DEPENDENCIES = False, if it needs none of what the release asks for (gigabytes of engines, or other
                versions than FITTING): stand_ins.py takes the place of what its losses never call
    vectors()   {"case/array": array}: the library's own code run on seeded inputs; inputs, values and
                gradients.  Deterministic.
and imports libraries inside its functions only: this file, and pytest, read it where there are none.

Each set of NEEDS is installed by pip, as the machine has it configured, into an environment of its
own in a temporary folder. The numbers are computed on one thread with the plainest kernels, so that
another processor gives the same. A file keeps its date while its numbers stay the same.

The tests read a file through the fixture `golden` (conftest.py).
"""

import argparse
import datetime
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
VECTORS = ROOT / "reference_math" / "conformance" / "golden"  # package data
# Beside the release: a set that fits all the dropped trainers.  Not constraints.txt, which moves on.
FITTING = (
    "torch==2.13.0",
    "transformers==5.17.0",
    "accelerate==1.15.0",
    "datasets==5.2.0",
    "numpy==2.3.5",
)
QUIET = {
    "CI": "1",  # no telemetry
    "HF_HUB_OFFLINE": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
}


def names():
    return sorted(path.stem.removeprefix("drive_") for path in HERE.glob("drive_*.py"))


def load(path):
    """A Python file as a module, whatever folder it stands in."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def driver(name):
    return load(HERE / f"drive_{name}.py")


# ------------------------------------------------------------------------ the file


def as_bytes(arrays, metadata):
    """A .npz whose bytes depend on nothing but its content: no clock, no compression library."""
    import numpy as np

    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        text = json.dumps(metadata, indent=1, sort_keys=True)
        archive.writestr(zipfile.ZipInfo("metadata.json"), text)  # ZipInfo's date: 1980-01-01
        for name in sorted(arrays):
            array = io.BytesIO()
            np.lib.format.write_array(array, np.asarray(arrays[name]), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), array.getvalue())
    return content.getvalue()


def date_of(path):
    """The date a file says it was made on; None where there is no file."""
    if not path.exists():
        return None
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("metadata.json"))["date"]


def drive(name, date):
    """The file's bytes.  Runs inside the environment that holds the driver's NEEDS."""
    sys.path.insert(0, str(HERE))  # what drivers share
    needs = driver(name).NEEDS
    metadata = {
        "release": needs[0],
        "with": [*needs[1:], *FITTING],
        "command": f"python tests/parity/golden/make.py {name}",
        "date": date,
    }
    return as_bytes(driver(name).vectors(), metadata)


# ------------------------------------------------------------------------ the environment


def environment(folder, needs, alone):
    """The Python of a new environment that holds the needs, alone or with theirs, and FITTING."""
    installer = load(ROOT / "notebooks" / "lab" / "install.py")
    venv.create(folder, with_pip=True)
    python = installer.venv_python(str(folder))
    pip = installer.Pip(python, str(folder / "install.log"))
    if installer.device() != "none":  # Linux: without its gigabytes of CUDA
        installer.install_cpu_torch(pip, [need + "+cpu" for need in FITTING if "torch" in need])
    if alone:
        pip.install("what fits", *FITTING)
        pip.install(needs[0], "--no-deps", "--ignore-requires-python", *needs)
    else:
        pip.install(needs[0], *needs, *FITTING)
    return python


def make(name, python, check):
    """Writes one file, or compares it; returns whether the bytes are those that stood there."""
    path = VECTORS / f"{name}.npz"
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    old = path.read_bytes() if path.exists() else None
    new = run(name, python, date_of(path) or today)
    if old == new:
        print(f"{path.name}: the same {len(new)} bytes")
    elif check:
        print(f"{path.name}: other bytes than those that stand there")
    else:
        path.write_bytes(run(name, python, today))
        print(f"{path.name}: written")
    return old == new


def run(name, python, date):
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "vectors.npz"
        command = [python, __file__, "--inside", str(out), "--date", date, name]
        subprocess.run(command, check=True, cwd=folder, env={**os.environ, **QUIET})
        return out.read_bytes()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", choices=[[], *names()], metavar="name")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if the bytes differ")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--date", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        given.inside.write_bytes(drive(*given.names, given.date))
        return
    if not given.names:
        print("\n".join(f"{name:12s} {driver(name).NEEDS[0]}" for name in names()))
    same = []
    for needs in sorted({driver(name).NEEDS for name in given.names}):
        with tempfile.TemporaryDirectory() as folder:
            mine = [name for name in given.names if driver(name).NEEDS == needs]
            alone = not getattr(driver(mine[0]), "DEPENDENCIES", True)
            python = environment(Path(folder), needs, alone)
            same += [make(name, python, given.check) for name in mine]
    sys.exit(given.check and not all(same))


if __name__ == "__main__":
    main()
