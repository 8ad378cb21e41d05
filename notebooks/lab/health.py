"""Judge one log of a trainer: what is wrong, by which metric, and what to do.

    examine(logs)                            {ailment: reason, "" where it is healthy}
    examine(logs, Limits(kl=50.0))           with another limit

`lab.guards.Guards` calls it with every log and stops the run on what lasts.
"""

import math
from typing import NamedTuple

# What stops at once; everything else must last.
AT_ONCE = ("loss", "gradient", "infinite reward", "entropy undefined", "KL undefined")
# What is evidence only after enough groups: each can be chance on hard problems.
ABOUT_REWARDS = ("no gradient", "no spread", "accuracy stuck")
# Names of rewards that say whether an answer is right, and not how it is written.
RIGHTNESS = ("accuracy", "correct", "right", "solution", "verif", "math")


class Limits(NamedTuple):
    """Limits beyond which a metric counts as unhealthy, if it lasts.

    entropy_floor     nats per token: below it a GRPO group is one completion, several times
    entropy_ceiling   nats per token: e^6 = 400 tokens equally likely; a language model that samples
                      text has 0.3 to 3
    entropy_rise      nats per token above the run's first log, or the first log again if that is
                      more: exploration adds tenths
    clipped_ratio     share of completions cut off at max_completion_length; of a healthy run some are
    kl                nats per token from the reference: 10 is another model, whatever beta says
    grad_norm         before clipping: healthy runs log 0.01 to 100, and clipping makes of a
                      gradient this long a step in the direction of one outlier
    sampler_gap       nats per token between sampler and trainer, for trainers that do not judge it
                      themselves (lab.vllm.GRPOTrainer does, and logs sampling/gap_mean): three
                      times what rounding to bfloat16 gives on a model of 0.5 billion weights
    """

    entropy_floor: float = 0.005
    entropy_ceiling: float = 6.0
    entropy_rise: float = 1.0
    clipped_ratio: float = 0.95
    kl: float = 10.0
    grad_norm: float = 1e4
    sampler_gap: float = 0.06


def examine(logs, limits=Limits(), start_entropy=None):  # noqa: B008 - a tuple, never changed
    """Judge one log: {ailment: reason, "" where it is healthy}.

    An ailment whose metric is not in the log is left out: GRPO logs its rewards when it generates,
    which need not be in every step.

    >>> examine({"loss": 0.0, "grad_norm": 0.3})  # SFT, or GRPO between two generations
    {'loss': '', 'gradient': '', 'no gradient': '', 'steep gradient': ''}
    >>> examine({"loss": float("nan")})["loss"].partition(".")[0]
    'the loss is nan'
    """
    checks = [
        ("loss", "loss", _not_finite, f"the loss is {{:g}}. {LOWER}"),
        ("gradient", "grad_norm", _not_finite, f"the norm of the gradient is {{:g}}. {LOWER}"),
        ("no gradient", "grad_norm", (0.0).__eq__, f"the gradient is exactly zero. {NOTHING}"),
        ("steep gradient", "grad_norm", lambda x: limits.grad_norm < x < math.inf, STEEP),
        *_of_grpo(logs, limits, start_entropy),
        *_of_rewards(logs),
    ]
    found = {}
    for ailment, key, sick, reason in checks:
        if key in logs:
            value = _number(logs[key])
            found[ailment] = reason.format(value) if sick(value) else ""
    return found


def _of_grpo(logs, limits, start):
    """Checks of what GRPO alone logs; SFT logs an entropy too, of text that it did not sample."""
    if not any(key in logs for key in ("reward", "frac_reward_zero_std", CLIPPED, "kl", GAP)):
        return
    highest = limits.entropy_ceiling
    if start is not None and math.isfinite(start):
        highest = min(highest, start + max(limits.entropy_rise, start))
    yield "no spread", "frac_reward_zero_std", (1.0).__eq__, ALIKE
    yield "entropy", "entropy", lambda x: x < limits.entropy_floor, COLLAPSED
    yield "high entropy", "entropy", lambda x: highest < x < math.inf, SPREAD
    yield "entropy undefined", "entropy", _not_finite, f"the entropy is {{:g}}. {LOWER}"
    yield "cut off", CLIPPED, lambda x: x >= limits.clipped_ratio, CUT
    yield "far from the reference", "kl", lambda x: limits.kl < x < math.inf, FAR
    yield "KL undefined", "kl", _not_finite, f"the KL to the reference is {{:g}}. {LOWER}"
    if "sampling/gap_mean" not in logs:
        yield "sampler", GAP, lambda gap: not gap <= limits.sampler_gap, STALE


def _of_rewards(logs):
    """Checks of each reward function by its mean and standard deviation."""
    yield (
        "infinite reward",
        "reward",
        math.isinf,
        "the reward is {:g}. Look at the reward functions",
    )
    yield "no reward", "reward", math.isnan, f"the reward is {{:g}}: {NO_GOLD}"
    means = [key for key in logs if key.startswith("rewards/") and key.endswith("/mean")]
    for key in means:
        name = key.split("/")[1]
        yield key, key, math.isnan, f"{name} gave None to every completion: {NO_GOLD}"
        yield (
            f"infinite {name}",
            key,
            math.isinf,
            f"{name} is {{:g}} on average. Look at its values",
        )
    stuck = [key for key in means if _is_rightness(key) and _number(logs[key]) == 0.0]
    varies = [key for key in means if key not in stuck and _number(logs.get(_std(key), 0.0)) > 0.0]
    for key in filter(_is_rightness, means):
        alone = key in stuck and varies and _number(logs.get(_std(key), 0.0)) == 0.0
        other = varies[0].split("/")[1] if varies else ""
        reason = STUCK.replace("NAME", key.split("/")[1]).replace("OTHER", other)
        yield "accuracy stuck", key, lambda _, sick=bool(alone): sick, reason


def _std(key):
    return key.removesuffix("/mean") + "/std"


def _is_rightness(key):
    return any(word in key.split("/")[1].lower() for word in RIGHTNESS)


def _not_finite(value):
    return not math.isfinite(value)


def _number(value):
    """None is how TRL logs a NaN metric."""
    return math.nan if value is None else float(value)


GAP = "sampling/sampling_logp_difference/mean"
CLIPPED = "completions/clipped_ratio"
LOWER = (
    "Lower the learning rate, clip the gradient (max_grad_norm), or look for a batch without a "
    "trained token (lab.batch.show_batch)"
)
NOTHING = (
    "No trained weight takes part in the loss, no token is trained (lab.batch.show_batch), or, in "
    "GRPO, every advantage is zero"
)
STEEP = (
    "the norm of the gradient is {:.2g} before clipping. Lower the learning rate, and look for an "
    "outlier in the batch or the rewards"
)
ALIKE = (
    "in every group all rewards are the same: too easy, too hard, or a constant reward. Change the "
    "difficulty, or look at the reasons (rewards.explain)"
)
NO_GOLD = "golds that cannot be verified (rewards.check_golds names the rows)"
COLLAPSED = (
    "the entropy has collapsed to {:.2g} nats per token: the completions of a group are all the "
    "same. Lower the learning rate, or start from an earlier checkpoint"
)
SPREAD = (
    "the entropy is {:.2g} nats per token, far above the start: the policy falls apart into noise. "
    "Lower the learning rate, or start from an earlier checkpoint"
)
CUT = (
    "{:.0%} of the completions are cut off at max_completion_length (completions/clipped_ratio): no "
    "answer is ever finished. Raise the length, or train the model to end first (SFT)"
)
FAR = (
    "the KL to the reference is {:.2g} nats per token: the policy is another model. Lower the learning "
    "rate, raise beta, or start from an earlier checkpoint"
)
STALE = (
    "sampler and trainer differ by {:.2g} nats per token: the completions come from another model "
    "than the one that learns (stale weights; lab.vllm.GRPOTrainer mends TRL's sync)"
)
STUCK = (
    "NAME is 0 for every completion while OTHER varies: the run learns OTHER alone. Start from a "
    "model that is right now and then (SFT), take easier problems or longer completions, or look at "
    "the reasons (rewards.explain)"
)
