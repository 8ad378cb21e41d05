"""Where everything is installed, a test that skips is a proof that no longer runs (conftest.py)."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).with_name("conftest.py")
TESTS = {
    "test_a.py": "def test_one_library():\n    pytest.importorskip('no_such_library')",
    "test_b.py": "pytest.importorskip('no_such_library')\n\ndef test_module():\n    pass",
    "test_c.py": "@pytest.mark.skipif(True, reason='not here')\ndef test_by_mark():\n    pass",
    "test_d.py": "@pytest.mark.gpu\ndef test_on_a_gpu():\n    assert False",
    "test_e.py": "@pytest.mark.hardware\n@pytest.mark.skipif(True, reason='no AVX-512')\n"
    "def test_on_avx512():\n    pass",
    "test_f.py": "@pytest.mark.xfail(reason='upstream')\ndef test_upstream():\n    assert False",
}


def pytest_says(folder, forbid):
    """Status and output of pytest on TESTS beside this project's conftest.py, with no GPU."""
    shutil.copy(CONFTEST, folder)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    gpu\n    hardware\n")
    for name, text in TESTS.items():
        (folder / name).write_text("import pytest\n\n" + text)
    environment = {**os.environ, "LAB_FORBID_SKIPS": forbid, "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # a second quicker to start
    command = [sys.executable, "-m", "pytest", "-q", "--continue-on-collection-errors", str(folder)]
    run = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    return run.returncode, run.stdout


def test_skips_fail_where_they_must_not_be_except_for_want_of_hardware(tmp_path):
    status, said = pytest_says(tmp_path, forbid="1")
    assert status == 1
    assert re.search(r"\n1 failed, 2 skipped, 1 xfailed, 2 errors in", said)
    for name in ("test_a.py", "test_b.py", "test_c.py"):
        assert re.search(rf"{name}\S* must run here", said)


def test_skips_are_skips_elsewhere(tmp_path):
    status, said = pytest_says(tmp_path, forbid="0")
    assert status == 0
    assert re.search(r"\n5 skipped, 1 xfailed in", said)
