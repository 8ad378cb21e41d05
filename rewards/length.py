"""A bounded price on tokens: a right answer earns more when it is shorter."""

from rewards.accuracy import accuracy_reward


def length_reward(completions, solution=None, completion_ids=None, max_tokens=1024, **columns):
    """1 - tokens / max_tokens for a right answer, 0.0 for a wrong one.

    completions      list of N strings or chats
    solution         list of N golds, as for `accuracy_reward`
    completion_ids   list of N token lists   TRL passes them
    max_tokens       int                     length at which nothing is earned any more
    returns          list of N               in [0, 1]; None: gold not verifiable

    >>> right = "<think>2+2</think><answer>4</answer>"
    >>> length_reward([right], solution=["4"], completion_ids=[[0] * 256], max_tokens=1024)
    [0.75]
    """
    if completion_ids is None:
        raise ValueError(
            "length_reward: no `completion_ids`: it counts tokens, not characters. TRL passes "
            "them; elsewhere use completion_ids=tokenizer(texts)['input_ids']."
        )
    rights = accuracy_reward(completions, solution=solution, **columns)
    return [
        None if right is None else right * max(0.0, 1.0 - len(ids) / max_tokens)
        for right, ids in zip(rights, completion_ids, strict=True)
    ]
