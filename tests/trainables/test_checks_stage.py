"""The stage that checks trained models: what it writes, how it goes on after a kill, and its place in a study."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import closed_form
from helpers.closed_form import ARMS, drain, failing, steps
from safetensors.torch import save_file

from trainables.stages.checks import ChecksTrainable
from tune_interpreg import seeding
from tune_interpreg.data.dataset import load_dataset, split_stratified
from tune_interpreg.display.console import summarize
from tune_interpreg.evaluation import honesty
from tune_interpreg.evaluation.subject import Subject
from tune_interpreg.networks.build import build
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.schedule.graph import State
from tune_interpreg.schedule.progress import Progress
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Attack, Checks, Data, Evaluation, Study
from tune_interpreg.study.file.read import parse_study
from tune_interpreg.study.items import Item
from tune_interpreg.study.recipe import CheckedModel, Recipe

ATTACK = Attack(eps=0.5, steps=3)
CHECKED = CheckedModel(model="own", seed=3, sources={"standard": "another"}, images=12)
RECIPE = Recipe(
    method="checks", evaluation_attack=ATTACK, evaluation=Evaluation(batch_size=20, restarts=2), checked=CHECKED
)

Make = Callable[..., ChecksTrainable]


def net(seed: int) -> torch.nn.Module:
    return build(RECIPE.model, (1, 8, 8), 10, seeding.generator(seed, "init")).eval()


def item(**own: Any) -> Item:
    checked = CHECKED.model_copy(update=own)
    return Item(arm="robust", role="checks", recipe=RECIPE.model_copy(update={"checked": checked}), seeds=(3,))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store that holds both models."""
    made = Store(tmp_path / "store")
    for seed, key in enumerate(CHECKED.models):
        file = made.model_file(key, CHECKED.seed)
        file.parent.mkdir(parents=True)
        save_file(net(seed).state_dict(), file)
    return made


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "logs"))
    return lambda where, **own: ChecksTrainable(
        {"item": item(**own).model_dump(mode="json"), "store": str(where.path), "device": "cpu"}
    )


def finished(trainable: ChecksTrainable) -> list[dict[str, Any]]:
    """The results of all steps that are left."""
    results = [trainable.step()]
    while "record" not in results[-1]:
        results.append(trainable.step())
    return results


@pytest.fixture(scope="module")
def expected() -> list[dict[str, Any]]:
    """What the checks say of the stratified first validation images, attacked as the evaluation does."""
    validation = load_dataset(Data()).validation
    rows = split_stratified(validation.y_N, CHECKED.images, "checks")[0]
    subject = Subject(net(0), validation.at(rows), ATTACK, 3, 20, 2, {"standard": net(1)})
    return [vars(check(subject)) for check in honesty.CHECKS]


# ----------------------------------------------------------------------- the stage
def test_its_record_holds_every_check_of_the_stored_model_by_seed(
    make: Make, store: Store, expected: list[dict[str, Any]]
) -> None:
    """One check a step."""
    results = finished(make(store))
    assert [result["epoch"] for result in results] == list(range(1, len(honesty.CHECKS) + 1))
    (record,) = store.records()
    assert json.loads(results[-1]["record"]) == {name: value for name, value in record.items() if name != "sha256"}
    assert record["checks"] == {"3": expected}
    assert (record["state"], record["counts"], record["device"]) == ("done", {"checks": 12}, "cpu")
    assert store.item_of(record) == item()


@pytest.mark.parametrize("made", [1, 8, 9])
def test_an_interrupted_stage_makes_only_the_checks_that_are_left(
    made: int, make: Make, store: Store, expected: list[dict[str, Any]]
) -> None:
    """Also where it dies between its last check and the record."""
    killed = make(store)
    for _ in range(min(made, 8)):
        killed.step()
    if made == 9:
        obstacle = store.record_file("robust", item().key)
        obstacle.mkdir(parents=True)
        with pytest.raises(OSError):
            killed.step()
        obstacle.rmdir()
    assert len(finished(make(store))) == max(1, 9 - made)
    (record,) = store.records()
    assert record["checks"] == {"3": expected}
    assert record["seconds"] > 0


def test_damaged_progress_is_told_and_made_anew(make: Make, store: Store) -> None:
    killed = make(store)
    killed.step()
    killed.progress.write_text(killed.progress.read_text().replace("PASS", "WARN"))
    again = make(store)
    assert "has another checksum than its own; set aside" in str(again.warning)
    assert len(finished(again)) == 9


def test_there_are_no_more_images_than_the_validation_split_has(make: Make, store: Store) -> None:
    trainable = make(store, images=10_000)
    assert trainable.subject.n == len(load_dataset(Data()).validation)


def test_the_stage_runs_within_a_study_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"runs within a study only: its configuration is \{item, store, device\}"):
        ChecksTrainable({"images": 10})


# --------------------------------------------------------------------- in a study
def study(*names: str, checks: str = "{images: 10}", **arms: str) -> Study:
    return closed_form.study(*names, checks=checks, **arms)


def checks_ready(of: Study, state: State) -> list[tuple[str, int]]:
    return [(task.arm, *task.parts) for task in graph.ready_tasks(of, state) if task.role == "checks"]


def test_a_model_is_checked_once_it_and_the_sources_of_its_seed_are_settled() -> None:
    """The sources are the first standard and the first adversarial arm; a lost one is not waited for."""
    of, state = (
        study("standard", "adversarial", other="{method: standard}"),
        State.empty(study("standard", "adversarial", other="{method: standard}")),
    )
    assert graph.attack_sources(of) == ("standard", "adversarial")
    state.repeats["other"].done |= {0, 1}
    assert checks_ready(of, state) == []
    state.repeats["standard"].done.add(1)
    state.repeats["adversarial"].running.add(1)
    assert checks_ready(of, state) == []
    state.repeats["adversarial"].lost.add(1)
    assert checks_ready(of, state) == [("standard", 1), ("other", 1)]
    state.checks["standard"].running.add(1)
    state.checks["other"].done.add(1)
    assert checks_ready(of, state) == []


def test_checks_come_after_all_that_others_wait_for() -> None:
    of = study("standard", "adversarial")
    state = State.empty(of)
    for name in of.arms:
        state.repeats[name].done.add(0)
    assert [task.role for task in graph.ready_tasks(of, state)] == ["repeat", "repeat", "checks", "checks"]


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
    assert all(one and (one.model, one.images) == (keys[name], 10) for name, one in checked.items())
    both = {name: keys[name, 0] for name in ("standard", "adversarial")}
    found = {name: one.sources for name, one in checked.items() if one}
    assert found["other", 0] == both
    assert found["standard", 0] == {"adversarial": both["adversarial"]}
    assert found["adversarial", 0] == {"standard": both["standard"]}
    assert found["other", 1] == {"standard": keys["standard", 1]}


def test_other_checks_are_made_anew_and_nothing_else(tmp_path: Path) -> None:
    """They are no part of a study's setting, nor of a repeat's key."""
    of, store = study("standard", "adversarial"), Store(tmp_path / "store")
    store.save_study(of)
    drain(of, store)
    other = study("standard", "adversarial", checks="{images: 20}")
    store.check_setting(other)
    assert {item.role for item in drain(other, store)} == {"checks"}
    assert drain(study("standard", "adversarial", checks="null"), store) == []


def test_a_failed_check_holds_nothing_up_and_runs_again_on_demand(tmp_path: Path) -> None:
    of, store = study(), Store(tmp_path / "store")
    ran = drain(of, store, failing(lambda item: item.role == "checks"))
    assert len(ran) == graph.count_parts(of)
    assert not graph.blocked_arms(of, Dispatcher(of, store, "f").state)
    assert store.delete_failures() == len(of.arms) * len(of.seeds)
    assert {item.role for item in drain(of, store)} == {"checks"}


def test_killed_anywhere_no_check_runs_twice(tmp_path: Path) -> None:
    """What a former driver settled is adopted, checks after the repeats that they are of."""
    of, store = study("standard", "adversarial"), Store(tmp_path / "store")
    whole = []
    for _ in range(graph.count_parts(of)):
        running = steps(Dispatcher(of, store, "f"))
        whole.append(next(running))
        next(running, None)
        running.close()
    assert len({item.key for item in whole}) == graph.count_parts(of)
    assert drain(of, store) == []


def test_damaged_models_are_made_anew_before_they_are_checked(tmp_path: Path) -> None:
    """The item's inputs are the models of all that it compares."""
    of, store = study("standard", "adversarial"), Store(tmp_path / "store")
    drain(of, store, failing(lambda item: item.role == "checks"))
    progress = Dispatcher(of, store, "f").progress
    needed = progress.checks_item("standard", 0).recipe.checked
    assert needed is not None
    files = [store.model_file(progress.repeat_item(name, (0,)).key, 0) for name in of.arms]
    assert store.input_files("checks", needed) == tuple(files)


def test_checks_belong_to_the_study_that_asks_for_them(tmp_path: Path) -> None:
    of, store = study("standard"), Store(tmp_path / "store")
    (made, *_) = [item for item in drain(of, store) if item.role == "checks"]
    assert Dispatcher(of, store, "f").progress.belongs(made)
    assert not Progress(of, store, "f").belongs(made)
    for other in (study("standard", checks="null"), study("adversarial"), study("standard", checks="{images: 11}")):
        assert not Dispatcher(other, store, "f").progress.belongs(made)


def test_a_log_tells_how_many_warn_of_those_that_were_made() -> None:
    states = {"steps": ("WARN", 10), "ball": ("PASS", 10), "ensemble": ("PASS", 0)}
    found = [{"check": check, "state": state, "n": n} for check, (state, n) in states.items()]
    record = ledger.make_record(item(), "done", seconds=2.0)
    assert summarize(item(), record | {"checks": {"3": found}}) == "robust: checks, seed 3: 1 of 2 warn (steps) (2.0 s)"
    assert summarize(item(), record | {"checks": {"3": found[1:]}}) == "robust: checks, seed 3: 1 passed (2.0 s)"
    assert item().label.startswith("checks-seed3-")


def test_checks_are_on_by_default_and_null_ends_them() -> None:
    text = "arms: {standard: " + ARMS["standard"] + "}"
    assert parse_study(text, where="").checks == Checks(images=100)
    assert parse_study(f"checks: null\n{text}", where="").checks is None
    assert "checks" not in parse_study(text, where="").setting()
