"""What a user gets who installs the wheel instead of cloning: all files that the code reads are in it."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, built from what git tracks and unpacked: a folder to import from."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*command, "-w", str(folder), str(source)], check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def python(script, *paths):
    """What a fresh interpreter prints that sees these folders and the standard library alone."""
    lines = f"import sys; sys.path[1:1] = {[str(path) for path in paths]!r}\n{script}"
    command = [sys.executable, "-I", "-S", "-c", lines]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def numpy_alone(tmp_path_factory):
    """A folder with numpy and nothing else."""
    folder = tmp_path_factory.mktemp("numpy")
    for path in Path(numpy.__file__).parent.parent.glob("numpy*"):
        (folder / path.name).symlink_to(path)
    return folder


def test_reference_math_works_beside_numpy_alone_with_its_golden_vectors(installed, numpy_alone):
    made = python(
        "import json, reference_math\n"
        "from importlib import resources\n"
        "from reference_math.conformance import rows\n"
        "names = [n for n in dir(reference_math) if n not in ('torch', 'conformance')]\n"
        "assert all(getattr(reference_math, n) for n in names)\n"
        "golden = resources.files('reference_math.conformance') / 'golden'\n"
        "files = sorted(p.name for p in golden.iterdir() if p.name.endswith('.npz'))\n"
        "arrays = [len(rows.golden(name[:-4])) for name in files]\n"
        "print(json.dumps([len(names), files, min(arrays)]))",
        installed,
        numpy_alone,
    )
    golden = ROOT / "reference_math" / "conformance" / "golden"
    assert made[0] > 50
    assert made[1] == sorted(path.name for path in golden.glob("*.npz")) and made[1]
    assert made[2] > 0


def test_every_recipe_is_in_the_wheel_and_loads(installed):
    script = (
        "import json\n"
        "from lab import recipes\n"
        "stages = [p.stem.split('_') for p in recipes.FOLDER.glob('*.yaml')]\n"
        "loaded = [recipes.load(*stage)['stage'] for stage in stages]\n"
        "print(json.dumps([str(recipes.FOLDER), len(loaded)]))"
    )
    folder, loaded = python(script, installed, Path(numpy.__file__).parent.parent)
    assert Path(folder).is_relative_to(installed)
    assert loaded == len(list((ROOT / "notebooks" / "recipes").glob("*.yaml")))


def test_the_red_team_table_is_in_the_wheel(installed):
    script = (
        "import json\n"
        "from lab import red_team\n"
        "print(json.dumps([str(red_team.TABLE), len(red_team.cases()), len(red_team.verdicts())]))"
    )
    table, cases, verdicts = python(script, installed, Path(numpy.__file__).parent.parent)
    assert Path(table).is_relative_to(installed)
    assert cases == verdicts > 600


def test_the_wheel_says_that_both_packages_are_typed(installed):
    assert all((installed / name / "py.typed").is_file() for name in ("reference_math", "rewards"))
