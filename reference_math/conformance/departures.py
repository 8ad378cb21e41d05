"""Where a library departs from the paper of the same name, or from what an option's name suggests.

TRL 1.16 where no other is named.  Each is pinned down by a test in tests/parity, which fails on the
day the library changes.
"""


def _departure(objective, option, departure, source):
    return {"objective": objective, "option": option, "departure": departure, "source": source}


DEPARTURES = [
    _departure(
        "dpo",
        "ipo",
        "Each answer's log-ratio is divided by its token count; the paper takes whole answers'.",
        "arXiv 2310.12036, eq. 17",
    ),
    _departure(
        "dpo",
        "ipo, sigmoid_norm",
        "Without a prompt, the token count includes a first token that was never predicted.",
        "",
    ),
    _departure(
        "dpo",
        "sigmoid, label_smoothing",
        "Ignored: only exo_pair, robust, aot and aot_unpaired read label_smoothing.",
        "cDPO: the note with arXiv 2305.18290's code",
    ),
    _departure("dpo", "bco_pair", "No running reward shift delta.", "arXiv 2404.04656"),
    _departure(
        "dpo",
        "sppo_hard",
        "Win probabilities are 1 and 0; the paper estimates them.",
        "arXiv 2405.00675, eq. 4.7",
    ),
    _departure(
        "dpo",
        "f_divergence_type",
        "Logged rewards and margins are those of reverse_kl whatever the divergence.",
        "arXiv 2309.16240",
    ),
    _departure(
        "dpo",
        "forward_kl, discopop",
        "NaN once e^88 is passed in float32: inf - inf, and 0 times inf.",
        "arXiv 2309.16240, arXiv 2406.08414",
    ),
    _departure(
        "dpo",
        "hinge or sft, use_weighting",
        "The backward stops with an error: an in-place product.",
        "arXiv 2406.11827",
    ),
    _departure(
        "dpo",
        "alpha_divergence",
        "KeyError for float64 log-probabilities; taken for reverse_kl within 1e-6 of alpha = 1.",
        "arXiv 2309.16240",
    ),
    _departure("dpo", "sft", "NaN where no chosen token counts.", ""),
    _departure(
        "sft",
        "label smoothing",
        "NaN where nothing counts (nll and dft give 0); the sum over V is float32 whatever the model.",
        "arXiv 1512.00567, section 7",
    ),
    _departure(
        "grpo",
        "default",
        "beta is 0: no KL to the reference; the paper has 0.04.",
        "arXiv 2402.03300, section 4.2",
    ),
    _departure(
        "grpo",
        "beta > 0",
        "use_bias_correction_kl is on: k3 times the importance ratio, another gradient.",
        "arXiv 2402.03300, eq. 4",
    ),
    _departure(
        "grpo",
        "advantages",
        "Divided by std with ddof 1, plus 1e-4; the paper says std.",
        "arXiv 2402.03300, section 4.1.2",
    ),
    _departure(
        "grpo",
        "dr_grpo",
        "Only the normaliser: scale_rewards has to be set to 'none' as well.",
        "arXiv 2503.20783",
    ),
    _departure(
        "grpo",
        "cispo",
        "epsilon_high caps the ratio itself: its default 0.2 scales every on-policy gradient by 0.2.",
        "arXiv 2506.13585",
    ),
    _departure(
        "grpo",
        "every loss type",
        "A ratio above e^88 in float32 gives NaN gradients even where it is clipped.",
        "",
    ),
    _departure(
        "reward_model",
        "accuracy",
        "Logged accuracies and margins leave the data's margin out.",
        "arXiv 2307.09288, eq. 2",
    ),
    _departure(
        "prm",
        "accumulation",
        "transformers adds k micro-batches' means up undivided: k times the gradient.",
        "",
    ),
    _departure("prm", "loss", "NaN where no step is judged: a row cut short keeps none.", ""),
    _departure(
        "kto",
        "kto",
        "An answer whose log-probability is NaN is left out of the mean without a word.",
        "arXiv 2402.01306, eq. 7",
    ),
    _departure(
        "kto",
        "kto, a last batch of one",
        "Its completion is its own mismatch: the baseline is its own log-ratio.",
        "arXiv 2402.01306, section 4.1",
    ),
    _departure(
        "bco",
        "delta",
        "The mean of all rewards ever seen; the paper's is midway between the two classes' means. "
        "One NaN stays in it for good.",
        "arXiv 2404.04656",
    ),
    _departure(
        "orpo",
        "nll",
        "Over prompt and chosen answer; the paper has the answer alone.",
        "arXiv 2403.07691, eq. 6",
    ),
    _departure(
        "orpo",
        "odds",
        "float32 whatever the model; NaN gradients within 3e-8 of a mean log-probability of 0.",
        "arXiv 2403.07691, eq. 4",
    ),
    _departure(
        "cpo",
        "simpo",
        "By default an nll of weight 1, beta 0.1 and gamma 0.5; the paper has no nll, beta from 2.",
        "arXiv 2405.14734, eq. 6",
    ),
    _departure(
        "cpo",
        "alphapo",
        "NaN where two answers' probabilities round to 0; loss_type 'alphapo' leaves alpha at 0.",
        "arXiv 2501.03884",
    ),
    _departure(
        "grpo",
        "sapo",
        "Its temperatures are float32 whatever the model: 1.05 is 1.0499999523.",
        "",
    ),
    _departure(
        "grpo",
        "top_entropy_quantile",
        "An error where a batch has over 16 million tokens: torch.quantile takes no more.",
        "",
    ),
    _departure(
        "advantages",
        "group, equal rewards",
        "In float32 the mean of equal rewards can be a rounding off: up to 9.4e-3, one sign for all.",
        "",
    ),
    _departure(
        "advantages",
        "sum_then_normalize, a missing reward",
        "Counts as 0 in the sum, beside rivals that the same function scored.",
        "",
    ),
    _departure("advantages", "normalize_then_sum", "scale_rewards is ignored.", "arXiv 2601.05242"),
    _departure(
        "lora",
        "pissa, olora",
        "PEFT refuses a float64 weight, and takes a rank that the weight does not have.",
        "arXiv 2404.02948, arXiv 2406.01775",
    ),
    _departure(
        "lora",
        "DoRA",
        "PEFT turns a row of zeros into NaN: it divides by the row's norm.",
        "arXiv 2402.09353, eq. 5",
    ),
    _departure(
        "nf4",
        "read back, AVX-512",
        "bitsandbytes on a CPU takes other blocks' scales where the width is no multiple of the block.",
        "arXiv 2305.14314, section 3",
    ),
    _departure(
        "gradient clipping",
        "huge gradients",
        "torch loses all of a gradient whose square overflows; one NaN spoils every parameter's.",
        "",
    ),
    _departure("schedule", "cosine", "transformers' rate rises again past the last step.", ""),
    _departure(
        "rloo",
        "loss",
        "A clipped ratio of whole completions; the paper is plain REINFORCE, the same on-policy.",
        "arXiv 2402.14740, section 3.2",
    ),
    _departure(
        "online_dpo, xpo, nash_md",
        "gradient accumulation",
        "Micro-batches are backpropagated undivided: four of them give four times the gradient.",
        "",
    ),
    _departure(
        "nash_md",
        "KL",
        "A token is pushed by its own log-ratio, not by the answer's: biased beyond one token.",
        "arXiv 2312.00886",
    ),
    _departure(
        "nash_md",
        "win probability",
        "A sigmoid of two rewards' difference; the paper has a model of preferences.",
        "arXiv 2312.00886",
    ),
    _departure(
        "ppo",
        "the score's place",
        "On the state after the last token, so discounted once more, unless the row is full.",
        "arXiv 1909.08593",
    ),
    _departure(
        "ppo",
        "whitening",
        "NaN for one token; a micro-batch without tokens has a NaN loss.",
        "",
    ),
    _departure(
        "gkd",
        "temperature",
        "Never passed to the loss, which compares at 1 what was sampled at 0.9.",
        "arXiv 2306.13649",
    ),
    _departure(
        "gkd",
        "num_items_in_batch",
        "On the student's own answers it is still the data set's count; 0 gives NaN.",
        "",
    ),
    _departure(
        "distillation",
        "dtype",
        "float32 whatever the hidden states are.",
        "",
    ),
    _departure(
        "minillm",
        "advantages",
        "Not detached; discounted from the answer's start; 0 discount by default; padding counts.",
        "arXiv 2306.08543, section 2.2",
    ),
    _departure(
        "minillm",
        "single_step_decomposition",
        "The exact step is added to a sum that has it already: it counts twice.",
        "arXiv 2306.08543, section 2.2",
    ),
    _departure(
        "uld",
        "uld_token_merge_strategy 'observed' (default)",
        "Logits are read one position late: never those that predict the answer's first token.",
        "arXiv 2402.12030",
    ),
    _departure(
        "sdft",
        "distillation_add_tail",
        "The rest's mass is at least 1e-7, whatever it is.",
        "",
    ),
    _departure("tpo", "tpo_alpha", "NaN where no gold token counts.", ""),
    _departure(
        "gmpo",
        "A < 0",
        "No upper clip: inf once e^88 is passed in float32, as in GRPO.",
        "arXiv 2507.20673",
    ),
]
