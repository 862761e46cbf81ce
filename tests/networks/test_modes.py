"""Running statistics stay constant in attacks, maps and other forwards; modes are restored."""

from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from tune_interpreg import seeding
from tune_interpreg.attacks import pgd
from tune_interpreg.gradients import penalties, saliency
from tune_interpreg.networks.chain import Chain
from tune_interpreg.networks.linearize import linearize
from tune_interpreg.networks.modes import constant_statistics, eval_mode
from tune_interpreg.study.config import Attack, MapSettings

ATTACK = Attack(norm="l2", eps=1.0, steps=3)


class OwnNorm(nn.BatchNorm2d):
    """A user's subclass, which keeps statistics in other buffers, and replaces one of them."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("largest", torch.zeros(()), persistent=False)
        self.register_buffer("forwards", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.forwards += 1
            self.largest = torch.maximum(self.largest, x.detach().max())
        return super().forward(x)


NORMS: dict[str, Callable[[], nn.Module]] = {
    "batch": lambda: nn.BatchNorm2d(3),
    "cumulative": lambda: nn.BatchNorm2d(3, momentum=None),
    "instance": lambda: nn.InstanceNorm2d(3, track_running_stats=True),
    "own": lambda: OwnNorm(3),
    "spectral": lambda: spectral_norm(nn.Conv2d(3, 3, 1)),
}


def network(norm: str) -> nn.Module:
    generator = seeding.generator(0, norm)
    layers = [nn.Conv2d(1, 3, 3), NORMS[norm](), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)]
    for parameter in nn.Sequential(*layers).parameters():
        nn.init.normal_(parameter, generator=generator)
    return Chain(layers) if norm in ("batch", "cumulative") else nn.Sequential(*layers)


X, Y = torch.rand(6, 1, 4, 4, generator=seeding.generator(0, "x")), torch.tensor([0, 1, 2, 0, 1, 2])


def attack(net: nn.Module) -> Tensor:
    return pgd.perturb(net, X, Y, attack=ATTACK, generator=seeding.generator(0, "start"))


def smoothgrad(net: nn.Module) -> Tensor:
    settings = MapSettings(samples=3)
    return saliency.smoothgrad(net, X, Y, settings=settings, generator=seeding.generator(0, "noise"), chunk=1)


@pytest.mark.parametrize("run", [attack, smoothgrad, lambda net: saliency.simple_gradient(net, X, Y)])
@pytest.mark.parametrize("norm", NORMS)
def test_attacks_and_maps_in_train_mode_leave_all_buffers_as_they_are(
    norm: str, run: Callable[[nn.Module], Tensor]
) -> None:
    """The same tensors with the same values, although they run with the statistics of their batch."""
    net = network(norm).train()
    net(X)
    buffers = dict(net.named_buffers())
    before = {name: buffer.clone() for name, buffer in buffers.items()}
    result = run(net)
    assert result.isfinite().all()
    assert all(module.training for module in net.modules())
    after = dict(net.named_buffers())
    assert after.keys() == before.keys()
    for name, buffer in after.items():
        assert buffer is buffers[name]
        assert torch.equal(buffer, before[name]), name
    net(X)
    assert any(not torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())


def test_a_graph_from_a_block_of_constant_statistics_can_be_differentiated_later() -> None:
    """Gradients of the penalty equal those of a forward that changes the statistics."""
    for norm in NORMS:
        results, first, x = [], network(norm).train().double(), X.double()
        for block in (constant_statistics, lambda net: nullcontext()):
            net = deepcopy(first)
            with block(net):
                z, adjoint = linearize(net, x)
            penalty = penalties.magnitude(adjoint(torch.ones_like(z))) + F.cross_entropy(z, Y)
            results.append(torch.autograd.grad(penalty, list(net.parameters()), materialize_grads=True))
        torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)


def test_statistics_are_restored_after_an_error() -> None:
    net = network("batch").train()
    before = net.layers[1].running_mean
    with pytest.raises(RuntimeError), constant_statistics(net):
        net(torch.ones(2, 3))
    assert net.layers[1].running_mean is before


def test_a_module_in_eval_mode_keeps_its_buffers_in_a_block() -> None:
    """Only train mode changes statistics, so evaluations copy nothing."""
    net = network("batch").eval()
    with constant_statistics(net):
        inside = list(net.buffers())
    assert all(first is second for first, second in zip(inside, net.buffers(), strict=True))


def test_an_attack_uses_the_statistics_of_its_mode() -> None:
    """In train mode those of the batch, in eval mode the running ones: then no image depends on the others."""
    net = network("batch").train()
    start = X + 0.1

    def perturbed(x: Tensor, start: Tensor) -> Tensor:
        return pgd.perturb_from(net, x, Y[: len(x)], start, attack=ATTACK, form="plain")

    in_train, alone = perturbed(X, start), perturbed(X[:2], start[:2])
    assert not torch.allclose(in_train[:2], alone, atol=1e-4)
    with eval_mode(net):
        in_eval, alone = perturbed(X, start), perturbed(X[:2], start[:2])
    torch.testing.assert_close(in_eval[:2], alone)
    assert not torch.allclose(in_eval, in_train, atol=1e-4)
    net.layers[1].running_var.mul_(torch.tensor([0.1, 3.0, 10.0]))
    torch.testing.assert_close(perturbed(X, start), in_train)
    with eval_mode(net):
        assert not torch.allclose(perturbed(X, start), in_eval, atol=1e-4)
