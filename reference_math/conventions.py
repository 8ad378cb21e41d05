"""Table of the conventions in which papers and libraries of the GRPO family differ.

    from reference_math.conventions import TABLE
    [row for row in TABLE if row["ddof"] == 0]

Each row is a dict with the same keys. None means: the source does not say, or has no such thing.

name          the method or the library, with its version or commit
kind          "trl", "paper" or "library"
surrogate     the module of reference_math: grpo, cispo, sapo, vespo, rloo, reinforce, dppo
centre        what is taken off the reward: the "group" mean, the mean of the "others", "none"
scale         what divides the advantage: "group" std, std of the "others", "batch" std, "none";
              "whiten": the batch std after the batch mean, too
ddof, eps     std by count - ddof; added to the std
reduction     a name of `reductions.REDUCTIONS`: the normaliser of the loss
level         of the importance ratio: "token", "sequence" (geometric mean), "product" (whole
              completion), "none" (the ratio is always 1)
epsilon_low, epsilon_high   the clip [1 - low, 1 + high] by default, or as the paper's runs set it
delta         cap of the ratio where the advantage is below 0 (PPO's dual clip); None: no cap
beta          weight of the KL by default, or as the paper's runs set it; 0.0 = none
kl            which: "k1 in the reward", "k1", "k3", "w k3" (k3 times the importance ratio);
              "k3 per row": a mean of row means, whatever the reduction; "k3, gradient l - r": the value of
              k3, the gradient of the KL; "2 k2 to the sampler": (l - q)^2
note          what the columns cannot say
source        where it says so
proof         (library, case of the advantages or None, cases of the loss) of `conformance.rosetta`:
              arrays that the release computed, which the columns reproduce. The cases leave the clip's upper
              end at 0.28 and the KL out: those defaults are read from the release. None: all is read, and a row
              that says so was compared with the repository's own functions at its commit

TRL's rows are its defaults (version 1.16), which tests/parity/test_grpo_trainer.py compares with the
installed library. With them TRL's loss_type="grpo" is not the paper's GRPO: no KL, std with 1e-4.

Lesson        notebooks/03_grpo.ipynb
Proof         tests/laws/test_conventions.py, tests/parity/test_grpo_trainer.py (the rows of TRL),
              tests/parity/test_libraries.py (the rows with a proof)
"""

COLUMNS = (
    "name", "kind", "surrogate", "centre", "scale", "ddof", "eps", "reduction", "level",
    "epsilon_low", "epsilon_high", "delta", "beta", "kl", "note", "source", "proof",
)  # fmt: skip


def _row(name, kind, surrogate, source, **columns):
    return dict.fromkeys(COLUMNS) | dict(
        name=name, kind=kind, surrogate=surrogate, source=source, **columns
    )


def _trl(loss_type, surrogate, **columns):
    source = "trl 1.16, trainer/grpo_trainer.py and grpo_config.py"
    usual = {
        "centre": "group",
        "scale": "group",
        "ddof": 1,
        "eps": 1e-4,
        "level": "token",
        "beta": 0.0,
        "kl": "w k3",
    }
    return _row(f"TRL {loss_type}", "trl", surrogate, source, **usual | columns)


def _library(name, source, surrogate="grpo", **columns):
    return _row(name, "library", surrogate, f"github.com/{source}", **{"level": "token"} | columns)


def _release(name, source, proof, **columns):
    return _row(name, "library", "grpo", source, level="token", proof=proof, **columns)


_RUN = "compared at that commit, not made again here"
_CLIP = {"epsilon_low": 0.2, "epsilon_high": 0.2}
_WHOLE = {"centre": "none", "scale": "none", "reduction": "luspo", "beta": 0.0}
_IN_REWARD = {"kl": "k1 in the reward"}
_GROUP = {"centre": "group", "scale": "group"}
_STD_1 = _GROUP | {"ddof": 1}
_OPENRLHF = (
    "openrlhf 0.11.2: trainer/ppo_utils/experience_maker.py, models/loss.py, cli/train_ppo_ray.py"
)

TABLE = (
    _trl("grpo", "grpo", reduction="grpo", **_CLIP),
    _trl("bnpo", "grpo", reduction="bnpo", **_CLIP),
    _trl("dr_grpo", "grpo", reduction="dr_grpo", **_CLIP),
    _trl("dapo", "grpo", reduction="dapo", **_CLIP, note="the default loss_type"),
    _row("TRL AsyncGRPOTrainer", "library", "grpo",
         "trl 1.16, experimental/async_grpo/async_grpo_trainer.py and async_rollout_worker.py",
         level="token", reduction="bnpo", beta=0.0, **_GROUP, ddof=0, eps=1e-8, **_CLIP,
         note="the micro-batch of all processes; the sampler's log-probabilities are the old ones"),
    _trl("luspo", "grpo", reduction="luspo", **_CLIP),
    _trl("cispo", "cispo", reduction="dapo", note="epsilon_high = 0.2 caps the ratio, not 1.2"),
    _trl("sapo", "sapo", reduction="grpo", note="temperatures 1.0 and 1.05"),
    _trl("vespo", "vespo", reduction="dapo", note="k, lambda: 2, 3 where A >= 0, else 3, 2"),
    _row(
        "TRL RLOOTrainer", "trl", "rloo", "trl 1.16, trainer/rloo_trainer.py and rloo_config.py",
        **_WHOLE | _CLIP | _IN_REWARD | {"centre": "others", "level": "product", "beta": 0.05},
    ),
    _row("REINFORCE", "paper", "reinforce", "Williams, 1992", **_WHOLE),
    _row(
        "RLOO", "paper", "reinforce", "arXiv 2402.14740",
        **_WHOLE | _IN_REWARD | {"centre": "others", "beta": None},
    ),
    _row(
        "GRPO (DeepSeekMath)", "paper", "grpo", "arXiv 2402.03300, eq. 3 and 4, section 4.2",
        **_GROUP, reduction="grpo", level="token", beta=0.04, kl="k3",
    ),
    _row(
        "Dr. GRPO", "paper", "grpo", "arXiv 2503.20783, section 3",
        centre="group", scale="none", reduction="dr_grpo", level="token", beta=0.0,
    ),
    _row(
        "DAPO", "paper", "grpo", "arXiv 2503.14476, sections 3 and 4.1",
        **_GROUP, reduction="dapo", level="token", epsilon_low=0.2, epsilon_high=0.28, beta=0.0,
    ),
    _row(
        "GSPO", "paper", "grpo", "arXiv 2507.18071, eq. 5, section 5.1",
        **_GROUP, reduction="grpo", level="sequence", epsilon_low=3e-4, epsilon_high=4e-4,
    ),
    _row(
        "REINFORCE++", "paper", "grpo", "arXiv 2501.03262",
        centre="none", scale="whiten", level="token", **_IN_REWARD,
    ),
    _release(
        "verl grpo",
        "verl 0.9.1: trainer/ppo/core_algos.py, trainer/config/actor/actor.yaml",
        ("verl", "adv grpo", "vanilla token-mean", "vanilla, far off-policy"),
        **_STD_1 | _CLIP, eps=1e-6, reduction="bnpo", delta=3.0, beta=0.0, kl="k3",
        note="a group of one gets its reward; 0.001 with use_kl_loss: log-ratios within 20, KL within 10",
    ),
    _release(
        "OpenRLHF group_norm", _OPENRLHF, ("openrlhf", "adv group_norm", "ppo"),
        **_STD_1 | _CLIP | _IN_REWARD, eps=1e-9, reduction="bnpo", beta=0.01,
        note="the KL is clamped to 10 in size",
    ),
    _release(
        "OpenRLHF reinforce_baseline", _OPENRLHF, ("openrlhf", "adv reinforce_baseline", "ppo"),
        **_CLIP | _IN_REWARD, centre="group", scale="whiten", ddof=0, reduction="bnpo", beta=0.01,
        note="over tokens; the variance is kept above 1e-8",
    ),
    _release(
        "SkyRL grpo",
        "skyrl 0.4.0: backends/skyrl_train/utils/ppo_utils.py, backends/skyrl_train/workers/worker.py, "
        "train/config/config.py",
        ("skyrl", "adv grpo", "regular token_mean"),
        **_STD_1 | _CLIP, eps=1e-6, reduction="dapo", beta=0.001, kl="k3 per row",
        note="the mini-batch is the denominator; a group of one gets its reward",
    ),
    _release(
        "ms-swift grpo",
        "ms-swift 4.6.0: rlhf_trainers/grpo_trainer.py, rlhf_trainers/args_mixin.py, arguments/rlhf_args.py",
        ("swift", "adv group", "grpo"),
        **_STD_1 | _CLIP, eps=1e-4, reduction="grpo", beta=0.04, kl="k3",
        note="log-ratios within 20, KL within 10",
    ),
    _release(
        "cosmos-rl grpo",
        "cosmos-rl 0.4.7: policy/trainer/llm_trainer/grpo_trainer.py, dispatcher/algo/grpo.py, "
        "policy/config/__init__.py",
        ("cosmos", "adv", "grpo token-mean", "grpo, far off-policy"),
        **_GROUP | _CLIP, ddof=0, eps=1e-6, reduction="bnpo", delta=3.0, beta=0.0, kl="k3",
        note="advantages are clipped to 5 in size",
    ),
    _release(
        "AReaL ppo", "areal 1.0.4: api/cli_args.py, utils/functional/functional.py",
        ("areal", None, "token"),
        **_CLIP | _IN_REWARD, centre="none", scale="none", reduction="dapo", beta=0.1,
        note="norms are options: batch or group, ddof 1, eps 1e-5; rewards within 20",
    ),
    _release(
        "Tinker cookbook", "tinker-cookbook 0.6.1: rl/data_processing.py, rl/train.py",
        ("tinker", "adv"), centre="group", scale="none", beta=0.0,
        note="its losses run on a server that is no part of the release",
    ),
    _release(
        "Unsloth grpo", "unsloth-zoo 2026.10.9: rl_replacements.py", ("unsloth", None, "grpo"),
        **_CLIP, reduction="grpo", beta=0.0, kl="k3",
        note="a bare call; inside TRL's trainer the advantages and all settings are TRL's",
    ),
    _release(
        "Liger grpo", "liger-kernel 0.8.5: chunked_loss/grpo_loss.py", ("liger", None, "dapo"),
        **_CLIP, reduction="dapo", beta=0.04, kl="k3",
        note="a bare call; inside TRL's trainer the advantages and all settings are TRL's",
    ),
    _library(
        "NeMo-RL grpo",
        "NVIDIA-NeMo/RL (7ea279a): nemo_rl/algorithms/advantage_estimator.py, loss/loss_functions.py",
        **_CLIP, centre="others", scale="others", ddof=1, eps=1e-6, reduction="dapo", beta=0.01,
        kl="k3, gradient l - r",
        note="not divided where the others' std is 0; log-ratios within 20, KL within 10; " + _RUN,
    ),
    _library(
        "PipelineRL ppo", "ServiceNow/PipelineRL (58d3934): pipelinerl/finetune/rl/__init__.py",
        **_CLIP, centre="others", scale="group", ddof=1, eps=1e-4, reduction="luspo", beta=0.1, kl="k3",
        note="log-ratios of the KL within 10; " + _RUN,
    ),
    _library(
        "slime grpo", "THUDM/slime (624b824): slime/ray/rollout.py, slime/utils/ppo_utils.py, "
        "slime/backends/megatron_utils/loss.py, slime/utils/arguments.py",
        **_STD_1 | _CLIP, eps=1e-6, reduction="grpo", beta=0.0, kl="k1",
        note="a row is a whole rollout, with all its turns; " + _RUN,
    ),
    _library(
        "open-instruct centered", "allenai/open-instruct (e6c3044): open_instruct/grpo_utils.py, data_loader.py",
        centre="group", scale="none", reduction="dapo", epsilon_low=0.2, epsilon_high=0.272,
        beta=0.05, kl="k3", note="the default since; log-ratios of the KL within 40; " + _RUN,
    ),
    _library(
        "open-instruct standard", "allenai/open-instruct: grpo_fast.py (d526c5d), "
        "data_preparation_thread; grpo_utils.py (0063d12), GRPOExperimentConfig",
        **_GROUP, ddof=0, eps=1e-8, reduction="dapo", epsilon_low=0.2, epsilon_high=0.272,
        beta=0.05, kl="k3",
    ),
    _library(
        "torchtune GRPOLoss", "pytorch/torchtune: recipes/dev/grpo_full_finetune_distributed.py "
        "(c3c6c7d); torchtune/dev/grpo/loss.py (0a08c2f)",
        **_STD_1, eps=1e-4, reduction="bnpo", epsilon_low=0.1, epsilon_high=0.1, beta=0.1, kl="k3",
    ),
    _library(
        "torchtune GRPOSimpleLoss", "pytorch/torchtune (bd2a0fc): torchtune/dev/grpo/loss.py, "
        "recipes/dev/grpo_full_finetune_distributed.py, recipes/configs/dev/3B_full_grpo.yaml",
        **_STD_1 | {"level": "none"}, eps=1e-4, reduction="grpo", beta=0.01, kl="k3",
        note="the recipes' choice; old log-probs are not used; " + _RUN,
    ),
    _library(
        "prime-rl", "PrimeIntellect-ai/prime-rl (559b447): src/prime_rl/trainer/rl/loss.py, "
        "src/prime_rl/orchestrator/algo/grpo.py",
        surrogate="dppo", centre="group", scale="none", reduction="dapo", beta=1e-3, kl="2 k2 to the sampler",
        note="no clip: a token is left out where its probability went more than 0.2 beyond the sampler's; " + _RUN,
    ),
)  # fmt: skip
