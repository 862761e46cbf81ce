"""What `status` finds in a store, against what the study's own dispatcher knows."""

import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from helpers.closed_form import ARMS, TWINS, Worker, drain, failing, steps, study, worker
from helpers.observed import arm, driving, finished, told

from tune_interpreg.cluster.worker import StudyTrainable, worker_config
from tune_interpreg.schedule import graph, stages
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.status import reading, text
from tune_interpreg.status.observer import Observer
from tune_interpreg.store import lock
from tune_interpreg.store.store import Record, Store
from tune_interpreg.store.workers import WorkerProcess, read_worker, record_worker
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Item


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


# ------------------------------------------------------- against the dispatcher
@pytest.mark.parametrize("workers", [1, 3])
def test_it_counts_what_the_dispatcher_does_all_along(store: Store, workers: int) -> None:
    of = study(checks="{images: 10}")
    with driving(store, of) as dispatcher:
        observer = Observer(store)
        for _ in steps(dispatcher, workers=workers):
            found = observer.read_status()
            assert (found.state, found.settled, found.running) == (
                "running",
                dispatcher.settled(),
                dispatcher.state.running,
            )
            for one in found.arms:
                mine, known = list(one.stages), stages.stages_of(of, dispatcher.state, one.name)
                assert [(s.role, s.done, s.lost, s.running) for s in mine] == [
                    (s.role, s.done, s.lost, s.running) for s in known
                ]
            if workers == 1:
                assert found.total == dispatcher.total()
        assert observer.read_status().arms == Observer(store).read_status().arms
        assert observer.read_status().state == "finished"


def test_another_study_in_the_store_is_counted_as_the_dispatcher_would(store: Store) -> None:
    """A search over another range, fewer seeds, another fixed parameter: what no longer belongs is not counted."""
    drain(study(), store)
    for of in (
        study(robust=ARMS["robust"].replace("[0.05, 0.2]", "[0.08, 0.2]")),
        study(robust=ARMS["robust"].replace("trials: 6", "trials: 8")),
        study(permuted=ARMS["permuted"].replace("phi: 1.0", "phi: 0.5")),
        study(seeds="[1]"),
        study(seeds="[0, 1, 7]"),
        study("standard", "adversarial", "robust"),
    ):
        dispatcher = Dispatcher(of, store, "f")
        store.save_study(of)
        found = Observer(store).read_status()
        known = {name: stages.stages_of(of, dispatcher.state, name) for name in of.arms}
        assert {one.name: list(one.stages) for one in found.arms} == known


def test_twins_count_as_settled_parts(store: Store) -> None:
    of = study("standard", **TWINS)
    found = finished(store, of)
    assert (found.state, found.settled) == ("finished", graph.count_parts(of))


# ------------------------------------------------------------------- what it tells
def test_a_finished_study_tells_what_its_searches_chose(store: Store) -> None:
    found = finished(store, study())
    assert found.state == "finished"
    assert (found.seconds_left, found.untimed, found.damaged) == (None, {}, ())
    assert all(one.waits is None for one in found.arms)
    assert [(one.name, one.parent) for one in found.arms][2:] == [
        ("robust", "adversarial"),
        ("permuted", "robust"),
        ("jacobian", "robust"),
    ]
    best, choice = arm(found, "robust").best, store.read_choice("robust")
    assert best is not None
    assert choice is not None
    assert best.params == choice["params"]
    for name in ("permuted", "jacobian"):
        match, choice = arm(found, name).match, store.read_choice(name)
        assert match is not None
        assert choice is not None
        assert (match.params, match.low, match.high) == (choice["params"], choice["low"], choice["high"])
        assert (match.target, match.residual) == (choice["target"], choice["expected_residual"])
        assert match.feasible


def test_what_waits_says_for_what(store: Store) -> None:
    of, seen = study(), dict[str, list[str | None]]()
    with driving(store, of) as dispatcher:
        for _ in steps(dispatcher):
            for one in Observer(store).read_status().arms:
                waits = seen.setdefault(one.name, [])
                waits += [one.waits] if one.waits not in waits else []
    assert seen["adversarial"] == [None]
    assert seen["robust"] == ["waits for adversarial", "waits for the maps of adversarial", None]
    assert seen["permuted"][0] == "waits for adversarial and robust"
    assert seen["jacobian"] == ["waits for robust", None]


def test_a_match_under_way_tells_the_strengths_around_it(store: Store) -> None:
    with driving(store, of := study()) as dispatcher:
        for item in steps(dispatcher):
            if (item.arm, item.role, item.number) == ("jacobian", "search", 3):
                break
        match = arm(Observer(store).read_status(), "jacobian").match
    assert match is not None
    assert match.params is None
    assert match.target == pytest.approx(1.316, abs=0.1)
    tried = [one for one in (match.below, match.above) if one]
    assert tried
    assert all((1 + one.value**0.5 - match.target) == pytest.approx(one.residual) for one in tried)
    line = next(one for one in text.details(arm(Observer(store).read_status(), "jacobian")) if one.startswith("match"))
    assert line.startswith("match of robust's train/loss 1.")
    assert "so far lambda_j 0." in line
    assert of.arms["jacobian"].search


def test_failures_are_counted_with_the_first_line_of_the_first(store: Store) -> None:
    def answer(item: Item) -> Record:
        wrong = item.role == "search" and item.arm == "robust" and item.number < 3
        state = "diverged" if item.number else "failed"
        return failing(lambda _: wrong, state)(item) | ({"error": f"no {item.number}\n  trace"} if wrong else {})

    of = study("standard", "adversarial", "robust")
    with driving(store, of):
        drain(of, store, answer)
    found = [(one.role, one.state, one.count, one.error) for one in arm(Observer(store).read_status(), "robust").troubles]
    assert found == [("search", "diverged", 2, "no 1"), ("search", "failed", 1, "no 0")]
    assert "robust: 2 diverged of search: no 1" in told(str(store.path)).stdout.splitlines()


def test_what_can_never_run_ends_a_study_with_its_reason(store: Store) -> None:
    of = study("standard", "adversarial", "robust")
    with driving(store, of):
        drain(of, store, failing(lambda item: item.arm == "adversarial"))
    found = Observer(store).read_status()
    assert found.state == "ended"
    assert arm(found, "robust").waits == "has no target maps: the teacher adversarial gave none"


def timed(wrong: str) -> Worker:
    """Each item takes 100 s; those of the arm ``wrong`` fail."""
    answer = failing(lambda item: item.arm == wrong)
    return lambda item: answer(item) | {"seconds": 100.0}


def test_no_time_is_left_of_a_study_whose_rest_cannot_run(store: Store) -> None:
    of = study("standard", "adversarial", "robust", checks="{images: 10}")
    with driving(store, of):
        drain(of, store, timed("adversarial"))
    found = Observer(store).read_status()
    assert (found.state, found.seconds_left, found.untimed) == ("ended", None, {})
    assert found.settled < found.total
    assert " left" not in text.header(found)[0].replace("what is left", "")


def test_no_time_is_counted_for_arms_that_nothing_can_open_any_more(store: Store) -> None:
    """Of standard one seed is left, at the pace of three items in 100 s; what needs adversarial's models never runs."""
    with driving(store, study(seeds="[0, 1]")) as dispatcher:
        began = datetime.now(UTC) - timedelta(seconds=300)
        store.write_json(store.driver_file, store.read_driver() | {"since": began.isoformat()})
        running = steps(dispatcher, timed("adversarial"))
        assert [next(running).arm for _ in range(4)] == ["adversarial", "adversarial", "standard", "standard"]
        found = Observer(store).read_status()
        assert (found.state, found.settled) == ("running", 3)
        assert (found.seconds_left, found.untimed) == (pytest.approx(100 / 3, rel=0.05), {})


def test_time_left_is_what_such_parts_took_at_the_pace_seen(store: Store) -> None:
    """Two of four repeats took 100 s each, in the 100 s since the driver began: the other two take as long again."""
    with driving(store, study("standard", seeds="[0, 1, 2, 3]")) as dispatcher:
        began = datetime.now(UTC) - timedelta(seconds=100)
        store.write_json(store.driver_file, store.read_driver() | {"since": began.isoformat()})
        for count, _ in enumerate(steps(dispatcher, lambda item: worker(item) | {"seconds": 100.0}, workers=2)):
            if count == 3:
                break
        assert Observer(store).read_status().seconds_left == pytest.approx(100, rel=0.05)
        assert not Observer(store).read_status().untimed


def test_no_time_is_told_where_nothing_like_it_has_run(store: Store) -> None:
    with driving(store, study("standard", checks="{images: 10}")) as dispatcher:
        running = steps(dispatcher, lambda item: worker(item) | {"seconds": 5.0})
        next(running)
        found = Observer(store).read_status()
        assert (found.seconds_left, found.untimed) == (None, {"repeat": 2, "checks": 2})
        next(running)
        found = Observer(store).read_status()
        assert found.seconds_left is not None
        assert found.untimed == {"checks": 2}
        assert "left and the checks, as none has run" in text.header(found)[0]


# --------------------------------------------------------------- items under way
def test_an_item_under_way_tells_epoch_loss_and_place(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(store.path.parent / "logs"))
    arms = {"a": {"method": "standard"}}
    of = Study.model_validate({"data": {"name": "digits", "train_limit": 64}, "training": {"epochs": 3}, "arms": arms})
    with driving(store, of, "") as dispatcher:
        item = dispatcher.next()
        assert isinstance(item, Item)
        (begun,) = arm(Observer(store).read_status(), "a").running
        assert (begun.epoch, begun.of, begun.host) == (0, 3, None)
        trainable = StudyTrainable(worker_config(item, store, "cpu"))
        trainable.step()
        result = trainable.step()
        (running,) = arm(Observer(store).read_status(), "a").running
        assert (running.epoch, running.of, running.loss) == (2, 3, pytest.approx(result["train/loss"]))
        assert (running.host, running.pid) == (socket.gethostname(), os.getpid())
        assert 0 < running.seconds == pytest.approx(result["seconds"], rel=0.5)
        shown = told(str(store.path)).stdout
        assert f"a: repeat, seed 0: 2 of 3 epochs, loss {running.loss:.3g}, process {os.getpid()} on " in shown
        trainable.cleanup()
    stopped = Observer(store).read_status()
    assert stopped.state == "stopped"
    assert arm(stopped, "a").running == ()
    assert [one.epoch for one in arm(stopped, "a").interrupted] == [2]


def test_what_an_earlier_driver_left_is_not_taken_for_running(store: Store) -> None:
    of = study("standard", seeds="[0, 1, 2]")
    with driving(store, of) as dispatcher:
        left = next(steps(dispatcher, workers=1))
        record_worker(store, left.key)
    note = store.checkpoint_dir(left.key) / "item.json"
    os.utime(note, (1.0, 1.0))
    with driving(store, of) as dispatcher:
        assert [len(found) for found in _under_way(store)] == [0, 1]
        again = next(steps(dispatcher, workers=1))
        assert again.key == left.key
        ((running,), interrupted) = _under_way(store)
        assert (running.host, interrupted) == (None, ())  # the place is the earlier driver's


def _under_way(store: Store) -> tuple[tuple, tuple]:
    one = arm(Observer(store).read_status(), "standard")
    return one.running, one.interrupted


@pytest.mark.parametrize(("role", "key"), [("targets", "blocks"), ("checks", "checks")])
def test_stages_without_epochs_tell_their_own_steps(store: Store, role: str, key: str) -> None:
    with driving(store, study(checks="{images: 10}")) as dispatcher:
        item = next(one for one in steps(dispatcher) if one.role == role)
        store.write_checked(store.checkpoint_dir(item.key) / "progress.json", {key: [1, 2], "seconds": 3.0, "of": 9})
        (running,) = [one for found in Observer(store).read_status().arms for one in found.running]
    assert (running.role, running.epoch, running.of, running.seconds) == (role, 2, 9, 3.0)


@pytest.mark.parametrize("content", [b"", b"\x00" * 8, b"\xff" * 40, b"\x02\0\0\0\0\0\0\0{}", b"\x02\0\0\0\0\0\0\0[]"])
def test_a_checkpoint_that_cannot_be_read_tells_nothing(store: Store, content: bytes) -> None:
    with driving(store, study("standard")) as dispatcher:
        item = next(steps(dispatcher))
        (store.checkpoint_dir(item.key) / "epoch.safetensors").write_bytes(content)
        store.worker_file(item.key).write_bytes(content)
        assert reading.reached(store, item) == reading.Reached(0, 30)
        assert read_worker(store, item.key) is None


def test_a_place_is_noted_only_where_the_item_is_under_way(store: Store) -> None:
    record_worker(store, "k" * 16)
    assert not store.path.exists()
    store.checkpoint_dir("k" * 16).mkdir(parents=True)
    record_worker(store, "k" * 16)
    assert read_worker(store, "k" * 16) == WorkerProcess(socket.gethostname(), os.getpid(), None)
    store.drop_checkpoint("k" * 16)
    assert store.checkpoint_keys() == set()


# ------------------------------------------------------------------------ drivers
def test_a_driver_is_alive_as_long_as_it_holds_the_store(store: Store) -> None:
    with driving(store, study("standard")):
        assert lock.is_driver_alive(store) is True
        assert Observer(store).read_status().driver.pid == os.getpid()
    assert lock.is_driver_alive(store) is False  # the process lives, but it holds nothing
    store.write_json(store.driver_file, store.read_driver() | {"host": "elsewhere"})
    assert lock.is_driver_alive(store) is None
    assert Observer(store).read_status().state == "unknown"
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    store.write_json(store.driver_file, store.read_driver() | {"host": socket.gethostname(), "pid": process.pid})
    assert lock.is_driver_alive(store) is False


@pytest.mark.parametrize("signature", ["{", "[]", "{}", '{"pid": "x", "host": 1, "since": 2}'])
def test_a_signature_that_cannot_be_read_is_nobodys(store: Store, signature: str) -> None:
    finished(store, study("standard"))
    store.driver_file.write_text(signature)
    found = Observer(store).read_status()
    assert (found.driver.pid, found.state) == (None, "finished")
