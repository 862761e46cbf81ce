"""What the driver does for a trial is no more after many others, counted in calls: a busy machine changes none."""

import cProfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from helpers.closed_form import Worker, drain, failing, steps, study, worker

from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Item

DIVERGED_ONCE = failing(lambda item: item.number == 5, "diverged")


def sweep(trials: int, span: str = "[0.001, 1.0]") -> Study:
    """An arm whose sampler looks at no other trial."""
    search = (
        f"maximize: val/adv_accuracy, sampler: random, trials: {trials}, space: {{lambda_j: {{log_uniform: {span}}}}}"
    )
    return study("standard", seeds="[0]", sweep=f"{{method: jacobian, search: {{{search}}}}}")


def calls(action: Callable[[], object]) -> int:
    """How many functions an action calls, each call counted."""
    profile = cProfile.Profile()
    profile.runcall(action)
    return sum(entry.callcount for entry in profile.getstats())


def run(items: Iterator[Item], count: int) -> None:
    assert len(list(islice(items, count))) == count


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


# A diverged trial makes the sampler see the others anew each time: a look at each, but no copy of any.
@pytest.mark.parametrize(("answer", "growth"), [(worker, 1.03), (DIVERGED_ONCE, 1.6)], ids=["all", "lost"])
def test_a_trial_takes_as_many_calls_after_hundreds_of_others(store: Store, answer: Worker, growth: float) -> None:
    items = steps(Dispatcher(sweep(310), store, "f"), answer, workers=2)
    run(items, 20)
    early = calls(lambda: run(items, 20))
    run(items, 240)
    assert calls(lambda: run(items, 20)) < growth * early


def test_a_study_is_opened_with_as_many_calls_a_record_however_many_there_are(store: Store) -> None:
    few, many = sweep(30), sweep(120)
    drain(few, store)
    early = calls(lambda: Dispatcher(few, store, "f"))
    drain(many, store)
    assert calls(lambda: Dispatcher(many, store, "f")) < 4 * early


def test_what_a_narrower_range_leaves_out_costs_the_trials_within_it_nothing(store: Store, tmp_path: Path) -> None:
    drain(sweep(100), store)
    left, new = (steps(Dispatcher(sweep(100, "[0.9, 1.0]"), one, "f")) for one in (store, Store(tmp_path / "new")))
    run(left, 10)
    run(new, 10)
    assert calls(lambda: run(left, 20)) < 1.05 * calls(lambda: run(new, 20))
