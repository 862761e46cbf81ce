"""Any metric can be matched: losses, and what judgments measure."""

import math
from itertools import islice
from pathlib import Path

import pytest
from helpers.closed_form import drain, steps, strength, study, worker
from helpers.studies import list_problems, parse_study
from helpers.trials import MATCH, trial_record

from tune_interpreg.schedule import graph
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.schedule.graph import State
from tune_interpreg.search.choice import digest_trials
from tune_interpreg.search.matching.signs import find_direction, widen
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study import measures
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Item, Job, Judge
from tune_interpreg.study.measures import GradientNormsMeasure, InterpretabilityMeasure
from tune_interpreg.study.space import Search

SPACE = {"lambda_j": {"log_uniform": [0.001, 1.0]}}
REFERENCE = "{method: jacobian, lambda_j: 0.1}"
DIGEST = "78103dbf66ea491d"


def matching(metric: str, more: str = "") -> str:
    space = "space: {lambda_j: {log_uniform: [0.001, 1.0]}}"
    return f"{{method: jacobian, search: {{match: {{arm: ref, metric: {metric}{more}}}, trials: 12, {space}}}}}"


def answer(job: Job, item: Item) -> Record:
    """Gradients shrink with the strength, and the alignment grows."""
    record = worker(job, item)
    if isinstance(item, Judge) and isinstance(item.measure, GradientNormsMeasure):
        value = 3 / (1 + strength(job) ** 0.5)
        return record | {"metrics": {"grad_norm/label": value, "grad_norm/other": value / 2}}
    if isinstance(item, Judge) and isinstance(item.measure, InterpretabilityMeasure):
        return record | {"metrics": {f"{item.split[:3]}/alignment": 0.1 + strength(job)}}
    return record


def test_the_short_form_is_a_match_of_the_training_loss() -> None:
    for loss, metric in (("total", "train/loss"), ("ce", "train/ce")):
        short = Search(space=SPACE, match_loss_of="a", loss=loss)
        long = Search(space=SPACE, match={"arm": "a", "metric": metric, "direction": "rising"})
        assert short.matching == long.matching
        assert short.matched_metric == long.matched_metric == metric
        assert short.needs == long.needs == ("a",)
        assert not short.attacks_trials
        assert not long.attacks_trials


def test_choices_of_the_short_form_keep_their_digest() -> None:
    """A digest of a store that exists: another one would choose again, and train all repeats again."""
    trial = trial_record(0, {"lambda": 0.1}) | {"key": "k", "judged": []}
    assert digest_trials(MATCH, [trial], "ab") == DIGEST
    other = Search(space=MATCH.space, match={"arm": "robust", "metric": "grad_norm/label"}, trials=8)
    assert digest_trials(other, [trial], "ab") != DIGEST


@pytest.mark.parametrize("metric", ["grad_norm/label", "val/alignment", "val/deletion", "val/adv_accuracy"])
def test_trials_and_all_repeats_are_asked_the_same(metric: str) -> None:
    text = "data: digits\nevaluation: {interpretability: {images: 50}, gradient_norms: {images: 70}}\narms:\n"
    of = parse_study(text + f"  ref: {REFERENCE}\n  arm: {matching(metric)}\n")
    (question,) = measures.list_trial_questions(of, of.arms["arm"].search)
    assert question in measures.list_repeat_questions(of)
    assert measures.list_repeat_questions(of).count(question) == 1
    images = {"grad_norm/label": 70, "val/adv_accuracy": None}.get(metric, 50)
    assert getattr(question.measure, "images", None) == images
    assert question.split == ("train" if metric == "grad_norm/label" else "validation")


@pytest.mark.parametrize("metric", ["train/loss", "grad_norm/label"])
def test_a_search_waits_for_the_judgments_of_a_judged_metric_only(metric: str) -> None:
    of = study("standard", ref=REFERENCE, arm=matching(metric))
    state = State.empty(of)
    state.repeats["ref"].done |= {0, 1}
    ready = {task.arm for task in graph.ready_tasks(of, state) if task.stage == "search"}
    assert ready == ({"arm"} if metric == "train/loss" else set())
    state.judgments["ref"].done |= {0, 1}
    assert {task.arm for task in graph.ready_tasks(of, state) if task.stage == "search"} == {"arm"}


@pytest.mark.parametrize("more", ["", ", direction: falling"])
def test_a_gradient_norm_that_falls_is_matched(tmp_path: Path, more: str) -> None:
    of, store = study("standard", ref=REFERENCE, arm=matching("grad_norm/label", more)), Store(tmp_path)
    ran = drain(of, store, answer)
    choice = store.read_choice("arm")
    assert choice is not None
    assert choice["feasible"]
    assert choice["target"] == pytest.approx(3 / (1 + 0.1**0.5))
    assert choice["params"]["lambda_j"] == pytest.approx(0.1, rel=0.05)
    assert choice["low"] <= 0.1 <= choice["high"]
    assert not any(isinstance(item, Judge) and item.measure.kind == "strict" for item in _search_items(ran))
    assert drain(of, store, answer) == [], "a finished study has no work"


def test_a_measure_of_interpretability_that_rises_is_matched(tmp_path: Path) -> None:
    arms = f"  ref: {REFERENCE}\n  arm: {matching('val/alignment')}\n"
    of = parse_study(
        "data: digits\nseeds: [0, 1]\nevaluation: {checks: null, interpretability: {images: 20}}\narms:\n" + arms
    )
    drain(of, Store(tmp_path), answer)
    choice = Store(tmp_path).read_choice("arm")
    assert choice is not None
    assert choice["params"]["lambda_j"] == pytest.approx(0.1, rel=0.05)


def test_a_killed_match_of_a_judged_metric_proposes_the_same(tmp_path: Path) -> None:
    of = study("standard", ref=REFERENCE, arm=matching("grad_norm/label"))
    drain(of, Store(tmp_path / "whole"), answer, workers=3)
    store = Store(tmp_path / "killed")
    for count in (5, 8, 12):
        _run_some(of, store, count)
    drain(of, store, answer)
    assert store.read_choice("arm") == Store(tmp_path / "whole").read_choice("arm")


def test_a_wrong_direction_is_infeasible_and_says_so(tmp_path: Path) -> None:
    of = study("standard", ref=REFERENCE, arm=matching("grad_norm/label", ", direction: rising"))
    drain(of, Store(tmp_path), answer)
    choice = Store(tmp_path).read_choice("arm")
    assert choice is not None
    assert "falls" in choice["reason"]


def test_the_votes_of_clearly_different_values_decide_the_direction() -> None:
    assert find_direction([1.0, 2.0], [0.0, 1.0], 0.1) == "rising"
    assert find_direction([1.0, 2.0], [1.0, 0.0], 0.1) == "falling"
    assert find_direction([1.0, 2.0], [1.0, 0.9], 0.1) is None
    assert find_direction([1.0, 2.0, 3.0], [1.0, math.inf, 0.0], 0.1) == "falling"
    assert find_direction([1.0, 2.0, 3.0, 4.0], [3.0, 2.0, 9.0, 1.0], 0.1) == "falling"


def test_a_falling_range_is_widened_on_the_other_side() -> None:
    above = [0.5, 0.1]
    assert widen((1e-4, 1.0), [0.01, 0.1], above) == (pytest.approx(1e-6), 1.0)
    assert widen((1e-4, 1.0), [0.01, 0.1], above, direction=None) == (1e-4, pytest.approx(100.0))


@pytest.mark.parametrize(
    ("search", "evaluation", "place", "words"),
    [
        ("match: {arm: ref, metric: grad_norm/labels}", "{}", "match.metric", "grad_norm/label, grad_norm/other"),
        ("match: {arm: ref, metric: train/lr}", "{}", "match.metric", "another term"),
        ("match: {arm: ref, metric: test/accuracy}", "{}", "match.metric", "val/accuracy"),
        ("match: {arm: nobody, metric: train/loss}", "{}", "match.arm", "unknown arm"),
        ("match: {arm: arm, metric: train/loss}", "{}", "match.arm", "waits for itself"),
        ("match: {metric: train/loss}", "{}", "match.arm", "required"),
        ("match: {arm: ref, metric: train/loss, direction: up}", "{}", "match.direction", "rising"),
        ("match: {arm: ref, metric: train/loss}, loss: ce", "{}", "search", "drop loss"),
        ("match: {arm: ref, metric: train/loss}, match_loss_of: ref", "{}", "match_loss_of", "got match and"),
        ("match: {arm: ref, metric: grad_norm/label}", "{gradient_norms: null}", "match.metric", "gradient_norms"),
        ("match: {arm: ref, metric: val/alignment}", "{}", "match.metric", "interpretability"),
    ],
)
def test_a_match_that_cannot_work_is_refused(search: str, evaluation: str, place: str, words: str) -> None:
    space = "space: {lambda_j: {log_uniform: [0.001, 1.0]}}"
    arm = f"{{method: jacobian, search: {{{search}, {space}}}}}"
    problems = list_problems(f"data: digits\nevaluation: {evaluation}\narms:\n  ref: {REFERENCE}\n  arm: {arm}\n")
    assert any(place in problem and words in problem for problem in problems)


def _search_items(ran: list[Job]) -> list[Item]:
    return [item for job in ran if (job.arm, job.stage) == ("arm", "search") for item in job.items]


def _run_some(of: Study, store: Store, count: int) -> None:
    """Run so many jobs, then stop as if killed while the next one is under way."""
    list(islice(steps(Dispatcher(of, store, "f"), answer), count))
