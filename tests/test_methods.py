"""The contract of every training method that is registered: a new one is covered as soon as it is.

A method's strengths are its required parameters whose least value is 0: λ, λ_J and the like.
Shapes: B batch, N training images, C·H·W image.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from trainables import MethodTrainable
from tune_interpreg import registry
from tune_interpreg.config import Attack, Data, Evaluation, Training
from tune_interpreg.items import Item, Maps, Recipe
from tune_interpreg.store import Store
from tune_interpreg.training import Batch

METHODS = registry.names("methods")
B, N = 32, 96
DATA = {"name": "digits", "train_limit": N, "validation": 30, "test_limit": 30}
ATTACK = {"norm": "l2", "eps": 0.5, "steps": 3}

#: The losses of three steps on the same 32 images at lr 0.5, strengths 0.1, seed 0.
GOLDEN = {
    "adversarial": [2.3135803, 2.3075953, 2.2997680],
    "interpretation": [4.1404519, 4.1331084, 4.1207582],
    "jacobian": [2.3716206, 2.3610204, 2.3499079],
    "standard": [2.3003917, 2.2936437, 2.2824743],
}

Make = Callable[..., MethodTrainable]


def method(name: str) -> type[MethodTrainable]:
    found: type[MethodTrainable] = registry.resolve("methods", name)
    return found


def strengths(name: str) -> list[str]:
    return [key for key, one in method(name).parameters.items() if one.default is None and one.low == 0]


def training(epochs: int) -> dict[str, Any]:
    return {"epochs": epochs, "batch_size": B, "lr": 0.05}


def maps(images: int = N) -> np.ndarray:
    """Non-negative maps without meaning."""
    return np.random.default_rng(0).random((images, 1, 8, 8), dtype=np.float32)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes a method's Trainable of a plain configuration, or of a study's; with dropout unless told otherwise."""
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "logs"))
    made: list[MethodTrainable] = []

    def one(name: str, *, strength: float = 0.1, images: int = N, epochs: int = 2, **own: Any) -> MethodTrainable:
        config = {"data": DATA | {"train_limit": images}, "model": "mnist_cnn", "attack": ATTACK}
        config |= {"training": training(epochs)} | dict.fromkeys(strengths(name), strength)
        if method(name).needs_targets:
            np.save(tmp_path / "maps.npy", maps(images))
            config["maps"] = str(tmp_path / "maps.npy")
        made.append(method(name)(own if "item" in own else config | own))
        return made[-1]

    yield one
    for trainable in made:
        trainable.cleanup()


def study_config(name: str, store: Store) -> dict[str, Any]:
    """What a study hands a worker for a repeat of two epochs."""
    recipe = Recipe(
        method=name,
        params=dict.fromkeys(strengths(name), 0.1),
        data=Data(**DATA),
        model="mnist_cnn",
        training=Training(**training(2)),
        attack=Attack(**ATTACK),
        evaluation=Evaluation(gradient_samples=10),
        evaluation_attack=Attack(**ATTACK),
        maps=Maps(teacher="teacher", teacher_seed=0, sigma=0.1, samples=1) if method(name).needs_targets else None,
    )
    if recipe.maps:
        store.maps_file(recipe.maps.key).parent.mkdir(parents=True, exist_ok=True)
        np.save(store.maps_file(recipe.maps.key), maps())
        np.save(store.preview_file(recipe.maps.key), maps(8))
    item = Item(arm=name, role="repeat", recipe=recipe, seeds=(0,))
    return {"item": item.model_dump(mode="json"), "store": str(store.path), "device": "cpu"}


def bits(trainable: MethodTrainable) -> dict[str, Tensor]:
    """Weights and momenta."""
    return trainable.trainer.state()


def assert_same_bits(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for key in one:
        assert torch.equal(one[key], other[key]), key


def settled(result: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a last step, without times: metrics, curves, counts."""
    record = json.loads(result["record"])
    return {key: value for key, value in record.items() if key not in ("seconds", "finished")}


def batch(trainable: MethodTrainable, dtype: torch.dtype = torch.float32) -> Batch:
    """The first images of the training split, with their maps; the streams begin anew."""
    (replica,), split = trainable.trainer.replicas, trainable.data.train
    replica.begin(0, lr=0.05)
    raw = None if replica.maps_NCHW is None else replica.maps_NCHW[:B].to(dtype)
    return Batch(split.x_NCHW[:B].to(dtype), split.y_N[:B], raw, replica.noise)


@pytest.mark.parametrize("name", METHODS)
def test_terms_are_finite_and_their_sum_is_the_loss(name: str, make: Make) -> None:
    """Several steps, and the epoch's loss is the sum of its terms; a strength gives a term of its own."""
    (means,) = make(name).trainer.run_epoch().values()
    loss = means.pop("loss")
    assert all(np.isfinite(value) for value in means.values())
    assert loss == pytest.approx(sum(means.values()))
    assert len(means) == 1 + len(strengths(name))


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_that_descends_is_the_sum_of_the_terms(name: str, make: Make) -> None:
    """One step moves each parameter by −lr·∂(Σ terms)/∂w."""
    trainable = make(name, images=B)
    (replica,) = trainable.trainer.replicas
    before = [w.detach().clone() for w in replica.model.parameters()]
    given = batch(trainable)
    order = torch.randperm(B, generator=replica.order)
    raw = None if given.maps_BCHW is None else given.maps_BCHW[order]
    shuffled = Batch(given.x_BCHW[order], given.y_B[order], raw, given.noise)
    loss = sum(trainable.terms(replica.model, shuffled).values())
    gradients = torch.autograd.grad(loss, list(replica.model.parameters()))
    trainable.trainer.run_epoch()
    for was, gradient, now in zip(before, gradients, replica.model.parameters(), strict=True):
        torch.testing.assert_close(now.detach(), was - 0.05 * gradient)


@pytest.mark.parametrize("name", METHODS)
def test_gradients_reach_every_parameter(name: str, make: Make) -> None:
    """No weight and no bias is left out of a step."""
    trainable = make(name)
    model = trainable.trainer.replicas[0].model
    sum(trainable.terms(model, batch(trainable)).values()).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", [name for name in METHODS if strengths(name)])
def test_strength_zero_is_standard_training(name: str, make: Make) -> None:
    """λ = 0: the same bits as standard training, dropout and momentum included."""
    without, standard = make(name, strength=0.0), make("standard")
    for _ in range(2):
        assert without.trainer.run_epoch()[0]["ce"] == standard.trainer.run_epoch()[0]["ce"]
    assert_same_bits(bits(without), bits(standard))


@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_those_of_double_backpropagation(name: str, make: Make) -> None:
    """In float64 the parameters' gradients through the model's adjoint and through autograd's agree, term by term."""
    trainable = make(name, model="digits_cnn")
    model = trainable.trainer.replicas[0].model.double()
    weights = list(model.parameters())
    own = trainable.terms(model, batch(trainable, torch.float64))
    opaque = nn.Sequential(model)  # has no adjoint of its own
    other = trainable.terms(opaque, batch(trainable, torch.float64))
    for key, term in own.items():
        torch.testing.assert_close(term, other[key], rtol=1e-10, atol=1e-12)
        ours = torch.autograd.grad(term, weights, retain_graph=True, materialize_grads=True)
        theirs = torch.autograd.grad(other[key], weights, retain_graph=True, materialize_grads=True)
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", METHODS)
def test_the_first_three_losses_stay_what_they_are(name: str, make: Make) -> None:
    """A golden record; another CPU rounds otherwise, so it holds to four digits."""
    trainable = make(name, images=B, model="digits_cnn", training=training(3) | {"lr": 0.5})
    losses = [trainable.trainer.run_epoch()[0]["loss"] for _ in range(3)]
    assert name in GOLDEN, f"add the losses of the new method to GOLDEN: {name!r}: {losses}"
    assert losses == pytest.approx(GOLDEN[name], rel=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_a_saved_and_loaded_trial_goes_on_with_the_same_bits(name: str, make: Make, tmp_path: Path) -> None:
    """step, save, load elsewhere, step = step, step: weights, momenta and metrics."""
    whole, first, rest = make(name), make(name), make(name)
    whole.step()
    first.step()
    first.save_checkpoint(str(tmp_path))
    rest.load_checkpoint(str(tmp_path))
    assert settled(rest.step()) == settled(whole.step())
    assert_same_bits(bits(rest), bits(whole))


@pytest.mark.parametrize("name", METHODS)
def test_a_killed_worker_is_replaced_with_the_same_bits(name: str, make: Make, tmp_path: Path) -> None:
    """After a kill a new worker on the same store goes on with the last epoch: record, curves and model agree."""
    whole, killed = (study_config(name, Store(tmp_path / folder)) for folder in ("whole", "killed"))
    uninterrupted = make(name, **whole)
    uninterrupted.step()
    expected = settled(uninterrupted.step())
    make(name, **killed).step()
    resumed = make(name, **killed)
    assert resumed.trainer.epoch == 1
    assert settled(resumed.step()) == expected
    models = [load_file(Store(tmp_path / folder).model_file(expected["key"], 0)) for folder in ("whole", "killed")]
    assert_same_bits(*models)


@pytest.mark.parametrize("name", METHODS)
def test_global_generators_play_no_part(name: str, make: Make) -> None:
    """Disturbed before and between the epochs, they change nothing; and a training draws nothing from them."""
    results = []
    for disturbance in (1, 2):
        trainable = make(name)
        for epoch in range(2):
            torch.manual_seed(disturbance + epoch)
            np.random.seed(disturbance + epoch)
            random.seed(disturbance + epoch)
            before = (torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate())
            trainable.step()
            assert (torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()) == before
        results.append(bits(trainable))
    assert_same_bits(*results)


@pytest.mark.parametrize("name", METHODS)
def test_seeds_together_are_seeds_alone(name: str, make: Make) -> None:
    """Several seeds in one trial have the weights and the metrics of each seed's own trial."""
    together = make(name, seed=[3, 5])
    alone = {seed: make(name, seed=seed) for seed in (3, 5)}
    shared = together.trainer.run_epoch()
    assert shared == {seed: one.trainer.run_epoch()[seed] for seed, one in alone.items()}
    assert_same_bits(bits(together), bits(alone[3]) | bits(alone[5]))


class Operations(TorchDispatchMode):
    """Notes each operation with the shapes of its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Any, list[torch.Size]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shapes = [one.shape for one in args if isinstance(one, Tensor)]
        packet = func.overloadpacket
        masked = packet in INDEXED and any(one is not None and one.dtype == torch.bool for one in args[1])
        self.found.append((torch.ops.aten.nonzero if masked else packet, shapes))
        return func(*args, **(kwargs or {}))

    def host_reads(self) -> list[Any]:
        """The operations that bring a value to the host, or whose output's shape depends on values."""
        return [packet for packet, _ in self.found if packet in READS]


ATEN = torch.ops.aten
INDEXED = (ATEN.index, ATEN.index_put, ATEN.index_put_)
READS = (ATEN._local_scalar_dense, ATEN.item, ATEN.is_nonzero, ATEN.equal, ATEN.nonzero, ATEN.masked_select)


@pytest.mark.parametrize("name", METHODS)
def test_steps_read_nothing_back(name: str, make: Make) -> None:
    """An epoch reads one mean a term, however many steps it has: a GPU can capture a step, and waits once an epoch."""
    for images in (B, 3 * B):
        trainable = make(name, images=images, model="digits_cnn")
        with Operations() as operations:
            (means,) = trainable.trainer.run_epoch().values()
        assert operations.host_reads() == [ATEN._local_scalar_dense] * (len(means) - 1)


@pytest.mark.parametrize("name", METHODS)
def test_steps_do_the_same_whatever_the_data(name: str, make: Make) -> None:
    """No branch on data: black images of one class take the same operations, on the same shapes, as any."""
    trainable = make(name)
    model = trainable.trainer.replicas[0].model
    given = batch(trainable)
    black = Batch(torch.zeros_like(given.x_BCHW), torch.zeros_like(given.y_B), given.maps_BCHW, given.noise)
    traces = []
    for one in (given, black):
        with Operations() as operations:
            torch.autograd.grad(sum(trainable.terms(model, one).values()), list(model.parameters()))
        traces.append(operations.found)
    assert traces[0] == traces[1]
