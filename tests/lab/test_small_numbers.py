"""Small numbers: 4 bits as bitsandbytes has them, exact distances, updates of a low rank, and what is kept of them."""

import functools
import itertools
import math
import re
from collections import Counter

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from lab import model, plots, ready, recipes, small_numbers, tasks, train, vllm

from reference_math import nf4


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The ready base, plain, and its tokenizer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_RUNS", str(tmp_path_factory.mktemp("runs")))
        patch.setenv("LAB_PROFILE", "tiny")
        ready.restore("base")
        policy, tok = train.load(small_numbers.recipe(None, 1e-3))
        yield vllm.served(policy), tok


@pytest.fixture(scope="module")
def untrained():
    tok = model.tokenizer()
    return model.build(tok, seed=0).eval(), model.build(tok, seed=1).eval(), tok


# ---------------------------------------------------------------- 4 bits


@pytest.mark.parametrize("shape", [(3, 128), (1, 100), (5, 7)])
def test_rounding_to_the_codebook_of_nf4_is_nf4(shape):
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    wanted = nf4.dequantize(*nf4.quantize(weight, blocksize=64), shape, blocksize=64)
    got = small_numbers.rounded(weight, nf4.CODEBOOK, 64)
    np.testing.assert_array_equal(got, wanted)


def test_equal_steps_are_off_by_half_a_step_at_most():
    weight = np.random.default_rng(0).uniform(-3, 3, (4, 64))
    off = np.abs(small_numbers.rounded(weight, small_numbers.EQUAL, 64) - weight).max(1)
    scale = np.abs(weight).max(1)
    assert (off <= scale / 15 + 1e-6).all() and (off > 0.8 * scale / 15).all()


def test_one_scale_per_row_is_a_block_as_wide_as_the_row():
    weight = np.random.default_rng(0).standard_normal((2, 128))
    read = small_numbers.STORED["equal steps, one scale per row"].read(weight)
    assert (np.abs(read).max(1) == np.abs(weight).max(1).astype(np.float32)).all()


def test_bits_are_those_of_codes_and_scales():
    bits = {name: way.bits(256) for name, way in small_numbers.STORED.items()}
    assert bits["NF4, blocks of 64"] == bits["equal steps, blocks of 64"] == 4.5
    assert bits["NF4, one scale per row"] == bits["equal steps, one scale per row"] == 4.125
    assert math.isclose(bits["NF4, blocks of 64, double quantisation"], 4.127, abs_tol=1e-3)


def test_blocks_that_begin_elsewhere_are_those_of_the_weights_moved_there():
    weight = np.random.default_rng(0).standard_normal((2, 96)).astype(np.float32)
    got = small_numbers.rounded(weight, nf4.CODEBOOK, 64, first=16).ravel()
    own = small_numbers.rounded(weight.ravel()[16:80], nf4.CODEBOOK, 64)
    np.testing.assert_array_equal(got[16:80], own)
    around = np.concatenate([weight.ravel()[144:], weight.ravel()[:16]])
    np.testing.assert_array_equal(got[144:], small_numbers.rounded(around, nf4.CODEBOOK, 64)[:48])


def test_noise_has_the_size_that_is_asked_for():
    weight = np.random.default_rng(0).standard_normal((100, 100))
    noisy = small_numbers.noisy(weight, 0.1, seed=1)
    assert small_numbers.error(weight, noisy) == pytest.approx(0.1, rel=0.05)


def test_codes_that_are_used_alike_hold_four_bits():
    weight = np.tile(small_numbers.EQUAL, 16)
    assert small_numbers.code_bits(weight, small_numbers.EQUAL) == pytest.approx(4)
    assert small_numbers.code_bits(np.tile([1.0, -1.0], 64), small_numbers.EQUAL) == pytest.approx(
        1
    )


@pytest.mark.parametrize("seed", range(3))
def test_which_codebook_is_off_by_less_depends_on_the_shape_of_the_weights(seed):
    """The claims of section 1, on other draws than the lesson's."""
    lost = {
        (shape, way): small_numbers.error(weight, small_numbers.rounded(weight, codebook, 64))
        for shape, weight in small_numbers.drawn(seed=seed).items()
        for way, codebook in (("nf4", nf4.CODEBOOK), ("equal", small_numbers.EQUAL))
    }
    for shape in ("normal", "heavy tails"):
        assert lost[shape, "nf4"] < 0.95 * lost[shape, "equal"]
    for shape in ("uniform", "two clusters"):
        assert lost[shape, "equal"] < 0.8 * lost[shape, "nf4"]
    assert lost["heavy tails", "nf4"] > 1.2 * lost["normal", "nf4"]


def test_a_stored_copy_changes_the_linear_layers_and_nothing_else(base):
    plain, _ = base
    before = {name: p.clone() for name, p in plain.named_parameters()}
    copy = small_numbers.stored(plain, small_numbers.STORED["NF4, blocks of 64"].read)
    after = dict(copy.named_parameters())
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == set(small_numbers.linears(plain)) and len(moved) == 21
    assert all(torch.equal(p, before[name]) for name, p in plain.named_parameters())
    assert copy.lm_head.weight is copy.model.embed_tokens.weight  # still tied


def test_what_is_stored_is_what_bitsandbytes_computes_with(base):
    plain, _ = base
    chosen = recipes.load("sft", "tiny")
    chosen = {key: value for key, value in chosen.items() if key != "lora"}
    theirs = small_numbers.linears(vllm.served(train.load(chosen)[0]))
    for name, weight in small_numbers.linears(plain).items():
        # bitsandbytes on a CPU takes another 8-bit code for one scale in 700: a part in 100 of a scale
        scale = np.abs(weight).max()
        np.testing.assert_allclose(small_numbers.doubly(weight), theirs[name], atol=0.01 * scale)
        assert small_numbers.error(theirs[name], small_numbers.doubly(weight)) < 2e-3


# ---------------------------------------------------------------- nats


def test_a_kl_is_that_of_the_tokens_that_are_not_given(untrained):
    """Against torch, a row at a time, without padding."""
    one, two, tok = untrained
    rows = [(ids, i) for i, (ids, _) in enumerate(small_numbers.texts(tok, n=5))]
    total, count = 0.0, 0
    for ids, given in rows:
        with torch.no_grad():
            p, q = (
                m(input_ids=torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
                for m in (one, two)
            )
        each = (p.exp() * (p - q)).sum(-1)[max(given - 1, 0) :]
        total, count = total + each.sum().item(), count + len(each)
    # two float32 forward passes, of one row and of a batch
    got = small_numbers.per_token_kl(one, [one, two], rows)
    assert got[0] == 0 and got[1] == pytest.approx(total / count, rel=1e-4)


def test_texts_are_about_held_out_sums_and_none_comes_twice(untrained):
    rows = small_numbers.texts(untrained[2], 20)
    assert len({tuple(ids) for ids, _ in rows}) == 20
    for ids, _ in rows:
        a, b = map(int, re.search(r"(\d+)\+(\d+)", untrained[2].decode(ids)).groups())
        assert tasks.is_held_out(a, b)


def test_half_the_noise_costs_a_quarter_of_the_nats(base):
    plain, tok = base
    whole, half = small_numbers.costs(
        plain,
        small_numbers.texts(tok, 12),
        [functools.partial(small_numbers.noisy, size=size, seed=1) for size in (0.02, 0.01)],
    )
    assert 3 < whole / half < 5  # 4 and higher orders


# ---------------------------------------------------------------- the demonstrations


def test_the_texts_that_a_demonstration_can_have_are_those_that_are_made():
    share = 0.7
    rows = tasks.sft_dataset(6000, share, seed=3)
    seen, expected = Counter(), Counter()
    for row in rows:
        a, b = map(int, row["prompt"][0]["content"].removesuffix("=?").split("+"))
        found = small_numbers.possible(a, b, share)
        assert math.isclose(sum(p for _, p, _ in found), 1)
        kinds = {text: i for i, (text, _, _) in enumerate(found)}
        seen[len(found), kinds[row["completion"][0]["content"]]] += 1
        expected.update({(len(found), i): p for i, (_, p, _) in enumerate(found)})
        assert all((f"<answer>{a + b}</answer>" in text) == right for text, _, right in found)
    assert set(seen) == set(expected)
    for kind, count in expected.items():
        assert abs(seen[kind] - count) < 5 * math.sqrt(count)  # five standard errors


def test_the_distance_from_the_demonstrations_is_that_of_all_their_texts(untrained):
    """One sum with a carry, by torch: four texts, each alone."""
    plain, _, tok = untrained
    [(a, b)] = tasks.sample(1, "heldout", 11)
    share, wanted, shown = recipes.load("sft", "tiny")["data"]["carry_error"], 0.0, 0.0
    for text, p, _ in small_numbers.possible(a, b, share):
        prompt = tok.apply_chat_template(
            tasks.prompt(a, b), add_generation_prompt=True, return_dict=False
        )
        ids = torch.tensor(prompt + tok(text).input_ids + [tok.eos_token_id])
        with torch.no_grad():
            logps = plain(input_ids=ids[None]).logits[0, :-1].double().log_softmax(-1)
        logp = logps.gather(1, ids[1:, None])[len(prompt) - 1 :].sum().item()
        wanted, shown = wanted + p * (math.log(p) - logp), shown + math.exp(logp)
    got = small_numbers.demonstrations(plain, tok, n=1, seed=11)
    assert got["kl"] == pytest.approx(wanted, rel=1e-5) and got["kl"] > 10  # nothing is learnt yet
    assert (
        got["shown"] == pytest.approx(shown, rel=1e-3, abs=1e-30) and got["right"] <= got["shown"]
    )


# ---------------------------------------------------------------- ranks


def test_a_recipe_differs_from_that_of_sft_in_the_rank_the_rate_and_the_base_in_full():
    ours, sft = small_numbers.recipe(4, 0.01, seed=2), recipes.load("sft", "tiny", 2)
    assert ours["lora"] == sft["lora"] | {"r": 4, "lora_alpha": 8} and "quantization" not in ours
    changed = {key for key in sft["args"] if ours["args"][key] != sft["args"][key]}
    assert changed == {"max_steps", "learning_rate", "logging_steps"}
    assert "lora" not in small_numbers.recipe(None, 0.01)
    assert ours["data"]["n"] == small_numbers.ROWS == sft["data"]["n"]
    assert sft["lora"]["lora_alpha"] == 2 * sft["lora"]["r"]  # so rank 16 is the recipe's own
    assert small_numbers.ONE_RATE[True] == sft["args"]["learning_rate"]


def test_the_first_step_goes_as_far_as_its_rank_at_one_rate():
    for seed in range(3):
        one, four, sixteen = (small_numbers.first_step(r, seed=seed) for r in (1, 4, 16))
        assert 2.5 < four / one < 6 and 11 < sixteen / one < 22
    assert small_numbers.first_step(4, rate=0.1) == pytest.approx(small_numbers.first_step(4))


@pytest.fixture(scope="module")
def low(base):
    return small_numbers.fit(r=2, rate=0.01, steps=3)


def test_an_adapter_changes_each_linear_layer_by_a_matrix_of_its_rank(low):
    for update in small_numbers.updates(low).values():
        s = np.linalg.svd(update, compute_uv=False)
        assert s[0] > 0 and s[2] < 1e-4 * s[0]
    rest = [
        torch.equal(a, b)
        for (name, a), b in zip(low.start.named_parameters(), low.model.parameters())
        if name not in small_numbers.linears(low.start)
    ]
    assert all(rest) and rest


def test_an_update_cut_to_its_own_rank_is_the_update_and_to_rank_0_is_none(low):
    """What is no linear weight an adapter leaves alone, so nothing else tells the two apart."""
    for r, wanted in ((2, low.model), (0, low.start)):
        got = small_numbers.linears(small_numbers.cut(low, r))
        for name, weight in small_numbers.linears(wanted).items():
            np.testing.assert_allclose(got[name], weight, atol=1e-5)


def test_a_run_is_measured_and_its_log_says_what_it_trained(base):
    row = small_numbers.measure(None, 1e-3, steps=2, n=6)
    assert (row["rank"], row["rate"], row["seed"]) == (None, 1e-3, 0)
    assert row["kl"] > 0 and 0 <= row["right"] <= row["shown"] <= 1


def test_the_best_rate_is_that_of_the_least_kl_and_a_broken_run_is_the_worst():
    rows = [
        {"rank": 1, "rate": rate, "kl": kl}
        for rate, kl in ((1e-3, 3.0), (2e-3, 2.0), (4e-3, math.nan))
    ]
    for order in itertools.permutations(rows):
        assert small_numbers.best(order) == {1: 2e-3}


def test_the_kept_runs_are_whole_and_what_is_said_of_them_holds():
    """The claims of lesson 15 on the figures that came with the kit."""
    kept = small_numbers.measured()
    rates = small_numbers.best(kept["tuned"])
    assert kept["steps"] == small_numbers.STEPS and kept["processor"] and kept["versions"]["trl"]
    for r, tried in small_numbers.RATES.items():
        rows = [row for row in kept["tuned"] if row["rank"] == r]
        assert sorted(row["rate"] for row in rows) == list(tried)
        assert tried[0] < rates[r] < tried[-1]  # a rate lower and a rate higher are worse
    (tuned_on,) = {row["seed"] for row in kept["tuned"]}
    seeds = {row["seed"] for row in kept["kept"]}
    assert seeds and tuned_on not in seeds
    for seed in seeds:
        at = {(row["rank"], row["how"]): row for row in kept["kept"] if row["seed"] == seed}
        assert set(at) == {(r, how) for r in rates for how in ("tuned", "recipe")}
        for (r, how), row in at.items():
            one_rate = small_numbers.ONE_RATE[bool(r)]
            assert row["rate"] == (rates[r] if how == "tuned" else one_rate)
        assert at[1, "tuned"]["kl"] < at[1, "recipe"]["kl"] / 8
        assert at[1, "tuned"]["kl"] < min(at[r, "tuned"]["kl"] for r in rates) + 0.5
    own = [row for row in kept["tuned"] if row["rate"] == rates[row["rank"]]]
    own += [row for row in kept["kept"] if row["how"] == "tuned"]
    orders = set()
    for seed in (tuned_on, *seeds):
        of = sorted((row for row in own if row["seed"] == seed), key=lambda row: row["kl"])
        orders.add(tuple(row["rank"] for row in of))
    assert len(orders) > 1  # which rank comes nearest changes with the seed


# ---------------------------------------------------------------- what is shown


def test_the_pictures_can_be_read_without_colour_and_without_eyes(capsys, monkeypatch):
    figures = []
    monkeypatch.setattr(plots.plt, "close", figures.append)
    small_numbers.draw_errors({"normal": np.random.default_rng(0).standard_normal(640)}, "Off")
    rows = [{"rank": r, "rate": x, "kl": x * 100} for r in (1, None) for x in (1e-3, 1e-2)]
    small_numbers.draw_rates(rows, "Each rank has a rate")
    small_numbers.draw_bits({"NF4": (4.5, [1.0, 3.0]), "equal steps": (4.5, [2.0])}, "Bits")
    said = capsys.readouterr().out
    assert "Bits. Median nats per token: NF4, 4.5 bits: 2, from 1 to 3; equal steps" in said
    assert "Off. " in said and "normal, NF4: " in said
    assert "rank 1: 0.1 at 0.001, 1 at 0.01; all weights:" in said
    drawn = figures[1].axes[0].get_lines()
    assert len({(line.get_linestyle(), line.get_marker()) for line in drawn}) == 2
    for figure in figures:
        for ax in figure.axes:
            texts = [*ax.get_legend().get_texts(), *ax.get_xticklabels()]
            assert min(text.get_fontsize() for text in texts) >= 8
    monkeypatch.undo()
    plt.close("all")
