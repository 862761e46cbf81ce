"""The status read from a store agrees with the study's own dispatcher."""

import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path

import pytest
from helpers.closed_form import ARMS, TWINS, Worker, drain, failing, steps, study, worker
from helpers.observed import arm, driving, finished, run_status

from analysis.report import build
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.status import text
from tune_interpreg.status.observer import Observer, read_checkpoint
from tune_interpreg.store import lock
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Item, Job, Train

pytestmark = pytest.mark.thorough


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


# ------------------------------------------------------- against the dispatcher
@pytest.mark.parametrize("workers", [1, 3])
def test_it_counts_as_the_dispatcher_does_at_every_moment(store: Store, workers: int) -> None:
    of = study(checks="{images: 10}")
    with driving(store, of) as dispatcher:
        observer = Observer(store)
        for _ in steps(dispatcher, workers=workers):
            status = observer.read_status()
            numbers = ("running", dispatcher.settled(), dispatcher.state.running)
            assert (status.state, status.settled, status.running) == numbers
            for entry in status.arms:
                expected = graph.stages_of(of, dispatcher.state, entry.name)
                assert [(s.name, s.done, s.lost, s.running) for s in entry.stages] == [
                    (s.name, s.done, s.lost, s.running) for s in expected
                ]
            if workers == 1:
                assert status.total == dispatcher.total()
        assert observer.read_status().arms == Observer(store).read_status().arms
        assert observer.read_status().state == "finished"


def test_a_changed_study_is_counted_as_the_dispatcher_counts_it(store: Store) -> None:
    drain(study(), store)
    for of in (
        study("standard", **TWINS),
        study(robust=ARMS["robust"].replace("[0.05, 0.2]", "[0.08, 0.2]")),
        study(permuted=ARMS["permuted"].replace("phi: 1.0", "phi: 0.5")),
        study(seeds="[1]"),
        study(seeds="[0, 1, 7]"),
        study("standard", "adversarial", "robust"),
    ):
        dispatcher = Dispatcher(of, store, "f")
        store.save_study(of)
        expected = {name: tuple(graph.stages_of(of, dispatcher.state, name)) for name in of.arms}
        assert {entry.name: entry.stages for entry in Observer(store).read_status().arms} == expected


# -------------------------------------------------------------------- arms and searches
@pytest.mark.parametrize(("least", "is_satisfied"), [(0.95, False), (0.85, True)])
def test_status_and_report_say_if_no_trial_satisfies_a_bound(store: Store, least: float, is_satisfied: bool) -> None:
    """The closed form's clean accuracy is 0.9."""
    bound = f"where: {{val/accuracy: {{at_least: {least}}}}}, trials: 3"
    space = "space: {lambda_j: {log_uniform: [0.01, 1.0]}}"
    search = f"{{maximize: val/adv_accuracy, {bound}, {space}}}"
    status = finished(store, study("standard", arm=f"{{method: jacobian, search: {search}}}"))
    best = arm(status, "arm").best
    assert best is not None
    assert best.metrics["val/accuracy"] == 0.9
    sentence = (
        f"no trial satisfies where; the nearest, trial {best.trial}, has val/accuracy 0.9000 of at least {least:.4f}"
    )
    assert best.violation == (None if is_satisfied else sentence)
    assert any(sentence in line for line in text.lines(status)) != is_satisfied
    report = build(store.path)
    assert (f"arm: {sentence}." in report.status) != is_satisfied
    notes = next(table.notes for table in report.tables if table.title.startswith("Chosen settings"))
    assert any(f"val/accuracy ≥ {least:.4f}" in note and ("NOT SATISFIED" in note) != is_satisfied for note in notes)


def test_a_finished_study_has_its_choices(store: Store) -> None:
    status = finished(store, study())
    assert (status.state, status.seconds_left, status.untimed, status.damaged) == ("finished", None, {}, ())
    assert all(entry.waits is None for entry in status.arms)
    parents = {entry.name: entry.parent for entry in status.arms}
    assert parents.items() >= {"robust": "adversarial", "permuted": "robust", "jacobian": "robust"}.items()
    best, choice = arm(status, "robust").best, store.read_choice("robust")
    assert best is not None
    assert choice is not None
    assert best.params == choice["params"]
    for name in ("permuted", "jacobian"):
        match, choice = arm(status, name).match, store.read_choice(name)
        assert match is not None
        assert choice is not None
        assert (match.params, match.low, match.high) == (choice["params"], choice["low"], choice["high"])
        assert (match.target, match.residual) == (choice["target"], choice["expected_residual"])
        assert match.feasible


def test_an_arm_says_what_it_waits_for(store: Store) -> None:
    waits = dict[str, list[str | None]]()
    with driving(store, study()) as dispatcher:
        for _ in steps(dispatcher):
            for entry in Observer(store).read_status().arms:
                reasons = waits.setdefault(entry.name, [])
                reasons += [entry.waits] if entry.waits not in reasons else []
    assert waits["adversarial"] == [None]
    assert waits["robust"] == ["waits for adversarial", "waits for the maps of adversarial", None]
    assert waits["permuted"][0] == "waits for adversarial and robust"
    assert waits["jacobian"] == ["waits for robust", None]


def test_an_arm_waits_for_an_unfinished_arm_rather_than_for_its_maps(store: Store) -> None:
    matched = "search: {match_loss_of: standard, trials: 1, space: {lambda: {log_uniform: [0.01, 1.0]}}}"
    interpretation = f"{{method: interpretation, teacher: standard, targets: {{samples: 2}}, {matched}}}"
    with driving(store, study("standard", interpretation=interpretation)) as dispatcher:
        waits = {arm(Observer(store).read_status(), "interpretation").waits for _ in steps(dispatcher)}
    assert waits == {"waits for standard", None}


def test_a_bounded_arm_waits_for_judgments(store: Store) -> None:
    search = "maximize: val/adv_accuracy, trials: 1, where: {val/accuracy: {within: 0.1, of: standard}}"
    bounded = f"{{method: jacobian, search: {{{search}, space: {{lambda_j: {{log_uniform: [0.01, 1.0]}}}}}}}}"
    with driving(store, of := study("standard", bounded=bounded)):
        drain(of, store)
        for path in store.record_files():
            if path.parent.name == "bounded" or '"accuracy"' in path.read_text():
                path.unlink()
        assert arm(Observer(store).read_status(), "bounded").waits == "waits for the judgments of standard"


def test_a_running_match_has_the_tried_strengths_on_both_sides(store: Store) -> None:
    with driving(store, study()) as dispatcher:
        for job in steps(dispatcher):
            if (job.arm, job.number) == ("jacobian", 3):
                break
        jacobian = arm(Observer(store).read_status(), "jacobian")
    match = jacobian.match
    assert match is not None
    assert match.params is None
    assert match.target == pytest.approx(1.316, abs=0.1)
    tried = [strength for strength in (match.below, match.above) if strength]
    assert tried
    assert all((1 + strength.value**0.5 - match.target) == pytest.approx(strength.residual) for strength in tried)
    assert any("so far lambda_j 0." in line for line in text.details(jacobian))


def test_failures_are_counted_with_the_first_line_of_the_first_error(store: Store) -> None:
    def answer(job: Job, item: Item) -> Record:
        wrong = job.arm == "robust" and job.number in (0, 1, 2)
        state = "diverged" if job.number else "failed"
        error = {"error": f"no {job.number}\n  trace"} if wrong else {}
        return failing(lambda *_: wrong, state)(job, item) | error

    with driving(store, of := study("standard", "adversarial", "robust")):
        drain(of, store, answer)
    troubles = arm(Observer(store).read_status(), "robust").troubles
    counts = [(trouble.stage, trouble.state, trouble.count, trouble.error) for trouble in troubles]
    assert counts == [("search", "diverged", 2, "no 1"), ("search", "failed", 1, "no 0")]
    assert "robust: 2 diverged of search: no 1" in run_status(str(store.path)).stdout.splitlines()


# ----------------------------------------------------------------------- time left
def timed(wrong: str, judgment: float = 0.0) -> Worker:
    """Each training takes 100 s, each judgment some seconds; the items of the arm ``wrong`` fail."""
    answer = failing(lambda job, _: job.arm == wrong)
    return lambda job, item: answer(job, item) | {"seconds": 100.0 if isinstance(item, Train) else judgment}


def start_earlier(store: Store, seconds: float) -> None:
    """Let the driver have started some seconds ago."""
    since = datetime.now(UTC) - timedelta(seconds=seconds)
    store.write_json(store.driver_file, store.read_driver() | {"since": since.isoformat()})


def test_parts_that_cannot_start_any_more_take_no_time(store: Store) -> None:
    """A training and six judgments of standard are left; the pupils of adversarial never run.

    The pace is that of three trainings and six judgments in 100 s.
    """
    with driving(store, study(seeds="[0, 1]")) as dispatcher:
        start_earlier(store, 300)
        running = steps(dispatcher, timed("adversarial", judgment=10.0))
        assert [next(running).arm for _ in range(4)] == ["adversarial", "adversarial", "standard", "standard"]
        status = Observer(store).read_status()
        assert (status.state, status.settled) == ("running", 4)
        assert (status.seconds_left, status.untimed) == (pytest.approx(160 / 3.6, rel=0.05), {})
        list(running)
    status = Observer(store).read_status()
    assert (status.state, status.seconds_left, status.untimed) == ("ended", None, {})
    assert status.settled < status.total
    assert arm(status, "robust").waits == "has no target maps: the teacher adversarial gave none"


def test_time_left_is_the_mean_of_such_parts_at_the_pace_so_far(store: Store) -> None:
    """Two of four repeats took 100 s each, in the 100 s since the driver started: the others take as long again."""
    with driving(store, study("standard", seeds="[0, 1, 2, 3]", checks="{images: 10}")) as dispatcher:
        start_earlier(store, 100)
        running = steps(dispatcher, timed("none"), workers=2)
        next(running)
        status = Observer(store).read_status()
        assert (status.seconds_left, status.untimed) == (None, {"repeats": 4, "judgments": 4})
        assert [next(running).stage for _ in range(3)] == ["repeats"] * 3
        status = Observer(store).read_status()
        assert (status.seconds_left, status.untimed) == (pytest.approx(100, rel=0.05), {"judgments": 4})


def test_judgments_count_before_those_that_wait_for_other_models(store: Store) -> None:
    """Two models are trained and judged; only their checks, which wait for both arms, are left."""
    with driving(store, study("standard", "adversarial", seeds="[0]", checks="{images: 10}")) as dispatcher:
        waits = list[str | None]()
        for job in takewhile(lambda job: job.stage == "repeats", steps(dispatcher, timed("none", judgment=10.0))):
            status = Observer(store).read_status()
            waits += [arm(status, other).waits for other in ("standard", "adversarial") if other != job.arm]
        assert waits == [None, "models with judgments that wait for other models: 1"]
        status = Observer(store).read_status()
        assert not any(entry.waits for entry in status.arms)
        assert (status.seconds_left, status.untimed) == (0.0, {}), "checks take no time yet"


# ------------------------------------------------------------------- running jobs
@pytest.mark.ray
def test_a_running_job_has_epoch_loss_and_place(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from tune_interpreg.cluster.worker import StudyTrainable, worker_config

    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(store.path.parent / "logs"))
    arms = {"a": {"method": "standard"}}
    of = Study.model_validate({"data": {"name": "digits", "train_limit": 64}, "training": {"epochs": 3}, "arms": arms})
    with driving(store, of, "") as dispatcher:
        job = dispatcher.next()
        assert isinstance(job, Job)
        (started,) = arm(Observer(store).read_status(), "a").running
        assert (started.done, started.of, started.host) == (0, 3, None)
        trainable = StudyTrainable(worker_config(job, store, "cpu"))
        trainable.step()
        result = trainable.step()
        (running,) = arm(Observer(store).read_status(), "a").running
        assert (running.done, running.of, running.loss) == (2, 3, pytest.approx(result["train/loss"]))
        assert (running.host, running.pid) == (socket.gethostname(), os.getpid())
        assert 0 < running.seconds == pytest.approx(result["seconds"], rel=0.5)
        assert f"a: seed 0: 2 of 3 epochs, loss {running.loss:.3g}, process" in run_status(str(store.path)).stdout
        trainable.cleanup()
    stopped = Observer(store).read_status()
    assert stopped.state == "stopped"
    assert arm(stopped, "a").running == ()
    assert [(job.doing, job.done) for job in arm(stopped, "a").interrupted] == [("epochs", 2)]


def test_jobs_of_an_earlier_driver_do_not_run(store: Store) -> None:
    of = study("standard", seeds="[0, 1, 2]")
    with driving(store, of) as dispatcher:
        first = next(steps(dispatcher))
        store.record_worker(first.key)
        store.record_worker("another-run-has-finished-it")
        assert store.checkpoint_keys() == {first.key}
    os.utime(store.note_file(first.key), (1.0, 1.0))
    with driving(store, of) as dispatcher:
        standard = arm(Observer(store).read_status(), "standard")
        assert (len(standard.running), len(standard.interrupted)) == (0, 1)
        assert next(steps(dispatcher)).key == first.key
        standard = arm(Observer(store).read_status(), "standard")
        assert ([job.host for job in standard.running], standard.interrupted) == ([None], ())  # an earlier worker's


@pytest.mark.parametrize(("stage", "doing"), [("maps", "blocks"), ("judgments", "checks")])
def test_maps_and_checks_have_their_own_steps(store: Store, stage: str, doing: str) -> None:
    with driving(store, study(checks="{images: 10}")) as dispatcher:
        job = next(started for started in steps(dispatcher) if started.stage == stage and len(started.work) == 1)
        progress = {doing: [1, 2], "seconds": 3.0, "of": 9}
        store.write_checked(store.checkpoint_dir(job.key) / "progress.json", progress)
        (running,) = [job for entry in Observer(store).read_status().arms for job in entry.running]
    assert (running.stage, running.doing) == (stage, doing)
    assert (running.done, running.of, running.seconds) == (2, 9, 3.0)


def test_a_job_is_judging_once_its_training_has_a_record(store: Store) -> None:
    with driving(store, study("standard")) as dispatcher:
        job = next(steps(dispatcher))
        for count, item in enumerate(job.items[:-1]):
            store.write_record(worker(job, item))
            (running,) = arm(Observer(store).read_status(), "standard").running
            assert (running.doing, running.done, running.of) == ("judgments", count, len(job.work))


@pytest.mark.parametrize("content", [b"", b"\x00" * 8, b"\xff" * 40, b"\x02\0\0\0\0\0\0\0{}", b"\x02\0\0\0\0\0\0\0[]"])
def test_an_unreadable_checkpoint_is_no_progress(store: Store, content: bytes) -> None:
    with driving(store, study("standard")) as dispatcher:
        job = next(steps(dispatcher))
        (store.checkpoint_dir(job.key) / "epoch.safetensors").write_bytes(content)
        store.worker_file(job.key).write_bytes(content)
        nothing = {"doing": "epochs", "done": 0, "of": 30, "seconds": 0.0, "loss": None}
        assert read_checkpoint(store, job, set()) == nothing
        assert store.read_worker(job.key) == {}


# ------------------------------------------------------------------------ drivers
def test_a_driver_is_alive_while_it_holds_the_store(store: Store) -> None:
    with driving(store, study("standard")):
        assert lock.is_driver_alive(store) is True
        assert Observer(store).read_status().driver.pid == os.getpid()
    assert lock.is_driver_alive(store) is False  # the process is alive, but does not hold the store
    store.write_json(store.driver_file, store.read_driver() | {"host": "elsewhere"})
    assert lock.is_driver_alive(store) is None
    assert Observer(store).read_status().state == "unknown"
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    store.write_json(store.driver_file, store.read_driver() | {"host": socket.gethostname(), "pid": process.pid})
    assert lock.is_driver_alive(store) is False


@pytest.mark.parametrize("signature", ["{", "[]", "{}", '{"pid": "x", "host": 1, "since": 2}'])
def test_an_unreadable_signature_is_no_driver(store: Store, signature: str) -> None:
    finished(store, study("standard"))
    store.driver_file.write_text(signature)
    status = Observer(store).read_status()
    assert (status.driver.pid, status.state) == (None, "finished")
