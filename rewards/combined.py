"""A weighted sum of rewards as one reward."""


class combine:
    """The weighted sum of several rewards, one reward function for TRL.

    weights   {reward function: weight}
    returns   a callable; None where any of its rewards is None

    A class, not a closure: TRL pickles reward functions for its async worker, and logs
    them by `__name__`, so the name is that of its parts.

    >>> from rewards import format_reward
    >>> both = combine({format_reward: 0.5})
    >>> both.__name__, both(["<think>a</think><answer>4</answer>"])
    ('combine_format_reward', [0.5])
    """

    def __init__(self, weights):
        self.weights = dict(weights)
        self.__name__ = "combine_" + "_".join(f.__name__ for f in self.weights)

    def __call__(self, completions, **columns):
        parts = [reward(completions, **columns) for reward in self.weights]
        return [
            None if None in row else sum(w * r for w, r in zip(self.weights.values(), row))
            for row in zip(*parts, strict=True)
        ]
