"""A study has the same records whatever the number of workers, their speed, and kills of its driver.

Whole studies run through the dispatcher, with closed-form workers that end in a random order. Each kind of search is
compared with one run of a single worker.
"""

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from helpers.closed_form import outcome, run, strength, study, worker
from hypothesis import given, settings
from hypothesis import strategies as st

from tune_interpreg.schedule.dispatch import Dispatcher, Pause
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Item, Job, Judge, Train
from tune_interpreg.study.measures import AccuracyMeasure
from tune_interpreg.study.metric_names import VAL_ACCURACY, VAL_ADV_ACCURACY, accuracy

pytestmark = pytest.mark.thorough

EPOCHS = 4
STRENGTH = "space: {lambda_j: {log_uniform: [0.001, 1.0]}}"
BOUND = "{val/accuracy: {within: 0.01, of: standard}}"
SEARCHES = {
    "tpe": f"maximize: val/adv_accuracy, trials: 14, parallel: 3, {STRENGTH}",
    "gp": f"maximize: val/adv_accuracy, trials: 8, sampler: gp, parallel: 2, {STRENGTH}",
    "where": f"maximize: val/adv_accuracy, where: {BOUND}, trials: 14, parallel: 3, {STRENGTH}",
    "match": f"match_loss_of: reference, trials: 16, tolerance: 0.03, {STRENGTH}",
    "widened": "match_loss_of: reference, trials: 12, parallel: 3, space: {lambda_j: {log_uniform: [0.0005, 0.03]}}",
    "seeds": f"maximize: val/adv_accuracy, trials: 12, seeds: 2, {STRENGTH}",
    "seeds of a match": f"match_loss_of: reference, trials: 12, seeds: 2, parallel: 3, {STRENGTH}",
    "seeds and median": f"maximize: val/adv_accuracy, trials: 12, seeds: 2, parallel: 2, pruner: median, {STRENGTH}",
    "median": f"maximize: val/adv_accuracy, trials: 14, parallel: 2, pruner: median, {STRENGTH}",
    "halving": f"maximize: val/adv_accuracy, trials: 12, pruner: successive_halving, {STRENGTH}",
    "hyperband": f"maximize: val/adv_accuracy, trials: 12, parallel: 3, pruner: hyperband, {STRENGTH}",
}


def searching(kind: str) -> Study:
    arm = f"{{method: jacobian, search: {{{SEARCHES[kind]}}}}}"
    return study("standard", reference="{method: jacobian, lambda_j: 0.1}", arm=arm)


def curve_of(job: Job) -> list[dict[str, float]]:
    """Return a curve that rises to the closed form's accuracy, with a wave that differs from trial to trial."""
    item = job.work[-1]
    (value,) = worker(job, item)["metrics"].values()
    return [{VAL_ADV_ACCURACY: value * epoch / EPOCHS + strength(job) % 0.01} for epoch in range(1, EPOCHS + 1)]


def answer(job: Job, item: Item) -> Record:
    """Answer in closed form; strong trials diverge, and the clean accuracy falls with the strength."""
    if isinstance(item, Judge) and isinstance(item.measure, AccuracyMeasure):
        return worker(job, item) | {"metrics": {accuracy(item.split): 0.95 - 0.2 * strength(job)}}
    if isinstance(item, Train) and job.number is not None:
        if strength(job) > 0.7:
            return ledger.make_record(job, item, "diverged", error="too strong")
        return worker(job, item) | ({"curve": curve_of(job)} if job.work else {})
    return worker(job, item)


def report_epochs(dispatcher: Dispatcher, job: Job) -> bool:
    """Report the epochs of a trial; return whether its pruner has stopped it."""
    if job.number is None or not job.trains or not job.work:
        return False
    for epoch, metrics in enumerate(curve_of(job)[:-1], start=1):
        report = dispatcher.epoch(job, metrics | {"epoch": epoch})
        if report:
            dispatcher.prune(job, report)
            return True
    return False


def run_jobs(dispatcher: Dispatcher, workers: int, rng: random.Random) -> Iterator[None]:
    """Run a study on workers that end in a random order. Stops after each job, where a kill may come."""
    running: list[Job] = []
    while True:
        while len(running) < workers and isinstance(job := dispatcher.next(), Job):
            running.append(job)
        if not running:
            assert dispatcher.next() is Pause.DRAINED
            return
        job = running.pop(rng.randrange(len(running)))
        if not report_epochs(dispatcher, job):
            run(dispatcher, job, answer)
        yield


@cache
def expected(kind: str) -> list[tuple[str, ...]]:
    with TemporaryDirectory() as folder:
        for _ in run_jobs(Dispatcher(searching(kind), Store(folder), "f"), 1, random.Random(0)):
            pass
        return outcome(Store(folder))


@pytest.mark.parametrize("kind", SEARCHES)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**32), workers=st.sampled_from([1, 2, 3, 8]), kills=st.integers(0, 3))
def test_workers_their_order_and_kills_change_no_record(kind: str, seed: int, workers: int, kills: int) -> None:
    rng, of = random.Random(seed), searching(kind)
    with TemporaryDirectory() as folder:
        for _ in range(kills):
            jobs = run_jobs(Dispatcher(of, Store(folder), "f"), workers, rng)
            for _, _ in zip(range(rng.randrange(12)), jobs, strict=False):
                pass
        for _ in run_jobs(Dispatcher(of, Store(folder), "f"), workers, rng):
            pass
        assert outcome(Store(folder)) == expected(kind)


@pytest.mark.parametrize("kind", ["median", "halving", "hyperband"])
def test_the_pruners_stop_some_trials_and_not_all(kind: str) -> None:
    states = [record[5] for record in expected(kind) if record[:2] == ("arm", "train")]
    assert 0 < states.count("pruned") < states.count("done") + states.count("pruned")


def test_a_match_ends_before_its_last_trial_and_a_range_is_widened(tmp_path: Path) -> None:
    """Otherwise the comparison above would not reach either rule."""
    numbers = [record[2] for record in expected("match") if record[:2] == ("arm", "train") and record[2] != "None"]
    assert 4 <= len(numbers) < 16
    for _ in run_jobs(Dispatcher(searching("widened"), Store(tmp_path), "f"), 1, random.Random(0)):
        pass
    trials = Dispatcher(searching("widened"), Store(tmp_path), "f").progress.list_trials("arm")
    assert max(trial["recipe"]["params"]["lambda_j"] for trial in trials) > 0.03


def test_a_bounded_search_proposes_more_often_within_the_bound_and_chooses_there(tmp_path: Path) -> None:
    """The clean accuracy allows λ ≤ 0.05; the adversarial accuracy alone has its peak at λ = 0.1."""
    within = {}
    for kind in ("tpe", "where"):
        store = Store(tmp_path / kind)
        for _ in run_jobs(Dispatcher(searching(kind), store, "f"), 1, random.Random(0)):
            pass
        trials = Dispatcher(searching(kind), store, "f").progress.list_trials("arm")
        within[kind] = sum(trial["metrics"].get(VAL_ACCURACY, 0.0) >= 0.94 for trial in trials)
    choice = store.read_choice("arm")
    assert choice is not None
    assert choice["least"] == {VAL_ACCURACY: pytest.approx(0.94)}
    assert choice["params"]["lambda_j"] <= 0.05
    assert within["where"] >= within["tpe"]
