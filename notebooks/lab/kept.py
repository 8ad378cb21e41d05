"""Keep what runs on several seeds measured, in a JSON file beside the module, and read it again.

kept.read("leaks")                        what came with the kit: lab/leaks.json
kept.start("python -m lab.leaks", out)    what stands in a file already, or where it is made now
kept.said(found)                          where that was, for the title of a table
kept.write(out, found)                    after each run, so that an interrupted command loses nothing
"""

import json
from pathlib import Path


def read(module):
    """Return what is kept of a module of `lab`: where it was measured, and what the module says of its figures."""
    return json.loads((Path(__file__).parent / f"{module}.json").read_text(encoding="utf-8"))


def where(command):
    """Return what a kept file says of its machine: command, processor or card, versions."""
    import torch

    from lab import pace, runs

    card = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {"command": command, **card, **pace.processor(), "versions": runs.versions()}


def said(found):
    """Return where a kept file was measured, as people write it.

    >>> said({"processor": "A", "threads": 2, "versions": {"torch": "2.13.0", "trl": "1.16.0", "peft": "0.21.2"}})
    'A, threads: 2; torch 2.13.0, trl 1.16.0'
    """
    versions = ", ".join(f"{name} {found['versions'][name]}" for name in ("torch", "trl"))
    return f"{found.get('gpu', found['processor'])}, threads: {found['threads']}; {versions}"


def start(command, out, **empty):
    """Return the content of a file that an earlier command began, or `where` with these empty lists."""
    if out.exists():
        return json.loads(out.read_text(encoding="utf-8"))
    return where(command) | empty


def write(out, found):
    """Write a JSON file, and the folder that it stands in."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
