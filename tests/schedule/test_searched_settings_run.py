"""Searches over settings: proposals, choices, repeats and tables, with records in closed form."""

import math
from pathlib import Path

import pytest
from helpers.cli import call
from helpers.closed_form import drain, study, trainings, worker

from analysis.results.frame import results
from analysis.results.results import Results
from analysis.tables.settings import settings_table
from tune_interpreg.schedule.current import Current
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.status.observer import Observer
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Item, Job, Train
from tune_interpreg.study.setting import read_params

TUNED = (
    "{method: standard, model: {name: resnet18}, search: {maximize: val/adv_accuracy, trials: 8, space: {"
    "training.lr: {log_uniform: [0.01, 1.0]}, training.nesterov: {choice: [false, true]},"
    " model.width: {int: [4, 16], step: 4}}}}"
)
MATCHED = (
    "{method: adversarial, search: {match_loss_of: robust, trials: 6,"
    " space: {attack.eps: {log_uniform: [0.001, 1.0]}}}}"
)


def answer(job: Job, item: Item) -> Record:
    """The best learning rate is 0.1; the loss of adversarial training grows with its radius."""
    record = worker(job, item)
    if "val/adv_accuracy" in record["metrics"]:
        record["metrics"]["val/adv_accuracy"] = math.exp(-(math.log(job.recipe.training.lr / 0.1) ** 2))
    if isinstance(item, Train) and job.arm == "matched":
        record["metrics"]["train/loss"] = 1 + job.recipe.attack.eps**0.5 + item.seed / 1000
    return record


def tuned() -> Study:
    return study("standard", tuned=TUNED)


def test_a_search_finds_settings_and_its_repeats_use_them(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    jobs = drain(tuned(), store, answer)
    choice = store.read_choice("tuned")
    assert choice is not None
    params = choice["params"]
    assert params.keys() == {"training.lr", "training.nesterov", "model.width"}
    assert isinstance(params["training.nesterov"], bool)
    assert params["model.width"] in (4, 8, 12, 16)
    trials = [job for job in jobs if job.number is not None]
    rates = [job.recipe.training.lr for job in trials]
    assert min(rates, key=lambda lr: abs(math.log(lr / 0.1))) == params["training.lr"]
    assert f"training.lr {rates[0]:.3g}" in trials[0].title
    assert trials[0].settings["model.width"] == trials[0].recipe.model.options["width"]
    repeats = [record for record in store.records() if record["kind"] == "train" and record["arm"] == "tuned"]
    chosen = [record for record in repeats if read_params(record["recipe"], params) == params]
    assert {record["seed"] for record in chosen} == {0, 1}, "the best trial is the repeat of its seed"
    assert trainings(drain(tuned(), store, answer)) == []


def test_readers_show_the_searched_settings(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.save_study(tuned())
    drain(tuned(), store, answer)
    params = (store.read_choice("tuned") or {})["params"]
    (row,) = settings_table(Results.from_store(store)).rows
    assert f"training.lr {params['training.lr']:.3g}" in str(row)
    (arm,) = (arm for arm in Observer(store).read_status().arms if arm.name == "tuned")
    assert arm.best is not None
    assert arm.best.params == params
    assert f"training.nesterov {str(params['training.nesterov']).lower()}" in call("status", str(store.path)).output
    frame = results(store.path)
    of_repeats = frame[(frame["arm"] == "tuned") & (frame["metric"] == "train/loss")]["params"].tolist()
    assert [read["training.lr"] for read in of_repeats] == [params["training.lr"]] * 2
    assert frame[frame["arm"] == "standard"]["params"].tolist()[0] == {}


def test_an_interrupted_search_goes_on_with_its_proposals(tmp_path: Path) -> None:
    """A started trial keeps its settings: its note has them."""
    whole, store = Store(tmp_path / "whole"), Store(tmp_path / "store")
    expected = trainings(drain(tuned(), whole, answer))
    dispatcher = Dispatcher(tuned(), store, "f")
    first = [dispatcher.next() for _ in range(3)]
    assert all(isinstance(job, Job) for job in first)
    assert trainings(drain(tuned(), store, answer)) == expected


def test_trials_outside_of_the_space_do_not_count(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    drain(tuned(), store, answer)
    narrow = study("standard", tuned=TUNED.replace("[4, 16]", "[4, 8]"))
    trials = Current(narrow, store.records()).list_trials("tuned")
    widths = [trial["recipe"]["model"]["options"]["width"] for trial in trials]
    assert set(widths) <= {4, 8}


def test_a_match_finds_the_strength_of_a_setting(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    of = study("adversarial", "robust", matched=MATCHED)
    drain(of, store, answer)
    choice = store.read_choice("matched")
    assert choice is not None
    target = choice["target"]
    assert choice["params"]["attack.eps"] == pytest.approx((target - 1.0005) ** 2, rel=0.05)
    assert of.evaluation_attack.eps == 1.5
