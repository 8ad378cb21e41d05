"""Lesson 13: what a teacher says of a token, in full or by the sampled token alone."""

import numpy as np

from lab.puzzles.engine import Puzzle


def gap_and_noise(student, teacher):
    log_ratio = np.log(student) - np.log(teacher)
    kl = (student * log_ratio).sum(-1)
    variance = (student * (log_ratio - kl[:, None]) ** 2).sum(-1)
    return np.stack([kl, variance])


told = Puzzle(
    number="13.1",
    title="what a teacher says of a token",
    minutes=6,
    stars=2,
    idea="the teacher's whole distribution gives the gap of a token at once; the sampled token gives it on average, with noise",
    task=r"""At each of $T$ positions a student samples its next token $y$ from $q$ (`student` $(T,V)$,
probabilities); its teacher would have sampled from $p$ (`teacher` $(T,V)$). Who knows both distributions computes
$\mathrm{KL}(q\,\|\,p)$. Who knows the sampled token alone has the estimate $\log q(y)-\log p(y)$: its mean over
$y\sim q$ is that KL. Give for each position the KL and the variance of the estimate. Shape $(2,T)$, natural logs.""",
    answer=gap_and_noise,
    cases={
        "a carry left out, and one that both write": (
            np.array([[0.7, 0.3], [0.1, 0.9]]),
            np.array([[0.02, 0.98], [0.05, 0.95]]),
        ),
        "four tokens": (
            np.array([[0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25], [0.05, 0.05, 0.1, 0.8]]),
            np.array([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.2, 0.6]]),
        ),
        "where they agree": (
            np.array([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1]]),
            np.array([[0.5, 0.3, 0.2], [0.3, 0.6, 0.1]]),
        ),
    },
    mistakes={
        "the student's log-probability minus the teacher's": (
            "np.log(student) - np.log(teacher)",
            "np.log(teacher) - np.log(student)",
        ),
        "that is KL(p || q): the token is sampled by the student": (
            "(student * log_ratio).sum(-1)",
            "-(teacher * log_ratio).sum(-1)",
        ),
        "the student samples the token: its probabilities weigh the mean": (
            "(student * log_ratio).sum(-1)",
            "(teacher * log_ratio).sum(-1)",
        ),
        "the tokens are not equally likely: weigh the mean with the student's probabilities": (
            "(student * log_ratio).sum(-1)",
            "log_ratio.mean(-1)",
        ),
        "the logs are subtracted, not the probabilities": (
            "np.log(student) - np.log(teacher)",
            "student - teacher",
        ),
        "natural logs, not those of base 2": (
            "np.log(student) - np.log(teacher)",
            "np.log2(student) - np.log2(teacher)",
        ),
        "that is the mean of the square; take the square of the mean off it": (
            "(log_ratio - kl[:, None]) ** 2",
            "log_ratio**2",
        ),
        "the mean deviation is 0; the variance has its square": (
            "(log_ratio - kl[:, None]) ** 2",
            "(log_ratio - kl[:, None])",
        ),
        "that is the standard deviation; the variance is asked for": (
            "[kl, variance]",
            "[kl, np.sqrt(variance)]",
        ),
        "the student's probabilities weigh the variance, too": (
            "(student * (log_ratio - kl[:, None]) ** 2).sum(-1)",
            "((log_ratio - kl[:, None]) ** 2).mean(-1)",
        ),
        "the student samples in the variance, too, not the teacher": (
            "(student * (log_ratio - kl[:, None]) ** 2)",
            "(teacher * (log_ratio - kl[:, None]) ** 2)",
        ),
        "first the KL, then the variance": ("[kl, variance]", "[variance, kl]"),
    },
    hints=(
        "Call log q - log p of each token the log-ratio. Which probabilities weigh its mean?",
        "The variance is the mean square of what is left of the log-ratio after its mean is taken off.",
    ),
)
