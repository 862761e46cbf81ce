"""bfloat16 in training's attacks and in target maps is close to float32."""

import pytest
import torch
from torch import Tensor, nn

from tune_interpreg import seeding
from tune_interpreg.attacks import pgd
from tune_interpreg.gradients import saliency
from tune_interpreg.networks.zoo import mnist_cnn
from tune_interpreg.study.config import Attack, MapSettings


@pytest.fixture(params=["adjoint", "double backpropagation"])
def net(request: pytest.FixtureRequest) -> nn.Module:
    with seeding.seeded(0, "init"):
        network = mnist_cnn((1, 12, 12), 10).eval()
    return nn.Sequential(network) if request.param == "double backpropagation" else network


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    draws = seeding.generator(0, "images")
    return torch.rand(8, 1, 12, 12, generator=draws), torch.randint(10, (8,), generator=draws)


def test_an_attack_in_bfloat16_stays_close_to_float32(net: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    """The perturbations are float32, within ε of x, and differ by less than half of their length."""
    x, y = images

    def adversarial(precision: str) -> Tensor:
        attack = Attack(eps=1.0, steps=3, precision=precision)
        return pgd.perturb(net, x, y, attack=attack, generator=seeding.generator(0, "start"))

    short, long = adversarial("bfloat16"), adversarial("float32")
    assert short.dtype == torch.float32
    assert 0 < (short - long).norm() < 0.5 * (long - x).norm()
    assert (short - x).flatten(1).norm(dim=1).max() <= 1.0 + 1e-5


def test_maps_in_bfloat16_stay_close_to_float32(net: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    """With the same noise the maps are float32 and differ by less than a tenth of their norm."""

    def maps(precision: str) -> Tensor:
        settings = MapSettings(samples=4, precision=precision)
        return saliency.smoothgrad(net, *images, settings=settings, generator=seeding.generator(0, "noise"), chunk=2)

    short, long = maps("bfloat16"), maps("float32")
    assert short.dtype == torch.float32
    assert 0 < (short - long).norm() < 0.1 * long.norm()
