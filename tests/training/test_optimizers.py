"""The optimizers and the warm-up against torch.optim step by step, and their state across an interruption."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from helpers.engines import PLAIN, B, N, T, assert_same_bits, copy_state, images, plain_trainer, train, weights_of
from torch import nn
from torch.nn import functional as F

from tune_interpreg import seeding
from tune_interpreg.data.dataset import to_pixels
from tune_interpreg.networks.build import build
from tune_interpreg.study.config import Model, Training
from tune_interpreg.training.trainer import Replica

ADAMW = {"optimizer": "adamw", "momentum": None}

#: Settings of a training, and the optimizer of PyTorch that they stand for, as a plain loop over the parameters.
OPTIMIZERS: dict[str, tuple[dict[str, Any], type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": ({"momentum": 0.0}, torch.optim.SGD, {}),
    "momentum": ({"weight_decay": 0.01}, torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.01}),
    "nesterov": (
        {"nesterov": True, "weight_decay": 0.1},
        torch.optim.SGD,
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    ),
    "adamw": (ADAMW, torch.optim.AdamW, {"weight_decay": 0.0}),
    "decoupled": (ADAMW | {"weight_decay": 0.3}, torch.optim.AdamW, {"weight_decay": 0.3}),
}
SETTINGS = {name: settings for name, (settings, _, _) in OPTIMIZERS.items()}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_moves_as_pytorchs(name: str) -> None:
    """The weights after every epoch of a plain loop with the same batches, over three epochs of falling rates."""
    settings, kind, options = OPTIMIZERS[name]
    settings = settings | {"lr": 0.02, "lr_decay": 0.5, "decay_every": 1}
    engine, training = plain_trainer(**settings), PLAIN.model_copy(update=settings)
    data = images("cpu").train
    model = build(Model(name="digits_cnn"), (1, 8, 8), 10, 0, "cpu")
    optimizer = kind(model.parameters(), lr=0.02, foreach=False, **options)
    for epoch in range(3):
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate(epoch)
        stream = torch.Generator().manual_seed(seeding.number(0, "order", epoch))
        order_N = torch.randperm(N, generator=stream)
        for step in range(T):
            rows_B = order_N[step * B : (step + 1) * B]
            optimizer.zero_grad()
            F.cross_entropy(model(to_pixels(data.x_NCHW[rows_B])), data.y_N[rows_B]).backward()
            optimizer.step()
        engine.run_epoch()
        torch.testing.assert_close(weights_of(engine.replicas[0].model), weights_of(model), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_resumed_training_has_the_bits_of_an_uninterrupted_one(name: str) -> None:
    """Weights and the optimizer's state, over two epochs after the interruption; also with a warm-up."""
    settings = SETTINGS[name] | {"warmup_epochs": 2}
    whole, resumed = plain_trainer(**settings), plain_trainer(**settings)
    train(whole, 2)
    resumed.load_state(copy_state(whole), 2)
    assert train(whole, 2) == train(resumed, 2)
    assert_same_bits(resumed.state(), copy_state(whole))


def test_vetting_and_training_do_not_load_pytorchs_compiler() -> None:
    """It would take each worker a second or more before its first step."""
    code = """
import sys, torch
from tune_interpreg.networks.build import build
from tune_interpreg.networks.vetting import vet
from tune_interpreg.study.config import Model, Training
from tune_interpreg.training.optimizer import Optimizer
for training in (Training(), Training(optimizer="adamw", momentum=None)):
    model = torch.nn.Linear(2, 1)
    optimizer = Optimizer(model, training)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
vet(lambda: build(Model(name="digits_cnn"), (1, 8, 8), 10, seed=0), torch.rand(4, 1, 8, 8), 10)
print({"torch._dynamo", "sympy"} & sys.modules.keys())
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "set()\n"


def test_a_buffer_that_requires_a_gradient_has_no_state() -> None:
    model = nn.Linear(2, 1)
    model.register_buffer("offset", torch.zeros(1, requires_grad=True))
    names = [name for name, _ in Replica(0, model, Training()).named_tensors()]
    assert names == ["0/model/weight", "0/momentum/weight", "0/model/bias", "0/momentum/bias", "0/model/offset"]


def test_the_state_of_adamw_is_whole_before_the_first_step() -> None:
    """A checkpoint of epoch 0 can be loaded, and counts the steps."""
    engine = plain_trainer(**ADAMW)
    kinds = {name.split("/")[1] for name in engine.state()}
    assert kinds == {"model", "step", "exp_avg", "exp_avg_sq"}
    engine.run_epoch()
    steps = {float(tensor) for name, tensor in engine.state().items() if name.split("/")[1] == "step"}
    assert steps == {float(T)}


def test_decay_is_coupled_for_sgd_and_decoupled_for_adamw() -> None:
    """Without a gradient: w(1 − lr·δ) per step in both, but momentum lets sgd's decay go on."""
    for settings, factors in (
        ({"momentum": 0.0}, [1 - 0.1 * 0.5] * T),
        (ADAMW, [1 - 0.1 * 0.5] * T),
    ):
        engine = plain_trainer(
            lambda model, _: {"zero": 0.0 * weights_of(model).sum()}, lr=0.1, weight_decay=0.5, **settings
        )
        before = weights_of(engine.replicas[0].model).detach().clone()
        engine.run_epoch()
        expected = before * torch.tensor(factors).prod()
        torch.testing.assert_close(weights_of(engine.replicas[0].model).detach(), expected)
    velocity, weight = 0.0, 1.0
    engine = plain_trainer(lambda model, _: {"zero": 0.0 * weights_of(model).sum()}, lr=0.1, weight_decay=0.5)
    before = weights_of(engine.replicas[0].model).detach().clone()
    for _ in range(T):
        velocity = 0.9 * velocity + 0.5 * weight
        weight -= 0.1 * velocity
    engine.run_epoch()
    torch.testing.assert_close(weights_of(engine.replicas[0].model).detach(), before * weight)


@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_the_warm_up_is_pytorchs_linear_schedule(warmup: int) -> None:
    """Chained with the step schedule: LinearLR from 1/(W + 1), over W epochs."""
    training = Training(lr=0.8, lr_decay=0.5, decay_every=2, epochs=6, warmup_epochs=warmup)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.8)
    linear = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / (warmup + 1), total_iters=warmup)
    step = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    for epoch in range(6):
        assert training.learning_rate(epoch) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        linear.step()
        step.step()


def test_a_warm_up_scales_a_cosine() -> None:
    plain = Training(schedule="cosine", epochs=4)
    warm = plain.model_copy(update={"warmup_epochs": 1})
    rates = [warm.learning_rate(epoch) / plain.learning_rate(epoch) for epoch in range(4)]
    assert rates == pytest.approx([0.5, 1, 1, 1])
