"""Which tests may skip, and which may not.

A parity test whose library is missing skips by name, so that the rest still runs on any machine.
Where everything is installed such a skip would hide a proof that no longer runs: with
LAB_FORBID_SKIPS=1 (set in CI) each skip under tests/ is a failure. Only what no installation can
mend may skip: tests marked `gpu` or `hardware`.
"""

import importlib.util
import os

import lab  # noqa: F401 - it sets what torch reads when it loads, whichever test imports it first
import pytest
from hypothesis import settings

# A shared CI machine stalls for longer than any deadline on a single example.
settings.register_profile("lab", deadline=None)
settings.load_profile("lab")


def pytest_runtest_setup(item):
    if item.get_closest_marker("vllm") and not importlib.util.find_spec("vllm"):
        pytest.skip("no vLLM for this platform")
    if item.get_closest_marker("gpu"):
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA GPU")


def _forbid(report):
    ran = hasattr(report, "wasxfail")  # an expected failure counts as skipped, yet did run
    if os.environ.get("LAB_FORBID_SKIPS") == "1" and report.skipped and not ran:
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} must run here (LAB_FORBID_SKIPS=1). {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if not (item.get_closest_marker("gpu") or item.get_closest_marker("hardware")):
        _forbid(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """A whole module that skips, as with `pytest.importorskip` on its first lines."""
    report = yield
    _forbid(report)
    return report
