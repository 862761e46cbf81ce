"""A study on a cluster of several nodes that lack this project's code, and that join and leave during the run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
import ray
from helpers import kept
from helpers.clusters import Cluster, bare_python
from helpers.plugins import install_plugin

from tune_interpreg.store.store import Record

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow, pytest.mark.ray, pytest.mark.xdist_group("cluster nodes")]

SEEDS, EPOCHS = 12, 50
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
    code = (
        "from importlib.util import find_spec; print(*map(find_spec, ('tune_interpreg', 'trainables', 'lab_models')))"
    )
    printed = subprocess.run([python, "-E", "-c", code], cwd=folder, capture_output=True, text=True).stdout
    assert printed.split() == ["None"] * 3
    return python


@pytest.fixture(scope="module")
def cluster(python: str) -> Iterator[Cluster]:
    """A head without cores, and two nodes with one core each. One of them declares a GPU."""
    cluster = Cluster(python)
    try:
        for cpus, gpus in ((0, 0), (1, 0), (1, 1)):
            cluster.add(cpus=cpus, gpus=gpus).wait()  # one after another: Ray gives a node 30 s to start
        yield cluster
    finally:
        cluster.stop()


class Run:
    """A run of the study on a cluster, and the trials of each node."""

    def __init__(self, folder: Path, cluster: Cluster, *arguments: str, store: str):
        self.cluster, self.store, self.log = cluster, folder / store, folder / f"{store}.log"
        self._pids: dict[int, set[int]] = {}
        with self.log.open("w") as log:
            self.driver = start(folder, cluster, "run", "--store", store, *arguments, log=log)

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
        return {file.parent.name for file in files if int(file.suffix[1:]) in pids}

    def has_checkpoint(self, node: int) -> bool:
        """Return whether the node has a trial that another node can continue."""
        keys = {path.parent.name for path in self.store.glob("checkpoints/*/epoch.*")}
        return any(key.startswith(trial[-6:]) for key in keys for trial in self.trials(node))


def start(folder: Path, cluster: Cluster, command: str, *arguments: str, log: Any = subprocess.PIPE) -> Popen[str]:
    """Start a command on the study, on a machine with the plugin and the cluster's address and token."""
    words = [sys.executable, "-m", "tune_interpreg", command, "study.yaml", *arguments]
    variables = {"PYTHONPATH": str(folder / "site"), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    environment = os.environ | variables | {"RAY_ADDRESS": cluster.address} | cluster.access
    return Popen(words, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True)


def records(store: Path) -> dict[tuple[int, str], Record]:
    """Return seed and key → the record, without time and place."""
    ledger = [json.loads(path.read_text()) for path in store.glob("ledger/*/*.json")]
    return {(record["seed"], record["key"]): record | dict.fromkeys((*kept.INCIDENTAL, "host")) for record in ledger}


def refusal(folder: Path, cluster: Cluster, *arguments: str) -> str:
    """Return the message of a run that refuses its input."""
    driver = start(folder, cluster, "run", "--cluster", cluster.address, *arguments)
    output = driver.communicate(timeout=120)[0]
    assert driver.returncode == 2, output
    assert "Traceback" not in output
    return next(line for line in output.splitlines() if line.startswith("error: "))


# ------------------------------------------------------------------------------ refusals
def test_a_request_that_no_node_can_meet_is_refused_with_what_there_is(folder: Path, cluster: Cluster) -> None:
    message = refusal(folder, cluster, "--set", "resources.gpus=2", "--store", "other")
    assert message.startswith("error: resources: a trial asks for 1 CPUs and 2 GPUs, but no node has them (nodes: ")
    assert "1 CPUs, 1 GPUs" in message


@pytest.mark.parametrize(
    ("version", "has_token", "parts"),
    [
        (ray.__version__, False, ["~/.ray/auth_token", "RAY_AUTH_MODE=token"]),
        ("1.0", True, ["Version mismatch: ", f"Ray: {ray.__version__} ", "Ray: 1.0 "]),
    ],
)
def test_a_driver_without_the_token_or_of_another_version_is_refused_with_the_remedy(
    version: str, has_token: bool, parts: list[str], folder: Path, cluster: Cluster
) -> None:
    joining = "from tune_interpreg.cluster.connection import join; join(sys.argv[1], {})"
    command = [sys.executable, "-c", f"import sys, ray; ray.__version__ = {version!r}; {joining}", cluster.address]
    access = cluster.access if has_token else {"RAY_AUTH_MODE": "disabled"}
    tried = subprocess.run(command, cwd=folder, env=os.environ | access, capture_output=True, text=True)
    message = tried.stderr.splitlines()[-1]
    assert f"ClusterError: --cluster {cluster.address}: " in message
    assert all(part in message for part in parts), message


def test_a_store_that_other_machines_do_not_see_is_refused(folder: Path, cluster: Cluster) -> None:
    """Each process has its own folder at this path, like machines that share no folder."""
    message = refusal(folder, cluster, "--store", "/proc/self/cwd/own")
    assert message.startswith("error: /proc/self/cwd/own: ")
    assert message.endswith("sees no store there that it can write; name a folder with --store that all machines share")


# ----------------------------------------------------------------- nodes join and leave
def test_a_study_survives_the_loss_of_all_nodes_and_gives_the_numbers_of_one_process(
    folder: Path, cluster: Cluster
) -> None:
    """It waits for a node, can be stopped and continued, and uses a node that joins."""
    run = Run(folder, cluster, "--cluster", "auto", store="store")
    for number in (1, 2):
        run.wait(partial(run.has_checkpoint, number))
        cluster.nodes[number].kill()
    run.wait(lambda: "lost its node, continues elsewhere from its last checkpoint" in run.output())
    cluster.add(gpus=1)
    run.wait(partial(run.has_checkpoint, 3))
    run.driver.send_signal(signal.SIGINT)
    assert run.driver.wait(timeout=20) == 130
    assert list(run.store.glob("checkpoints/*/epoch.*"))
    assert "Traceback" not in run.output()

    run = Run(folder, cluster, "--cluster", cluster.address, store="store")
    run.wait(lambda: bool(run.trials(3)))
    cluster.add()
    run.wait(lambda: run.driver.poll() is not None)
    assert run.driver.returncode == 0, run.output()
    assert run.trials(4)
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
    process = start(folder, cluster, "run", "--set", seeds, "--store", "alone", "--cluster", "in-process")
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 0, output
    alone, together = records(folder / "alone"), records(run.store)
    assert {seed for seed, _ in together} == set(range(SEEDS))
    assert {seed for seed, _ in alone} == {*moved, SEEDS - 1}
    assert alone == {name: record for name, record in together.items() if name[0] in {*moved, SEEDS - 1}}

    more = ("--set", f"seeds={list(range(SEEDS + 6))}", "--store", "store", "--cluster", cluster.address)
    plan = start(folder, cluster, "plan", *more)
    output = plan.communicate(timeout=120)[0]
    assert plan.returncode == 0, output
    assert f"{2 * SEEDS} of {2 * SEEDS + 12} parts" in output
    assert "on 2 workers" in output
