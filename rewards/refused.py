"""The one exception of this package: an answer that is not read any further, and why."""


class Refused(ValueError):
    """Raised with the reason that `explain` shows. The reward functions never let it out."""
