"""What moved: the golden vectors of other libraries, made again from their newest releases.

    python tests/parity/golden/newest.py                     every library of the tables
    python tests/parity/golden/newest.py verl openrlhf       these
    python tests/parity/golden/newest.py tinker-cookbook==0.6.0 tinker     that release, not the newest

Writes a report in Markdown to standard output, and to build/rosetta_newest.md. Exit status 1 if a library's numbers
moved, a case or a driver broke, or a file that the tables name is gone. Nothing that is kept is written over:
`make.py NAME` does that, once the driver names the new release.

All libraries share one environment in a temporary folder: none of them brings its dependencies.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np

from reference_math.conformance import rosetta, tables

HERE = Path(__file__).resolve().parent
BROKE = "The run broke before it had a report: its log says where.\n"  # the weekly issue shows this file
LEAST = 1e-9  # another processor may round the last digits differently


def _load(name):
    spec = importlib.util.spec_from_file_location(f"golden_{name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = _load("make")


def moved(kept, now, tolerances):
    """Lines about the arrays that are not what they were: {"case/array": array}, {case: rtol}."""
    for name in sorted(set(kept) | set(now)):
        case, _, array = name.rpartition("/")
        if name not in now:
            yield f"{case}: {array} is no longer computed"
        elif name not in kept:
            yield f"{case}: {array} is new"
        elif kept[name].shape != now[name].shape:
            yield f"{case}: {array} has shape {now[name].shape}, it had {kept[name].shape}"
        else:
            gap = rosetta.error(now[name], kept[name])
            if not gap <= max(LEAST, tolerances.get(case, 0.0)):
                yield f"{case}: {array} moved by {gap:.1e} of its largest entry"


def gone(key, folder):
    """The files that the tables name and that a release no longer has."""
    said = tables.libraries()[key]
    files = {
        row.place.partition(": ")[2].partition(" @ ")[0] for row in tables.rows(key) if row.case
    }
    return sorted(file for file in files if not (folder / said["folder"] / file).exists())


def environment(folder):
    """An environment with what make.py puts beside every release."""
    installer = make.load(make.ROOT / "notebooks" / "lab" / "install.py")
    venv.create(folder, with_pip=True)
    python = installer.venv_python(str(folder))
    pip = installer.Pip(python, str(Path(folder) / "install.log"))
    if installer.device() != "none":
        installer.install_cpu_torch(
            pip, [need + "+cpu" for need in make.FITTING if "torch" in need]
        )
    pip.install("what fits", *make.FITTING)
    return python


def install(python, needs):
    """Install the requirements alone; the distribution's version, or None and what pip said."""
    alone = ("--no-deps", "--ignore-requires-python", "--upgrade", "--quiet")
    done = subprocess.run(
        [python, "-m", "pip", "install", *alone, *needs],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        return None, _last(done)
    name = needs[0].partition("==")[0]
    code = f"import importlib.metadata as m; print(m.version({name!r}))"
    return subprocess.run(
        [python, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip(), ""


def drive(name, python):
    """The arrays that the driver computes in that environment, or None and the last line of its error."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "vectors.npz"
        command = [python, str(HERE / "make.py"), "--inside", str(out), "--date", "", name]
        environ = {**make.os.environ, **make.QUIET}
        done = subprocess.run(
            command, check=False, cwd=folder, env=environ, capture_output=True, text=True
        )
        if done.returncode:
            return None, _last(done)
        with np.load(out) as content:
            return {k: content[k] for k in content.files if k != "metadata.json"}, ""


def _last(done):
    return ([line for line in done.stderr.strip().splitlines() if line.strip()] or ["no output"])[
        -1
    ].strip()


def look(name, python, release=None):
    """(library's row of the report, its lines) of a driver."""
    pinned = make.driver(name).NEEDS
    newest = tuple(need.partition("==")[0] for need in pinned)
    version, said = install(python, (release, *newest[1:]) if release else newest)
    before = pinned[0].partition("==")[2]
    if version is None:
        return (pinned[0].partition("==")[0], before, "-", "not installed"), [said]
    now, said = drive(name, python)
    if now is None:
        return (newest[0], before, version, "the driver broke"), [said]
    cases = {case.name: case.rtol for case in rosetta.rows(name)}
    lines = list(moved(rosetta.golden(name), now, cases))
    site = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                          capture_output=True, text=True, check=True).stdout.strip()  # fmt: skip
    key = next(key for key, of in tables.libraries().items() if of.get("cases") == name)
    lines += [f"{file} is gone" for file in gone(key, Path(site))]
    return (newest[0], before, version, f"{len(lines)} moved" if lines else "the same"), lines


def report(found):
    """The report as Markdown, of [(row, lines)]."""
    text = ["| library | kept | newest | |", "|---|---|---|---|"]
    text += ["| " + " | ".join(row) + " |" for row, _ in found]
    for row, lines in found:
        if lines:
            text += ["", f"### {row[0]} {row[1]}, now {row[2]}", *(f"- {line}" for line in lines)]
    return "\n".join(text) + "\n"


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="drivers, or releases (NAME==VERSION) of theirs")
    parser.add_argument(
        "--python", help="an environment that stands, with what make.py puts beside a release"
    )
    given = parser.parse_args(argv)
    releases = {need.partition("==")[0]: need for need in given.names if "==" in need}
    names = [name for name in given.names if "==" not in name] or rosetta.libraries()
    if unknown := set(names) - set(rosetta.libraries()):
        parser.error(
            f"no library {', '.join(sorted(unknown))}; there are {', '.join(rosetta.libraries())}"
        )
    out = make.ROOT / "build" / "rosetta_newest.md"
    out.parent.mkdir(exist_ok=True)
    out.write_text(BROKE, encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        python = given.python or environment(folder)
        found = []
        for name in names:
            distribution = make.driver(name).NEEDS[0].partition("==")[0]
            found.append(look(name, python, releases.get(distribution)))
            print(json.dumps(found[-1][0]), file=sys.stderr, flush=True)
    text = report(found)
    out.write_text(text, encoding="utf-8")
    print(text)
    sys.exit(any(lines for _, lines in found))


if __name__ == "__main__":
    main()
