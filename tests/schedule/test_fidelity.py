"""Trials that train less than the repeats: what counts, what runs, what it costs, and what is refused."""

from pathlib import Path

import pytest
from helpers.closed_form import ARMS, drain, study, trainings
from helpers.measured import all_pieces
from helpers.studies import list_problems, parse_study

from analysis.results.results import Results
from analysis.tables.settings import settings_table
from tune_interpreg.planning.costs import Piece
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.current import Current
from tune_interpreg.status.observer import Observer
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Job
from tune_interpreg.study.parameters import resolve_study
from tune_interpreg.study.problems import StudyError

TRIALS, SEEDS = 6, 2


def reduced(keys: str = "epochs: 3, train_limit: 100, ") -> Study:
    arm = ARMS["robust"].replace("search: {", f"search: {{{keys}").replace("teacher: adversarial", "teacher: standard")
    return study("standard", tuned=arm)


def test_trials_train_less_and_every_repeat_trains_anew(tmp_path: Path) -> None:
    store, of = Store(tmp_path / "store"), reduced()
    jobs = [job for job in drain(of, store) if job.arm == "tuned" and job.trains]
    trials = [job for job in jobs if job.number is not None]
    repeats = [job for job in jobs if job.number is None]
    assert (len(trials), len(repeats)) == (TRIALS, SEEDS)
    assert {(job.recipe.training.epochs, job.recipe.train_limit) for job in trials} == {(3, 100)}
    assert {(job.recipe.training.epochs, job.recipe.train_limit) for job in repeats} == {(30, None)}
    assert trainings(drain(of, store)) == []
    current = Current(resolve_study(of), store.records())
    assert len(current.list_trials("tuned")) == TRIALS


def test_without_lower_fidelity_the_best_trial_is_a_repeat(tmp_path: Path) -> None:
    jobs = [job for job in drain(reduced(""), Store(tmp_path)) if job.arm == "tuned" and job.trains]
    assert len(jobs) == TRIALS + SEEDS - 1


def test_another_fidelity_makes_new_trials_and_keeps_equal_repeats(tmp_path: Path) -> None:
    """The search chooses again, from other trials; the repeats of an equal choice are there."""
    store = Store(tmp_path / "store")
    drain(reduced(), store)
    current = Current(resolve_study(reduced("epochs: 4, ")), store.records())
    assert current.list_trials("tuned") == []
    assert len(Current(resolve_study(reduced()), store.records()).list_trials("tuned")) == TRIALS
    again = [job for job in drain(reduced("epochs: 4, "), store) if job.arm == "tuned" and job.trains]
    assert [job.number for job in again if job.number is not None] == list(range(TRIALS))


def test_the_settings_table_says_so_and_status_counts_it(tmp_path: Path) -> None:
    store, of = Store(tmp_path / "store"), reduced()
    store.save_study(of)
    drain(of, store)
    notes = settings_table(Results.from_store(store)).notes
    assert any("trials at lower fidelity, with training.epochs 3, data.train_limit 100." in note for note in notes)
    assert not any("fidelity" in note for note in settings_table(Results(reduced(""), ())).notes)
    status = Observer(store).read_status()
    assert status.state == "finished"
    assert status.settled == status.total == graph.count_parts(of)


def count(pieces: list[Piece]) -> dict[str, int]:
    """Return stage → number of the trainings of the searched arm."""
    names: list[str] = [
        piece.content.stage for piece in pieces if isinstance(piece.content, Job) and piece.content.arm == "tuned"
    ]
    return {stage: names.count(stage) for stage in names}


def test_a_plan_counts_trials_and_all_repeats() -> None:
    assert count(all_pieces(reduced())) == {"search": TRIALS, "repeats": SEEDS}
    assert count(all_pieces(reduced(""))) == {"search": TRIALS, "repeats": SEEDS - 1}
    names = {piece.name for piece in all_pieces(reduced()) if isinstance(piece.content, Job)}
    assert len([name for name in names if "tuned" in name]) == 2, "a trial takes another time than a repeat"


HEAD = (
    "training: {epochs: 9, warmup_epochs: 2}\ndata: {name: digits, train_limit: 500}\narms:\n  a: {method: standard}\n"
)


@pytest.mark.parametrize(
    ("search", "place", "words"),
    [
        ("maximize: val/accuracy, epochs: 9", "arms.b.search.epochs", "fewer than the 9 of the repeats, got 9"),
        ("maximize: val/accuracy, epochs: 0", "arms.b.search.epochs", "at least 1"),
        ("maximize: val/accuracy, train_limit: 501", "arms.b.search.train_limit", "fewer than the 500 of the repeats"),
        ("maximize: val/accuracy, epochs: 2", "arms.b.search.space", "warmup_epochs must be less than the 2 epochs"),
        ("match_loss_of: a, epochs: 3", "arms.b.search", "ends at another loss; drop epochs"),
        ("match_loss_of: a, train_limit: 30", "arms.b.search", "ends at another loss; drop train_limit"),
    ],
)
def test_a_fidelity_that_cannot_be_is_refused(search: str, place: str, words: str) -> None:
    text = f"{HEAD}  b: {{method: jacobian, search: {{space: {{lambda_j: {{log_uniform: [0.1, 1]}}}}, {search}}}}}\n"
    (problem,) = list_problems(text)
    assert f": {place}: " in problem
    assert words in problem


def test_a_fidelity_and_a_searched_setting_exclude_each_other() -> None:
    space = "{training.epochs: {int: [3, 8]}}"
    with pytest.raises(StudyError, match=r"training\.epochs is searched"):
        parse_study(f"{HEAD}  b: {{method: standard, search: {{space: {space}, maximize: val/accuracy, epochs: 4}}}}\n")
    with pytest.raises(StudyError, match="equal length"):
        parse_study(
            f"{HEAD}  b: {{method: standard, search: {{space: {space}, maximize: val/accuracy, pruner: median}}}}\n"
        )
