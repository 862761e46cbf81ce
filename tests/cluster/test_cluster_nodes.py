"""A study on a cluster of several nodes that lack this project's code, and that join and leave during the run."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import ray
from helpers import kept
from helpers.clusters import Cluster, bare_python
from helpers.plugins import install_plugin

from tune_interpreg.store.store import Record

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow, pytest.mark.ray]

SEEDS, EPOCHS = 24, 60
STUDY = f"""\
data: {{name: digits, train_limit: 320, validation: 60, test_limit: 60}}
model: lab_mlp
training: {{epochs: {EPOCHS}, batch_size: 16, lr: 0.05}}
attack: {{norm: l2, eps: 0.5, steps: 2}}
seeds: {list(range(SEEDS))}
checks: null
arms:
  adversarial: {{method: adversarial}}
"""
LAB = """\
from torch import Size, nn
def mlp(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(Size(shape).numel(), 32), nn.ReLU(), nn.Linear(32, classes))
"""
POINT = "[tune_interpreg.models]\nlab_mlp = lab_models:mlp\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the study, and the plugin that it needs installed in ``site``."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "study.yaml").write_text(STUDY)
    install_plugin(folder / "site", "lab_models", LAB, POINT)
    return folder


@pytest.fixture(scope="module")
def python(folder: Path) -> str:
    """The nodes' interpreter, with Ray and torch, but without this project and the plugin."""
    python = bare_python(folder, Path(ray.__file__).parents[1])
    code = "import ray, torch; from importlib.metadata import entry_points as points; "
    for module in ("trainables", "lab_models"):
        code += "assert not points(group='tune_interpreg.methods'); "
        tried = subprocess.run([python, "-c", f"{code}import {module}"], cwd=folder, capture_output=True, text=True)
        assert f"No module named '{module}'" in tried.stderr
    return python


@pytest.fixture(scope="module")
def cluster(python: str) -> Iterator[Cluster]:
    """Three nodes of one core each. One of them declares a GPU."""
    cluster = Cluster(python)
    try:
        for gpus in (0, 0, 1):
            cluster.add(gpus=gpus).wait()  # one after another: Ray gives a node 30 s to start
        yield cluster
    finally:
        cluster.stop()


class Run:
    """A run of the study on a cluster, and the trials of each node."""

    def __init__(self, folder: Path, cluster: Cluster, *arguments: str, store: str):
        self.cluster, self.store, self.log = cluster, folder / store, folder / f"{store}.log"
        self._pids: dict[int, set[int]] = {}
        with self.log.open("w") as log:
            self.driver = start(folder, "run", "--store", store, *arguments, log=log, cluster=cluster)

    def output(self) -> str:
        return self.log.read_text()

    def wait(self, condition: Callable[[], bool], seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            for number, node in enumerate(self.cluster.nodes):
                self._pids.setdefault(number, set()).update(node.pids())
            assert self.driver.poll() is None or condition(), self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.02)

    def trials(self, node: int) -> set[str]:
        """Return the folders of the trials for which a process of the node has written TensorBoard events."""
        pids = self._pids.get(node, set())
        files = self.store.glob("tensorboard/*/*/events.*")
        return {file.parent.name for file in files if int(file.name.split(".")[5]) in pids}

    def has_checkpoint(self, node: int) -> bool:
        """Return whether the node has a trial that another node can continue."""
        keys = {path.parent.name for path in self.store.glob("checkpoints/*/epoch.*")}
        return any(key.startswith(trial[-6:]) for key in keys for trial in self.trials(node))


def start(
    folder: Path, command: str, *arguments: str, log: object = subprocess.PIPE, cluster: Cluster | None = None
) -> subprocess.Popen[str]:
    """Start a command on the study, on a machine with the plugin. cluster: gives the command its address and token."""
    variables = {"PYTHONPATH": str(folder / "site"), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    access = {"RAY_ADDRESS": cluster.address} | cluster.access if cluster else {"RAY_AUTH_MODE": "disabled"}
    return subprocess.Popen(
        [sys.executable, "-m", "tune_interpreg", command, "study.yaml", *arguments],
        cwd=folder,
        env=os.environ | variables | access,
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
    )


def records(store: Path) -> dict[tuple[int, ...], Record]:
    """Return each seed's record, without time and place."""
    ledger = [json.loads(path.read_text()) for path in store.glob("ledger/*/*.json")]
    return {tuple(record["seeds"]): record | dict.fromkeys((*kept.INCIDENTAL, "host")) for record in ledger}


def refusal(folder: Path, *arguments: str, cluster: Cluster | None = None) -> str:
    """Return the message of a run that refuses its input."""
    driver = start(folder, "run", *arguments, cluster=cluster)
    output = driver.communicate(timeout=120)[0]
    assert driver.returncode == 2, output
    assert "Traceback" not in output
    return next(line for line in output.splitlines() if line.startswith("error: "))


# ----------------------------------------------------------------- nodes join and leave
def test_a_study_survives_a_lost_node_uses_a_new_one_and_gives_the_numbers_of_one_process(
    folder: Path, cluster: Cluster
) -> None:
    run = Run(folder, cluster, "--cluster", "auto", store="store")
    run.wait(lambda: all(run.trials(number) for number in range(3)))
    cluster.add()
    run.wait(partial(run.has_checkpoint, 1))
    cluster.nodes[1].kill()
    cluster.nodes[3].wait()
    run.wait(lambda: run.driver.poll() is not None)
    assert run.driver.returncode == 0, run.output()
    assert all(run.trials(number) for number in range(4))

    assert "lost its node, continues elsewhere from its last checkpoint" in run.output()
    assert f"{SEEDS} of {SEEDS} repeats done" in run.output()
    assert "FAILED" not in run.output()
    assert "Traceback" not in run.output()
    moved = {}
    for trial in run.store.glob("tensorboard/*/*"):
        if len(epochs := kept.epochs(trial)) > 1:
            moved[int(trial.name.split("-")[1].removeprefix("seed"))] = epochs
    assert moved
    assert all(1 < epochs[-1][0] <= EPOCHS for epochs in moved.values())

    seeds = f"seeds={[*moved, SEEDS - 1]}"
    process = start(folder, "run", "--set", seeds, "--store", "alone", "--cluster", "in-process")
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 0, output
    alone, together = records(folder / "alone"), records(run.store)
    assert len(together) == SEEDS
    assert len(alone) == len(moved) + 1
    assert alone == {seed: together[seed] for seed in alone}

    more = ("--set", f"seeds={list(range(SEEDS + 6))}", "--store", "store", "--cluster", cluster.address)
    plan = start(folder, "plan", *more, cluster=cluster)
    output = plan.communicate(timeout=120)[0]
    assert plan.returncode == 0, output
    assert f"{SEEDS} of {SEEDS + 6} parts" in output
    assert re.search(r"on [34] workers", output)


def test_a_run_that_loses_its_only_node_waits_continues_on_a_new_one_and_can_be_stopped(
    folder: Path, python: str
) -> None:
    cluster = Cluster(python)
    try:
        cluster.add(cpus=0).wait()
        cluster.add().wait()
        long = ("--set", "seeds=[0]", "--set", "training.epochs=2000", "--cluster", cluster.address)
        run = Run(folder, cluster, *long, store="taken")
        run.wait(partial(run.has_checkpoint, 1))
        cluster.nodes[1].kill()
        run.wait(lambda: "lost its node" in run.output())
        cluster.add()
        run.wait(partial(run.has_checkpoint, 2))
        run.driver.send_signal(signal.SIGINT)
        assert run.driver.wait(timeout=20) == 130
    finally:
        cluster.stop()
    assert "FAILED" not in run.output()
    assert list(run.store.glob("checkpoints/*/epoch.*"))


# ------------------------------------------------------------------------------ refusals
def test_a_request_that_no_node_can_meet_is_refused_with_what_there_is(folder: Path, cluster: Cluster) -> None:
    more = ("--set", "resources.gpus=2", "--store", "other")
    message = refusal(folder, *more, "--cluster", cluster.address, cluster=cluster)
    assert message.startswith("error: resources: a trial asks for 1 CPUs and 2 GPUs, but no node has them (nodes: 1 CP")
    assert "1 CPUs, 1 GPUs" in message


def test_a_cluster_with_a_token_names_the_remedy_to_those_without(folder: Path, cluster: Cluster) -> None:
    message = refusal(folder, "--store", "other", "--cluster", cluster.address)
    assert message.startswith(f"error: --cluster {cluster.address}: ")
    assert "~/.ray/auth_token" in message
    assert "RAY_AUTH_MODE=token" in message


def test_another_version_of_ray_is_refused_with_both(folder: Path, cluster: Cluster) -> None:
    joining = "from tune_interpreg.cluster.connection import join; join(sys.argv[1], {})"
    code = f"import sys, ray; ray.__version__ = '1.0'; {joining}"
    command = [sys.executable, "-c", code, cluster.address]
    tried = subprocess.run(command, cwd=folder, env=os.environ | cluster.access, capture_output=True, text=True)
    message = tried.stderr.splitlines()[-1]
    assert f"ClusterError: --cluster {cluster.address}: Version mismatch: " in message
    assert f"Ray: {ray.__version__} " in message
    assert "Ray: 1.0 " in message


def test_a_store_that_other_machines_do_not_see_is_refused(folder: Path, cluster: Cluster) -> None:
    """Each process has its own folder at this path, like machines that share no folder."""
    message = refusal(folder, "--store", "/proc/self/cwd/own", "--cluster", cluster.address, cluster=cluster)
    assert message.startswith("error: /proc/self/cwd/own: ")
    assert message.endswith("sees no store there that it can write; name a folder with --store that all machines share")
