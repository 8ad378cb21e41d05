"""What notebooks show is what was measured: texts unharmed, intervals Wilson's, curves complete."""

import re

import matplotlib
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from lab import plots, show
from lab.intervals import wilson

from reference_math import dpo, sft


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def shown(monkeypatch):
    """The (html, text) of everything shown."""
    pages = []
    monkeypatch.setattr(show, "display_both", lambda *both: pages.append(both))
    return pages


SCORES = {
    "heldout_accuracy": 0.25,
    "heldout_n": 400,
    "heldout_ci95": wilson(100, 400),
    "format_rate": 1.0,
    "preference_rate": 0.5,
}


def test_source_shows_the_function_as_it_stands_and_where(shown):
    show.source(dpo.sigmoid, sft.nll)
    html, text = shown[0]
    assert "# reference_math/dpo.py, line " in text and "# reference_math/sft.py, line " in text
    shown_line = (
        "    return -_stable.log_sigmoid(margin(chosen_logratios, rejected_logratios, beta))"
    )
    assert shown_line in text
    assert "log_sigmoid" in html


def test_source_takes_the_margin_of_a_method_away(shown):
    show.source(Sample.method)
    assert "\ndef method(self):\n    return 1" in shown[0][1]


class Sample:
    def method(self):
        return 1


def test_a_table_escapes_tags_and_keeps_line_breaks(shown):
    show.texts({"said": "<think>1+2=03\n</think>"})
    html, text = shown[0]
    assert "&lt;think&gt;1+2=03\n&lt;/think&gt;" in html and "white-space: pre-wrap" in html
    assert "<think>" not in html and "<think>1+2=03\\n</think>" in text


def test_a_table_shows_the_columns_asked_for_and_a_blank_for_what_is_missing(shown):
    show.table([{"a": 1, "b": 0.12345}, {"a": 2}], {"b": "rate", "a": "name"})
    assert shown[0][1].split("\n") == ["rate   name", "0.123  1", "       2"]


def test_scores_show_the_interval_beside_the_accuracy(shown):
    show.scores({"SFT": SCORES})
    assert "25.0% [21.0%, 29.5%]" in shown[0][1]  # Wilson's interval of 100 in 400


def test_setup_leaves_the_libraries_quiet_and_says_the_profile(monkeypatch, capsys):
    monkeypatch.setenv("LAB_PROFILE", "tiny")
    assert show.setup(seed=3) == "tiny"
    said = capsys.readouterr().out
    assert "profile tiny, seed 3" in said and re.search(r"torch \d", said)
    import datasets

    assert not datasets.is_progress_bar_enabled()


def test_bars_carry_wilsons_interval():
    ax = plt.subplots()[1]
    plots.bars({"before": (30, 100), "after": (0, 100)}, ax=ax)
    assert [bar.get_height() for bar in ax.patches] == [0.3, 0.0]
    for line, successes in zip(_errors(ax), (30, 0)):
        assert line == pytest.approx(wilson(successes, 100))


def test_scores_draw_three_rates_for_each_name():
    ax = plt.subplots()[1]
    plots.scores({"base": SCORES, "SFT": SCORES}, ax=ax)
    heights = sorted(bar.get_height() for bar in ax.patches)
    assert heights == [0.25, 0.25, 0.5, 0.5, 1.0, 1.0]
    assert [label.get_text() for label in ax.get_legend().get_texts()] == ["base", "SFT"]


def _errors(ax):
    """The (low, high) of each error bar."""
    return [
        tuple(collection.get_segments()[0][:, 1])
        for collection in ax.collections
        if hasattr(collection, "get_segments")
    ]


def test_curves_draw_every_logged_value_at_its_step():
    history = [{"step": 2, "loss": 3.0}, {"step": 3, "other": 1.0}, {"step": 4, "loss": 1.0}]
    plots.curves(history, {"loss": "loss (nats)"})
    ax = plt.gcf().axes[0]
    assert ax.lines[0].get_xydata().tolist() == [[2, 3], [4, 1]]
    assert ax.get_title(loc="left") == "loss (nats)"


def test_curves_name_a_metric_that_the_run_did_not_log():
    with pytest.raises(ValueError, match=r"no \['reward'\]; it logged: loss, step"):
        plots.curves([{"step": 1, "loss": 1.0}], ["reward"])


def test_lines_leave_missing_values_out():
    ax = plt.subplots()[1]
    plots.lines([1, 2, 3], {"a": [1.0, None, 3.0], "b": [0.0, 0.0, 0.0]}, ax=ax)
    assert ax.lines[0].get_xydata().tolist() == [[1, 1], [3, 3]]
    assert len(ax.get_legend().get_texts()) == 2


def test_a_strip_writes_every_token_in_a_cell_coloured_by_its_value():
    plots.strip({"a": (["<think>", "1", "\n"], [0.0, 0.5, 1.0]), "b": (["2"], [1.0])})
    ax = plt.gcf().axes[0]
    assert [text.get_text() for text in ax.texts] == ["‹think", "1", "⏎", "2"]
    first, second, third, fourth = (cell.get_facecolor() for cell in ax.patches)
    assert third == fourth and len({first, second, third}) == 3


def test_rows_shows_what_each_kind_of_row_has(capsys):
    said = [
        {"role": "user", "content": "a question"},
        {"role": "assistant", "content": "an answer"},
    ]
    pair = {"prompt": said[:1], "chosen": said[1:], "rejected": [{**said[1], "content": "another"}]}
    for row in ({"messages": said}, pair, {"prompt": said[:1], "solution": "42"}):
        show.rows([row])
        shown = capsys.readouterr().out
        assert all(key in shown for key in row)
        assert "a question" in shown
        assert ("another" in shown) == ("rejected" in row) and ("42" in shown) == (
            "solution" in row
        )


def test_two_models_on_the_same_problems_are_shown_by_what_changed(shown):
    show.paired(SFT=[True, False, False, False], GRPO=[False, True, True, False])
    text = shown[0][1]
    assert "SFT: 1, GRPO: 2" in text and "+25.0%" in text and "p (McNemar)" in text


def test_scores_on_a_data_set_show_what_it_has_and_nothing_of_the_built_in_task(shown):
    data = {key: SCORES[key] for key in SCORES if key != "preference_rate"}
    show.scores({"before": data | {"lenient_accuracy": 0.5}})
    assert "last number right" in shown[0][1] and "terse" not in shown[0][1]
    plots.scores({"before": data | {"lenient_accuracy": 0.5}})
    labels = [tick.get_text() for tick in plt.gca().get_xticklabels()]
    assert labels == ["right answer", "last number right", "right format"]


@pytest.mark.parametrize("value", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_a_token_is_readable_on_its_colour(value):
    """WCAG 2.1 asks for a contrast of 4.5 to 1, by its own relative luminance."""
    plots.strip({"x": (["a"], [value])})
    ax = plt.gcf().axes[0]
    colours = [ax.texts[0].get_color(), ax.patches[0].get_facecolor()]
    lights = []
    for colour in colours:
        linear = [
            c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
            for c in matplotlib.colors.to_rgb(colour)
        ]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    assert (max(lights) + 0.05) / (min(lights) + 0.05) >= 4.5


def test_on_colab_the_set_up_installs_before_anything_is_imported(monkeypatch):
    import sys

    from lab import install

    class Installed(Exception):
        pass

    def stop():
        raise Installed

    monkeypatch.setattr(install, "install_here", stop)
    monkeypatch.setitem(sys.modules, "google.colab", object())
    with pytest.raises(Installed):
        show.setup()
