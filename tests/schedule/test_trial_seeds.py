"""Trials of several seeds: one job, the mean of their metrics, and models that the repeats share."""

from pathlib import Path

import pytest
from helpers.closed_form import drain, failing, run, steps, strength, study, trainings
from helpers.in_process import TEACHER, run_study

from tune_interpreg.schedule.average import average_seeds
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Item, Job, Train

pytestmark = pytest.mark.thorough

SPACE = "space: {lambda_j: {log_uniform: [0.01, 1.0]}}"


def searching(seeds: int, goal: str = "maximize: val/adv_accuracy", trials: int = 5) -> Study:
    arm = f"{{method: jacobian, search: {{{goal}, seeds: {seeds}, trials: {trials}, {SPACE}}}}}"
    return study("standard", reference="{method: jacobian, lambda_j: 0.1}", arm=arm, seeds="[3, 4, 5]")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_a_trial_trains_its_seeds_in_one_job_and_its_metrics_are_their_mean(store: Store) -> None:
    """The closed form's loss is 1 + √λ + seed / 1000."""
    of = searching(2)
    ran = drain(of, store, workers=3)
    assert {job.seeds for job in ran if (job.arm, job.stage) == ("arm", "search")} == {(3, 4)}
    for trial in Dispatcher(of, store, "f").progress.list_trials("arm"):
        loss = 1 + trial["recipe"]["params"]["lambda_j"] ** 0.5 + 0.0035
        assert trial["metrics"]["train/loss"] == pytest.approx(loss)
        assert len(trial["trainings"]) == 2
        assert len(trial["judged"]) == 4
    repeats = [job.seeds for job in ran if (job.arm, job.stage) == ("arm", "repeats")]
    assert repeats == [(5,)], "the chosen trial's models are repeats"
    assert drain(of, store) == []


def test_a_diverged_seed_makes_the_trial_diverge(store: Store) -> None:
    of = searching(2)

    def is_second(job: Job, item: Item) -> bool:
        return job.number == 1 and isinstance(item, Train) and item.seed == 4

    drain(of, store, failing(is_second, "diverged"))
    trials = Dispatcher(of, store, "f").progress.trials["arm"]
    assert {number for number, trial in trials.items() if trial["state"] == "diverged"} == {1}
    assert trials[1]["metrics"] == {}
    assert drain(of, store) == []


def test_more_seeds_train_what_is_missing_and_fewer_train_nothing(store: Store) -> None:
    before = trainings(drain(searching(1), store))
    more = drain(searching(3), store)
    assert {job.seeds for job in more if job.stage == "search"} <= {(4, 5), (3, 4, 5)}
    assert set(before).isdisjoint(trainings(more))
    assert drain(searching(1), store) == []


def test_a_kill_between_the_records_of_a_trials_seeds_trains_the_rest(store: Store) -> None:
    of = searching(2)
    dispatcher = Dispatcher(of, store, "f")
    while (job := dispatcher.next()).stage != "search":
        run(dispatcher, job)
    run(dispatcher, job, items=1)
    again = next(steps(Dispatcher(of, store, "f")))
    assert (again.number, again.seeds, again.recipe) == (job.number, (4,), job.recipe)


def test_a_match_takes_the_mean_loss_and_the_noise_of_a_mean(store: Store) -> None:
    of = searching(2, "match_loss_of: reference", trials=12)
    ran = drain(of, store)
    targets = [Dispatcher(searching(k, "match_loss_of: reference"), store, "f").progress.target("arm") for k in (1, 2)]
    assert targets[0] is not None
    assert targets[1] is not None
    assert targets[1].noise == pytest.approx(targets[0].noise / 2**0.5)
    assert (targets[1].loss, targets[1].error) == (targets[0].loss, targets[0].error)
    (chosen,) = {strength(job) for job in ran if (job.arm, job.stage) == ("arm", "repeats")}
    assert chosen**0.5 == pytest.approx(0.1**0.5, rel=0.05)


@pytest.mark.parametrize("state", ["failed", "pruned"])
def test_the_state_of_a_trial_is_the_worst_of_its_seeds(state: str) -> None:
    def seed(state: str, loss: float) -> Record:
        record = {"state": state, "key": f"{loss}", "error": None, "seconds": 2.0, "metrics": {"train/loss": loss}}
        return record | {"training": record, "judged": [], "is_complete": True, "is_lost": False, "curve": []}

    trial = average_seeds([seed("done", 1.0), seed(state, 3.0)])
    assert (trial["state"], trial["seconds"]) == (state, 4.0)
    assert average_seeds([seed("done", 1.0), seed("done", 3.0)])["metrics"] == {"train/loss": 2.0}
    assert average_seeds([seed(state, 3.0), seed("diverged", 3.0)])["state"] == "diverged"


def test_real_trials_of_two_seeds_give_the_models_of_two_trainings(tmp_path: Path) -> None:
    """To the last bit, so a trial may share them with any other arm."""
    text = TEACHER.replace("seeds: [0]", "seeds: [0, 1]")
    grid = "search: {maximize: val/adv_accuracy, grid: {lambda_j: [0.1]}, seeds: 2}"
    run_study(Store(tmp_path / "together"), f"{text}  arm: {{method: jacobian, {grid}}}\n")
    run_study(Store(tmp_path / "apart"), f"{text}  arm: {{method: jacobian, lambda_j: 0.1}}\n")
    models = [
        {path.name: path.read_bytes() for path in (tmp_path / name / "models").iterdir()}
        for name in ("together", "apart")
    ]
    assert len(models[0]) == 4
    assert models[0] == models[1]
    store = Store(tmp_path / "together")
    (jobs,) = {record["number"] for record in store.records() if record["arm"] == "arm" and record["kind"] == "train"}
    assert jobs == 0, "no repeat was trained"


def test_how_a_search_runs_is_no_part_of_the_keys_of_its_trainings(tmp_path: Path) -> None:
    """``parallel``, ``seeds``, ``where`` and ``pruner`` decide which trials run, and what is made of them."""
    keys = []
    for number, more in enumerate(("", "parallel: 1", "seeds: 2", "where: {val/accuracy: {at_least: 0.5}}")):
        goal = f"maximize: val/adv_accuracy{', ' * bool(more)}{more}"
        arm = f"{{method: jacobian, search: {{{goal}, trials: 1, {SPACE}}}}}"
        ran = drain(study("standard", arm=arm, seeds="[3, 4]"), Store(tmp_path / str(number)))
        keys.append(next(job.models[0].key for job in ran if job.stage == "search"))
    assert len(set(keys)) == 1
