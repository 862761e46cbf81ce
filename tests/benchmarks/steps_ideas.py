"""Ideas for speed, each timed as the engine has it, which is "ours", and otherwise; times only, no floors."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import steps_textbook as textbook
import torch
import torch.nn.functional as F
from steps_cases import STRENGTH, Case
from steps_floor import Row
from torch import Tensor, nn

from tune_interpreg.attacks import balls
from tune_interpreg.attacks import pgd as attacks
from tune_interpreg.gradients import penalties
from tune_interpreg.networks import piecewise_linear as models

#: Steps of the attacks that are timed.
STEPS = 2


def ideas(case: Case) -> Iterator[Row]:
    """The models are in eval mode; "memory kept" is what both sides of an idea on anything else have."""
    x, y = case.images(case.batch)
    net, plain = case.net.eval(), case.plain.eval()

    def step(model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> Callable[[], object]:
        return lambda: (case.net.zero_grad(), loss(model).backward())

    def standard(model: nn.Module) -> Tensor:
        return textbook.standard(model, x, y)

    def idea(name: str, ours: Callable[[], object], **others: Callable[[], object]) -> Row:
        return Row(f"idea: {name}", 0, {"ours": ours} | {key.replace("_", " "): call for key, call in others.items()})

    first, jacobian = _relu_first(plain), step(net, lambda model: _jacobian(model, x, y))
    yield idea("ReLU after pooling", step(plain, standard), memory_kept=step(first, standard))
    yield idea("a pixel's channels side by side", step(net, standard), memory_kept=step(plain, standard))
    yield idea("freed memory kept, exact Jacobian", jacobian, given_back=jacobian)
    shared, own = (step(net, lambda model, once=once: _penalized(model, x, y, once=once)) for once in (True, False))
    yield idea("one forward for cross-entropy and penalty", shared, memory_kept=own)

    attack = case.attack(STEPS)
    starts = balls.random_start(x, attack, case.noise())
    yield idea(
        f"weights frozen in {STEPS} steps of attack",
        lambda: _frozen_attack(plain, x, y, starts, attack),
        memory_kept=lambda: textbook.pgd(plain, x, y, starts, attack),
    )
    x4, y4 = case.images(4 * case.batch)
    yield idea(
        f"attacks of {case.batch} images, not of {4 * case.batch}",
        lambda: [attacks.perturb_from(net, *pair, pair[0], attack=attack, form="strict") for pair in _parts(x4, y4)],
        memory_kept=lambda: attacks.perturb_from(net, x4, y4, x4, attack=attack, form="strict"),
    )
    if shutil.which("g++"):
        yield idea("no torch.compile", step(net, standard), memory_kept=step(torch.compile(net), standard))


def _parts(x_NCHW: Tensor, y_N: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x_NCHW.chunk(4), y_N.chunk(4), strict=True))


def _relu_first(plain: nn.Module) -> nn.Module:
    """The same function with ReLU before pooling."""
    layers = list(plain.children())
    for place, layer in enumerate(layers[:-1]):
        if isinstance(layer, nn.MaxPool2d) and isinstance(layers[place + 1], nn.ReLU):
            layers[place], layers[place + 1] = layers[place + 1], layer
    return nn.Sequential(*layers)


def _jacobian(model: nn.Module, x_BCHW: Tensor, y_B: Tensor) -> Tensor:
    z_BK, adjoint = models.linearize(model, x_BCHW)
    return F.cross_entropy(z_BK, y_B) + STRENGTH * penalties.jacobian(adjoint, z_BK)


def _penalized(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, *, once: bool) -> Tensor:
    z_BK, adjoint = models.linearize(model, x_BCHW)
    ce = F.cross_entropy(z_BK if once else model(x_BCHW), y_B)
    return ce + STRENGTH * penalties.label_gradient(adjoint, y_B, z_BK).norm()


def _frozen_attack(model: nn.Module, *given: Tensor) -> Tensor:
    with _frozen(model):
        return textbook.pgd(model, *given)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    model.requires_grad_(False)
    try:
        yield
    finally:
        model.requires_grad_(True)
