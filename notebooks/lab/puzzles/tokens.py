"""Lessons 0 and 1: logits, log-probs, the mask, the mean that a loss takes, and its gradient."""

import numpy as np

from lab.puzzles.engine import Puzzle


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def softmax(logits):
    return np.exp(log_softmax(logits))


_rng = np.random.default_rng(0)

stable = Puzzle(
    number="0.1",
    title="a log-softmax that does not overflow",
    minutes=5,
    stars=1,
    idea="subtract the largest logit first: the result stays the same, and exp is at most 1",
    task=r"""Turn the logits of each row into log-probabilities,
$\log p_v = z_v - \log\sum_u e^{z_u}$. Logits of $\pm 10\,000$ have to work too.""",
    answer=log_softmax,
    cases={
        "ordinary logits": (_rng.standard_normal((3, 5)),),
        "logits in the thousands": (np.array([[1e4, -1e4, 0.0], [9e3, 9e3, 9e3 - 1]]),),
        "rows of different size": (np.array([[5000.0, 4999.0, 0.0], [0.5, -0.5, 0.0]]),),
    },
    mistakes={
        "exp of a large logit overflows: take the row's largest logit off first": (
            "np.log(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))"
        ),
        "the softmax goes over the last axis; this goes over the first": ("-1", "0"),
        "this is the softmax: take its logarithm": "softmax(logits)",
        "the normaliser is missing: take off the logarithm of the sum": (
            "logits - logits.max(-1, keepdims=True)"
        ),
        "the sum of the exponentials is taken off, not its logarithm": (
            "np.log(np.exp(shifted).sum(-1, keepdims=True))",
            "np.exp(shifted).sum(-1, keepdims=True)",
        ),
        "take off each row's own largest logit: with the array's largest, other rows underflow": (
            "logits.max(-1, keepdims=True)",
            "logits.max()",
        ),
        "the sign: a log-probability is never positive": "-log_softmax(logits)",
        "the largest logit is taken off only inside the sum": (
            "return shifted -",
            "return logits -",
        ),
        "the logarithm is the natural one, not base 2": "log_softmax(logits) / np.log(2)",
        "the normaliser is a sum, not a mean": (".sum(", ".mean("),
        "log p = z - log sum exp z: the two are added here": (
            "shifted - np.log",
            "shifted + np.log",
        ),
    },
    hints=(
        "log(e^a / sum e^b) = a - log(sum e^b).",
        "Adding a constant to all logits of a row changes no probability. Which constant keeps exp small?",
        "`logits.max(-1, keepdims=True)` keeps the axis, so that it can be subtracted.",
    ),
)


def next_token_pairs(input_ids):
    return np.stack([input_ids[:-1], input_ids[1:]], axis=-1)


shift = Puzzle(
    number="1.1",
    title="which token predicts which",
    minutes=3,
    stars=1,
    idea="position t predicts token t + 1: T tokens give T - 1 predictions, and the end of the turn is one of them",
    task=r"""From the ids of one text, make a row for each prediction: the token that the model has
just read, and the token it must predict. Shape $(T-1, 2)$.""",
    answer=next_token_pairs,
    cases={
        "a question and its answer": (np.array([11, 5, 7, 3, 9, 2]),),
        "two tokens": (np.array([4, 9]),),
        "a token that comes twice": (np.array([6, 6, 1, 8]),),
    },
    mistakes={
        "nothing is shifted: each token predicts itself": "np.stack([input_ids, input_ids], -1)",
        "the wrong way round: first what was read, then what follows": (
            "np.stack([input_ids[1:], input_ids[:-1]], -1)"
        ),
        "the last prediction, the end of the turn, is missing": (
            "np.stack([input_ids[:-1], input_ids[1:]], -1)[:-1]"
        ),
        "the first prediction is missing": "np.stack([input_ids[:-1], input_ids[1:]], -1)[1:]",
        "the last token predicts nothing; here it predicts the first": (
            "np.stack([input_ids, np.roll(input_ids, -1)], -1)"
        ),
        "shifted by two: the next token is one further": (
            "np.stack([input_ids[:-2], input_ids[2:]], -1)"
        ),
        "one row for each prediction: these are columns": "np.stack([input_ids[:-1], input_ids[1:]])",
        "the id of the token that was read, not its position": (
            "np.stack([np.arange(len(input_ids) - 1), input_ids[1:]], -1)"
        ),
        "both tokens are asked for, what was read and what follows": "input_ids[1:]",
    },
    hints=(
        "The model has read `input_ids[0]` when it predicts `input_ids[1]`.",
        "Two slices of the same length: one without the last token, one without the first.",
    ),
)


def sft_loss(logits, input_ids, completion_mask):
    logps = log_softmax(logits[:, :-1])  # position t ...
    labels = input_ids[:, 1:]  # ... predicts token t + 1
    picked = np.take_along_axis(logps, labels[..., None], -1)[..., 0]
    counts = completion_mask[:, 1:]
    return -(counts * picked).sum() / counts.sum()


def _picked(logits, input_ids):
    """(B, T-1) log-probs of the tokens that came."""
    return np.take_along_axis(log_softmax(logits[:, :-1]), input_ids[:, 1:, None], -1)[..., 0]


def _counted(per_token, completion_mask):
    """The mean over the counted predictions."""
    counts = completion_mask[:, 1:]
    return (counts * per_token).sum() / counts.sum()


def _texts(scale):
    logits = scale * _rng.standard_normal((3, 6, 7))
    counts = np.array([[0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 0], [0, 1, 1, 1, 0, 0]])
    return logits, _rng.integers(0, 7, size=(3, 6)), counts


masked_mean = Puzzle(
    number="1.2",
    title="the loss of SFT",
    minutes=8,
    stars=2,
    idea="one mean over all counted tokens of the batch; the prompt and the padding do not count",
    task=r"""Write the mean of $-\log p(\text{token})$ over the tokens of the completions:
logits $(B,T,V)$, ids $(B,T)$, and a mask $(B,T)$ over the ids, 1 on what counts.""",
    answer=sft_loss,
    cases={"ordinary logits": _texts(1.0), "logits in the hundreds": _texts(300.0)},
    mistakes={
        "logits[:, t] predict input_ids[:, t + 1]: shift one of them": (
            "-(completion_mask * np.take_along_axis(log_softmax(logits), input_ids[..., None], -1)"
            "[..., 0]).sum() / completion_mask.sum()"
        ),
        "the mask stands over input_ids: it has to be shifted like them": (
            "completion_mask[:, 1:]",
            "completion_mask[:, :-1]",
        ),
        "the prompt and the padding count too: use completion_mask": (
            "sft_loss(logits, input_ids, np.ones_like(completion_mask))"
        ),
        "this averages each sequence first; average over all counted tokens": (
            "return -(counts * picked).sum() / counts.sum()",
            "return -((counts * picked).sum(1) / counts.sum(1)).mean()",
        ),
        "the sign: a loss is minus the log-likelihood": "-sft_loss(logits, input_ids, completion_mask)",
        "this is the sum; divide by the number of counted tokens": (" / counts.sum()", ""),
        "divide by the number of counted tokens, not of rows": ("/ counts.sum()", "/ len(counts)"),
        "divide by the number of counted tokens: this averages the product with the mask": (
            ".sum() / counts.sum()",
            ".mean()",
        ),
        "the mask is inverted: 1 is what counts": "sft_loss(logits, input_ids, 1 - completion_mask)",
        "these are the losses of the tokens; average those that count": (
            "-completion_mask[:, 1:] * _picked(logits, input_ids)"
        ),
        "this takes probabilities, not their logarithms": (
            "_counted(-np.exp(_picked(logits, input_ids)), completion_mask)"
        ),
        "this takes 1 - p; the loss takes -log p": (
            "_counted(1 - np.exp(_picked(logits, input_ids)), completion_mask)"
        ),
        "these are the raw logits: take their log-softmax first": (
            "log_softmax(logits[:, :-1])",
            "logits[:, :-1]",
        ),
        "the softmax goes over the vocabulary, the last axis": (
            "log_softmax(logits[:, :-1])",
            "log_softmax(logits[:, :-1].swapaxes(1, 2)).swapaxes(1, 2)",
        ),
        "take the log-prob of the next token, not the sum over the vocabulary": (
            "_counted(-log_softmax(logits[:, :-1]).sum(-1), completion_mask)"
        ),
        "this shifts the wrong way: position t predicts t + 1": (
            "_counted(-np.take_along_axis(log_softmax(logits[:, 1:]), input_ids[:, :-1, None], -1)"
            "[..., 0], completion_mask)"
        ),
        "the last counted token, the end of the turn, is left out": (
            "sft_loss(logits, input_ids, completion_mask * (np.cumsum(completion_mask, 1)"
            " < completion_mask.sum(1, keepdims=True)))"
        ),
        "divide by the tokens that are counted after the shift": (
            "/ counts.sum()",
            "/ (counts.sum() + 1)",
        ),
    },
    hints=(
        "Three arrays have to line up: `logits[:, :-1]`, `input_ids[:, 1:]` and `completion_mask[:, 1:]`.",
        "`np.take_along_axis(logps, labels[..., None], -1)[..., 0]` picks one number of each row of V.",
        "Divide the sum once, at the end, by the number of ones.",
    ),
)


def micro_losses(per_token_loss, completion_mask, micro_batch_size):
    width = micro_batch_size * per_token_loss.shape[1]
    counted = (per_token_loss * completion_mask).reshape(-1, width)
    return counted.sum(1) / completion_mask.sum()


_losses = _rng.exponential(1.0, (4, 5))
_short_and_long = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 0, 0, 0, 0], [1, 1, 0, 0, 0]])

accumulation = Puzzle(
    number="1.3",
    title="gradient accumulation without its bug",
    minutes=8,
    stars=2,
    idea="each micro-batch divides by the tokens of the whole batch; in a mean of means a token of a short one weighs more",
    task=r"""A batch of $B$ rows is too large for the memory and is processed in micro-batches of
`micro_batch_size` neighbouring rows, whose losses are added up. Give the loss of each micro-batch so
that the sum is the mean over **all** counted tokens of the batch. Shape $(B/m,)$.""",
    answer=micro_losses,
    cases={
        "long answers, then short ones": (_losses, _short_and_long, 2),
        "one row at a time": (_losses, _short_and_long, 1),
        "all at once": (_losses, _short_and_long, 4),
    },
    mistakes={
        "a mean of means: a micro-batch of few tokens weighs as much as one of many": (
            "/ completion_mask.sum()",
            "/ completion_mask.reshape(-1, width).sum(1) / len(counted)",
        ),
        "each micro-batch divides by its own tokens: the sum is not a mean at all": (
            "/ completion_mask.sum()",
            "/ completion_mask.reshape(-1, width).sum(1)",
        ),
        "this divides by rows; the mean is over tokens": (
            "/ completion_mask.sum()",
            "/ len(completion_mask)",
        ),
        "the padding is counted in the denominator": (
            "/ completion_mask.sum()",
            "/ completion_mask.size",
        ),
        "the padding's losses are in the sum: multiply by the mask": (
            "(per_token_loss * completion_mask)",
            "per_token_loss",
        ),
        "each sequence has its own mean first: long answers then weigh less per token": (
            "((per_token_loss * completion_mask).sum(1) / completion_mask.sum(1))"
            ".reshape(-1, micro_batch_size).sum(1) / len(completion_mask)"
        ),
        "a micro-batch has neighbouring rows; these rows are not neighbours": (
            "(per_token_loss * completion_mask).sum(1).reshape(micro_batch_size, -1).sum(0)"
            " / completion_mask.sum()"
        ),
        "the loss of each micro-batch is asked for, not their sum": (
            "(per_token_loss * completion_mask).sum() / completion_mask.sum()"
        ),
        "the sums still have to be divided by the number of counted tokens": (
            " / completion_mask.sum()",
            "",
        ),
        "the losses are added up: do not divide by the number of micro-batches as well": (
            "/ completion_mask.sum()",
            "/ completion_mask.sum() / len(counted)",
        ),
    },
    hints=(
        "Write the mean over all tokens as one sum, then cut the sum into pieces.",
        "Every piece keeps the denominator of the whole.",
    ),
)


def sft_push(logits, labels, completion_mask):
    push = softmax(logits)
    push[np.arange(len(labels)), labels] -= 1.0
    return push * (completion_mask / completion_mask.sum())[:, None]


push_of_sft = Puzzle(
    number="1.4",
    title="the gradient of SFT",
    minutes=8,
    stars=2,
    idea="the gradient is p, minus one at the label: it is near 0 where the label is certain already",
    task=r"""The gradient of the mean of $-\log p(y_t)$ over the counted tokens, with respect to the
logits of one text: logits $(T,V)$ that are already lined up with labels $(T,)$, mask $(T,)$.
$$\frac{\partial L}{\partial z_{tv}} = \left(p_{tv} - \mathbb 1[v = y_t]\right)\frac{m_t}{\sum_s m_s}$$""",
    answer=sft_push,
    cases={
        "a prompt and three counted tokens": (
            _rng.standard_normal((5, 4)),
            np.array([1, 3, 0, 2, 2]),
            np.array([0, 0, 1, 1, 1]),
        ),
        "a token that is certain": (
            np.array([[900.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
            np.array([0, 2]),
            np.array([1, 1]),
        ),
    },
    mistakes={
        "the sign: the gradient is positive where a larger logit raises the loss": (
            "-sft_push(logits, labels, completion_mask)"
        ),
        "the mask is missing: the prompt gets a gradient too": (
            "sft_push(logits, labels, np.ones_like(completion_mask))"
        ),
        "divide by the number of counted tokens": (" / completion_mask.sum()", ""),
        "divide by the counted tokens, not by all": (
            "completion_mask.sum()",
            "len(completion_mask)",
        ),
        "1 has to be taken off at the label": ("-= 1.0", "-= 0.0"),
        "1 is taken off, not added": ("-= 1.0", "+= 1.0"),
        "this is minus one at the label alone: the gradient of every other logit is its p": (
            "push = softmax(logits)",
            "push = np.zeros_like(logits)",
        ),
        "these are log-probabilities; the gradient holds probabilities": (
            "softmax(logits)",
            "log_softmax(logits)",
        ),
        "the softmax's derivative is counted twice: p - 1 is all": (
            "softmax(logits) * sft_push(logits, labels, completion_mask)"
        ),
        "the mask is inverted: 1 is what counts": ("sft_push(logits, labels, 1 - completion_mask)"),
        "this is the gradient of the label's own logit alone: each row has V numbers": (
            "sft_push(logits, labels, completion_mask)[np.arange(len(labels)), labels]"
        ),
    },
    hints=(
        "Start from the softmax of the logits.",
        "Take 1 off at `[np.arange(T), labels]`.",
        "Weigh each row by its mask over the sum of the mask.",
    ),
)


def entropy(logits, temperature):
    logps = log_softmax(logits / temperature)
    return -(np.exp(logps) * logps).sum(-1)


undecided = Puzzle(
    number="8.1",
    title="temperature and entropy",
    minutes=5,
    stars=1,
    idea="the temperature divides the logits; below 1 the distribution is sharper and its entropy lower",
    task=r"""The entropy $-\sum_v p_v \log p_v$, in nats, of the distribution that is sampled at a
temperature: $p_v \propto e^{z_v/\tau}$. One number for each row of the logits $(B,V)$.""",
    answer=entropy,
    cases={
        "temperature 0.7": (_rng.standard_normal((3, 4)), 0.7),
        "temperature 2": (_rng.standard_normal((3, 4)), 2.0),
        "one token is certain": (np.array([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]]), 0.5),
    },
    mistakes={
        "the temperature divides the logits": ("/ temperature", "* temperature"),
        "the temperature is missing": (" / temperature", ""),
        "the entropy is asked for in nats, not in bits": "entropy(logits, temperature) / np.log(2)",
        "the sign: an entropy is never negative": ("return -", "return "),
        "a sum over the vocabulary, not a mean": (".sum(-1)", ".mean(-1)"),
        "each log p is weighed by its p": ("(np.exp(logps) * logps).sum(-1)", "logps.sum(-1)"),
        "the temperature belongs to the logits, not to the entropy": (
            "entropy(logits, 1.0) / temperature"
        ),
        "0 log 0 is 0: the product of a p that underflows with log 0 is nan": (
            "-(softmax(logits / temperature) * np.log(softmax(logits / temperature))).sum(-1)"
        ),
        "this is the perplexity; the entropy is its logarithm": "np.exp(entropy(logits, temperature))",
        "p^(1/temperature) has to be divided by its sum again": (
            "-(np.exp(log_softmax(logits) / temperature) * log_softmax(logits) / temperature).sum(-1)"
        ),
        "the softmax and the sum go over the last axis; here they go over the first": (
            "entropy(logits.T, temperature)"
        ),
    },
    hints=(
        "Divide first, then take the log-softmax.",
        "With log-probabilities at hand, p log p is `np.exp(logps) * logps`, which is 0 and not nan where p is 0.",
    ),
)
