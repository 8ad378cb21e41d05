"""Progress: the training's own step, an honest time left, and few lines where no bar can be drawn."""

import json
import os
import subprocess
import sys
import textwrap

import nbformat
import pytest
from lab import bars, chain


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def piped(monkeypatch):
    """Output that is no terminal and no notebook."""
    monkeypatch.setattr(bars, "drawable", lambda: False)
    monkeypatch.delenv("LAB_PROGRESS", raising=False)


def drive(bar, clock, steps, seconds):
    for step in range(1, steps + 1):
        clock.now += seconds(step)
        bar.to(step, loss="0.5")


def test_a_pipe_gets_a_line_every_20_seconds_at_most(piped, capfd):
    clock = Clock()
    drive(bars.Bar("sft: training", 100, clock=clock), clock, 100, lambda step: 1.0)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 5  # 100 s
    assert lines[0] == "sft: training 20 of 100, about 80 s left, loss=0.5"


def test_a_short_run_says_nothing_into_a_pipe(piped, capfd):
    clock = Clock()
    drive(bars.Bar("sft: training", 10, clock=clock), clock, 10, lambda step: 1.0)
    assert capfd.readouterr() == ("", "")


def test_the_time_left_is_right_where_every_other_step_is_a_slow_one(piped, tmp_path, monkeypatch):
    """GRPO generates in one step of two; a start of 30 s in the first step is no step's pace."""
    file = tmp_path / "news.json"
    monkeypatch.setenv("LAB_PROGRESS", str(file))
    clock = Clock()
    seconds = {0: 1.0, 1: 3.0}
    bar = bars.Bar("grpo: training", 101, clock=clock)
    drive(bar, clock, 21, lambda step: 30.0 if step == 1 else seconds[step % 2])
    said = json.loads(file.read_text())
    assert said["left"] == pytest.approx(80 * 2.0)  # what the 80 steps really take
    assert bars.news(file) == "grpo: training 21 of 101, about 3 min left"
    bar.close()
    assert bars.news(file) == ""


def test_news_that_are_being_written_are_no_news(tmp_path):
    (tmp_path / "news.json").write_text('{"name": "grp')
    assert bars.news(tmp_path / "news.json") == ""


def test_other_ranks_show_and_write_nothing(piped, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("LAB_PROGRESS", str(tmp_path / "news.json"))
    clock = Clock()
    drive(bars.Bar("sft: training", 99, on=False, clock=clock), clock, 99, lambda step: 9.0)
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())


def test_the_chain_shows_the_step_of_the_training_inside_a_cell(tmp_path):
    clock, said = Clock(), []
    watch = chain.Watch("03_grpo", 20, tmp_path, lambda line, **_: said.append(line), clock)
    watch.bar = None
    watch.begin("6 · The real run")
    watch.show()
    assert said == []  # not yet 20 seconds
    news = {"name": "grpo: training", "step": 40, "total": 200, "left": 300.0}
    watch.file.write_text(json.dumps(news))
    for _ in range(60):
        clock.now += 1.0
        watch.show()
    expected = "03_grpo: cell 1 of 20, 6 · The real run, grpo: training 40 of 200, about 5 min left"
    assert said == [expected] * 3  # 60 seconds
    watch.done()
    watch.begin("7 · What the run says")
    clock.now += 20.0
    watch.show()
    assert said[-1] == "03_grpo: cell 2 of 20, 7 · What the run says"


def test_a_notebook_is_executed_without_a_warning_and_tells_its_progress(tmp_path):
    """In a process of its own: what ipykernel warns of goes straight to the terminal."""
    cells = [
        nbformat.v4.new_markdown_cell("## A title"),
        nbformat.v4.new_code_cell("from lab import bars\nbar = bars.Bar('x', 3)\nbar.to(1)"),
        nbformat.v4.new_code_cell("import os; assert bars.news(os.environ['LAB_PROGRESS'])"),
    ]
    # Each cell begins without the news of the one before: the second has none, and fails.
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "00_small.ipynb")
    script = textwrap.dedent("""
        import pathlib, sys
        from lab import chain
        try:
            chain.execute(pathlib.Path(sys.argv[1]))
        except chain.CellExecutionError as error:
            print(error.ename)
    """)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "00_small.ipynb")],
        env=os.environ | {"LAB_RUNS": str(tmp_path), "LAB_PROFILE": "tiny"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "AssertionError\n", "")
