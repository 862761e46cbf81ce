"""Trainables as Ray and a study use them: under a plain Tuner and in a store; and what they refuse."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from helpers.contract import ATTACK, Make, method, strengths
from helpers.jobs import config_of, training_job
from ray import tune
from safetensors.torch import load_file

from trainables import MethodTrainable
from trainables.base.assignment import ConfigError
from tune_interpreg.data.dataset import DataError, load_dataset
from tune_interpreg.networks.build import EXACT
from tune_interpreg.store.ledger import package_versions
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Attack, Data, Training
from tune_interpreg.study.items import Train
from tune_interpreg.study.measures import Observation, StrictMeasure
from tune_interpreg.study.recipe import Recipe
from tune_interpreg.training.trainer import Diverged

N = 200
DATA = {"name": "digits", "train_limit": N, "validation": 40, "test_limit": 30}
PLAIN = {"data": DATA, "model": "digits_cnn", "training": {"epochs": 1, "batch_size": 50, "lr": 0.05}, "attack": ATTACK}
TRAINED, JUDGED = {"train/loss", "train/ce"}, {"val/accuracy", "val/adv_accuracy"}
FINAL = {"test/accuracy", "test/adv_accuracy_compat", "test/adv_accuracy_strict", "grad_norm/label", "grad_norm/other"}


def study(store: Store, *, seeds: tuple[int, ...] = (0,), every: int = 0, **changes: Any) -> dict[str, Any]:
    """Return what a study gives a worker; ``changes`` are fields of the recipe, ``every`` of the observation."""
    training = Training(epochs=2, batch_size=50, lr=0.05)
    recipe = Recipe(**{"method": "standard", "data": Data(**DATA), "training": training} | changes)
    observation = Observation(strict=StrictMeasure(attack=Attack(**ATTACK)), every=every)
    models = tuple(Train(recipe=recipe, seed=seed) for seed in seeds)
    return config_of(training_job(recipe, models=models, observation=observation), store)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=100 * 2**20)
        yield
        ray.shutdown()


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("name", ["adversarial", "interpretation"])
def test_a_method_runs_under_a_plain_tuner(name: str, tmp_path: Path) -> None:
    """A Tuner needs the class and a space. It draws the strengths, and gets metrics, a checkpoint and events."""
    space: dict[str, Any] = PLAIN | dict.fromkeys(strengths(name), tune.loguniform(1e-3, 1.0))
    if method(name).needs_targets:
        np.save(tmp_path / "maps.npy", np.random.default_rng(0).random((N, 1, 8, 8), dtype=np.float32))
        space["maps"] = str(tmp_path / "maps.npy")
    tuner = tune.Tuner(
        method(name),
        param_space=space,
        tune_config=tune.TuneConfig(metric="val/adv_accuracy", mode="max", max_concurrent_trials=1),
        run_config=tune.RunConfig(
            storage_path=str(tmp_path), verbose=0, sync_config=tune.SyncConfig(sync_artifacts=True)
        ),
    )
    (result,) = tuner.fit()
    assert result.error is None
    assert result.metrics.keys() >= TRAINED | JUDGED
    assert result.metrics["epoch"] == 1
    assert all(1e-3 <= result.config[key] <= 1.0 for key in strengths(name))
    assert result.checkpoint is not None
    assert list(Path(result.path).glob("events.out.tfevents.*"))


def test_a_training_leaves_a_model_and_a_record_per_seed(make: Make, tmp_path: Path) -> None:
    """Metrics, curve, weights, the number of images, and versions; nothing of the evaluation."""
    store = Store(tmp_path / "store")
    trainable = make("standard", **study(store, seeds=(0, 1)))
    assert "records" not in trainable.step()
    result = trainable.step()
    records = json.loads(result["records"])
    assert result["done"]
    assert store.records() == records
    for seed, record in enumerate(records):
        assert (record["seed"], record["kind"], record["state"], record["epochs"]) == (seed, "train", "done", 2)
        assert (record["error"], record["device"], record["number"]) == (None, "cpu", None)
        assert record["images"] == {"train": N, "validation": 40}
        assert record["versions"] == package_versions()
        assert record["gradients"] == EXACT
        assert record["seconds"] > 0
        assert record["metrics"].keys() == TRAINED
        first, last = record["curve"]
        assert first.keys() == last.keys() == TRAINED | {"val/accuracy"}
        assert record["metrics"].items() <= last.items()
        weights = load_file(store.model_file(record["key"]))
        assert weights.keys() == trainable.trainer.replicas[0].model.state_dict().keys()
    assert result["train/loss"] == pytest.approx(sum(record["metrics"]["train/loss"] for record in records) / 2)


def test_a_resumed_search_reports_its_earlier_epochs_first(make: Make, tmp_path: Path) -> None:
    """Its pruner may not know the last of them."""
    config = study(Store(tmp_path / "store"), training=Training(epochs=4, batch_size=50, lr=0.05))
    first = make("standard", **config)
    results = [first.step() for _ in range(2)]
    assert first.earlier is None
    names = {"train/loss", "train/ce", "val/accuracy", "epoch"}
    assert make("standard", **config).earlier == [{name: result[name] for name in names} for result in results]


@pytest.mark.parametrize(("every", "epochs"), [(0, []), (2, [2]), (1, [1, 2, 3])])
def test_an_adversarial_observation_is_due_each_nth_epoch(
    every: int, epochs: list[int], make: Make, tmp_path: Path
) -> None:
    training = Training(epochs=3, batch_size=200)
    trainable = make("standard", **study(Store(tmp_path), training=training, every=every))
    for _ in range(3):
        trainable.step()
    curve = trainable.curves[0]
    assert [epoch for epoch, metrics in enumerate(curve, start=1) if "val/adv_accuracy" in metrics] == epochs


def test_divergence_is_recorded_in_a_study_and_raised_in_a_plain_trial(make: Make, tmp_path: Path) -> None:
    store, training = Store(tmp_path / "store"), Training(epochs=2, batch_size=50, lr=1e6)
    result = make("standard", **study(store, training=training)).step()
    (record,) = store.records()
    assert result["done"]
    assert (record["state"], record["epochs"], record["metrics"]) == ("diverged", 0, {})
    assert "ce" in record["error"]
    assert not (store.path / "models").exists()
    with pytest.raises(Diverged):
        make("standard", **PLAIN | {"training": training.model_dump()}).step()


def test_a_worker_with_other_images_refuses_the_job(make: Make, tmp_path: Path) -> None:
    fingerprint = load_dataset(Data(**DATA)).fingerprint
    make("standard", **study(Store(tmp_path), data_fingerprint=fingerprint))
    with pytest.raises(DataError, match=f"fingerprint 00ff, but this machine's have {fingerprint}"):
        make("standard", **study(Store(tmp_path), data_fingerprint="00ff"))


def test_under_a_study_all_files_are_in_the_store(make: Make, tmp_path: Path) -> None:
    before = set(os.listdir())
    make("standard", **study(Store(tmp_path / "store"))).step()
    assert set(os.listdir()) == before
    assert {entry.name for entry in (tmp_path / "store").iterdir()} == {"checkpoints", "tensorboard"}


def test_all_problems_of_a_configuration_are_reported_at_once(make: Make) -> None:
    bad = {"lambda_jj": 1.0, "norm": "l7", "trianing": {}, "training": {"epochs": 0}, "model": 3, "seed": [1, 1]}
    with pytest.raises(ConfigError) as caught:
        method("jacobian")(bad | {"maps": "nowhere.npy"})
    head, *problems = str(caught.value).splitlines()
    assert "JacobianTrainable" in head
    assert sorted(problem.partition(":")[0] for problem in problems) == sorted(
        ["lambda_j", "lambda_jj", "maps", "model", "norm", "seed", "training.epochs", "trianing"]
    )
    assert "lambda_jj: unknown key; did you mean lambda_j?" in problems
    assert "training.epochs: takes a number of at least 1, got 0" in problems  # as a study file says it


@pytest.mark.parametrize("maps", [None, "nowhere.npy"])
def test_methods_with_targets_need_maps(maps: str | None, make: Make) -> None:
    with pytest.raises(ConfigError, match=r"maps: takes an \.npy file .* absolute path"):
        make("interpretation", maps=maps)


def test_a_plain_configuration_is_read_like_a_study(make: Make) -> None:
    """Data by name, NumPy's numbers, several seeds, defaults, and the evaluation's attack with training's radius."""
    config = {"data": "digits", "lambda_j": np.float64(0.2), "seed": [4, 2], "evaluation": {"steps": np.int64(7)}}
    trainable = make("jacobian", attack={"eps": 0.25, "steps": 5}, **config)
    assert trainable.params == {"lambda_j": 0.2, "norm": "batch", "output": "logits", "dropout": "shared"}
    assert trainable.job.seeds == (4, 2)
    attacks = [item.measure.attack for item in trainable.job.work if item.measure.kind == "strict"]
    assert attacks == [Attack(eps=0.25, steps=7)] * 2
    assert type(trainable.params["lambda_j"]) is float


def test_a_plain_trial_reads_test_data_only_with_test(make: Make) -> None:
    for test in (False, True):
        result = make("standard", **PLAIN, test=test).step()
        assert {name for name in result if "/" in name} == TRAINED | JUDGED | (FINAL if test else set())


def test_a_method_without_terms_is_refused() -> None:
    with pytest.raises(TypeError, match=r"MethodTrainable has no method terms"):
        MethodTrainable(PLAIN).step()
