"""The GPU benchmark's code, run without a GPU."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
import bench_gpu


@pytest.mark.ray
def test_a_run_without_a_gpu_compares_everything_and_judges_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Every method in each precision, with the same bits for each seed as alone."""
    assert bench_gpu.main(["--device", "cpu"]) == 0
    page = capsys.readouterr().out
    assert page.count("2 of 2 seeds | 0.0e+00") == len(bench_gpu.METHODS) * 2
    assert "PASS" not in page
    assert "MISSED" not in page


def test_goals_are_judged_by_the_ratio_of_the_medians() -> None:
    slow = bench_gpu.Comparison([2.0, 1.0, 3.0], [10.0, 11.0, 12.0], {0: 0.0, 1: 1e-7}, {}, True, 3 * 2**20)
    for name, met in (("adversarial", False), ("targets", True)):
        lines, all_met = bench_gpu.time_table({(name, "float32"): slow}, judged=True)
        assert all_met == met
        assert "| 5.5 |" in lines[-1]
        assert ("6, MISSED" in lines[-1]) != met
        assert "1 of 2 seeds | 1.0e-07 | 3 MiB |" in lines[-1]
