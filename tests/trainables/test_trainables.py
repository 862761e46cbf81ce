"""Trainables as Ray and a study use them: under a plain Tuner, reset, in a store; and what they refuse."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray import tune
from safetensors.torch import load_file

from trainables import InterpretationTrainable, JacobianTrainable, MethodTrainable, StandardTrainable
from trainables.base.assignment import ConfigError
from trainables.base.maps import load_training_maps
from tune_interpreg import registry
from tune_interpreg.data.dataset import DataError, load
from tune_interpreg.store.ledger import package_versions
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Attack, Data, Evaluation, Training
from tune_interpreg.study.items import Item
from tune_interpreg.study.recipe import Maps, Recipe
from tune_interpreg.training.trainer import Diverged

METHODS = registry.names("methods")

#: The methods whose Tuner runs in the first stage: without targets and with them.
FIRST = ("adversarial", "interpretation")
N = 200
DATA = {"name": "digits", "train_limit": N, "validation": 40, "test_limit": 30}
ATTACK = {"norm": "l2", "eps": 0.5, "steps": 3}
PLAIN = {"data": DATA, "training": {"epochs": 1, "batch_size": 50, "lr": 0.05}, "attack": ATTACK}
TRAINED = {"train/loss", "train/ce", "val/accuracy", "val/adv_accuracy"}
JUDGED = {"test/accuracy", "test/adv_accuracy_compat", "test/adv_accuracy_strict", "grad_norm/label", "grad_norm/other"}

Make = Callable[..., MethodTrainable]


def method(name: str) -> type[MethodTrainable]:
    found: type[MethodTrainable] = registry.load_method(name)
    return found


def required(name: str, value: Any) -> dict[str, Any]:
    """All parameters of a method that have no default, as ``value``."""
    return {key: value for key, one in method(name).parameters.items() if one.default is None}


def maps_file(folder: Path, shape: tuple[int, ...] = (N, 1, 8, 8)) -> str:
    folder.mkdir(exist_ok=True)
    np.save(folder / "maps.npy", np.random.default_rng(0).random(shape, dtype=np.float32))
    return str(folder / "maps.npy")


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "logs"))
    made = []

    def one(kind: type[MethodTrainable], config: dict[str, Any]) -> MethodTrainable:
        made.append(kind(config))
        return made[-1]

    yield one
    for trainable in made:
        trainable.cleanup()


def study(store: Store, name: str = "standard", *, role: str = "repeat", **own: Any) -> dict[str, Any]:
    """What a study hands a worker; ``own`` are fields of the recipe or of the item."""
    fields = {key: own.pop(key) for key in ("seeds", "adversarial") if key in own}
    recipe = Recipe(
        method=name,
        params=required(name, 0.1),
        data=Data(**DATA),
        evaluation=Evaluation(gradient_samples=20),
        evaluation_attack=Attack(**ATTACK),
        **{"training": Training(epochs=2, batch_size=50, lr=0.05)} | own,
    )
    item = Item(arm="arm", role=role, recipe=recipe, **{"seeds": (0,)} | fields)
    return {"item": item.model_dump(mode="json"), "store": str(store.path), "device": "cpu"}


# ---------------------------------------------------------------- a plain Tuner
@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=100 * 2**20)
        yield
        ray.shutdown()


@pytest.mark.timeout(600)  # each starts a worker, which takes long where other work has the cores
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    "name", [name if name in FIRST else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_a_method_works_alone_under_a_plain_tuner(name: str, tmp_path: Path) -> None:
    """A Tuner needs the class and a space: it draws the strengths, and gets metrics, a checkpoint and events."""
    given = {"maps": maps_file(tmp_path)} if method(name).needs_targets else {}
    tuner = tune.Tuner(
        method(name),
        param_space=PLAIN | given | required(name, tune.loguniform(1e-3, 1.0)),
        tune_config=tune.TuneConfig(metric="val/adv_accuracy", mode="max", max_concurrent_trials=1),
        run_config=tune.RunConfig(
            storage_path=str(tmp_path), verbose=0, sync_config=tune.SyncConfig(sync_artifacts=True)
        ),
    )
    (result,) = tuner.fit()
    assert result.error is None
    assert result.metrics.keys() >= TRAINED
    assert result.metrics["epoch"] == 1
    assert all(1e-3 <= result.config[key] <= 1.0 for key in required(name, None))
    assert result.checkpoint is not None
    assert list(Path(result.path).glob("events.out.tfevents.*"))


# ------------------------------------------------------------------------- reset
@pytest.mark.parametrize("name", METHODS)
def test_a_reset_leaves_nothing_of_the_former_trial(name: str, make: Make, tmp_path: Path) -> None:
    """Train A, reset to B = B alone: parameters, weights, momenta and metrics, bit for bit."""
    former = PLAIN | required(name, 0.5) | {"seed": [1, 2], "data": DATA | {"train_limit": 100}}
    later = PLAIN | required(name, 0.1) | {"model": "mnist_cnn"}
    if method(name).needs_targets:
        former["maps"] = maps_file(tmp_path / "former", (100, 1, 8, 8))
        later["maps"] = maps_file(tmp_path / "later")
    reused, fresh = make(method(name), former), make(method(name), later)
    reused.step()
    assert reused.reset_config(later)
    assert reused.params == fresh.params
    results = [json.loads(one.step()["record"]) for one in (reused, fresh)]
    assert results[0]["metrics"] == results[1]["metrics"]
    states = [one.trainer.state() for one in (reused, fresh)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())


# ----------------------------------------------------------------- under a study
def test_a_repeat_leaves_its_model_and_a_whole_record(make: Make, tmp_path: Path) -> None:
    """All metrics of both seeds, how many images stand behind them, package_versions, and each seed's curves and weights."""
    store = Store(tmp_path / "store")
    trainable = make(StandardTrainable, study(store, seeds=(0, 1)))
    assert "record" not in trainable.step()
    result = trainable.step()
    record = json.loads(result["record"])
    assert result["done"]
    assert store.records() == [record]
    assert (record["state"], record["epochs"], record["error"], record["device"]) == ("done", 2, None, "cpu")
    assert record["counts"] == {"train": N, "val": 40, "test": 30, "grad_norm": 20}
    assert record["versions"] == package_versions()
    assert record["seconds"] > 0
    for seed in ("0", "1"):
        assert record["metrics"][seed].keys() == TRAINED | JUDGED
        first, last = record["curves"][seed]
        assert first.keys() == TRAINED - {"val/adv_accuracy"}
        assert last == {key: record["metrics"][seed][key] for key in TRAINED}
        weights = load_file(store.model_file(record["key"], int(seed)))
        assert weights.keys() == trainable.trainer.replicas[0].model.state_dict().keys()
    mean = sum(one["val/accuracy"] for one in record["metrics"].values()) / 2
    assert result["val/accuracy"] == pytest.approx(mean)


def test_a_search_that_goes_on_tells_first_what_epochs_there_were(make: Make, tmp_path: Path) -> None:
    """Its pruner may not have heard of the last of them."""
    config = study(Store(tmp_path / "store"), role="search", training=Training(epochs=4, batch_size=50, lr=0.05))
    whole = make(StandardTrainable, config)
    told = [whole.step() for _ in range(2)]
    assert whole.earlier is None
    again = make(StandardTrainable, config)
    shown = {"train/loss", "train/ce", "val/accuracy", "epoch"}
    assert again.earlier == [{name: one[name] for name in shown} for one in told]


def test_a_search_sees_no_test_data_and_leaves_no_model(make: Make, tmp_path: Path) -> None:
    """A search trial is judged on the validation split alone."""
    store = Store(tmp_path / "store")
    trainable = make(StandardTrainable, study(store, role="search"))
    trainable.step()
    record = json.loads(trainable.step()["record"])
    assert record["metrics"]["0"].keys() == TRAINED
    assert record["counts"] == {"train": N, "val": 40}
    assert len(record["curves"]["0"]) == 2
    assert not (store.path / "models").exists()


@pytest.mark.parametrize(("every", "wanted", "attacked"), [(0, True, [3]), (2, True, [2, 3]), (1, False, [])])
def test_adversarial_validation_is_as_often_as_asked(
    every: int, wanted: bool, attacked: list[int], make: Make, tmp_path: Path
) -> None:
    """After the last epoch, and each ``adversarial_every`` epochs; never where the item asks for none."""
    training, evaluation = Training(epochs=3, batch_size=200), Evaluation(adversarial_every=every)
    config = study(Store(tmp_path), training=training, adversarial=wanted, role="search")
    config["item"]["recipe"]["evaluation"] = evaluation.model_dump()
    trainable = make(StandardTrainable, config)
    assert [epoch for epoch in (1, 2, 3) if "val/adv_accuracy" in trainable.step()] == attacked


def test_divergence_settles_an_item_and_fails_a_plain_trial(make: Make, tmp_path: Path) -> None:
    """A study keeps a record that says why; plain Tune gets the exception, and tells its searcher."""
    store, wild = Store(tmp_path / "store"), Training(epochs=2, batch_size=50, lr=1e6)
    result = make(StandardTrainable, study(store, training=wild)).step()
    (record,) = store.records()
    assert result["done"]
    assert (record["state"], record["epochs"], record["metrics"]) == ("diverged", 0, {})
    assert "the term ce was" in record["error"]
    assert not (store.path / "models").exists()
    with pytest.raises(Diverged, match="the term ce was"):
        make(StandardTrainable, PLAIN | {"training": wild.model_dump()}).step()


def test_a_worker_with_other_images_refuses_the_item(make: Make, tmp_path: Path) -> None:
    """The fingerprint of the data is the study's on every machine."""
    right = load(Data(**DATA)).fingerprint
    make(StandardTrainable, study(Store(tmp_path), data_fingerprint=right))
    with pytest.raises(DataError, match=f"fingerprint 00ff, but this machine's have {right}"):
        make(StandardTrainable, study(Store(tmp_path), data_fingerprint="00ff"))


# --------------------------------------------------------------------------- maps
@pytest.mark.parametrize("permute", [None, "fixed"])
def test_maps_are_the_files_permuted_where_asked(permute: str | None, make: Make, tmp_path: Path) -> None:
    """The raw maps for every seed; permuted, each map keeps its values and each seed has an order of its own."""
    store = Store(tmp_path / "store")
    maps = Maps(teacher="t", teacher_seed=0, sigma=0.1, samples=1, permute=permute)
    raw = torch.from_numpy(np.load(maps_file(tmp_path)))
    store.maps_file(maps.key).parent.mkdir(parents=True)
    np.save(store.maps_file(maps.key), raw.numpy())
    trainable = make(InterpretationTrainable, study(store, "interpretation", maps=maps, seeds=(0, 1)))
    assert trainable.trainer.guidance is not None
    first, second = (trainable.trainer.guidance.raw_NCHW[seed] for seed in (0, 1))
    assert torch.equal(first.flatten(1).sort().values, raw.flatten(1).sort().values)
    assert torch.equal(first, raw) == torch.equal(first, second) == (not permute)
    assert torch.equal(load_training_maps(trainable.assignment, trainable.data)[0], first)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((N, 1, 8, 7), "float32"), ((N - 1, 1, 8, 8), "float32"), ((N, 1, 8, 8), "float64")]
)
def test_maps_of_other_images_are_refused(shape: tuple[int, ...], dtype: str, make: Make, tmp_path: Path) -> None:
    """The message names the file and both shapes."""
    file = tmp_path / "foreign.npy"
    np.save(file, np.zeros(shape, dtype=dtype))
    told = rf"foreign.npy: maps are float32, .* shape \[200, 1, 8, 8\]; these are {dtype} of shape \[{shape[0]}, 1, 8"
    with pytest.raises(ValueError, match=told):
        make(InterpretationTrainable, PLAIN | {"lambda": 0.1, "maps": str(file)})


# ------------------------------------------------------------ plain configurations
def test_all_that_is_wrong_is_told_at_once(make: Make) -> None:
    """Unknown keys with the nearest known one, missing and foreign values, settings: one message."""
    wrong = {"lambda_jj": 1.0, "norm": "l7", "trianing": {}, "training": {"epochs": 0}, "model": 3, "seed": [1, 1]}
    with pytest.raises(ConfigError) as caught:
        make(JacobianTrainable, wrong | {"maps": "nowhere.npy"})
    told = str(caught.value).splitlines()
    assert told[0] == "JacobianTrainable cannot take this configuration:"
    assert told[1:5] == [
        "lambda_jj: unknown key; did you mean lambda_j?",
        "trianing: unknown key; did you mean training?",
        "lambda_j: is needed (strength λ_J of the penalty)",
        'norm: takes one of batch, sample, squared, got "l7"',
    ]
    assert told[5:8] == [
        "maps: the method takes no target maps; drop them",
        "seed: takes a seed, or several different ones, got [1, 1]",
        'maps: no such file; Tune\'s workers run in folders of their own, so give an absolute path, got "nowhere.npy"',
    ]
    assert [line.partition(":")[0] for line in told[8:]] == ["model", "training.epochs"]


@pytest.mark.parametrize("value", [-0.1, float("nan"), "0.1", True])
def test_a_parameter_out_of_its_range_is_refused(value: Any, make: Make) -> None:
    with pytest.raises(ConfigError, match="lambda_j: takes a"):
        make(JacobianTrainable, PLAIN | {"lambda_j": value})


def test_methods_with_targets_need_maps(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"maps: is needed: an \.npy file of raw SmoothGrad maps"):
        make(InterpretationTrainable, PLAIN | {"lambda": 0.1})


def test_a_batch_larger_than_the_data_is_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="a batch takes 201 images, but there are 200"):
        make(StandardTrainable, PLAIN | {"training": {"batch_size": 201}})


def test_a_plain_configuration_is_read_as_a_study_is(make: Make) -> None:
    """Data by name, NumPy's numbers, several seeds, defaults, and the evaluation's attack with training's radius."""
    given = {"data": "digits", "lambda_j": np.float64(0.2), "seed": [4, 2], "evaluation": {"steps": np.int64(7)}}
    trainable = make(JacobianTrainable, {"attack": {"eps": 0.25, "steps": 5}} | given)
    assert trainable.params == {"lambda_j": 0.2, "norm": "batch", "output": "logits", "dropout": "shared"}
    assert trainable.assignment.item.seeds == (4, 2)
    assert trainable.recipe.evaluation_attack == Attack(eps=0.25, steps=7)
    assert type(trainable.params["lambda_j"]) is float


def test_a_plain_trial_is_judged_on_test_data_only_where_asked(make: Make) -> None:
    """``test: true`` adds the final evaluation."""
    for test in (False, True):
        result = make(StandardTrainable, PLAIN | {"test": test}).step()
        assert result.keys() & (TRAINED | JUDGED) == (TRAINED | JUDGED if test else TRAINED)


def test_a_method_without_terms_says_so(make: Make) -> None:
    """The base is no method."""
    with pytest.raises(TypeError, match=r"MethodTrainable gives no terms\(model, batch\)"):
        make(MethodTrainable, PLAIN).step()


def test_a_trial_writes_into_no_working_folder(make: Make, tmp_path: Path) -> None:
    """Under a study all files lie in the store."""
    before = set(os.listdir())
    make(StandardTrainable, study(Store(tmp_path / "store"))).step()
    assert set(os.listdir()) == before
    assert {entry.name for entry in (tmp_path / "store").iterdir()} == {"checkpoints", "tensorboard"}
