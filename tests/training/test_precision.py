"""bfloat16 in training's attacks and in target maps: near float32, float32 wherever models are judged, no key moved."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from tune_interpreg import seeding
from tune_interpreg.attacks import pgd as attacks
from tune_interpreg.gradients import saliency
from tune_interpreg.networks import piecewise_linear as models
from tune_interpreg.study.config import Attack, MapSettings
from tune_interpreg.study.file import read as study_file
from tune_interpreg.study.file.read import StudyError
from tune_interpreg.study.items import Maps, Recipe

STUDY = """
attack: {eps: 0.5, steps: 3, precision: bfloat16}
evaluation: {steps: 5}
arms:
  adversarial: {method: adversarial}
  guided: {method: interpretation, lambda: 0.1, targets: {teacher: adversarial, precision: bfloat16}}
"""


class Opaque(nn.Module):
    """A network without an adjoint of its own."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x_BCHW: Tensor) -> Tensor:
        z_BK: Tensor = self.net(x_BCHW)
        return z_BK


@pytest.fixture(params=["adjoint", "double backpropagation"])
def net(request: pytest.FixtureRequest) -> nn.Module:
    made = models.initialize(models.mnist_cnn((1, 12, 12), 10), seeding.generator(0, "init")).eval()
    return Opaque(made) if request.param == "double backpropagation" else made


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    draws = seeding.generator(0, "images")
    return torch.rand(8, 1, 12, 12, generator=draws), torch.randint(10, (8,), generator=draws)


def test_an_attack_in_bfloat16_stays_near_float32s(net: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    """The moves differ, by less than a half of their length; they are float32, within ε of x, and as long."""
    x, y = images

    def adversarial(precision: str) -> Tensor:
        attack = Attack(eps=1.0, steps=3, precision=precision)
        return attacks.perturb(net, x, y, attack=attack, generator=seeding.generator(0, "start"))

    short, long = adversarial("bfloat16"), adversarial("float32")
    assert short.dtype == torch.float32
    assert 0 < (short - long).norm() < 0.5 * (long - x).norm()
    assert (short - x).flatten(1).norm(dim=1).max() <= 1.0 + 1e-5


@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_maps_in_bfloat16_stay_near_float32s(net: nn.Module, images: tuple[Tensor, Tensor], output: Any) -> None:
    """Their noise is the same; they differ by less than a tenth of their norm, and are float32."""

    def maps(precision: str) -> Tensor:
        settings = MapSettings(samples=4, output=output, precision=precision)
        return saliency.smoothgrad(net, *images, settings=settings, generator=seeding.generator(0, "noise"), chunk=2)

    short, long = maps("bfloat16"), maps("float32")
    assert short.dtype == torch.float32
    assert 0 < (short - long).norm() < 0.1 * long.norm()


def test_models_are_judged_in_float32() -> None:
    """A study whose attack trains in bfloat16 has one in float32 for judging, and no recipe takes another."""
    study = study_file.parse(STUDY, where="study.yaml")
    assert (study.attack.precision, study.evaluation_attack.precision) == ("bfloat16", "float32")
    recipe = Recipe.of(study, method="adversarial")
    assert (recipe.attack.precision, recipe.evaluation_attack.precision) == ("bfloat16", "float32")
    with pytest.raises(ValidationError, match="judged in float32, got bfloat16"):
        Recipe(method="adversarial", evaluation_attack=Attack(precision="bfloat16"))


def test_the_precision_is_part_of_a_key_unless_it_is_float32() -> None:
    plain, named, short = ({}, {"precision": "float32"}, {"precision": "bfloat16"})
    keys = [Recipe(method="adversarial", attack=Attack(**own)).key for own in (plain, named, short)]
    maps = [Maps(teacher="9f", teacher_seed=0, **own).key for own in (plain, named, short)]
    assert keys[0] == keys[1] != keys[2]
    assert maps[0] == maps[1] != maps[2]


def test_the_keys_of_float32_are_those_of_before_there_was_a_choice() -> None:
    assert "precision" not in Recipe(method="adversarial").model_dump_json(exclude_defaults=True)
    assert "precision" not in Maps(teacher="9f", teacher_seed=0).model_dump_json(exclude_defaults=True)


def test_an_unknown_precision_is_refused_with_its_line() -> None:
    with pytest.raises(StudyError, match=r"study.yaml:2: attack.precision: .*float32.*bfloat16"):
        study_file.parse(STUDY.replace("bfloat16", "half"), where="study.yaml")
