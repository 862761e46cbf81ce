"""Honesty checks as judgments of a study: when they run, their keys, and what they hold up."""

from pathlib import Path

from helpers import closed_form
from helpers.closed_form import ARMS, drain, failing, steps
from helpers.studies import parse_study

from tune_interpreg.display.console import summarize
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.current import Current
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.schedule.graph import State, Task
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Checks, Study
from tune_interpreg.study.items import Item, Job, Judge
from tune_interpreg.study.measures import ChecksMeasure


def study(*names: str, checks: str = "{images: 10}", **arms: str) -> Study:
    return closed_form.study(*names, checks=checks, **arms)


def checks_ready(of: Study, state: State) -> list[tuple[str, int]]:
    return [(task.arm, *task.parts) for task in graph.ready_tasks(of, state) if task.stage == "judgments"]


def checks_of(jobs: list[Job]) -> dict[tuple[str, int], Judge]:
    """Return arm and seed → the checks that jobs run."""
    return {(job.arm, job.seeds[0]): item for job in jobs for item in job.work if is_checks(item)}


def is_checks(item: Item) -> bool:
    return isinstance(item, Judge) and isinstance(item.measure, ChecksMeasure)


def test_a_model_is_checked_once_it_and_the_sources_of_its_seed_are_settled() -> None:
    """The sources are the first standard and the first adversarial arm; a lost one is not waited for."""
    of = study("standard", "adversarial", other="{method: standard}")
    state = State.empty(of)
    for name in of.arms:
        state.waiting[name] |= {0, 1}
    assert graph.attack_sources(of) == ("standard", "adversarial")
    state.repeats["other"].done |= {0, 1}
    assert checks_ready(of, state) == []
    state.repeats["standard"].done.add(1)
    state.repeats["adversarial"].running.add(1)
    assert checks_ready(of, state) == []
    state.repeats["adversarial"].lost.add(1)
    assert checks_ready(of, state) == [("standard", 1), ("other", 1)]
    stages = [task.stage for task in graph.ready_tasks(of, state)]
    assert stages == sorted(stages, key="judgments".__eq__), "judgments come last"
    state.judgments["standard"].running.add(1)
    state.judgments["other"].done.add(1)
    assert checks_ready(of, state) == []


def test_other_judgments_do_not_wait_for_the_sources_of_the_checks() -> None:
    of = study("standard", "adversarial", other="{method: standard}")
    state = State.empty(of)
    state.repeats["other"].done.add(0)
    assert checks_ready(of, state) == [("other", 0)]
    graph.finish(of, state, Task("other", "judgments", (0,)))
    assert (checks_ready(of, state), state.judgments["other"].settled) == ([], set())
    for name in ("standard", "adversarial"):
        graph.finish(of, state, Task(name, "repeats", (0,)))
    assert checks_ready(of, state) == [(name, 0) for name in of.arms]


def test_a_study_judges_each_model_and_not_those_of_lost_repeats(tmp_path: Path) -> None:
    of, store = study(), Store(tmp_path / "store")
    assert graph.count_parts(of) == 15 + 10 + 1 + len(of.arms) * len(of.seeds)
    answer = failing(
        lambda job, item: job.arm == "jacobian" and job.seeds == (1,) and job.stage == "repeats", "diverged"
    )
    ran = drain(of, store, answer, workers=3)
    dispatcher = Dispatcher(of, store, "f")
    assert dispatcher.settled() == dispatcher.total() == graph.count_parts(of) - 1
    assert checks_of(ran).keys() == {(arm, seed) for arm in of.arms for seed in of.seeds} - {("jacobian", 1)}
    assert drain(of, store) == []


def test_the_key_of_checks_holds_the_model_the_sources_and_the_settings(tmp_path: Path) -> None:
    """A source is no source of its own checks; a failed one is left out."""
    of, store = study("standard", "adversarial", other="{method: input_gradient, lambda_g: 0.1}"), Store(tmp_path / "s")
    ran = drain(of, store, failing(lambda job, item: job.trains and (job.arm, job.seeds) == ("adversarial", (1,))))
    keys = {(job.arm, *job.seeds): job.key for job in ran if job.stage == "repeats"}
    checks = checks_of(ran)
    assert set(checks) == set(keys) - {("adversarial", 1)}
    sources = {}
    for name, item in checks.items():
        assert isinstance(item.measure, ChecksMeasure)
        assert (item.model, item.measure.images, item.split) == (keys[name], 10, "validation")
        sources[name] = item.measure.sources
    both = {name: keys[name, 0] for name in ("standard", "adversarial")}
    assert sources["other", 0] == both
    assert sources["standard", 0] == {"adversarial": both["adversarial"]}
    assert sources["adversarial", 0] == {"standard": both["standard"]}
    assert sources["other", 1] == {"standard": keys["standard", 1]}


def test_other_checks_run_again_and_nothing_else(tmp_path: Path) -> None:
    """They belong neither to a study's setting nor to a repeat's key."""
    of, store = study("standard", "adversarial"), Store(tmp_path / "store")
    store.save_study(of)
    drain(of, store)
    other = study("standard", "adversarial", checks="{images: 20}")
    store.check_setting(other)
    ran = drain(other, store)
    assert len(ran) == 4
    assert all(map(is_checks, (item for job in ran for item in job.items)))
    assert drain(study("standard", "adversarial", checks="null"), store) == []


def test_no_check_runs_twice_after_kills(tmp_path: Path) -> None:
    """A new driver takes over what an earlier one settled: repeats first, then their checks."""
    of, store = study("standard", "adversarial"), Store(tmp_path / "store")
    whole = []
    for _ in range(graph.count_parts(of)):
        running = steps(Dispatcher(of, store, "f"))
        whole.append(next(running))
        next(running, None)
        running.close()
    items = [item.key for job in whole for item in job.items]
    assert len(items) == len(set(items))
    assert drain(of, store) == []


def test_failed_checks_run_again_and_read_the_models_of_all_sources(tmp_path: Path) -> None:
    of, store = study("standard", "adversarial"), Store(tmp_path / "store")
    drain(of, store, failing(lambda _, item: is_checks(item)))
    dispatcher = Dispatcher(of, store, "f")
    assert dispatcher.settled() == dispatcher.total()
    assert not graph.blocked_arms(of, dispatcher.state)
    assert all(not stage.done and stage.lost == {0, 1} for stage in dispatcher.state.judgments.values())
    assert store.delete_failures() == 4
    checks = checks_of(drain(of, store))
    assert len(checks) == 4
    models = {dispatcher.progress.model_key(name, 0) for name in of.arms}
    assert set(ledger.find_inputs(checks["standard", 0].model_dump())) == models


def test_checks_count_for_the_study_that_asks_for_them(tmp_path: Path) -> None:
    of, store = study("standard"), Store(tmp_path / "store")
    drain(of, store)
    records = store.records()
    for other, count in ((of, 2), (study("standard", checks="null"), 0), (study("standard", checks="{images: 11}"), 0)):
        assert len(Current(other, records).checks["standard"]) == count
    last = Current(study("standard", checks="{images: 11}"), records, keep_last_results=True)
    assert len(last.checks["standard"]) == 2, "tables show the last ones until there are others"


def test_the_line_of_checks_counts_each_state(tmp_path: Path) -> None:
    states = {"steps": ("WARN", 10), "ball": ("PASS", 10), "ensemble": ("NONE", 0)}
    checks = [{"check": check, "state": state, "n": n} for check, (state, n) in states.items()]
    job = next(job for job in drain(study("standard"), Store(tmp_path)) if checks_of([job]))
    record = ledger.make_record(job, job.work[0], "done", seconds=2.0)
    line = "standard: judgments, seed 0: 1 passed, 1 warn (steps), 1 had nothing to check (ensemble) (2.0 s)"
    assert summarize(job, [record | {"checks": checks}]) == line
    assert summarize(job, [record | {"checks": checks[1:2]}]) == "standard: judgments, seed 0: 1 passed (2.0 s)"


def test_checks_are_on_by_default_and_null_ends_them() -> None:
    text = "arms: {standard: " + ARMS["standard"] + "}"
    assert parse_study(text).evaluation.checks == Checks(images=100)
    assert parse_study(f"evaluation: {{checks: null}}\n{text}").evaluation.checks is None
    assert "checks" not in parse_study(text).setting()


def test_a_bounded_search_waits_for_accuracies_and_not_for_checks(tmp_path: Path) -> None:
    """Also after a resumption, when the checks could run at once."""
    where = "where: {val/accuracy: {within: 0.1, of: standard}}"
    search = f"{{maximize: val/adv_accuracy, trials: 2, {where}, space: {{lambda_j: {{log_uniform: [0.01, 1.0]}}}}}}"
    of, store = study("standard", "adversarial", arm=f"{{method: jacobian, search: {search}}}"), Store(tmp_path)
    drain(of, store)
    for path in store.record_files():
        if path.parent.name == "arm" or '"checks"' in path.read_text():
            path.unlink()
    dispatcher = Dispatcher(of, store, "f")
    assert dispatcher.state.judgments["standard"].settled == set()
    assert graph.is_judged(dispatcher.state, "standard")
    assert next(steps(dispatcher)).stage == "search"
