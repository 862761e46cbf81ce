"""A study on a cluster of several nodes, which know nothing of this project, and come and go while it runs."""

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
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from tune_interpreg.store.store import Record

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

SEEDS = 24
STUDY = f"""\
data: {{name: digits, train_limit: 320, validation: 60, test_limit: 60}}
model: lab_mlp
training: {{epochs: 60, batch_size: 16, lr: 0.05}}
attack: {{norm: l2, eps: 0.5, steps: 2}}
seeds: {list(range(SEEDS))}
checks: null
arms:
  adversarial: {{method: adversarial}}
"""

#: What a record says of its making; the checksum is of all of it.
INCIDENTAL = (*kept.INCIDENTAL, "host")

#: A plugin in a single file, as installed: its module, and the folder in which Python finds its entry points.
LAB = """\
from torch import Size, nn
def mlp(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(Size(shape).numel(), 32), nn.ReLU(), nn.Linear(32, classes))
"""
METADATA = "Metadata-Version: 2.1\nName: lab-models\nVersion: 1.2\n"
POINTS = "[tune_interpreg.models]\nlab_mlp = lab_models:mlp\n"

#: What a driver on the cluster knows of its nodes; each look at its clock is a minute later.
ROOM = """\
import sys
from tune_interpreg.cluster import connection
from tune_interpreg.cluster.nodes import Slots
from tune_interpreg.study.config import Resources
connection.join(sys.argv[1], {})
for asked in ({}, {"gpus": 0.25, "cpus": 0.1}, {"gpus": 0.4, "cpus": 0.1}, {"gpus": 1}, {"cpus": 2}):
    print(Slots(Resources(**asked), print).count())
clock = [0.0]
slots = Slots(Resources(cpus=2), print, lambda: clock[0])
for clock[0] in (1, 61, 121):
    print(slots.count())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the study, and a plugin that it needs installed in ``site``."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "slice.yaml").write_text(STUDY)
    installed = folder / "site" / "lab_models-1.2.dist-info"
    installed.mkdir(parents=True)
    (folder / "site" / "lab_models.py").write_text(LAB)
    (installed / "METADATA").write_text(METADATA)
    (installed / "entry_points.txt").write_text(POINTS)
    return folder


@pytest.fixture(scope="module")
def python(folder: Path) -> str:
    """The interpreter of the nodes, which has Ray and torch, but neither this project nor the plugin."""
    python = bare_python(folder, Path(ray.__file__).parents[1])
    code = "import ray, torch; from importlib.metadata import entry_points as points; "
    for lacking in ("assert not points(group='tune_interpreg.methods'); import trainables", "import lab_models"):
        tried = subprocess.run([python, "-c", code + lacking], cwd=folder, capture_output=True, text=True)
        assert f"No module named '{lacking.split()[-1]}'" in tried.stderr
    return python


@pytest.fixture(scope="module")
def cluster(python: str) -> Iterator[Cluster]:
    """Three nodes of one core each; one has a GPU, as far as Ray is told."""
    cluster = Cluster(python)
    try:
        for gpus in (0, 0, 1):
            cluster.add(gpus=gpus).wait()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def ran(folder: Path, cluster: Cluster) -> tuple[str, list[set[str]]]:
    """What the study printed, while which a node came and another died; and, of each node, the trials that it ran."""
    run = Run(folder, cluster, "--cluster", "auto")
    run.wait(lambda: all(run.trials(number) for number in range(3)))
    cluster.add()
    run.wait(partial(run.works_on, 1))
    cluster.nodes[1].kill()
    cluster.nodes[3].wait()
    run.wait(lambda: run.driver.poll() is not None)
    assert run.driver.returncode == 0, run.printed()
    return run.printed(), [run.trials(number) for number in range(4)]


class Run:
    """A study that runs on a cluster, and where its trials are."""

    def __init__(self, folder: Path, cluster: Cluster, *arguments: str, store: str = "store"):
        self.cluster, self.store, self.log = cluster, folder / store, folder / f"{store}.log"
        self._workers: dict[int, set[int]] = {}
        with self.log.open("w") as log:
            self.driver = start(folder, "slice.yaml", "--store", store, *arguments, log=log, access=cluster)

    def printed(self) -> str:
        return self.log.read_text()

    def wait(self, condition: Callable[[], bool], seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            for number, node in enumerate(self.cluster.nodes):
                self._workers.setdefault(number, set()).update(node.pids())
            assert self.driver.poll() is None or condition(), self.printed()
            assert time.monotonic() < deadline, self.printed()
            time.sleep(0.02)

    def trials(self, node: int) -> set[str]:
        """The folders of the trials of which a process of the node has written TensorBoard's events."""
        pids = self._workers.get(node, set())
        files = self.store.glob("tensorboard/*/*/events.*")
        return {file.parent.name for file in files if int(file.name.split(".")[5]) in pids}

    def works_on(self, node: int) -> bool:
        """Whether the node has a trial that can go on elsewhere."""
        return any(self.underway(trial) for trial in self.trials(node))

    def underway(self, trial: str) -> bool:
        """Whether the trial has left a checkpoint from which it can go on."""
        return any(path.parent.name.startswith(trial[-6:]) for path in self.store.glob("checkpoints/*/epoch.*"))


def start(
    folder: Path, *arguments: str, log: object, access: Cluster | None = None, command: str = "run"
) -> subprocess.Popen[str]:
    """A command, as on a machine where the plugin is installed; ``access``: with the cluster's address and token."""
    variables = {"PYTHONPATH": str(folder / "site"), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    known = {"RAY_ADDRESS": access.address} | access.access if access else {"RAY_AUTH_MODE": "disabled"}
    return subprocess.Popen(
        [sys.executable, "-m", "tune_interpreg", command, *arguments],
        cwd=folder,
        env=os.environ | variables | known,
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ledger(store: Path) -> dict[tuple[int, ...], Record]:
    """Each seed's record, but for what tells when and where it was made."""
    records = [json.loads(path.read_text()) for path in store.glob("ledger/*/*.json")]
    return {tuple(one["seeds"]): one | dict.fromkeys(INCIDENTAL) for one in records}


def epochs(events: Path) -> list[int]:
    """Those whose scalars an events file holds."""
    summaries = [event for event in EventFileLoader(str(events)).Load() if event.HasField("summary")]
    return [event.step for event in summaries if event.summary.value[0].tag == "train/loss"]


def moved(store: Path) -> dict[int, Path]:
    """The seeds that two processes have trained, with the later one's TensorBoard events."""
    found = [sorted(one.glob("events.*")) for one in store.glob("tensorboard/*/*")]
    return {
        int(files[0].parent.name.split("-")[1].removeprefix("seed")): files[-1] for files in found if len(files) > 1
    }


def refused(folder: Path, *arguments: str, access: Cluster | None = None) -> tuple[str, float]:
    """The message of a command that refuses its input, and the seconds that it took."""
    began = time.monotonic()
    driver = start(folder, "slice.yaml", *arguments, log=subprocess.PIPE, access=access)
    said = driver.communicate(timeout=120)[0]
    assert driver.returncode == 2, said
    assert "Traceback" not in said
    return next(line for line in said.splitlines() if line.startswith("error: ")), time.monotonic() - began


# ----------------------------------------------------------------- nodes come and go
def test_every_node_runs_trials_and_the_one_that_came_late_too(ran: tuple[str, list[set[str]]]) -> None:
    assert all(ran[1]), ran[1]


def test_a_trial_that_lost_its_node_goes_on_from_its_checkpoint(folder: Path, ran: tuple[str, list[set[str]]]) -> None:
    assert "lost its node, continues elsewhere from its last checkpoint" in ran[0]
    assert moved(folder / "store")
    for events in moved(folder / "store").values():
        assert 1 < min(epochs(events)) <= 60


def test_a_lost_node_counts_against_no_item(ran: tuple[str, list[set[str]]]) -> None:
    assert f"{SEEDS} of {SEEDS} repeats done" in ran[0]
    assert "FAILED" not in ran[0]
    assert "Traceback" not in ran[0]


def test_the_numbers_are_those_of_one_process(folder: Path, ran: tuple[str, list[set[str]]]) -> None:
    """Code, plugin and entry points travelled, and a trial that moved gives the same bits."""
    seeds = f"seeds={[*moved(folder / 'store'), SEEDS - 1]}"
    with (folder / "alone.log").open("w") as log:
        where = ("--store", "alone", "--cluster", "in-process")
        assert start(folder, "slice.yaml", "--set", seeds, *where, log=log).wait(timeout=240) == 0
    here, there = ledger(folder / "alone"), ledger(folder / "store")
    assert len(here) >= 2
    assert len(there) == SEEDS
    assert here == {seed: there[seed] for seed in here}


def test_an_item_whose_nodes_die_again_and_again_is_not_given_up(folder: Path, python: str) -> None:
    """Four machines are taken away under one trial, then there is none: the run waits, says so, and can be stopped."""
    cluster = Cluster(python)
    try:
        cluster.add(cpus=0).wait()
        cluster.add().wait()
        long = ("--set", "seeds=[0]", "--set", "training.epochs=2000", "--cluster", cluster.address)
        run = Run(folder, cluster, *long, store="taken")
        for number in range(1, 5):
            run.wait(partial(run.works_on, number))
            cluster.nodes[number].kill()
            if number < 4:
                cluster.add()
        run.wait(lambda: "waiting for a node: a trial asks for 1 CPUs and 0 GPUs" in run.printed())
        run.driver.send_signal(signal.SIGINT)
        assert run.driver.wait(timeout=20) == 130
    finally:
        cluster.stop()
    assert run.printed().count("lost its node") == 4
    assert "FAILED" not in run.printed()
    assert list(run.store.glob("checkpoints/*/epoch.*"))


# ------------------------------------------------------------------------- what it has
def test_the_room_is_that_of_the_nodes_and_where_there_is_none_it_is_told_once(folder: Path, cluster: Cluster) -> None:
    """Of 3 or 4 nodes of one core: a GPU holds 4 quarters, or two trials of 0.4; nobody has two cores."""
    command = [sys.executable, "-c", ROOM, cluster.address]
    told = subprocess.run(
        command, cwd=folder, env=os.environ | cluster.access, capture_output=True, text=True, check=True
    )
    cores, quarters, parts, whole, none, first, said, *others = told.stdout.splitlines()
    assert int(cores) in (3, 4)
    assert (quarters, parts, whole, none, first, others) == ("4", "2", "1", "1", "1", ["1", "1"])
    assert said.startswith("waiting for a node: a trial asks for 2 CPUs and 0 GPUs, but no node has them (nodes: 1 CP")


def test_a_request_that_no_node_can_meet_is_refused_with_what_there_is(folder: Path, cluster: Cluster) -> None:
    more = ("--set", "resources.gpus=2", "--store", "other")
    said, _ = refused(folder, *more, "--cluster", cluster.address, access=cluster)
    assert said.startswith(
        "error: resources: a trial asks for 1 CPUs and 2 GPUs, but no node has them (nodes: 1 CPUs, "
    )
    assert "1 CPUs, 1 GPUs" in said


def test_a_plan_counts_the_nodes(folder: Path, cluster: Cluster, ran: tuple[str, list[set[str]]]) -> None:
    """Of the seeds that it lacks, by what those in the store took: nothing is measured and nothing is run."""
    more = ("--set", f"seeds={list(range(SEEDS + 6))}", "--store", "store", "--cluster", cluster.address)
    plan = start(folder, "slice.yaml", *more, log=subprocess.PIPE, access=cluster, command="plan")
    said = plan.communicate(timeout=120)[0]
    assert plan.returncode == 0, said
    assert f"{SEEDS} of {SEEDS + 6} parts are in " in said
    assert re.search(r"on [34] workers: .* of work in 6 items", said)
    assert "a measurement" not in said
    assert len(ledger(folder / "store")) == SEEDS


# ------------------------------------------------------------------------------ access
def test_a_cluster_with_a_token_tells_those_without_how_to_get_in(folder: Path, cluster: Cluster) -> None:
    said, seconds = refused(folder, "--store", "other", "--cluster", cluster.address)
    assert said.startswith(f"error: --cluster {cluster.address}: ")
    assert "~/.ray/auth_token" in said
    assert "RAY_AUTH_MODE=token" in said
    assert seconds < 60


def test_another_version_of_ray_is_refused_with_both(folder: Path, cluster: Cluster) -> None:
    joining = "from tune_interpreg.cluster.connection import join; join(sys.argv[1], {})"
    code = f"import sys, ray; ray.__version__ = '1.0'; {joining}"
    command = [sys.executable, "-c", code, cluster.address]
    tried = subprocess.run(command, cwd=folder, env=os.environ | cluster.access, capture_output=True, text=True)
    said = tried.stderr.splitlines()[-1]
    assert f"ClusterError: --cluster {cluster.address}: Version mismatch: " in said
    assert f"Ray: {ray.__version__} " in said
    assert "Ray: 1.0 " in said
    assert "install the versions of Python and Ray" in said


def test_a_store_that_other_machines_do_not_see_is_refused(folder: Path, cluster: Cluster) -> None:
    """Each process has a folder of its own at this path, as machines have that share no folder."""
    said, _ = refused(folder, "--store", "/proc/self/cwd/own", "--cluster", cluster.address, access=cluster)
    assert said.startswith("error: /proc/self/cwd/own: ")
    assert said.endswith("sees no store there that it can write; name a folder with --store that all machines share")
