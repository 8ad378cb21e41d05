r"""The naive recipe: the two rewards that most GRPO tutorials start from, kept as they are.

For lessons only: train nothing with them. They run without an error and the curve rises,
which is what makes them worth showing. Five things go wrong, each a row of the red-team
table (`lab.red_team`):

1. no re.DOTALL: any reasoning with a line break earns 0 for its format
2. an empty, doubled or nested <think>, or two <answer> blocks, earn 1
3. a gold that does not parse as LaTeX ("42", "#### 42", "") is worth 1.0 to every completion
4. the whole completion is parsed, so a right number anywhere in it counts
5. verify(answer, gold) has its arguments the wrong way round, and 5=4 equals 4 either way

Source    the GRPO recipe of the Hugging Face cookbook, January 2025, copied by many
"""

import re


def naive_format_reward(completions, **columns):
    """Give 1.0 where the pattern matches from the start, in TRL's chat format."""
    pattern = r"^<think>.*?</think>\s*<answer>.*?</answer>$"
    contents = [completion[0]["content"] for completion in completions]
    return [1.0 if re.match(pattern, content) else 0.0 for content in contents]


def naive_accuracy_reward(completions, solution, **columns):
    """Give 1.0 where math-verify finds the gold anywhere, or where the gold does not parse."""
    from math_verify import LatexExtractionConfig, parse, verify

    latex = {"extraction_mode": "first_match", "extraction_config": [LatexExtractionConfig()]}
    rewards = []
    for completion, gold in zip(completions, solution, strict=True):
        gold_parsed = parse(gold, **latex)
        answer_parsed = parse(completion[0]["content"], **latex)
        if len(gold_parsed) == 0:
            rewards.append(1.0)
            continue
        rewards.append(float(verify(answer_parsed, gold_parsed)))
    return rewards
