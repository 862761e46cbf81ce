"""The driver's work per trial does not grow with the number of trials; counted in calls, not in time."""

import cProfile
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from helpers.closed_form import Worker, drain, failing, steps, study, untrained, worker

from tune_interpreg.running.preflight import check_data
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.file.read import read_study_file
from tune_interpreg.study.items import Item, Job

pytestmark = pytest.mark.thorough

DIVERGED_ONCE = failing(lambda job, _: job.number == 5, "diverged")


def sweep(trials: int, span: str = "[0.001, 1.0]") -> Study:
    """An arm with a sampler that looks at no other trial."""
    search = (
        f"maximize: val/adv_accuracy, sampler: random, trials: {trials}, space: {{lambda_j: {{log_uniform: {span}}}}}"
    )
    return study("standard", seeds="[0]", sweep=f"{{method: jacobian, search: {{{search}}}}}")


def calls(action: Callable[[], object]) -> int:
    """Return the number of function calls of an action."""
    profile = cProfile.Profile()
    profile.runcall(action)
    return sum(entry.callcount for entry in profile.getstats())


def run(jobs: Iterator[Job], count: int) -> None:
    assert len(list(islice(jobs, count))) == count


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


# After a diverged trial the search looks at all others for each proposal, but copies none.
@pytest.mark.parametrize(("answer", "growth"), [(worker, 1.03), (DIVERGED_ONCE, 1.6)], ids=["all", "lost"])
def test_a_trial_takes_no_more_calls_after_many_others(store: Store, answer: Worker, growth: float) -> None:
    jobs = steps(Dispatcher(sweep(190), store, "f"), answer, workers=2)
    run(jobs, 20)
    early = calls(lambda: run(jobs, 20))
    run(jobs, 120)
    assert calls(lambda: run(jobs, 20)) < growth * early


def test_opening_a_study_takes_a_fixed_number_of_calls_per_record(store: Store) -> None:
    few, many = sweep(20), sweep(80)
    drain(few, store)
    early = calls(lambda: Dispatcher(few, store, "f"))
    drain(many, store)
    assert calls(lambda: Dispatcher(many, store, "f")) < 4 * early


@pytest.mark.slow
@pytest.mark.long
def test_a_finished_study_of_five_thousand_records_is_answered_in_seconds(tmp_path: Path) -> None:
    """Processor time of the whole command with its tables, because other work may share the machine."""
    file, store = tmp_path / "sweep.yaml", Store(tmp_path / "store")
    search = "{maximize: val/adv_accuracy, sampler: random, trials: 1660, space: {lambda_j: {log_uniform: [0.001, 1]}}}"
    arms = f"arms: {{standard: {{method: standard}}, sweep: {{method: jacobian, search: {search}}}}}"
    file.write_text(f"data: digits\nseeds: [0]\nevaluation: {{checks: null}}\n{arms}\n")
    study_file = read_study_file(str(file))
    curve = {"curve": 30 * [dict.fromkeys(("train/loss", "train/ce", "val/accuracy"), 1 / 7)]}

    def answer(job: Job, item: Item) -> Record:
        return worker(job, item) | (curve if untrained(job, item) else {})

    for _ in steps(Dispatcher(study_file.study, store, check_data(study_file).fingerprint), answer):
        pass
    store.save_study(study_file.study)
    assert len(store.records()) > 4990
    command = [sys.executable, "-m", "tune_interpreg", "run", str(file), "--store", str(store.path)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*command, "--cluster", "in-process"], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 7


def test_trials_outside_of_a_narrower_range_cost_no_calls(store: Store, tmp_path: Path) -> None:
    drain(sweep(60), store)
    narrowed, new = (steps(Dispatcher(sweep(60, "[0.9, 1.0]"), at, "f")) for at in (store, Store(tmp_path / "new")))
    run(narrowed, 10)
    run(new, 10)
    assert calls(lambda: run(narrowed, 20)) < 1.05 * calls(lambda: run(new, 20))
