"""Matches in whole studies, by closed form: they stop once found, widen once, match within each choice, and resume.

The closed form's loss is 1 + √λ + 0.001·seed, so the reference at λ = 0.1 has 1.3163 (seeds 0 and 1: + 0.0005).
"""

import shutil
from io import StringIO
from itertools import islice
from pathlib import Path

import pytest
from helpers.closed_form import Worker, drain, failing, outcome, steps, strength, study, worker
from rich.console import Console

from tune_interpreg.cluster import drain as cluster
from tune_interpreg.running import run as running
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.search.target import MissingLoss
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.file.read import read_study_file
from tune_interpreg.study.items import Item
from tune_interpreg.study.problems import StudyError

REFERENCE = "{method: jacobian, lambda_j: 0.1}"


def match(trials: int = 12, space: str = "lambda_j: {log_uniform: [0.001, 1.0]}", **more: str) -> str:
    settings = "".join(f", {name}: {value}" for name, value in more.items())
    return f"{{method: jacobian, search: {{match_loss_of: ref, trials: {trials}, space: {{{space}}}{settings}}}}}"


def searched(ran: list[Item]) -> list[Item]:
    return [item for item in ran if (item.arm, item.role) == ("arm", "search")]


def repeated(ran: list[Item]) -> float:
    (value,) = {strength(item) for item in ran if (item.arm, item.role) == ("arm", "repeat")}
    return value


@pytest.mark.parametrize("workers", [1, 4])
def test_a_match_stops_by_itself_once_it_is_within_tolerance(tmp_path: Path, workers: int) -> None:
    of, store = study("standard", ref=REFERENCE, arm=match(trials=40, tolerance="0.02")), Store(tmp_path)
    ran = drain(of, store, workers=workers)
    assert 4 <= len(searched(ran)) <= 14
    assert abs(repeated(ran) ** 0.5 - 0.1**0.5) < 0.02
    dispatcher = Dispatcher(of, store, "f")
    assert dispatcher.settled() == dispatcher.total() == len(ran)
    assert drain(of, store) == []


def test_a_tighter_tolerance_takes_up_the_search_again_and_a_looser_one_runs_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    few = searched(drain(study(ref=REFERENCE, arm=match(trials=30, tolerance="0.05"), one="{method: standard}"), store))
    loose = study(ref=REFERENCE, arm=match(trials=30, tolerance="0.06"), one="{method: standard}")
    assert searched(drain(loose, store)) == []
    tight = study(ref=REFERENCE, arm=match(trials=30, tolerance="0.0005"), one="{method: standard}")
    more = searched(drain(tight, store))
    assert more
    assert {item.number for item in few}.isdisjoint(item.number for item in more)


def test_more_trials_take_up_a_match_that_ran_out_and_leave_one_that_was_found(tmp_path: Path) -> None:
    store = Store(tmp_path / "few")
    few, more = (study("standard", ref=REFERENCE, arm=match(trials=trials, tolerance="1.0e-9")) for trials in (4, 6))
    assert len(searched(drain(few, store))) == 4
    assert [item.number for item in searched(drain(more, store))] == [4, 5]
    found, more = (study("standard", ref=REFERENCE, arm=match(trials=trials, tolerance="0.02")) for trials in (30, 40))
    assert len(searched(drain(found, Store(tmp_path / "found")))) < 30
    assert drain(more, Store(tmp_path / "found")) == []


def test_a_match_of_a_match_is_found_again_by_the_next_run(tmp_path: Path) -> None:
    """Also where the reference's only record has to be made anew first."""
    store, second = (
        Store(tmp_path),
        match(trials=30, tolerance="0.02").replace("match_loss_of: ref", "match_loss_of: arm"),
    )
    of = study("standard", ref=REFERENCE, arm=match(trials=30, tolerance="0.02"), second=second, seeds="[0]")
    drain(of, store)
    assert drain(of, store) == []
    (record,) = store.path.glob("ledger/ref/*.json")
    record.write_text("{")
    assert [(item.arm, item.role) for item in drain(of, store)] == [("ref", "repeat")]


class Killed(BaseException):
    """Ends a driver at once."""


def test_trials_under_way_when_a_match_is_found_go_on_after_a_kill(tmp_path: Path) -> None:
    of = study("standard", ref=REFERENCE, arm=match(trials=40, tolerance="0.02"))
    whole, store = Store(tmp_path / "whole"), Store(tmp_path / "killed")
    drain(of, whole, workers=3)
    dispatcher = Dispatcher(of, store, "f")

    def answer(item: Item) -> Record:
        if "arm" in dispatcher.state.matched:
            raise Killed
        return worker(item)

    with pytest.raises(Killed):
        list(steps(dispatcher, answer, workers=3))
    left = {item.key for item in store.read_notes()[0]}
    assert len(left) == 2
    assert {item.key for item in drain(of, store, workers=3)[:2]} == left
    assert outcome(store) == outcome(whole)
    assert store.read_choice("arm") == whole.read_choice("arm")
    assert store.checkpoint_keys() == set()


def test_a_range_without_a_root_is_widened_once(tmp_path: Path) -> None:
    """The root 0.1 lies beyond [0.0005, 0.03]; half its logarithmic length more reaches 0.232."""
    space = "lambda_j: {log_uniform: [0.0005, 0.03]}"
    ran = drain(study("standard", ref=REFERENCE, arm=match(space=space)), Store(tmp_path))
    tried = [strength(item) for item in searched(ran)]
    assert max(tried[:4]) <= 0.03
    assert 0.03 < max(tried) <= 0.0005 * (60**1.5)
    assert repeated(ran) == pytest.approx(0.1, rel=0.1)


def test_where_widening_does_not_help_the_match_ends_early_as_infeasible(tmp_path: Path) -> None:
    of = study("standard", ref=REFERENCE, arm=match(trials=30, space="lambda_j: {log_uniform: [0.00001, 0.0003]}"))
    ran = drain(of, Store(tmp_path))
    assert 5 <= len(searched(ran)) <= 10
    choice = Store(tmp_path).read_choice("arm")
    assert choice is not None
    assert not choice["feasible"]
    assert "lies below the target" in choice["reason"]
    assert repeated(ran) == pytest.approx(0.00001 * 30**1.5)


def test_a_strength_is_matched_within_each_choice_and_robustness_chooses_among_them(tmp_path: Path) -> None:
    """With norm: sample the loss is half as steep, so its root is 0.4; its accuracy is the better one."""

    def answer(item: Item) -> Record:
        if item.recipe.params.get("norm") != "sample":
            return worker(item)
        metrics = {"train/loss": 1 + 0.5 * strength(item) ** 0.5, "val/adv_accuracy": 1.0, "val/accuracy": 0.9}
        return ledger.make_record(item, "done", epochs=3, metrics=dict.fromkeys(item.seeds, metrics))

    space = "norm: {choice: [batch, sample]}, lambda_j: {log_uniform: [0.001, 1.0]}"
    ran = drain(study("standard", ref=REFERENCE, arm=match(trials=24, space=space)), Store(tmp_path), answer)
    assert all(item.adversarial for item in searched(ran))
    norms = [item.recipe.params["norm"] for item in searched(ran)]
    assert norms[:4] == ["batch", "sample", "batch", "sample"]
    (norm,) = {item.recipe.params["norm"] for item in ran if (item.arm, item.role) == ("arm", "repeat")}
    assert norm == "sample"
    assert repeated(ran) == pytest.approx(0.4, rel=0.1)


@pytest.mark.parametrize("changed", ["[sample, batch]", "[batch, sample, squared]"])
def test_where_choices_change_no_trial_is_taken_for_one_of_another_choice(tmp_path: Path, changed: str) -> None:
    space = "norm: {choice: [batch, sample]}, lambda_j: {log_uniform: [0.001, 1.0]}"
    drain(study("standard", ref=REFERENCE, arm=match(trials=9, space=space)), Store(tmp_path))
    of = study("standard", ref=REFERENCE, arm=match(trials=9, space=space.replace("[batch, sample]", changed)))
    drain(of, Store(tmp_path))
    search, found = of.arms["arm"].search, Dispatcher(of, Store(tmp_path), "f").progress.settled_of("arm", "search")
    assert search is not None
    for record in found:
        assert record["recipe"]["params"]["norm"] == search.fixed_params(record["number"])["norm"]


def test_an_anchor_is_waited_for_and_its_loss_is_known_to_the_search(tmp_path: Path) -> None:
    of = study("standard", ref=REFERENCE, arm=match(anchor="standard"))
    ran = drain(of, Store(tmp_path))
    assert max(ran.index(item) for item in ran if item.arm == "standard") < ran.index(searched(ran)[0])
    target = Dispatcher(of, Store(tmp_path), "f").progress.target("arm")
    assert target is not None
    assert target.anchor == pytest.approx(1.0005)
    assert repeated(ran) == pytest.approx(0.1, rel=0.15)
    next(iter(Store(tmp_path).path.glob("ledger/standard/*.json"))).unlink()
    assert Dispatcher(of, Store(tmp_path), "f").progress.target("arm") is None


@pytest.mark.parametrize("has_none", ["ref", "arm"])
def test_a_loss_that_a_method_does_not_have_is_told_with_its_first_training(tmp_path: Path, has_none: str) -> None:
    def answer(item: Item) -> Record:
        made = worker(item)
        for metrics in made["metrics"].values():
            metrics |= {} if item.arm == has_none else {"train/ce": 1.0}
        return made

    of = study("standard", ref=REFERENCE, arm=match(loss="ce"))
    told = rf"^study: arms\.arm\.search\.loss: {has_none} trains without train/ce: .* no such term; match loss: total$"
    with pytest.raises(MissingLoss, match=told):
        drain(of, Store(tmp_path), answer)
    with pytest.raises(MissingLoss, match=told):
        Dispatcher(of, Store(tmp_path), "f")
    assert drain(study("standard", ref=REFERENCE, arm=match()), Store(tmp_path), answer)


def test_a_run_tells_where_in_the_file_a_loss_is_matched_that_no_training_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"seeds: [0]\nchecks: null\narms:\n  ref: {REFERENCE}\n  arm: {match(loss='ce')}\n"
    (tmp_path / "own.yaml").write_text(f"data: {{name: digits, train_limit: 64}}\n{text}")
    monkeypatch.setattr(cluster, "drain", lambda dispatcher, where: list(steps(dispatcher)))
    file, console = read_study_file(str(tmp_path / "own.yaml")), Console(file=StringIO())
    with pytest.raises(StudyError, match=r"own.yaml:6: arms\.arm\.search\.loss: ref trains without train/ce"):
        running.run(file, Store(tmp_path / "store"), where="in-process", retry_failed=False, console=console)


NOISY: Worker = failing(lambda item: item.arm == "arm" and item.role == "search" and item.number == 2, "diverged")


@pytest.mark.parametrize("killed_after", [6, 8, 11])
def test_killed_in_mid_search_the_proposals_that_follow_are_those_of_an_uninterrupted_run(
    tmp_path: Path, killed_after: int
) -> None:
    """Also with a widened range, a diverged trial, and a stop that comes by itself."""
    of = study("standard", ref=REFERENCE, arm=match(trials=14, space="lambda_j: {log_uniform: [0.0005, 0.03]}"))
    whole = searched(drain(of, Store(tmp_path / "whole"), NOISY))
    store = Store(tmp_path / "killed")
    begun = list(islice(steps(Dispatcher(of, store, "f"), NOISY), killed_after))
    shutil.rmtree(store.journal, ignore_errors=True)
    rest = drain(of, store, NOISY)
    both = {item.number: strength(item) for item in searched(begun + rest)}
    assert both == {item.number: strength(item) for item in whole}


def test_trials_that_fail_or_have_no_number_neither_stall_nor_mislead(tmp_path: Path) -> None:
    lost = failing(lambda item: item.role == "search" and item.number % 3 == 1, "failed")
    ran = drain(study("standard", ref=REFERENCE, arm=match(trials=12)), Store(tmp_path), lost, workers=3)
    assert repeated(ran) == pytest.approx(0.1, rel=0.15)
    state = Dispatcher(study("standard", ref=REFERENCE, arm=match(trials=12)), Store(tmp_path), "f").state
    assert state.searches["arm"].lost
    assert not graph.blocked_arms(study("standard", ref=REFERENCE, arm=match(trials=12)), state)
