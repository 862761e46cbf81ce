"""Check the simulation by closed forms: which work is left, and when it runs. The store stays as it is."""

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from helpers.closed_form import ARMS, drain, failing, steps, study

from tune_interpreg.planning.forecast import Schedule, read_progress, simulate
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.schedule.graph import State, Task
from tune_interpreg.store.files import StoreError
from tune_interpreg.store.store import Store
from tune_interpreg.study import measures
from tune_interpreg.study.config import Study
from tune_interpreg.study.file.read import list_shipped_studies, read_study_file
from tune_interpreg.study.items import Job

pytestmark = pytest.mark.thorough

SHIPPED = list_shipped_studies()


def plan_all(study: Study, *, workers: float = math.inf, seconds: float = 1.0) -> Schedule:
    return simulate(study, State.empty(study), lambda *_: seconds, workers)


def plan_rest(study: Study, store: Store) -> Schedule:
    store.save_study(study)
    return simulate(study, read_progress(study, store, "f").state, lambda *_: 1.0, 2)


def count_parts(work: Iterable[Task | Job]) -> Counter[tuple[str, str]]:
    """Count parts by arm and stage."""
    counts: Counter[tuple[str, str]] = Counter()
    for each in work:
        counts[each.arm, each.stage] += len(each.parts)
    return counts


def tasks_of(schedule: Schedule) -> list[Task]:
    return [task for task, _ in schedule.tasks]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


# ------------------------------------------------------------------------ what would run
@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize(("gpus", "workers"), [(0, 3), (1, math.inf)])
def test_every_part_of_a_shipped_study_runs_once(name: str, gpus: int, workers: float) -> None:
    """The best trial of a search for a goal is the repeat of its seed. It is judged later, the others at once."""
    shipped = read_study_file(name, [f"resources.gpus={gpus}"]).study
    tasks = tasks_of(plan_all(shipped, workers=workers))
    shared = sum(bool(arm.search and arm.search.maximize) for arm in shipped.arms.values())
    judged_at_once = 0 if measures.list_dependent_questions(shipped, {}, {}) else len(shipped.arms) * len(shipped.seeds)
    assert len(set(tasks)) == len(tasks)
    assert sum(len(task.parts) for task in tasks) == graph.count_parts(shipped) - shared - max(
        0, judged_at_once - shared
    )


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_plan_holds_what_then_runs_at_any_progress(tmp_path: Path, gpus: int) -> None:
    exact = ARMS["jacobian"].replace("trials:", "tolerance: 1.0e-9, trials:")
    whole = study("adversarial", "robust", "jacobian", gpus=gpus, checks="{images: 8}", jacobian=exact)
    for count in (0, 7, 16):
        killed = Store(tmp_path / str(count))
        for number, _ in enumerate(steps(Dispatcher(whole, killed, "f"))):
            if number == count:
                break
        planned = tasks_of(plan_rest(whole, killed))
        jobs = drain(whole, killed)
        assert count_parts(planned) == count_parts(jobs)
        assert len(planned) == len(jobs)


def test_a_match_that_is_found_has_no_more_trials(store: Store) -> None:
    whole = study("adversarial", "robust", jacobian=ARMS["jacobian"].replace("trials: 4", "trials: 12, parallel: 1"))
    assert len(drain(whole, store)) < len(tasks_of(plan_all(whole)))
    assert plan_rest(whole, store).tasks == ()


def test_arms_without_a_teacher_are_not_planned(store: Store) -> None:
    whole = study("adversarial", "robust")
    drain(whole, store, failing(lambda job, _: job.arm == "adversarial"))
    assert plan_rest(whole, store).tasks == ()


# -------------------------------------------------------------------------------- when
@pytest.mark.parametrize(("seeds", "workers"), [(1, 1), (7, 1), (7, 2), (7, 3), (7, 7), (7, 20)])
def test_independent_jobs_take_turns(seeds: int, workers: int) -> None:
    """n jobs of t seconds on k workers take ⌈n/k⌉·t."""
    planned = plan_all(study("standard", seeds=str(list(range(seeds)))), workers=workers, seconds=3.0)
    assert planned.end == pytest.approx(math.ceil(seeds / workers) * 3.0)
    assert planned.work == pytest.approx(seeds * 3.0)


def test_a_chain_takes_the_sum_of_its_links() -> None:
    """A teacher, its maps, a search, the match of its best trial, a repeat. A search takes two rounds of trials."""
    chained = study("adversarial", "robust", "permuted", seeds="[0]")
    seconds = {"repeats": 5.0, "maps": 3.0, "search": 0.5, "judgments": 1.0}
    planned = simulate(chained, State.empty(chained), lambda task, _: seconds[task.stage], math.inf)
    assert planned.end == pytest.approx(5 + 3 + 2 * 0.5 + 2 * 0.5 + 5)


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_schedule_keeps_grahams_bounds(name: str, workers: int) -> None:
    """work/k and the longest chain ≤ end ≤ work/k + chain; one worker takes the sum of all."""
    shipped = read_study_file(name).study

    def seconds(task: Task, _: State) -> float:
        return {"search": 2.0, "repeats": 3.0, "maps": 7.0, "judgments": 0.5}[task.stage] + len(task.arm) / 10

    planned = simulate(shipped, State.empty(shipped), seconds, workers)
    chain = simulate(shipped, State.empty(shipped), seconds, math.inf).end
    assert max(planned.work / workers, chain) <= planned.end + 1e-9 <= planned.work / workers + chain + 2e-9
    assert workers > 1 or planned.end == pytest.approx(planned.work)


# ---------------------------------------------------------------------------- the store
def test_a_plan_leaves_its_store_as_it_is(store: Store) -> None:
    """Also with a damaged record, a search without its choice, and a finished job that is noted as started."""
    whole = study("adversarial", "robust")
    jobs = drain(whole, store)
    store.note_start(jobs[0])
    store.choice_file("robust").unlink()
    repeat = [job for job in jobs if job.stage == "repeats"][-1]
    store.record_file(repeat.arm, repeat.key).write_text("{")
    store.save_study(whole)
    files = sorted((path, path.stat().st_mtime_ns) for path in store.path.rglob("*"))
    planned = simulate(whole, read_progress(whole, store, "f").state, lambda *_: 1.0, 2)
    assert [(task.arm, task.stage) for task in tasks_of(planned)] == [(repeat.arm, "repeats")]
    assert sorted((path, path.stat().st_mtime_ns) for path in store.path.rglob("*")) == files


def test_a_store_of_another_setting_is_refused(store: Store) -> None:
    store.save_study(read_study_file("digits", ["attack.eps=0.7"]).study)
    with pytest.raises(StoreError, match=r"attack\.eps is 0\.7 there, 0\.5 here"):
        read_progress(read_study_file("digits").study, store, "f")
