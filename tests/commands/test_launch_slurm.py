"""Run the sbatch script that `launch slurm` prints: on a real Slurm of two nodes, and on stand-ins for its programs."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.cli import output
from helpers.kept import epochs
from helpers.slurm import Slurm, StandIns, wait

#: One node alone takes more than 20 s for all seeds, so that the second node may start much later than the first.
EPOCHS, SEEDS = 200, 6
STUDY = f"""\
data: {{name: digits, train_limit: 160, validation: 60, test_limit: 60}}
training: {{epochs: {EPOCHS}, batch_size: 32, lr: 0.05}}
attack: {{norm: l2, eps: 0.5, steps: 2}}
seeds: {list(range(SEEDS))}
checks: null
arms:
  standard: {{method: standard}}
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the script for two nodes of one core each."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(STUDY)
    sizes = ("--nodes", "2", "--cpus-per-node", "1", "--store", str(tmp_path / "shared" / "store"))
    (tmp_path / "job.sh").write_text(output("launch", "slurm", "tiny.yaml", *sizes))
    return tmp_path / "job.sh"


@pytest.fixture
def stand_ins(tmp_path: Path) -> Iterator[StandIns]:
    queue = StandIns(tmp_path)
    yield queue
    queue.stop()


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    if reason := Slurm.explain_absence():
        pytest.skip(reason)
    queue = Slurm(tmp_path)
    try:
        try:
            queue.start()
        except AssertionError as error:  # a container may lack what slurmd needs
            pytest.skip(f"Slurm's daemons do not start on this machine: {error}")
        yield queue
    finally:
        queue.stop()


def end(queue: StandIns | Slurm, script: Path, *options: str) -> str:
    """Run a job that ends with code 1 and leaves no files. Return its output."""
    queue.submit(script, *options)
    assert queue.wait(60) == 1
    assert list((script.parent / "shared").iterdir()) == []
    return queue.log.read_text()


NO_NAME = "error: the name of the head node, {}, does not resolve on "
NO_ANSWER = "has waited {} s for port"


def test_job_ends_if_the_head_does_not_start(stand_ins: StandIns, script: Path) -> None:
    stand_ins.replace("srun", "#!/bin/bash\nexit 1\n")
    assert end(stand_ins, script) == "error: the head node on localhost did not start\n"


def test_job_ends_if_the_name_of_the_head_does_not_resolve(stand_ins: StandIns, script: Path) -> None:
    stand_ins.replace("scontrol", "#!/bin/bash\necho no-such-host.invalid\n")
    assert NO_NAME.format("no-such-host.invalid") in end(stand_ins, script)


def test_job_ends_if_the_port_of_the_head_does_not_answer(stand_ins: StandIns, script: Path) -> None:
    stand_ins.replace("srun", "#!/bin/bash\nexec sleep 60\n")
    script.write_text(script.read_text().replace("patience=900", "patience=2"))
    assert NO_ANSWER.format(2) in end(stand_ins, script)


@pytest.mark.slow
@pytest.mark.xdist_group("slurm")
def test_real_job_ends_if_its_head_cannot_be_reached(slurm: Slurm, script: Path) -> None:
    """The second node has no name in DNS, and nothing answers on port 1 of the first."""
    assert NO_NAME.format("node-b") in end(slurm, script, "--nodes=1", "--nodelist=node-b")
    text = script.read_text().replace("patience=900", "patience=2")
    script.write_text(text.replace("/dev/tcp/$head/$port", "/dev/tcp/$head/1"))
    assert NO_ANSWER.format(2) in end(slurm, script)


@pytest.mark.timeout(600)
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.xdist_group("slurm")
def test_job_runs_the_study_on_two_nodes_and_resumes_after_its_time_limit(
    script: Path, request: pytest.FixtureRequest
) -> None:
    """Run two Ray nodes that ask for the job's token. The warning of the time limit ends the job, which is requeued."""
    job: StandIns | Slurm = request.getfixturevalue("stand_ins" if Slurm.explain_absence() else "slurm")
    shared = script.parent / "shared"
    store = shared / "store"

    def two_nodes_train() -> bool:
        assert not job.is_over(), job.log.read_text()
        return len(workers(store)) >= 2 <= len(list(store.glob("checkpoints/*/epoch.*")))

    job.submit(script)
    wait(two_nodes_train, 180, lambda: job.log.read_text())  # one may have trained before the other started
    (token,) = shared.glob("store.job-*/auth_token")
    assert (token.stat().st_mode & 0o777, token.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert re.fullmatch(r"[0-9a-f]{64}", token.read_text())
    job.warn()
    first, interrupted = workers(store), unfinished_trainings(store)
    assert interrupted
    assert job.wait(240) == 0, job.log.read_text()
    assert f"{SEEDS} of {SEEDS} repeats done" in job.log.read_text()
    assert workers(store) > first
    for trial in store.glob("tensorboard/*/*/"):
        trained = epochs(trial)
        assert len(trained) == 1 + (trial.name in interrupted)
        assert {epoch for worker in trained for epoch in worker} == set(range(1, EPOCHS + 1))
        assert sum(map(len, trained)) <= EPOCHS + (trial.name in interrupted)  # the epoch under way at the warning
    assert [path.name for path in shared.iterdir()] == ["store"]
    assert not Path(f"/tmp/ray-{job.job}").exists()


def workers(store: Path) -> set[str]:
    """Return the pids of the processes that have written TensorBoard events."""
    return {file.suffix for file in store.glob("tensorboard/*/*/events.*")}


def unfinished_trainings(store: Path) -> set[str]:
    """Return the TensorBoard runs of the trainings with an epoch and without a record."""
    records = [json.loads(path.read_text()) for path in store.glob("ledger/*/*.json")]
    finished = {record["run"] for record in records if record["kind"] == "train"}
    return {trial.name for trial in store.glob("tensorboard/*/*/") if epochs(trial)} - finished
