"""Lost trials and lost seeds: no study stalls, and the results that are left count."""

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from helpers.closed_form import drain, failing, losing, steps, strength, study, trainings, worker
from helpers.contract import data
from torch import Tensor, nn

from trainables import StandardTrainable
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.config import Data, Study, Training
from tune_interpreg.study.items import Item, Job, Judge, Train
from tune_interpreg.study.measures import observe
from tune_interpreg.study.recipe import Recipe
from tune_interpreg.training.trainer import Batch

pytestmark = pytest.mark.thorough

# ------------------------------------------------------------------------ lost trials
SPACE = "space: {lambda_j: {log_uniform: [0.001, 1.0]}, norm: {choice: [batch, sample]}}"
WHERE = "maximize: val/adv_accuracy, where: {val/accuracy: {within: 0.1, of: reference}}"
SEARCHES = {
    "match": "match_loss_of: reference, trials: 9, space: {lambda_j: {log_uniform: [0.001, 1.0]}}, tolerance: 1.0e-9",
    "match of choices": f"match_loss_of: reference, trials: 12, {SPACE}, tolerance: 1.0e-9",
    "tpe": f"maximize: val/adv_accuracy, trials: 12, {SPACE}",
    "median": f"maximize: val/adv_accuracy, trials: 12, pruner: median, {SPACE}",
    "gp": f"maximize: val/adv_accuracy, trials: 9, sampler: gp, {SPACE}",
    "where": f"{WHERE}, trials: 12, {SPACE}",
    "grid": "maximize: val/adv_accuracy, grid: {lambda_j: [0.01, 0.03, 0.2, 0.3, 1.0], norm: [batch, sample]}",
}


def searching(kind: str) -> Study:
    arm = f"{{method: jacobian, search: {{{SEARCHES[kind]}}}}}"
    return study("standard", reference="{method: jacobian, lambda_j: 0.1}", arm=arm)


def state_of(number: int, strength: float) -> ledger.RecordState:
    """Every third trial is lost: above the reference's strength it diverges, below it its worker dies."""
    return "done" if number % 3 != 1 else "diverged" if strength > 0.1 else "failed"


def losing_trials(job: Job, item: Item) -> Record:
    state = state_of(job.number, strength(job)) if job.number is not None else "done"
    return worker(job, item) if state == "done" else ledger.make_record(job, item, state, error="as asked")


def searched(of: Study, store: Store) -> list[Record]:
    return Dispatcher(of, store, "f").progress.list_trials("arm")


@pytest.mark.parametrize("kind", SEARCHES)
def test_a_study_that_loses_a_third_of_its_trials_drains(kind: str, tmp_path: Path) -> None:
    """Every trial runs once, and the arm is repeated with the choice from the done trials."""
    of, store = searching(kind), Store(tmp_path)
    ran = drain(of, store, losing_trials, workers=4)
    assert len(trainings(ran)) == len(set(trainings(ran)))
    records, search = searched(of, store), of.arms["arm"].search
    assert search is not None
    assert sorted(record["number"] for record in records) == list(range(search.trials))
    for record in records:
        assert record["state"] == state_of(record["number"], record["recipe"]["params"]["lambda_j"])
    repeats = [job.seeds for job in ran if (job.arm, job.stage) == ("arm", "repeats")]
    assert repeats == ([(0,), (1,)] if search.match_loss_of else [(1,)])
    assert not graph.blocked_arms(of, Dispatcher(of, store, "f").state)
    assert drain(of, store, losing_trials) == []


@pytest.mark.parametrize("kind", ["match", "tpe", "where", "grid"])
def test_a_driver_killed_among_lost_trials_continues_as_if_it_had_not_been(kind: str, tmp_path: Path) -> None:
    whole = drain(searching(kind), Store(tmp_path / "whole"), losing_trials)
    store = Store(tmp_path / "killed")
    started = list(islice(steps(Dispatcher(searching(kind), store, "f"), losing_trials), 11))
    assert started[:-1] + drain(searching(kind), store, losing_trials) == whole


@pytest.mark.parametrize("state", ["diverged", "failed"])
@pytest.mark.parametrize("kind", ["match", "tpe", "grid"])
def test_an_arm_without_a_done_trial_is_blocked_and_the_others_are_done(
    kind: str, state: ledger.RecordState, tmp_path: Path
) -> None:
    of, store = searching(kind), Store(tmp_path)
    ran = drain(of, store, failing(lambda job, _: job.stage == "search", state), workers=3)
    assert {record["state"] for record in searched(of, store)} == {state}
    assert {job.arm for job in ran if job.stage == "repeats"} == {"standard", "reference"}
    blocked = graph.blocked_arms(of, Dispatcher(of, store, "f").state)
    assert blocked == {"arm": "no trial of its search finished"}


def test_maps_that_are_not_finite_block_only_their_pupils(tmp_path: Path) -> None:
    """They are not made again, because the teacher would give the same."""
    of, store = study(), Store(tmp_path)
    ran = drain(of, store, failing(lambda job, _: job.stage == "maps", "diverged"))
    assert [(job.arm, job.stage) for job in ran if job.stage != "repeats"] == [("adversarial", "maps")]
    assert sorted(job.arm for job in ran if job.stage == "repeats") == ["adversarial"] * 2 + ["standard"] * 2
    blocked = graph.blocked_arms(of, Dispatcher(of, store, "f").state)
    assert blocked["robust"] == blocked["permuted"] == "has no target maps: the teacher adversarial gave none"
    assert blocked["jacobian"] == "has no loss to match: no seed of robust finished"
    assert drain(of, store) == []
    assert store.delete_failures() == 0


# ------------------------------------------------------------------------- lost seeds
LOST = r"the term ce was inf in epoch 2 (seed 1), step 1 of 2"


class Fragile(StandardTrainable):
    """Seed 1 diverges in the second epoch."""

    def terms(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        diverges = self.trainer.epoch > 0 and model is self.trainer.replicas[1].model
        return {name: term / (not diverges) for name, term in super().terms(model, batch).items()}


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_seed_that_diverged_has_a_record_of_its_own(
    interrupted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others have metrics, curves and models; an interrupted training remembers the loss."""
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "logs"))
    of = study("standard").model_copy(
        update={"data": Data(**data()), "training": Training(epochs=3, batch_size=32, lr=0.05)}
    )
    recipe, store = Recipe.from_study(of, method="standard"), Store(tmp_path / "store")
    models = tuple(Train(recipe=recipe, seed=seed) for seed in range(3))
    job = Job(arm="arm", stage="repeats", models=models, trains=True, observation=observe(of), batch_size=50)
    config: dict[str, Any] = {"job": job.model_dump(mode="json"), "store": str(store.path), "device": "cpu"}
    trainable = Fragile(config)
    trainable.step()
    assert "records" not in trainable.step()
    if interrupted:
        trainable = Fragile(config)
        assert trainable.trainer.diverged == {1: LOST}
    records = json.loads(trainable.step()["records"])
    assert [(record["seed"], record["state"], record["error"]) for record in records] == [
        (0, "done", None),
        (1, "diverged", LOST),
        (2, "done", None),
    ]
    for record in records:
        is_done = record["state"] == "done"
        assert (bool(record["metrics"]), "curve" in record, record["epochs"]) == (is_done, is_done, 3)
        assert [store.path / name for name in record["files"]] == [store.model_file(record["key"])] * is_done
        assert store.read_record("arm", models[record["seed"]]) == record


def test_a_lost_teacher_seed_gives_no_maps(tmp_path: Path) -> None:
    """The first of the teacher's two seeds makes the maps."""
    of, store = study("adversarial", "robust", gpus=1), Store(tmp_path)
    assert {job.arm for job in drain(of, store, losing(0))} == {"adversarial"}
    state = Dispatcher(of, store, "f").state
    assert (state.repeats["adversarial"].done, state.repeats["adversarial"].lost) == ({1}, {0})
    assert graph.blocked_arms(of, state).keys() == {"robust"}
    assert drain(of, store) == []


def test_a_failed_judgment_of_a_trial_loses_the_trial_and_one_of_a_repeat_only_its_numbers(tmp_path: Path) -> None:
    of, store = study("adversarial", "robust"), Store(tmp_path)

    def wrong(job: Job, item: Item) -> bool:
        return isinstance(item, Judge) and item.measure.kind == "strict" and (job.number == 2 or item.split == "test")

    drain(of, store, failing(wrong))
    progress = Dispatcher(of, store, "f").progress
    assert progress.state.searches["robust"].lost == {2}
    assert progress.state.repeats["robust"].done == progress.state.judgments["robust"].lost == {0, 1}
    assert "test/accuracy" in progress.repeats["robust"][0]["metrics"]
    assert "test/adv_accuracy_strict" not in progress.repeats["robust"][0]["metrics"]
    assert drain(of, store) == []
    assert store.delete_failures() == 5
    assert trainings(drain(of, store)) == []
    assert not Dispatcher(of, store, "f").state.searches["robust"].lost
