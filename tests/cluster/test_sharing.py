"""Studies share a cluster one after another, and jobs of a study share its nodes by what their stage asks for."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from helpers.clusters import Cluster
from helpers.slurm import wait

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow, pytest.mark.ray, pytest.mark.xdist_group("cluster nodes")]

STUDY = """\
data: {name: digits, train_limit: 160, validation: 60, test_limit: 60}
training: {epochs: 2, batch_size: 32}
attack: {norm: l2, eps: 0.5, steps: 2}
resources: {cpus: 1, judge: {cpus: 0.5}}
seeds: [0, 1]
checks: null
arms:
  standard: {method: standard}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster of one node with one core."""
    cluster = Cluster(sys.executable)
    try:
        cluster.add().wait()
        yield cluster
    finally:
        cluster.stop()


class Run:
    """A run of the study on the cluster. It ends with the block."""

    def __init__(self, folder: Path, cluster: Cluster, store: str, *overrides: str):
        (folder / "study.yaml").write_text(STUDY)
        self.store, self.log = folder / store, folder / f"{store}.log"
        words = [sys.executable, "-m", "tune_interpreg", "run", "study.yaml", "--cluster", "auto", "--store", store]
        for override in overrides:
            words += ["--set", override]
        variables = {"RAY_ADDRESS": cluster.address, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        environment = os.environ | cluster.access | variables
        with self.log.open("w") as log:
            options: dict[str, Any] = {"cwd": folder, "env": environment, "stdout": log, "stderr": subprocess.STDOUT}
            self.driver = subprocess.Popen(words, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.driver.kill()
        self.driver.wait()

    def output(self) -> str:
        return self.log.read_text()

    def end(self) -> int:
        wait(lambda: self.driver.poll() is not None, 240, self.output)
        return int(self.driver.returncode)

    def workers(self) -> set[str]:
        """Return the pids of the processes that have written TensorBoard events."""
        return {file.suffix for file in self.store.glob("tensorboard/*/*/events.*")}


WAITING = "waiting: a trial asks for 1 CPUs and 0 GPUs, which other work on the cluster holds (free: 0 CPUs, 0 GPUs)"


def test_a_study_on_a_full_cluster_says_so_at_once_and_runs_when_the_other_has_ended(
    tmp_path: Path, cluster: Cluster
) -> None:
    with Run(tmp_path, cluster, "first", "training.epochs=100000") as first:
        wait(lambda: bool(list(first.store.glob("checkpoints/*/epoch.*"))), 240, first.output)
        with Run(tmp_path, cluster, "second") as second:
            wait(lambda: WAITING in second.output(), 120, second.output)
            assert first.driver.poll() is None
            assert second.workers() == set()
            first.driver.send_signal(signal.SIGINT)
            assert first.end() == 130
            assert WAITING not in first.output()
            assert second.end() == 0, second.output()
            assert "2 of 2 repeats done" in second.output()


def test_judgments_of_stored_models_take_their_own_part_of_a_node(tmp_path: Path, cluster: Cluster) -> None:
    """One training fills the node. Two judgments run at once, each in a worker of its own."""
    with Run(tmp_path, cluster, "store") as trained:
        assert trained.end() == 0, trained.output()
    before = trained.workers()
    assert len(before) == 1
    with Run(tmp_path, cluster, "store", "evaluation.attacks=[{norm: linf, eps: 0.1, steps: 500}]") as judged:
        assert judged.end() == 0, judged.output()
    assert "waiting" not in judged.output()
    assert len(judged.workers() - before) == 2
