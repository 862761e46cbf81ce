"""The GPU benchmark's code path, walked through without a GPU."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).with_name("bench_gpu.py")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    found = importlib.util.spec_from_file_location("bench_gpu", FILE)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, "bench_gpu", module)
    found.loader.exec_module(module)
    return module


def test_a_walk_without_a_gpu_compares_all_and_judges_nothing(
    bench: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each method in each precision, with each seed's bits those that it has alone; and no goal."""
    assert bench.main(["--device", "cpu"]) == 0
    page = capsys.readouterr().out
    assert "no goal is judged" in page
    assert page.count("2 of 2 seeds | 0.0e+00") == len(bench.METHODS) * 2
    assert "PASS" not in page
    assert "MISSED" not in page


def test_a_missed_goal_is_told_and_judged(bench: ModuleType) -> None:
    """The ratio is that of the medians."""
    slow = bench.Found([2.0, 1.0, 3.0], [10.0, 11.0, 12.0], {0: 0.0, 1: 1e-7}, {}, True, 3 * 2**20)
    for name, met in (("adversarial", False), ("targets", True)):
        lines, found = bench.times({(name, "float32"): slow}, judged=True)
        assert found == met
        assert "| 5.5 |" in lines[-1]
        assert ("6, MISSED" in lines[-1]) != met
        assert "1 of 2 seeds | 1.0e-07 | 3 MiB |" in lines[-1]
