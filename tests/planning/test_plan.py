"""What would run is what then runs; when, by closed forms; and looking at a store leaves it as it is."""

import math
from collections import Counter
from pathlib import Path

import pytest
from helpers.closed_form import ARMS, drain, failing, steps, study

from tune_interpreg.planning import simulation
from tune_interpreg.planning.simulation import Schedule, schedule
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.schedule.graph import State, Task
from tune_interpreg.store.store import Store, StoreError
from tune_interpreg.study.config import Study
from tune_interpreg.study.file import read as study_file
from tune_interpreg.study.items import Item

SHIPPED = study_file.shipped()
SEEDS = "[0, 1, 2, 3, 4]"


def of(study: Study, *, workers: float = math.inf, seconds: float = 1.0) -> Schedule:
    return schedule(study, State.empty(study), lambda _: seconds, workers)


def parts(made: Schedule) -> Counter[tuple[str, str]]:
    """How many parts would run, by arm and role."""
    counts: Counter[tuple[str, str]] = Counter()
    for task, _ in made.tasks:
        counts["all" if task.role == "targets" else task.arm, task.role] += len(task.parts)
    return counts


def ran(items: list[Item]) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for item in items:
        counts["all" if item.role == "targets" else item.arm, item.role] += len(item.parts)
    return counts


def left(study: Study, store: Store) -> Schedule:
    store.save_study(study)
    return schedule(study, simulation.so_far(study, store, "f").state, lambda _: 1.0, 2)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


# ------------------------------------------------------------------------ what would run
@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("gpus", [0, 1])
@pytest.mark.parametrize("workers", [3, math.inf])
def test_every_part_of_a_shipped_study_runs_once(name: str, gpus: int, workers: float) -> None:
    shipped = study_file.load(name, [f"resources.gpus={gpus}"])
    made = of(shipped, workers=workers)
    assert sum(len(task.parts) for task, _ in made.tasks) == graph.total(shipped)
    assert len({(task.arm, task.role, task.parts) for task, _ in made.tasks}) == len(made.tasks)


@pytest.mark.parametrize("gpus", [0, 1])
def test_what_would_run_is_what_then_runs_however_far_the_study_is(store: Store, tmp_path: Path, gpus: int) -> None:
    exact = ARMS["jacobian"].replace("trials:", "tolerance: 1.0e-9, trials:")
    whole = study("adversarial", "robust", "jacobian", gpus=gpus, checks="{images: 8}", jacobian=exact)
    for count in (0, 7, 16):
        killed = Store(tmp_path / str(count))
        for number, _ in enumerate(steps(Dispatcher(whole, killed, "f"))):
            if number == count:
                break
        planned = left(whole, killed)
        items = drain(whole, killed)
        assert parts(planned) == ran(items)
        assert len(planned.tasks) == len(items)


def test_a_match_that_is_found_has_no_more_trials(store: Store) -> None:
    whole = study("adversarial", "robust", jacobian=ARMS["jacobian"].replace("trials: 4", "trials: 12"))
    assert len(drain(whole, store)) < graph.total(whole) == sum(parts(of(whole)).values())
    assert left(whole, store).tasks == ()


def test_what_waits_for_a_teacher_that_was_given_up_is_not_planned(store: Store) -> None:
    whole = study("adversarial", "robust")
    drain(whole, store, failing(lambda item: item.arm == "adversarial"))
    assert left(whole, store).tasks == ()


# -------------------------------------------------------------------------------- when
@pytest.mark.parametrize(("seeds", "workers"), [(1, 1), (7, 1), (7, 2), (7, 3), (7, 7), (7, 20)])
def test_independent_items_take_turns(seeds: int, workers: int) -> None:
    """n items of t seconds on k workers: ⌈n/k⌉·t."""
    made = of(study("standard", seeds=str(list(range(seeds)))), workers=workers, seconds=3.0)
    assert made.end == pytest.approx(math.ceil(seeds / workers) * 3.0)
    assert made.work == pytest.approx(seeds * 3.0)


def test_a_chain_takes_the_sum_of_its_links() -> None:
    """A teacher, its maps, a search of one trial after another's, its repeat: on however many workers."""
    chained = study("adversarial", "robust", "permuted", seeds="[0]")
    took = {"repeat": 5.0, "targets": 3.0, "search": 0.5}
    made = schedule(chained, State.empty(chained), lambda task: took[task.role], math.inf)
    assert made.end == pytest.approx(5 + 3 + (0.5 + 5) + (0.5 + 5))


def test_one_worker_takes_the_sum_of_all() -> None:
    made = of(study_file.load("digits"), workers=1, seconds=0.5)
    assert made.end == pytest.approx(made.work) == pytest.approx(0.5 * 98)


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("workers", [2, 5])
def test_a_schedule_is_as_long_as_its_bounds_allow(name: str, workers: int) -> None:
    """Graham: work/k and the longest chain ≤ end ≤ work/k + chain."""
    shipped = study_file.load(name)

    def seconds(task: Task) -> float:
        return {"search": 2.0, "repeat": 3.0, "targets": 7.0, "checks": 0.5}[task.role] + len(task.arm) / 10

    made = schedule(shipped, State.empty(shipped), seconds, workers)
    chain = schedule(shipped, State.empty(shipped), seconds, math.inf).end
    assert max(made.work / workers, chain) <= made.end + 1e-9 <= made.work / workers + chain + 2e-9


# ---------------------------------------------------------------------------- a glance
def test_a_glance_at_a_store_leaves_it_as_it_is(store: Store) -> None:
    """Also where a record is damaged, a search is over without its choice, and an item that is settled was begun."""
    whole = study("adversarial", "robust")
    items = drain(whole, store)
    store.begin(items[0])
    store.choice_file("robust").unlink()
    torn = store.record_file(items[-1].arm, items[-1].key)
    torn.write_text("{")
    store.save_study(whole)
    files = sorted((path, path.stat().st_mtime_ns) for path in store.path.rglob("*"))
    made = schedule(whole, simulation.so_far(whole, store, "f").state, lambda _: 1.0, 2)
    assert [(task.arm, task.role) for task, _ in made.tasks] == [(items[-1].arm, items[-1].role)]
    assert sorted((path, path.stat().st_mtime_ns) for path in store.path.rglob("*")) == files


def test_a_store_of_another_setting_is_refused(store: Store) -> None:
    store.save_study(study_file.load("digits", ["attack.eps=0.7"]))
    with pytest.raises(StoreError, match=r"was made by another study: attack\.eps is 0\.7 there, 0\.5 here"):
        simulation.so_far(study_file.load("digits"), store, "f")
