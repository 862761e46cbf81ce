"""The end of a process in which garbage collection was paused while libraries were loaded."""

import subprocess
import sys

import pytest

CODE = """
from tune_interpreg.running.startup import pause_gc
with pause_gc():
    import triton._C.libtriton
raise SystemExit(2)
"""


def test_a_process_that_has_loaded_triton_ends_without_its_list_of_leaks() -> None:
    pytest.importorskip("triton")
    ran = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", "")
