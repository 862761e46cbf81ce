"""Searches in whole studies, by closed form.

The closed form's loss is 1 + √λ + 0.001·seed. The reference at λ = 0.1 has 1.3163 (seeds 0 and 1: + 0.0005).
"""

import re
from io import StringIO
from itertools import islice, product
from pathlib import Path

import pytest
from helpers.closed_form import Worker, drain, failing, outcome, steps, strength, study, worker
from rich.console import Console

from tune_interpreg.cluster import drain as cluster
from tune_interpreg.running.run import run
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.search.target import MissingLoss
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.file.read import read_study_file
from tune_interpreg.study.items import Item, Job
from tune_interpreg.study.metric_names import TRAIN_CE, TRAIN_LOSS, VAL_ACCURACY, VAL_ADV_ACCURACY
from tune_interpreg.study.problems import StudyError

pytestmark = pytest.mark.thorough

REFERENCE = "{method: jacobian, lambda_j: 0.1}"
LAMBDA = "lambda_j: {log_uniform: [0.001, 1.0]}"


def match(trials: int = 12, space: str = LAMBDA, of: str = "ref", **settings: str) -> str:
    """Return an arm that matches the loss of the arm ``of``."""
    more = "".join(f", {name}: {value}" for name, value in settings.items())
    return f"{{method: jacobian, search: {{match_loss_of: {of}, trials: {trials}, space: {{{space}}}{more}}}}}"


def match_study(**settings: str | int) -> Study:
    return study("standard", ref=REFERENCE, arm=match(**settings))


def trials_of(ran: list[Job]) -> list[Job]:
    return [job for job in ran if (job.arm, job.stage) == ("arm", "search")]


def repeated_strength(ran: list[Job]) -> float:
    (value,) = {strength(job) for job in ran if (job.arm, job.stage) == ("arm", "repeats")}
    return value


# ------------------------------------------------------------------------ stopping
@pytest.mark.parametrize("workers", [1, 4])
def test_a_match_stops_once_it_is_within_tolerance(tmp_path: Path, workers: int) -> None:
    settings, store = match_study(trials=40, tolerance="0.02"), Store(tmp_path)
    ran = drain(settings, store, workers=workers)
    assert 4 <= len(trials_of(ran)) <= 14
    assert abs(repeated_strength(ran) ** 0.5 - 0.1**0.5) < 0.02
    dispatcher = Dispatcher(settings, store, "f")
    assert dispatcher.settled() == dispatcher.total() == len(ran) + 3 * 2
    assert drain(match_study(trials=50, tolerance="0.02"), store) == []
    assert trials_of(drain(match_study(trials=50, tolerance="0.03"), store)) == []


def test_more_trials_or_a_tighter_tolerance_continue_an_open_match(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert len(trials_of(drain(match_study(trials=4, tolerance="1.0e-9"), store))) == 4
    assert [job.number for job in trials_of(drain(match_study(trials=6, tolerance="1.0e-9"), store))] == [4, 5]
    first = trials_of(drain(match_study(trials=30, tolerance="0.01"), store))
    assert {job.number for job in first} <= set(range(6, 30))
    assert trials_of(drain(match_study(trials=30, tolerance="0.0005"), store))


def test_a_match_of_a_match_runs_nothing_again(tmp_path: Path) -> None:
    """Only a damaged record of the reference is made again."""
    store, arm = Store(tmp_path), match(trials=30, tolerance="0.02")
    second = match(trials=30, tolerance="0.02", of="arm")
    chain = study("standard", ref=REFERENCE, arm=arm, second=second, seeds="[0]")
    drain(chain, store)
    assert drain(chain, store) == []
    key = Dispatcher(chain, store, "f").progress.model_key("ref", 0)
    store.record_file("ref", str(key)).write_text("{")
    ran = drain(chain, store)
    assert [[item.key for item in job.items] for job in ran] == [[key]], "the judgments of its model are there"


class Killed(BaseException):
    """Ends a driver at once."""


def test_trials_under_way_when_a_match_settles_continue_after_a_kill(tmp_path: Path) -> None:
    settings = match_study(trials=40, tolerance="0.02")
    whole, store = Store(tmp_path / "whole"), Store(tmp_path / "killed")
    drain(settings, whole, workers=3)
    dispatcher = Dispatcher(settings, store, "f")

    def answer(job: Job, item: Item) -> Record:
        if "arm" in dispatcher.state.matched:
            raise Killed
        return worker(job, item)

    with pytest.raises(Killed):
        list(steps(dispatcher, answer, workers=3))
    open_keys = {job.key for job in store.read_notes()[0]}
    assert len(open_keys) > 1
    assert {job.key for job in drain(settings, store, workers=3)[: len(open_keys)]} == open_keys
    assert outcome(store) == outcome(whole)
    assert store.read_choice("arm") == whole.read_choice("arm")
    assert store.checkpoint_keys() == set()


DIVERGING: Worker = failing(lambda job, _: (job.arm, job.number) == ("arm", 2), "diverged")


def test_a_killed_match_continues_with_the_proposals_of_an_uninterrupted_run(tmp_path: Path) -> None:
    """Also with a diverged trial and a widened range: half the logarithmic length above [0.0005, 0.03] reaches 0.232.

    The root 0.1 lies beyond the file's range.
    """
    settings = match_study(trials=14, space="lambda_j: {log_uniform: [0.0005, 0.03]}")
    whole = drain(settings, Store(tmp_path / "whole"), DIVERGING)
    tried = [strength(job) for job in trials_of(whole)]
    assert max(tried[:4]) <= 0.03
    assert 0.03 < max(tried) <= 0.0005 * (60**1.5)
    assert repeated_strength(whole) == pytest.approx(0.1, rel=0.1)
    for killed_after in (6, 11):
        store = Store(tmp_path / f"killed-{killed_after}")
        first = list(islice(steps(Dispatcher(settings, store, "f"), DIVERGING), killed_after))
        store.journal.unlink(missing_ok=True)
        rest = drain(settings, store, DIVERGING)
        assert {job.number: strength(job) for job in trials_of(first + rest)} == dict(enumerate(tried))


def test_a_match_ends_early_as_infeasible_if_widening_does_not_help(tmp_path: Path) -> None:
    space = "lambda_j: {log_uniform: [0.00001, 0.0003]}"
    ran = drain(match_study(trials=30, space=space, parallel="1"), Store(tmp_path))
    assert 5 <= len(trials_of(ran)) <= 10
    choice = Store(tmp_path).read_choice("arm")
    assert choice is not None
    assert not choice["feasible"]
    assert "below the target" in choice["reason"]
    assert repeated_strength(ran) == pytest.approx(0.00001 * 30**1.5)


# ------------------------------------------------------------------------- choices
CHOICES = f"norm: {{choice: [batch, sample]}}, {LAMBDA}"


def test_a_strength_is_matched_per_choice_and_robustness_decides_between_them(tmp_path: Path) -> None:
    """With norm: sample the loss is half as steep, so its root is 0.4. Its accuracy is the better one."""

    def answer(job: Job, item: Item) -> Record:
        record = worker(job, item)
        if job.recipe.params.get("norm") != "sample":
            return record
        better = {TRAIN_LOSS: 1 + 0.5 * strength(job) ** 0.5, VAL_ADV_ACCURACY: 1.0}
        return record | {"metrics": {name: better.get(name, value) for name, value in record["metrics"].items()}}

    ran = drain(match_study(trials=24, space=CHOICES), Store(tmp_path), answer)
    assert all({item.measure.kind for item in job.work} == {"accuracy", "strict"} for job in trials_of(ran))
    norms = [job.recipe.params["norm"] for job in trials_of(ran)]
    assert norms[:4] == ["batch", "sample", "batch", "sample"]
    assert {job.recipe.params["norm"] for job in ran if (job.arm, job.stage) == ("arm", "repeats")} == {"sample"}
    assert repeated_strength(ran) == pytest.approx(0.4, rel=0.1)


@pytest.mark.parametrize("changed", ["[sample, batch]", "[batch, sample, squared]"])
def test_changed_choices_keep_no_trial_of_another_choice(tmp_path: Path, changed: str) -> None:
    drain(match_study(trials=9, space=CHOICES), Store(tmp_path))
    settings = match_study(trials=9, space=CHOICES.replace("[batch, sample]", changed))
    drain(settings, Store(tmp_path))
    records = Dispatcher(settings, Store(tmp_path), "f").progress.list_trials("arm")
    norms = re.findall(r"\w+", changed)
    assert records
    assert all(record["recipe"]["params"]["norm"] == norms[record["number"] % len(norms)] for record in records)


# ----------------------------------------------------------------- anchor and losses
def test_a_search_waits_for_its_anchor_and_uses_its_loss(tmp_path: Path) -> None:
    settings = match_study(anchor="standard")
    ran = drain(settings, Store(tmp_path))
    assert max(ran.index(job) for job in ran if job.arm == "standard") < ran.index(trials_of(ran)[0])
    target = Dispatcher(settings, Store(tmp_path), "f").progress.target("arm")
    assert target is not None
    assert target.anchor == pytest.approx(1.0005)
    assert repeated_strength(ran) == pytest.approx(0.1, rel=0.15)
    key = Dispatcher(settings, Store(tmp_path), "f").progress.model_key("standard", 1)
    Store(tmp_path).record_file("standard", str(key)).unlink()
    assert Dispatcher(settings, Store(tmp_path), "f").progress.target("arm") is None


@pytest.mark.parametrize("without", ["ref", "arm"])
def test_a_loss_that_a_method_lacks_is_an_error_after_its_first_training(tmp_path: Path, without: str) -> None:
    def answer(job: Job, item: Item) -> Record:
        record = worker(job, item)
        record["metrics"] |= {} if job.arm == without else {TRAIN_CE: 1.0}
        return record

    settings = match_study(loss="ce")
    for start in (lambda: drain(settings, Store(tmp_path), answer), lambda: Dispatcher(settings, Store(tmp_path), "f")):
        with pytest.raises(MissingLoss, match=rf"arms\.arm\.search\.loss: {without} .* train/ce"):
            start()
    assert drain(match_study(), Store(tmp_path), answer)


def test_a_run_names_the_line_of_a_loss_that_no_training_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"seeds: [0]\nchecks: null\narms:\n  ref: {REFERENCE}\n  arm: {match(loss='ce')}\n"
    (tmp_path / "own.yaml").write_text(f"data: {{name: digits, train_limit: 64}}\n{text}")
    monkeypatch.setattr(cluster, "drain", lambda dispatcher, *_, **__: list(steps(dispatcher)))
    file, console = read_study_file(str(tmp_path / "own.yaml")), Console(file=StringIO())
    with pytest.raises(StudyError, match=r"own.yaml:6: arms\.arm\.search\.loss: ref trains without train/ce"):
        run(file, Store(tmp_path / "store"), where="in-process", console=console, report=lambda records: None)


def test_failed_trials_neither_stall_nor_mislead_a_match(tmp_path: Path) -> None:
    failed = failing(lambda job, _: job.number is not None and job.number % 3 == 1, "failed")
    ran = drain(match_study(), Store(tmp_path), failed, workers=3)
    assert repeated_strength(ran) == pytest.approx(0.1, rel=0.15)
    state = Dispatcher(match_study(), Store(tmp_path), "f").state
    assert state.searches["arm"].lost
    assert not graph.blocked_arms(match_study(), state)


# ------------------------------------------------------------------ samplers and grids
@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_each_sampler_proposes_with_and_without_bounds(tmp_path: Path, sampler: str) -> None:
    goals = {"one": "", "two": "where: {val/accuracy: {within: 0.01, of: standard}}, "}
    arms = {
        name: f"{{method: jacobian, search: {{maximize: {VAL_ADV_ACCURACY}, {where}sampler: {sampler}, trials: 7,"
        f" space: {{{LAMBDA}}}}}}}"
        for name, where in goals.items()
    }
    settings, store = study("standard", **arms), Store(tmp_path)
    ran = drain(settings, store, workers=2)
    for arm in arms:
        assert len({job.recipe.params["lambda_j"] for job in ran if job.arm == arm}) == 7
    choice = store.read_choice("two")
    assert choice is not None
    assert choice["least"] == {VAL_ACCURACY: 0.9 - 0.01}
    assert drain(settings, store) == []


def test_a_grid_tries_every_combination_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    grid = "grid: {lambda_j: [0.01, 0.1, 1.0], norm: [batch, sample]}"
    settings = study("standard", arm=f"{{method: jacobian, search: {{maximize: {VAL_ADV_ACCURACY}, {grid}}}}}")
    ran = drain(settings, Store(tmp_path), workers=3)
    tried = [(job.recipe.params["lambda_j"], job.recipe.params["norm"]) for job in trials_of(ran)]
    assert tried == list(product([0.01, 0.1, 1.0], ["batch", "sample"]))
    assert repeated_strength(ran) == 0.1
    assert drain(settings, Store(tmp_path)) == []
