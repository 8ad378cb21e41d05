"""Write a library's defaults as calls of `reference_math`, from its row of `conventions`; compare two.

    python -m reference_math.conformance.libraries                  the names
    python -m reference_math.conformance.libraries verl ms-swift    what differs, by how much, the calls

The batch and the letters of the calls are those of `conformance.rosetta`. A name may be the first word
of a row's name where only one row begins with it.

Proof   tests/parity/test_libraries.py: the calls reproduce what the releases computed
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from reference_math.conformance import rosetta, tables
from reference_math.conformance._types import Arrays, Convention, Options
from reference_math.conventions import TABLE

COMPARED = ("surrogate", "centre", "scale", "ddof", "eps", "reduction", "level", "epsilon_low", "epsilon_high",
            "delta", "beta", "kl")  # fmt: skip

# (centre, scale): the call, and the `scale` of `check` that computes the same; None: it has no such
ADVANTAGES = {
    ("group", "group"): ("advantages.group(R, G, ddof={ddof}, eps={eps})", "group"),
    ("group", "none"): ("advantages.dr_grpo(R, G)", "dr_grpo"),
    ("others", "none"): ("advantages.leave_one_out(R, G)", "leave_one_out"),
    ("none", "none"): ("R", "raw"),
    ("others", "others"): (
        "advantages.leave_one_out_scaled(R, G, ddof={ddof}, eps={eps})", "leave_one_out_scaled"
    ),
    ("others", "group"): (
        "G / (G - 1) * advantages.group(R, G, ddof={ddof}, eps={eps})", "leave_one_out_group"
    ),
    ("group", "whiten"): (
        "gae.masked_whiten(advantages.dr_grpo(R, G)[:, None] * m, m, ddof={ddof}, eps=0.0)", None
    ),
}  # fmt: skip
# name of the KL: the term of each token, its gradient, the weights of the tokens
KL = {
    "k3 per row": (
        "kl.k3(l, r)",
        "kl.k3_grad(l, r)",
        "reductions.token_weights(m, reduction='grpo')",
    ),
    "k3, gradient l - r": ("kl.k3(l, r)", "kl.k2_grad(l, r)", "{weights}"),
}
NORMALISER = {
    "dapo": ", tokens_per_micro_batch=m.sum()",
    "dr_grpo": ", max_completion_length=m.shape[1]",
}


def rows() -> list[Convention]:
    """Return the rows of libraries."""
    return [row for row in TABLE if row["kind"] != "paper"]


def find(name: str) -> Convention:
    """Return the row of that name, or the only one that begins with it.

    >>> find("verl")["name"], find("TRL dapo")["name"]
    ('verl grpo', 'TRL dapo')
    """
    whole = [row for row in rows() if row["name"].lower() == name.lower()]
    found = whole or [row for row in rows() if row["name"].lower().split()[0] == name.lower()]
    if not found and (named := _named(name)):
        found = [row for row in rows() if row["name"] == named]
    if len(found) != 1:
        names = ", ".join(row["name"] for row in found or rows())
        raise ValueError(f"{name!r} names {len(found)} libraries, not one; there are {names}")
    return found[0]


def _named(name):
    """The row of a library that the tables know by this name."""
    try:
        return tables.libraries()[tables.find(name)].get("grpo")
    except ValueError:
        return None


def has_loss(row: Convention) -> bool:
    """Tell whether the columns describe a whole loss: clip, ratio and reduction."""
    said = (
        ("reduction", "level", "epsilon_low", "epsilon_high")
        if row["level"] != "none"
        else ("reduction",)
    )
    return row["surrogate"] == "grpo" and all(row[key] is not None for key in said)


def calls(row: Convention) -> dict[str, str]:
    """Return {"advantages", "loss", "gradient": call}, without the parts that the columns do not give.

    >>> calls(find("verl"))["advantages"]
    'advantages.group(R, G, ddof=1, eps=1e-06)'
    """
    found = {}
    if (row["centre"], row["scale"]) in ADVANTAGES:
        call, _ = ADVANTAGES[row["centre"], row["scale"]]
        found["advantages"] = call.format(**row)
    if has_loss(row):
        none = row["level"] == "none"
        ends = {"epsilon_low": "np.inf", "epsilon_high": "np.inf"} if none else {}
        options = ("epsilon_low", "epsilon_high", "delta", "reduction")
        said = ", ".join(f"{key}={ends.get(key, repr(row[key]))}" for key in options)
        level = "token" if none else row["level"]
        said = f"l, {'l' if none else 'o'}, A, m, importance_sampling_level={level!r}, {said}"
        normaliser = NORMALISER.get(row["reduction"], "")
        said += normaliser
        weights = f"reductions.token_weights(m, reduction={row['reduction']!r}{normaliser})"
        value = grad = ""
        if row["beta"] and row["kl"] in ("k3", "w k3"):
            said += f", beta={row['beta']}, ref_per_token_logps=r"
            said += f", use_bias_correction_kl={row['kl'] == 'w k3'}"
        elif row["beta"] and row["kl"] in KL:
            term, slope, weights = (text.format(weights=weights) for text in KL[row["kl"]])
            value = f" + {row['beta']} * ({term} * {weights}).sum()"
            grad = f" + {row['beta']} * {slope} * {weights}"
        found["loss"] = f"grpo.loss({said}){value}"
        found["gradient"] = f"grpo.loss_grad({said}){grad}"
    if (
        row["surrogate"] == "dppo"
    ):  # prime-rl's: the weights are not cut off, the sampler is the old policy
        bounds = "divergence='tv', delta_low=0.2, delta_high=0.2"
        weights = f"reductions.token_weights(m, reduction='dapo'{NORMALISER['dapo']})"
        kept = f"np.exp(l - q) * A.reshape(len(m), -1) * dppo.keep_mask(l, q, A, m, {bounds})"
        found["loss"] = f"((-{kept} + {row['beta']} * (l - q) ** 2) * {weights}).sum()"
        found["gradient"] = f"(-{kept} + {2 * row['beta']} * (l - q)) * {weights}"
    return found


def options(row: Convention, objective: str) -> Options:
    """Return the options with which `check` has this library's defaults as its reference.

    beta is None where the table has none or `check` computes no such KL; a KL in the reward is no part of the loss.
    """
    _, scale = ADVANTAGES.get((row["centre"], row["scale"]), (None, None))
    found = {"scale": scale, "ddof": row["ddof"], "eps": row["eps"]}
    found = {key: value for key, value in found.items() if value is not None}
    if objective == "advantages":
        return found if scale else {}
    if row["kind"] == "trl" and row["surrogate"] != "rloo":
        return found | {"loss_type": row["name"].removeprefix("TRL "), "beta": row["beta"]}
    if not has_loss(row):
        return {}
    beta = {"k1 in the reward": 0.0, "k3, gradient l - r": None}.get(row["kl"], row["beta"])
    found |= {key: row[key] for key in ("epsilon_low", "epsilon_high", "delta")} | {
        "loss_type": row["reduction"], "importance_sampling_level": row["level"],
        "beta": beta, "use_bias_correction_kl": False,
    }  # fmt: skip
    if row["level"] == "none":
        plain = {"importance_sampling_level": "token", "epsilon_low": 0.2, "epsilon_high": 0.2}
        found |= plain | {"on_policy": True}
    if row["kl"] == "k3 per row":
        found |= {"kl": ("k3", False), "kl_reduction": "grpo"}
    return found


def arrays_of(row: Convention, arrays: Arrays) -> Arrays:
    """Compute {"advantages" (B, T), "loss", "gradient" (B, T)} of a library's defaults, from the rewards R."""
    said = calls(row)
    found = {}
    if "advantages" in said:
        A = np.asarray(rosetta.evaluate(said["advantages"], arrays, {}))
        A = A if A.ndim == 2 else A[:, None] * arrays["batch/m"]
        found["advantages"], arrays = A, arrays | {"batch/A": A}
        for part in ("loss", "gradient"):
            if part in said:
                found[part] = rosetta.evaluate(said[part], arrays, {})
    return found


def compare(one: str, other: str) -> tuple[dict[str, tuple[Any, Any]], dict[str, float]]:
    """Return ({column: the two entries}, {part: largest difference, as a share of the largest entry of both})."""
    first, second = find(one), find(other)
    arrays = rosetta.golden("verl")  # every library's file holds the same batch
    columns = {key: (first[key], second[key]) for key in COMPARED if first[key] != second[key]}
    ours, theirs = arrays_of(first, arrays), arrays_of(second, arrays)
    shared = [key for key in ours if key in theirs]
    return columns, {
        key: tables.difference(np.asarray(ours[key]), np.asarray(theirs[key])) for key in shared
    }


def main(argv: Sequence[str]) -> None:
    if len(argv) != 2:
        for row in rows():
            print(f"{row['name']:28s} {row['source']}")
        return
    columns, gaps = compare(*argv)
    for key, (mine, theirs) in columns.items():
        print(f"{key:14s} {mine} | {theirs}")
    for key, gap in gaps.items():
        print(f"{key:14s} {gap:.1e} apart, as a share of the largest entry of both")
    for name in argv:
        row = find(name)
        print(f"\n{row['name']}    {row['source']}")
        for part, call in calls(row).items():
            print(f"    {'A = ' if part == 'advantages' else ''}{call}")
        if row["note"]:
            print(f"    {row['note']}")


if __name__ == "__main__":
    main(sys.argv[1:])
