"""Table of the conventions in which papers and libraries of the GRPO family differ.

    from reference_math.conventions import TABLE
    [row for row in TABLE if row["ddof"] == 0]

Each row is a dict with the same keys. None means: the source does not say, or has no such thing.

name          the method or the library, with its version or commit
kind          "trl", "paper" or "library"
surrogate     the module of reference_math: grpo, cispo, sapo, vespo, rloo, reinforce
scale         what divides the advantage: "group" std, "batch" std, "none"; "whiten": the batch std
              after the batch mean, too
ddof, eps     std by count - ddof; added to the std
reduction     a name of `reductions.REDUCTIONS`: the normaliser of the loss
level         of the importance ratio: "token", "sequence" (geometric mean), "product" (whole
              completion)
epsilon_low, epsilon_high   the clip [1 - low, 1 + high] by default, or as the paper's runs set it
beta          weight of the KL by default, or as the paper's runs set it; 0.0 = none
kl            which: "k1 in the reward", "k2", "k3", "w k3" (k3 times the importance ratio)
note          what the columns cannot say
source        where it says so

TRL's rows are its defaults (version 1.16), which tests/parity/test_grpo_trainer.py compares with the
installed library. With them TRL's loss_type="grpo" is not the paper's GRPO: no KL, std with 1e-4.

Lesson        notebooks/03_grpo.ipynb
Proof         tests/laws/test_conventions.py, tests/parity/test_grpo_trainer.py (the rows of TRL)
"""

COLUMNS = (
    "name", "kind", "surrogate", "scale", "ddof", "eps", "reduction", "level",
    "epsilon_low", "epsilon_high", "beta", "kl", "note", "source",
)  # fmt: skip


def _row(name, kind, surrogate, source, **columns):
    return dict.fromkeys(COLUMNS) | dict(
        name=name, kind=kind, surrogate=surrogate, source=source, **columns
    )


def _trl(loss_type, surrogate, **columns):
    source = "trl 1.16, trainer/grpo_trainer.py and grpo_config.py"
    usual = {"scale": "group", "ddof": 1, "eps": 1e-4, "level": "token", "beta": 0.0, "kl": "w k3"}
    return _row(f"TRL {loss_type}", "trl", surrogate, source, **usual | columns)


def _library(name, source, **columns):
    return _row(name, "library", "grpo", f"github.com/{source}", level="token", **columns)


_CLIP = {"epsilon_low": 0.2, "epsilon_high": 0.2}
_WHOLE = {"scale": "none", "reduction": "luspo", "beta": 0.0}
_IN_REWARD = {"kl": "k1 in the reward"}
_STD_1 = {"scale": "group", "ddof": 1}

TABLE = (
    _trl("grpo", "grpo", reduction="grpo", **_CLIP),
    _trl("bnpo", "grpo", reduction="bnpo", **_CLIP),
    _trl("dr_grpo", "grpo", reduction="dr_grpo", **_CLIP),
    _trl("dapo", "grpo", reduction="dapo", **_CLIP, note="the default loss_type"),
    _trl("luspo", "grpo", reduction="luspo", **_CLIP),
    _trl("cispo", "cispo", reduction="dapo", note="epsilon_high = 0.2 caps the ratio, not 1.2"),
    _trl("sapo", "sapo", reduction="grpo", note="temperatures 1.0 and 1.05"),
    _trl("vespo", "vespo", reduction="dapo", note="k, lambda: 2, 3 where A >= 0, else 3, 2"),
    _row(
        "TRL RLOOTrainer", "trl", "rloo", "trl 1.16, trainer/rloo_trainer.py and rloo_config.py",
        **_WHOLE | _CLIP | _IN_REWARD | {"level": "product", "beta": 0.05},
    ),
    _row("REINFORCE", "paper", "reinforce", "Williams, 1992", **_WHOLE),
    _row(
        "RLOO", "paper", "reinforce", "arXiv 2402.14740",
        **_WHOLE | _IN_REWARD | {"beta": None},
    ),
    _row(
        "GRPO (DeepSeekMath)", "paper", "grpo", "arXiv 2402.03300, eq. 3 and 4, section 4.2",
        scale="group", reduction="grpo", level="token", beta=0.04, kl="k3",
    ),
    _row(
        "Dr. GRPO", "paper", "grpo", "arXiv 2503.20783, section 3",
        scale="none", reduction="dr_grpo", level="token", beta=0.0,
    ),
    _row(
        "DAPO", "paper", "grpo", "arXiv 2503.14476, sections 3 and 4.1",
        scale="group", reduction="dapo", level="token", epsilon_low=0.2, epsilon_high=0.28, beta=0.0,
    ),
    _row(
        "GSPO", "paper", "grpo", "arXiv 2507.18071, eq. 5, section 5.1",
        scale="group", reduction="grpo", level="sequence", epsilon_low=3e-4, epsilon_high=4e-4,
    ),
    _row(
        "REINFORCE++", "paper", "grpo", "arXiv 2501.03262",
        scale="whiten", level="token", **_IN_REWARD,
    ),
    _library(
        "verl grpo", "volcengine/verl: trainer/ppo/core_algos.py (012be9d), "
        "compute_grpo_outcome_advantage; trainer/config/actor/actor.yaml (03d67c6)",
        **_STD_1 | _CLIP, eps=1e-6, beta=0.0, kl="k3",
        note="loss_agg_mode token-mean; delta 3.0; log-ratios within 20; 0.001 with use_kl_loss",
    ),
    _library(
        "OpenRLHF group_norm",
        "OpenRLHF/OpenRLHF: trainer/ppo_utils/experience_maker.py (89308a0)", **_STD_1, eps=1e-9,
    ),
    _library(
        "OpenRLHF reinforce_baseline",
        "OpenRLHF/OpenRLHF: trainer/ppo_utils/experience_maker.py (89308a0)",
        scale="whiten", ddof=0, note="over tokens; the variance is kept above 1e-8",
    ),
    _library(
        "open-instruct standard", "allenai/open-instruct: grpo_fast.py (d526c5d), "
        "data_preparation_thread; grpo_utils.py (0063d12), GRPOExperimentConfig",
        scale="group", ddof=0, eps=1e-8, reduction="dapo", epsilon_low=0.2, epsilon_high=0.272,
        beta=0.05, kl="k3",
    ),
    _library(
        "torchtune GRPOLoss", "pytorch/torchtune: recipes/dev/grpo_full_finetune_distributed.py "
        "(c3c6c7d); torchtune/dev/grpo/loss.py (0a08c2f)",
        **_STD_1, eps=1e-4, reduction="bnpo", epsilon_low=0.1, epsilon_high=0.1, beta=0.1, kl="k3",
    ),
    _library(
        "prime-rl", "PrimeIntellect-ai/prime-rl: orchestrator/advantage.py (072062c)", scale="none",
    ),
)  # fmt: skip
