"""The same GRPO in each library that has one: what its defaults make of one right answer.

    lab.programs.draw(lab.programs.pushes())

The defaults are rows of `reference_math.conventions`; `reference_math.conformance.libraries` writes each as calls, which
the arrays that the libraries computed prove, or a comparison at a commit (`python -m reference_math.rosetta`).
"""

import numpy as np

from lab import plots
from reference_math.conformance import libraries, rosetta

LIBRARIES = (
    "TRL dapo", "verl grpo", "OpenRLHF group_norm", "SkyRL grpo", "ms-swift grpo", "cosmos-rl grpo", "NeMo-RL grpo",
    "open-instruct centered", "prime-rl", "PipelineRL ppo", "slime grpo", "torchtune GRPOSimpleLoss",
)  # fmt: skip


def group(right=10, wrong=30):
    """One right answer of `right` tokens and seven wrong ones of `wrong` tokens, on-policy, the reference unmoved.

    Returns the letters that a library's calls are made of, {"batch/l": array}.
    """
    lengths = np.full(8, wrong)
    lengths[0] = right
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(float)
    logps = np.full(mask.shape, np.log(0.5))
    letters = dict.fromkeys("loqr", logps) | {"m": mask, "G": 8, "R": np.eye(8)[0]}
    return {f"batch/{letter}": x for letter, x in letters.items()}


def pushes(right=10, wrong=30):
    """{library: {"advantage", "push"}} of the right answer: minus the gradient of the loss to one token's log-prob.

    >>> said = pushes()
    >>> round(said["prime-rl"]["advantage"], 3), round(said["TRL dapo"]["push"] * 220, 3)    # of 220 tokens
    (0.875, 2.474)
    """
    arrays, found = group(right, wrong), {}
    for name in LIBRARIES:
        calls = libraries.calls(libraries.find(name))
        A = np.asarray(rosetta.evaluate(calls["advantages"], arrays, {}))
        A = A if A.ndim == 1 else A[:, 0]
        grad = rosetta.evaluate(calls["gradient"], arrays | {"batch/A": A}, {})
        found[name] = {"advantage": float(A[0]), "push": float(-grad[0, 0])}
    return found


def draw(said):
    """Draw what `pushes` returned: two panels of bars, one per library."""
    import matplotlib.pyplot as plt

    names = [name.split()[0] for name in said][::-1]
    figure, panels = plt.subplots(
        1, 2, figsize=(9.0, 0.3 * len(said) + 1.0), sharey=True, layout="constrained"
    )
    for ax, part, label in zip(
        panels, ("advantage", "push"), ("advantage", "push on one of its tokens")
    ):
        values = [found[part] for found in said.values()][::-1]
        ax.barh(names, values, color=plots.COLOURS[0])
        for y, value in enumerate(values):
            ax.text(value, y, f" {value:.3g}", va="center", fontsize=9)
        ax.margins(x=0.2)
        ax.set_title(label, fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
    title = f"One right answer in eight: the same GRPO in {len(said)} programs"
    figure.suptitle(title)
    each = (f"{k} {x['advantage']:.3g} and {x['push']:.3g}" for k, x in said.items())
    plots.show_with_alt(
        figure, f"{title}. Advantage and push on one of its tokens: {', '.join(each)}."
    )
