"""Honesty checks as items of a study: when they run, their keys, and what they hold up."""

from pathlib import Path

from helpers import closed_form
from helpers.closed_form import ARMS, drain, failing, steps
from helpers.studies import parse_study

from tune_interpreg.display.console import summarize
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.schedule.graph import State, Task
from tune_interpreg.schedule.progress import Progress
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Checks, Study
from tune_interpreg.study.items import Item
from tune_interpreg.study.recipe import CheckedModel, Recipe


def study(*names: str, checks: str = "{images: 10}", **arms: str) -> Study:
    return closed_form.study(*names, checks=checks, **arms)


def checks_ready(of: Study, state: State) -> list[tuple[str, int]]:
    return [(task.arm, *task.parts) for task in graph.ready_tasks(of, state) if task.role == "checks"]


def test_a_model_is_checked_once_it_and_the_sources_of_its_seed_are_settled() -> None:
    """The sources are the first standard and the first adversarial arm; a lost one is not waited for."""
    of = study("standard", "adversarial", other="{method: standard}")
    state = State.empty(of)
    assert graph.attack_sources(of) == ("standard", "adversarial")
    state.repeats["other"].done |= {0, 1}
    assert checks_ready(of, state) == []
    state.repeats["standard"].done.add(1)
    state.repeats["adversarial"].running.add(1)
    assert checks_ready(of, state) == []
    state.repeats["adversarial"].lost.add(1)
    assert checks_ready(of, state) == [("standard", 1), ("other", 1)]
    roles = [task.role for task in graph.ready_tasks(of, state)]
    assert roles == sorted(roles, key="checks".__eq__), "checks come last"
    state.checks["standard"].running.add(1)
    state.checks["other"].done.add(1)
    assert checks_ready(of, state) == []


def test_a_study_counts_its_checks_and_not_those_of_lost_repeats(tmp_path: Path) -> None:
    of, store = study(), Store(tmp_path / "store")
    unchecked = of.model_copy(update={"checks": None})
    assert graph.count_parts(of) == graph.count_parts(unchecked) + len(of.arms) * len(of.seeds)
    answer = failing(lambda item: item.arm == "jacobian" and item.role == "repeat" and item.seeds == (1,), "diverged")
    ran = drain(of, store, answer, workers=3)
    checked = [item for item in ran if item.role == "checks"]
    dispatcher = Dispatcher(of, store, "f")
    assert len(ran) == dispatcher.settled() == dispatcher.total() == graph.count_parts(of) - 1
    assert len(checked) == len(of.arms) * len(of.seeds) - 1
    assert drain(of, store) == []


def test_the_key_of_checks_holds_the_model_the_sources_and_the_settings(tmp_path: Path) -> None:
    """A source is no source of its own checks; a failed one is left out."""
    of, store = study("standard", "adversarial", other="{method: input_gradient, lambda_g: 0.1}"), Store(tmp_path / "s")
    ran = drain(
        of, store, failing(lambda item: item.role == "repeat" and (item.arm, item.seeds) == ("adversarial", (1,)))
    )
    keys = {(item.arm, *item.seeds): item.key for item in ran if item.role == "repeat"}
    checked = {(item.arm, *item.seeds): item.recipe.checked for item in ran if item.role == "checks"}
    assert set(checked) == set(keys) - {("adversarial", 1)}
    assert all(model and (model.model, model.images) == (keys[name], 10) for name, model in checked.items())
    both = {name: keys[name, 0] for name in ("standard", "adversarial")}
    sources = {name: model.sources for name, model in checked.items() if model}
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
    assert {item.role for item in drain(other, store)} == {"checks"}
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
    assert len({item.key for item in whole}) == graph.count_parts(of)
    assert drain(of, store) == []


def test_failed_checks_run_again_and_read_the_models_of_all_sources(tmp_path: Path) -> None:
    of, store = study("standard", "adversarial"), Store(tmp_path / "store")
    drain(of, store, failing(lambda item: item.role == "checks"))
    progress = Dispatcher(of, store, "f").progress
    assert not graph.blocked_arms(of, progress.state)
    assert store.delete_failures() == 4
    assert {item.role for item in drain(of, store)} == {"checks"}
    needed = progress.item_for(Task("standard", "checks", (0,))).recipe.checked
    repeats = [progress.item_for(Task(name, "repeat", (0,))) for name in of.arms]
    assert store.input_files("checks", needed) == tuple(store.model_file(item.key, 0) for item in repeats)


def test_checks_belong_to_the_study_that_asks_for_them(tmp_path: Path) -> None:
    of, store = study("standard"), Store(tmp_path / "store")
    (made, *_) = [item for item in drain(of, store) if item.role == "checks"]
    assert Dispatcher(of, store, "f").progress.belongs(made)
    assert not Progress(of, store, "f").belongs(made)
    for other in (study("standard", checks="null"), study("adversarial"), study("standard", checks="{images: 11}")):
        assert not Dispatcher(other, store, "f").progress.belongs(made)


def test_the_line_of_checks_counts_each_state() -> None:
    states = {"steps": ("WARN", 10), "ball": ("PASS", 10), "ensemble": ("NONE", 0)}
    checks = [{"check": check, "state": state, "n": n} for check, (state, n) in states.items()]
    checked = CheckedModel(model="model", seed=3, images=12)
    item = Item(arm="robust", role="checks", recipe=Recipe(method="checks", checked=checked), seeds=(3,))
    record = ledger.make_record(item, "done", seconds=2.0)
    line = "robust: checks, seed 3: 1 passed, 1 warn (steps), 1 had nothing to check (ensemble) (2.0 s)"
    assert summarize(item, record | {"checks": {"3": checks}}) == line
    assert summarize(item, record | {"checks": {"3": checks[1:2]}}) == "robust: checks, seed 3: 1 passed (2.0 s)"
    assert item.label.startswith("checks-seed3-")


def test_checks_are_on_by_default_and_null_ends_them() -> None:
    text = "arms: {standard: " + ARMS["standard"] + "}"
    assert parse_study(text).checks == Checks(images=100)
    assert parse_study(f"checks: null\n{text}").checks is None
    assert "checks" not in parse_study(text).setting()
