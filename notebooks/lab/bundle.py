"""Collect what a workshop needs without a network in one folder, for a USB stick.

    make bundle                     build/bundle: wheels for this platform, executed lessons, slides, the site
    make lab BUNDLE=/media/stick    installs from its wheels alone, on the same platform and Python

The wheels are the packages of this environment, in their own versions. The ready stages come with the
kit itself (`lab.ready`), so that with READY=1 nobody waits for the first lesson either.

Proof     tests/lab/test_bundle.py
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from lab import bars, install, runs, slides

ROOT = Path(__file__).resolve().parents[2]
OWN = "posttraining-lab"
BUILD = ("setuptools", "wheel")  # pip builds the kit's own package with them
AT_ONCE = 20  # packages in one call of pip, whose start takes a second
HOW = """\
# A workshop's bundle

Made by `make bundle` for Python {python} on {platform}.

    make lab BUNDLE=FOLDER READY=1     in a clone of the kit; FOLDER is this folder, wherever it stands now.
                                       Installs from wheels/ alone, without a network
    wheels/                            the packages
    notebooks/                         the lessons, executed
    live/                              the lessons with headings and code alone, to teach live
    slides/index.html                  a deck of slides for each lesson
    site/index.html                    the site, if it was built
"""


def packages():
    """List name==version of what is installed here; the kit itself is left out and comes as a clone."""
    command = [sys.executable, "-m", "pip", "list", "--format=freeze", "--exclude-editable"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return sorted(line for line in listed if install.name_of(line) != OWN)


def download(wanted, folder):
    """Put the wheel of each package into the folder; what is there already is not fetched again.

    Raises RuntimeError with the packages that pip finds nowhere.
    """
    folder.mkdir(parents=True, exist_ok=True)
    of_torch = [package for package in wanted if "+cpu" in package]
    others = [package for package in wanted if package not in of_torch]
    chunks = [others[i : i + AT_ONCE] for i in range(0, len(others), AT_ONCE)] + [of_torch]
    lost = []
    for chunk in bars.over([chunk for chunk in chunks if chunk], "wheels"):
        if not _fetched(chunk, folder):  # then which?
            lost += [package for package in chunk if not _fetched([package], folder)]
    if lost:
        raise RuntimeError(
            f"pip finds no {', '.join(lost)} where it looks: the bundle would not install. "
            "Connect to the network, or name a folder that has them in PIP_FIND_LINKS"
        )


def _fetched(packages, folder):
    """Tell whether pip has put all these wheels into the folder."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), *packages]
    of_torch = all("+cpu" in package for package in packages)
    indexes = [[], ["--index-url", install.TORCH_CPU_INDEX]] if of_torch else [[]]
    tried = (subprocess.run([*command, *i], capture_output=True, check=False) for i in indexes)
    return any(done.returncode == 0 for done in tried)


def bare(notebook):
    """Return a lesson for teaching live: its headings and its code, without prose and outputs."""
    cells = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            lines = "".join(cell["source"]).splitlines()
            kept = [line for line in lines if line.startswith("#")]
            if kept:
                cells.append(cell | {"source": "\n\n".join(kept)})
        else:
            cells.append(cell | {"outputs": [], "execution_count": None})
    return notebook | {"cells": cells}


def make(out):
    """Write the whole bundle into a folder; returns its size in bytes."""
    download([*packages(), *BUILD], out / "wheels")
    copies = {"notebooks": runs.path("notebooks", "tiny"), "site": ROOT / "build" / "site"}
    for name, source in copies.items():
        shutil.rmtree(out / name, ignore_errors=True)
        if source.exists():
            shutil.copytree(source, out / name)
        else:
            print(f"{name}: left out, {runs.shown(source)} is not there (make lab; make site)")
    built = (
        ROOT / "build" / "site" / "slides"
    )  # of all lessons, those too that `make lab` does not run
    if built.exists():
        shutil.rmtree(out / "slides", ignore_errors=True)
        shutil.copytree(built, out / "slides")
    else:
        slides.make(out / "slides", slides.executed(copies["notebooks"]))
    (out / "live").mkdir(exist_ok=True)
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = bare(json.loads(path.read_text(encoding="utf-8")))
        (out / "live" / path.name).write_text(json.dumps(notebook), encoding="utf-8")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    text = HOW.format(python=python, platform=sys.platform)
    (out / "README.md").write_text(text, encoding="utf-8")
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m lab.bundle", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bundle")
    out = Path(os.path.abspath(parser.parse_args(argv).out))
    try:
        size = make(out)
    except RuntimeError as error:
        raise SystemExit(str(error)) from error
    print(f"{size / 1e9:.2f} GB in {out}; elsewhere: make lab BUNDLE={out} READY=1")


if __name__ == "__main__":
    main()
