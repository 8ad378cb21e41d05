"""Write what other libraries compute as calls of `reference_math`, proved on arrays that they computed.

    python -m reference_math.conformance.rosetta           the libraries and how many cases each has
    python -m reference_math.conformance.rosetta verl      each case, the call that equals it, the worst error
    rows("verl")                                           the same as a list

rosetta/<library>.toml holds one row per case. `call` is evaluated on the seeded batch that stands in
golden/<library>.npz beside the library's own value and gradient, so that a row cannot outlive its proof.
Each file is made by tests/parity/golden/make.py from the release that it names.

B = 8 completions of T = 7 tokens, G = 4 per prompt. The letters of a call:

    l, o, r, q   (B, T)  log-probs: policy, old policy (`far`: far off-policy), reference, the sampler's engine
    m            (B, T)  completion_mask                A, At  (B,), (B, T)  advantages
    R, Rt        (B,), (B, T)  rewards, at the last token   v, v_old, ret  (B, T)  values, returns
    pc, pr, rc, rr  (P,)  log-probs of chosen and rejected answers under the policy and the reference
    mc, mr       (P,)    mean log-prob per token of chosen and rejected answers
    z, zr, ids   (2, 6, V), (2, 6)  logits of the policy and the reference, token ids

Proof   tests/parity/test_rosetta.py
"""

import functools
import importlib
import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reference_math._types import ArrayLike, NDArray
from reference_math.conformance import rows as golden_rows
from reference_math.conformance._types import Arrays

FOLDER = Path(__file__).with_name("rosetta")
MODULES = ("advantages", "asft", "cispo", "clip_cov", "cpo", "dpo", "dpo_margin", "dpo_pointwise", "dppo", "dro", "eaft",
           "entropy_control", "f_divergences", "gae", "gkd", "gmpo", "grpo", "importance_sampling", "kl",
           "iw_opd", "kl_cov", "kl_term", "kto", "logprobs", "m2po", "maxrl", "multi_reward", "off_policy", "opo", "orpo", "pass_at_k",
           "ppo", "reductions", "reinforce", "remax", "reward_model", "rloo", "rollout_is", "sapo", "sft",
           "simpo", "vespo")  # fmt: skip

# What a call abbreviates, as in grpo.loss(l, o, A, m, **TOKEN, **CLIP, reduction='bnpo')
OPTIONS = {
    "TOKEN": {"importance_sampling_level": "token"},
    "SEQUENCE": {"importance_sampling_level": "sequence"},
    "OWN": {"importance_sampling_level": "sequence_token"},
    "CLIP": {"epsilon_low": 0.2, "epsilon_high": 0.28},
}


class Case(NamedTuple):
    """One case of a library.

    call        what equals its value; `grads`: {array's name: the call that equals it}
    rtol        relative to the array's largest entry; `reason` says why it is not 1e-12
    shared      {name: the call that it stands for}, used by several cases of a library
    departs     the call that a reader would expect of the array `of`; it differs by more than `by`
    note        a default or a trap that the call does not show
    """

    library: str
    name: str
    call: str
    grads: dict
    shared: dict
    rtol: float
    reason: str
    departs: str
    of: str
    by: float
    note: str

    def errors(self, arrays: Arrays) -> dict[str, float]:
        """Compute {array: worst difference from the library's, as a share of the array's largest entry}."""
        calls = {"value": self.call} | self.grads
        return {k: self.error(arrays, k, c) for k, c in calls.items()}

    def gap(self, arrays: Arrays) -> float:
        """Compute how far the call that a reader would expect is from the library."""
        return self.error(arrays, self.of, self.departs)

    def error(self, arrays: Arrays, name: str, call: str) -> float:
        """How far a call is from one array of this case."""
        return error(arrays[f"{self.name}/{name}"], evaluate(call, arrays, self.shared))


def libraries() -> list[str]:
    """Return the names of the libraries that have rows."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def rows(library: str) -> list[Case]:
    """Return the cases of a library, in the order of its file."""
    if library not in libraries():
        raise ValueError(f"no library {library!r}; there are {', '.join(libraries())}")
    content = tomllib.loads((FOLDER / f"{library}.toml").read_text())
    arrays = golden(library)
    shared = content.pop("let", {})
    content.pop("file")
    return [_case(library, name, row, arrays, shared) for name, row in content.items()]


def release(library: str) -> str:
    """Return the release that a library's arrays come from: "verl==0.9.1"."""
    return tomllib.loads((FOLDER / f"{library}.toml").read_text())["file"]["release"]


def golden(library: str) -> Arrays:
    """Load the library's results and the batch: {"case/value": array, "batch/l": array}."""
    return golden_rows.golden(library)


def _case(library, name, row, arrays, shared):
    call = row["call"]
    own = [k.rpartition("/")[2] for k in arrays if k.rpartition("/")[0] == name]
    grads = {k: row.get(k) or gradient(call) for k in own if k != "value"}
    return Case(library, name, call, grads, shared, row.get("rtol", 1e-12), row.get("reason", ""),
                row.get("departs", ""), row.get("of", "value"), row.get("by", 0.0), row.get("note", ""))  # fmt: skip


def gradient(call: str) -> str:
    """Return the call of the gradient's function: the first function of the call, with _grad.

    >>> gradient("grpo.loss(l, o, A, m)")
    'grpo.loss_grad(l, o, A, m)'
    """
    return re.sub(r"(\w+\.\w+)\(", r"\1_grad(", call, count=1).removesuffix(".sum()")


def evaluate(call: str, arrays: Arrays, shared: dict[str, str]) -> Any:
    """Evaluate a call on the batch. The calls are the project's own text."""
    letters = {k.removeprefix("batch/"): x for k, x in arrays.items() if k.startswith("batch/")}
    names = _modules() | OPTIONS | {"G": 4, "np": np} | letters
    for name, meaning in shared.items():
        names[name] = eval(_compiled(meaning), names)
    return eval(_compiled(call), names)


@functools.cache
def _modules():
    return {name: importlib.import_module(f"reference_math.{name}") for name in MODULES}


@functools.lru_cache(maxsize=4096)
def _compiled(call):
    return compile(call.strip(), "<call>", "eval")


def error(theirs: NDArray[Any], ours: ArrayLike) -> float:
    """The largest difference, as a share of the largest entry of ours; absolute where all are 0.

    >>> error(np.array([1.0, np.nan]), np.array([1.0, np.nan])), error(np.array(np.inf), 800.0)
    (0.0, inf)
    """
    ours = np.broadcast_to(np.asarray(ours, dtype=float), theirs.shape)
    finite = np.isfinite(theirs)
    if not np.array_equal(theirs[~finite], ours[~finite], equal_nan=True):
        return np.inf
    theirs, ours = theirs[finite], ours[finite]
    scale = np.abs(ours).max(initial=0.0)
    return float(np.abs(theirs - ours).max(initial=0.0) / (scale if scale > 0 else 1.0))


def main(argv: Sequence[str]) -> None:
    if not argv:
        for library in libraries():
            print(f"{library:16s} {len(rows(library))} cases")
        return
    for library in argv:
        arrays = golden(library)
        for case in rows(library):
            worst = max(case.errors(arrays).values())
            print(f"{case.name}\n    {case.call}    {worst:.0e}")
            for label in ("departs", "note"):
                if text := getattr(case, label):
                    print(f"    {'expected instead: ' if label == 'departs' else ''}{text}")


if __name__ == "__main__":
    main(sys.argv[1:])
