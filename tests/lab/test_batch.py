"""Log-probabilities of the wanted tokens, row by row, against the whole batch at once."""

import numpy as np
import torch
from lab import batch, model

from reference_math import logprobs


def test_the_wanted_tokens_are_those_of_the_whole_batch():
    tok = model.tokenizer()
    plain = model.build(tok, hidden_size=64, intermediate_size=64, layers=1, heads=1).eval()
    ids = torch.randint(3, len(tok), (3, 9), generator=torch.Generator().manual_seed(0))
    attention = torch.ones_like(ids)
    attention[1, 6:] = 0  # padded on the right
    inputs = {"input_ids": ids, "attention_mask": attention}
    with torch.no_grad():
        logits = plain(**inputs).logits[:, :-1].double().numpy()
    whole = logprobs.per_token_logps(logits, ids[:, 1:].numpy())
    counts = attention[:, 1:].numpy()
    # 1e-5: float32 logits of order 1 in two batch shapes.
    np.testing.assert_allclose(batch.token_logps(plain, inputs), whole * counts, atol=1e-5)
    counts = counts * (np.arange(8) > 3)
    shapes = []

    def noted(input_ids):
        shapes.append(tuple(input_ids.shape))
        return plain(input_ids=input_ids)

    found = batch.token_logps(noted, inputs, counts)
    assert shapes == [(1, 9), (1, 6), (1, 9)]  # one row at a time, without its padding
    np.testing.assert_allclose(found, whole * counts, atol=1e-5)
    assert (found[counts == 0] == 0).all() and (found[counts == 1] < 0).all()
