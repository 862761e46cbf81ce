"""All shipped methods, and combinations of them, fulfil the contract, also with dropout (mnist_cnn)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.contract import ATTACK, METHODS, B, Make, data, first_batch, method, strengths, training
from helpers.engines import assert_same_bits
from helpers.jobs import config_of, training_job
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from trainables.standard import StandardTrainable
from trainables.testing import MethodContract, write_maps
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Attack, Data, Model, Training
from tune_interpreg.study.recipe import Recipe, TargetMaps

WITH_DROPOUT = ["adversarial", "interpretation", "jacobian + interpretation"]

#: Losses of three steps on the same 32 images at lr 0.5, strengths 0.1, seed 0.
GOLDEN = {
    "adversarial": [2.3135803, 2.3075953, 2.2997680],
    "adversarial + interpretation": [4.1536405, 4.1479270, 4.1403595],
    "aligned": [2.3976622, 2.3859051, 2.3659392],
    "cosine": [2.4234763, 2.4153308, 2.4021710],
    "curvature": [2.3004443, 2.2937310, 2.2826009],
    "distill": [2.3007950, 2.2939004, 2.2827486],
    "distill + gradient_match": [2.3011017, 2.2942138, 2.2831032],
    "fast_adversarial": [2.3105516, 2.3048701, 2.2976518],
    "gaussian": [2.3013716, 2.2951159, 2.2861559],
    "gradient_align": [2.3237816, 2.3115839, 2.2985482],
    "gradient_match": [2.3006984, 2.2939573, 2.2828252],
    "input_gradient": [2.3213059, 2.3142171, 2.3051815],
    "interpretation": [4.1404519, 4.1331084, 4.1207582],
    "jacobian": [2.3716206, 2.3610204, 2.3499079],
    "jacobian + interpretation": [4.2116809, 4.2018274, 4.1916403],
    "jacobian_projections": [2.3734380, 2.3613546, 2.3516876],
    "mart": [2.4274447, 2.4212567, 2.4166117],
    "trades": [2.3003941, 2.2936468, 2.2824785],
    "standard": [2.3003917, 2.2936437, 2.2824743],
}


def contract(name: str, net: str, **options: Any) -> type[MethodContract]:
    """Return the contract of a method on a network. A combination with attacked images equals its attack at λ = 0."""
    attacking = [method(part) for part in name.split(" + ") if method(part).attacks_images and " + " in name]
    attributes = {
        "method": method(name),
        "params": dict.fromkeys(strengths(name), 0.1) | options,
        "config": {"model": net},
        # With dropout, the penalty's own forward at the clean images draws masks that the attack alone does not.
        "base": StandardTrainable if not attacking else attacking[0] if net == "digits_cnn" else None,
    }
    return type("Contract", (MethodContract,), attributes)


for _net, _names in {"digits_cnn": METHODS, "mnist_cnn": WITH_DROPOUT}.items():
    for _name in _names:
        globals()[f"Test_{_name.replace(' + ', '_and_')}_{_net}"] = contract(_name, _net)


@pytest.mark.parametrize("name", METHODS)
def test_each_strength_has_a_term(name: str, make: Make) -> None:
    terms = make(name).terms(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), first_batch(make(name)))
    assert terms.keys() >= {"ce"}
    assert len(terms) == 1 + len(strengths(name))


@pytest.mark.parametrize("net", ["digits_cnn", "mnist_cnn"])
@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_those_of_double_backpropagation(name: str, net: str, make: Make) -> None:
    """In float64 the model's adjoint and autograd give equal gradients of each term, and each weight gets some."""
    trainable = make(name, net=net)
    model = trainable.trainer.replicas[0].model.double()
    weights = list(model.parameters())
    terms = trainable.terms(model, first_batch(trainable, torch.float64, images=8))
    opaque = nn.Sequential(model)  # has no linearize method
    expected = trainable.terms(opaque, first_batch(trainable, torch.float64, images=8))
    total = [torch.zeros_like(weight) for weight in weights]
    for key, term in terms.items():
        torch.testing.assert_close(term, expected[key], rtol=1e-10, atol=1e-12)
        ours = torch.autograd.grad(term, weights, retain_graph=True, materialize_grads=True)
        theirs = torch.autograd.grad(expected[key], weights, retain_graph=True, materialize_grads=True)
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
        total = [sum_ + gradient for sum_, gradient in zip(total, ours, strict=True)]
    assert all(gradient.any() for gradient in total)


@pytest.mark.parametrize("name", METHODS)
def test_the_first_three_losses_stay_what_they_are(name: str, make: Make) -> None:
    """A golden record, to four digits, because other CPUs round differently."""
    trainable = make(name, images=B, net="digits_cnn", training=training(3) | {"lr": 0.5})
    losses = [trainable.trainer.run_epoch()[0]["loss"] for _ in range(3)]
    assert name in GOLDEN, f"add the losses of the new method to GOLDEN: {name!r}: {losses}"
    assert losses == pytest.approx(GOLDEN[name], rel=1e-4)


def study_config(name: str, store: Store) -> dict[str, Any]:
    """Return what a study gives a worker for a repeat of two epochs."""
    maps = None
    if method(name).needs_targets:
        sign = "signed" if method(name).signed_targets else "abs"
        maps = TargetMaps(key=f"{sign}-maps")
        store.maps_file(maps.key).parent.mkdir(parents=True, exist_ok=True)
        raw_NCHW = np.load(write_maps(store.maps_file(maps.key), data(), method(name)))
        save_file({"smoothgrad_NCHW": torch.from_numpy(raw_NCHW[:8])}, store.preview_file(maps.key))
    recipe = Recipe(
        method=name,
        params=dict.fromkeys(strengths(name), 0.1),
        data=Data(**data()),
        model=Model(name="mnist_cnn"),
        training=Training(**training(2)),
        attack=Attack(**ATTACK),
        maps=maps,
    )
    return config_of(training_job(recipe), store)


@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_a_killed_worker_is_replaced_with_the_same_bits(name: str, make: Make, tmp_path: Path) -> None:
    """A new worker on the same store resumes after the last epoch: record, curves and model are equal."""
    stores = [Store(tmp_path / folder) for folder in ("whole", "killed")]
    whole = make(name, **study_config(name, stores[0]))
    whole.step()
    make(name, **study_config(name, stores[1])).step()
    resumed = make(name, **study_config(name, stores[1]))
    assert resumed.trainer.epoch == 1
    records = [json.loads(trainable.step()["records"])[0] for trainable in (whole, resumed)]
    for record in records:
        for key in ("seconds", "spent", "finished"):
            del record[key]
    assert records[0] == records[1]
    assert_same_bits(*(load_file(store.model_file(records[0]["key"])) for store in stores))


#: Options that change a step, in addition to each method's defaults.
OPTIONS = [
    ("adversarial", {"mode": "eval"}),
    ("cosine", {"threshold": "one_sided", "output": "probabilities"}),
    ("interpretation", {"threshold": "two_sided", "output": "probabilities", "sign": "signed"}),
    ("jacobian", {"dropout": "independent", "output": "probabilities"}),
    ("jacobian_projections", {"projections": 3, "norm": "sample"}),
]
CASES = [*((name, {}) for name in METHODS), *OPTIONS]


class HostReads(TorchDispatchMode):
    """Record the operations, forward and backward, that read a value on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indexes = args[1] if name in ("index", "index_put", "index_put_") else ()
        masked = any(index is not None and index.dtype == torch.bool for index in indexes)
        if masked or name in ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select"):
            self.reads.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "options"), CASES)
def test_an_epoch_reads_one_mean_per_term(name: str, options: dict[str, Any], make: Make) -> None:
    """However many steps it has. So a GPU can capture a step, and waits once per epoch."""
    for images in (B, 3 * B):
        trainable = make(name, images=images, net="digits_cnn", **options)
        with HostReads() as host:
            (means,) = trainable.trainer.run_epoch().values()
        assert host.reads == ["_local_scalar_dense"] * len(means)  # loss is the sum of the means


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_steps_with_options_can_be_captured(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    suite = contract(name, "mnist_cnn", **options)()
    suite.setup_method()
    suite.test_steps_can_be_captured(tmp_path)
    suite.teardown_method()
