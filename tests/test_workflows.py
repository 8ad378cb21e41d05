"""The workflows call scripts and make targets that can be run by hand, with time to end."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
STEPS = [
    (path.stem, job, step)
    for path in WORKFLOWS
    for job in yaml.safe_load(path.read_text())["jobs"].values()
    for step in job["steps"]
    if "run" in step
]
LOG = "collected 3 items\nFAILED tests/a.py::test_b - ValueError\nE   ValueError: no\n1 failed\n"


def test_every_step_is_one_line_and_what_it_calls_stands_here():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert len(STEPS) > 8
    for workflow, _, step in STEPS:
        assert "\n" not in step["run"].strip(), (workflow, step["run"])
        for called in re.findall(r"make ([a-z-]+)", step["run"]):
            assert called in targets, (workflow, called)
        for called in re.findall(r"\.ci/\w+", step["run"]):
            assert os.access(ROOT / called, os.X_OK), (workflow, called)


def test_a_job_that_runs_every_test_has_the_time_to_end():
    jobs = [job for _, job, step in STEPS if ".ci/run" in step["run"]]
    assert len(jobs) == 2
    assert all(job["timeout-minutes"] >= 90 for job in jobs)  # 33 minutes on 2 quiet cores


@pytest.fixture
def ran(tmp_path):
    """Run a script of .ci with a log, a list of packages and a `gh` that writes down its arguments."""
    (tmp_path / "test.log").write_text(LOG)
    constraints = (ROOT / "constraints.txt").read_text()
    moved = re.sub(r"^trl==.*", "trl==99.0", constraints, flags=re.MULTILINE)
    (tmp_path / "packages").write_text(moved + "Another_Package==1.0\n")
    gh = tmp_path / "gh"
    gh.write_text('#!/bin/sh\n[ "$2" = list ] && printf "$NUMBER" || echo "$@" >> "$CALLED"\n')
    gh.chmod(0o755)

    def run(script, *arguments, **environment):
        own = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PACKAGES": str(tmp_path / "packages")}
        own["CALLED"] = str(tmp_path / "called")
        command = [ROOT / ".ci" / script, *arguments]
        env = own | environment
        done = subprocess.run(
            command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        called = tmp_path / "called"
        return done.stdout, called.read_text() if called.exists() else ""

    return run


def test_the_report_says_what_broke_and_what_moved(ran, tmp_path):
    report, _ = ran("newest_report", "failure", str(tmp_path / "test.log"), RUN="http://a.run")
    broken, _, moved = report.partition("### Moved")
    assert report.startswith("Outcome: failure. Run: http://a.run\n")
    assert "FAILED tests/a.py::test_b" in broken and "E   ValueError: no" in broken
    assert "1 failed" not in broken  # the lines that name something are enough
    assert re.search(r"^trl=[\d.]+=99\.0$", moved, re.MULTILINE)
    assert moved.count("=") == 2  # nothing else moved, and what is not pinned is not listed


def test_a_log_that_names_nothing_is_quoted_at_its_end(ran, tmp_path):
    (tmp_path / "test.log").write_text("killed\n")
    report, _ = ran("newest_report", "failure", str(tmp_path / "test.log"))
    assert "killed" in report


@pytest.mark.parametrize(
    ("outcome", "number", "called"),
    [
        ("failure", "", "issue create --title The newest releases break the tests"),
        ("failure", "7", "issue comment 7"),
        ("success", "7", "issue close 7"),
        ("success", "", ""),
    ],
)
def test_one_issue_stands_while_it_is_broken(ran, outcome, number, called):
    assert ran("newest_issue", outcome, "report.md", NUMBER=number)[1].startswith(called or "")
    assert bool(ran("newest_issue", outcome, "report.md", NUMBER=number)[1]) == bool(called)


def test_another_question_has_an_issue_of_its_own(ran):
    said = ran("newest_issue", "failure", "report.md", NUMBER="", TITLE="Other libraries moved")[1]
    assert said.startswith("issue create --title Other libraries moved")
