"""lab.spread: what is shared is divided, what is not stays, and the page shows today's table."""

from pathlib import Path

import pytest
from lab import memory, spread

PAGE = Path(__file__).parents[2] / "docs" / "cluster.md"
SMALL, LARGE = spread.MODELS["0.5B"], spread.MODELS["70B"]


def test_the_page_has_the_table_of_today():
    assert spread.table() in PAGE.read_text()


@pytest.mark.parametrize(("model", "billions"), [("0.5B", 0.494), ("7B", 7.616), ("70B", 70.554)])
def test_the_models_are_those_of_their_names(model, billions):
    """As their model cards count them: 0.49B, 7.61B, 70.6B."""
    assert sum(memory.weights(spread.MODELS[model])) / 1e9 == pytest.approx(billions, rel=1e-3)


@pytest.mark.parametrize("what", spread.TRAINED)
def test_what_the_gpus_share_is_divided_and_nothing_else(what):
    recipe = spread.TRAINED[what]
    whole = memory.of(recipe, SMALL)
    assert spread.of(recipe, SMALL, 8, "DDP") == whole
    for way in ("ZeRO 2", "FSDP2"):
        parts = spread.of(recipe, SMALL, 4, way)
        for name, size in whole.items():
            assert parts[name] == (size / 4 if name in spread.WAYS[way] else size)
    assert spread.of(recipe, SMALL, 1, "FSDP2") == whole
    assert set(spread.of(recipe, SMALL, 2, "FSDP2")) - set(whole) == {"gathered while it runs"}


def test_all_weights_by_hand():
    """16 bytes for each weight: 4 of the weight, 4 of its gradient, 8 of AdamW's two means."""
    parts = spread.of(spread.TRAINED["all weights, in float32"], LARGE, 1, "DDP")
    shared = sum(parts[name] for name in spread.WAYS["FSDP2"] if name in parts)
    assert shared * 2**20 == pytest.approx(16 * sum(memory.weights(LARGE)), rel=1e-9)


def test_more_gpus_take_less_each_and_the_fewest_are_enough():
    recipe = spread.TRAINED["all weights, in float32"]
    sizes = [spread.gib(recipe, LARGE, gpus, "FSDP2") for gpus in (2, 4, 8, 16, 32, 64)]
    assert sizes == sorted(sizes, reverse=True)
    least = spread.fewest(recipe, LARGE)
    assert spread.gib(recipe, LARGE, least, "FSDP2") <= 0.9 * 80
    assert spread.gib(recipe, LARGE, least // 2, "FSDP2") > 0.9 * 80
    assert spread.fewest(recipe, LARGE, card_gib=4) is None
