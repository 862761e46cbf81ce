"""The contract of every training method that is registered, and of combinations: a new one is covered as soon as it is.

What is cheap is held on each net (see NETS): with dropout, without, and with images of three channels.
"""

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.contract import ATTACK, METHODS, B, Make, batch, data, gradients, making, maps, method, strengths, training
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainables import MethodTrainable
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Attack, Data, Evaluation, Model, Training
from tune_interpreg.study.items import Item
from tune_interpreg.study.recipe import Maps, Recipe
from tune_interpreg.training.trainer import Batch

NETS = ["digits_cnn", "mnist_cnn", "cifar_cnn"]
DROPOUT = ["mnist_cnn", "cifar_cnn"]

#: The losses of three steps on the same 32 images at lr 0.5, strengths 0.1, seed 0.
GOLDEN = {
    "adversarial": [2.3135803, 2.3075953, 2.2997680],
    "adversarial + interpretation": [4.1536405, 4.1479270, 4.1403595],
    "cosine": [2.4234763, 2.4153308, 2.4021710],
    "fast_adversarial": [2.3105516, 2.3048701, 2.2976518],
    "input_gradient": [2.3213059, 2.3142171, 2.3051815],
    "interpretation": [4.1404519, 4.1331084, 4.1207582],
    "jacobian": [2.3716206, 2.3610204, 2.3499079],
    "jacobian + interpretation": [4.2116809, 4.2018274, 4.1916403],
    "jacobian_projections": [2.3734380, 2.3613546, 2.3516876],
    "standard": [2.3003917, 2.2936437, 2.2824743],
}


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    yield from making(tmp_path, monkeypatch)


def study_config(name: str, store: Store) -> dict[str, Any]:
    """What a study hands a worker for a repeat of two epochs."""
    guided, sign = method(name).needs_targets, "signed" if method(name).signed_targets else "abs"
    recipe = Recipe(
        method=name,
        params=dict.fromkeys(strengths(name), 0.1),
        data=Data(**data()),
        model=Model(name="mnist_cnn"),
        training=Training(**training(2)),
        attack=Attack(**ATTACK),
        evaluation=Evaluation(gradient_samples=10),
        evaluation_attack=Attack(**ATTACK),
        maps=Maps(teacher="teacher", teacher_seed=0, sigma=0.1, samples=1, sign=sign) if guided else None,
    )
    if recipe.maps:
        store.maps_file(recipe.maps.key).parent.mkdir(parents=True, exist_ok=True)
        np.save(store.maps_file(recipe.maps.key), maps(name))
        save_file({"smoothgrad_NCHW": torch.from_numpy(maps(name, images=8))}, store.preview_file(recipe.maps.key))
    item = Item(arm="arm", role="repeat", recipe=recipe, seeds=(0,))
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
    return {key: value for key, value in record.items() if key not in ("seconds", "spent", "finished")}


@pytest.mark.parametrize("net", DROPOUT)
@pytest.mark.parametrize("name", METHODS)
def test_terms_are_finite_and_their_sum_is_the_loss(name: str, net: str, make: Make) -> None:
    """Several steps, and the epoch's loss is the sum of its terms; a strength gives a term of its own."""
    (means,) = make(name, net=net).trainer.run_epoch().values()
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
    order = torch.randperm(B, generator=replica.streams["order"])
    target = None if given.target_BCHW is None else given.target_BCHW[order]
    expected = gradients(trainable, Batch(given.x_BCHW[order], given.y_B[order], target, given.noise))
    trainable.trainer.run_epoch()
    for was, gradient, now in zip(before, expected, replica.model.parameters(), strict=True):
        torch.testing.assert_close(now.detach(), was - 0.05 * gradient)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", METHODS)
def test_gradients_reach_every_parameter(name: str, net: str, make: Make) -> None:
    """No weight and no bias is left out of a step."""
    trainable = make(name, net=net)
    keys = [key for key, _ in trainable.trainer.replicas[0].model.named_parameters()]
    for key, gradient in zip(keys, gradients(trainable, batch(trainable)), strict=True):
        assert torch.isfinite(gradient).all(), key
        assert gradient.abs().max() > 0, key


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", [name for name in METHODS if strengths(name) and not method(name).attacks_images])
def test_strength_zero_is_standard_training(name: str, net: str, make: Make) -> None:
    """λ = 0: the same bits as standard training, dropout and momentum included."""
    without, standard = make(name, net=net, strength=0.0, images=B), make("standard", net=net, images=B)
    for _ in range(2):
        assert without.trainer.run_epoch()[0]["ce"] == standard.trainer.run_epoch()[0]["ce"]
    assert_same_bits(bits(without), bits(standard))


@pytest.mark.parametrize("name", [name for name in METHODS if strengths(name) and method(name).attacks_images])
def test_strength_zero_is_training_on_the_moved_images_alone(name: str, make: Make) -> None:
    """Without dropout, whose masks the penalty's own forward would draw: the same bits as the method that moves."""
    (moving,) = [one for one in name.split(" + ") if method(one).attacks_images]
    without, alone = make(name, net="digits_cnn", strength=0.0), make(moving, net="digits_cnn")
    for _ in range(2):
        assert without.trainer.run_epoch()[0]["ce"] == alone.trainer.run_epoch()[0]["ce"]
    assert_same_bits(bits(without), bits(alone))


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_those_of_double_backpropagation(name: str, net: str, make: Make) -> None:
    """In float64 the parameters' gradients through the model's adjoint and through autograd's agree, term by term."""
    trainable = make(name, net=net)
    model = trainable.trainer.replicas[0].model.double()
    weights = list(model.parameters())
    own = trainable.terms(model, batch(trainable, torch.float64, images=8))
    opaque = nn.Sequential(model)  # has no adjoint of its own
    other = trainable.terms(opaque, batch(trainable, torch.float64, images=8))
    for key, term in own.items():
        torch.testing.assert_close(term, other[key], rtol=1e-10, atol=1e-12)
        ours = torch.autograd.grad(term, weights, retain_graph=True, materialize_grads=True)
        theirs = torch.autograd.grad(other[key], weights, retain_graph=True, materialize_grads=True)
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_the_first_three_losses_stay_what_they_are(name: str, make: Make) -> None:
    """A golden record; another CPU rounds otherwise, so it holds to four digits."""
    trainable = make(name, images=B, net="digits_cnn", training=training(3) | {"lr": 0.5})
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
