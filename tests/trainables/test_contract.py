"""The shipped contract finds what is wrong with a method."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables import Batch, MethodTrainable, Parameter
from trainables.testing import MethodContract


class ShrinkTrainable(MethodTrainable):
    """CE + strength · mean z²."""

    parameters = {"strength": Parameter(help="strength of the penalty", low=0)}
    least = 0.0

    def terms(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        z_BK, _ = batch.linearize(model)
        strength = max(self.params["strength"], self.least)
        return {"ce": F.cross_entropy(z_BK, batch.y_B), "shrink": strength * self.penalty(z_BK, batch)}

    def penalty(self, z_BK: Tensor, batch: Batch) -> Tensor:
        return z_BK.square().mean()


class TestShrink(MethodContract):
    method = ShrinkTrainable
    params = {"strength": 0.1}


def defect(name: str, **attributes: Any) -> type[MethodTrainable]:
    return type(name, (ShrinkTrainable,), attributes)


def penalize_more_each_step(self: Any, z_BK: Tensor, batch: Batch) -> Tensor:
    self.steps = getattr(self, "steps", 0) + 1  # a state that no checkpoint holds
    return z_BK.square().mean() * self.steps


def add_unseeded_noise(self: Any, z_BK: Tensor, batch: Batch) -> Tensor:
    generator = torch.Generator()
    generator.seed()
    return (z_BK * torch.randn(z_BK.shape, generator=generator)).mean()


class TwoForwards(ShrinkTrainable):
    def terms(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return {**super().terms(model, batch), "again": 0 * model(batch.x_BCHW).sum()}


TERMS, CAPTURE = "test_terms_are_named_finite_scalars", "test_steps_can_be_captured"
PARAMETERS = "test_parameters_are_documented_and_have_valid_defaults"
DEFECTS = [
    (defect("Vector", penalty=lambda self, z_BK, batch: z_BK.square().mean(0)), TERMS),
    (defect("NotFinite", penalty=lambda self, z_BK, batch: z_BK.mean() / 0), TERMS),
    (defect("Misdeclared", has_penalty=False), TERMS),
    (
        defect("ReadsValue", penalty=lambda self, z_BK, batch: float(z_BK.detach().mean()) * z_BK.mean()),
        "test_steps_can_be_captured",
    ),
    (defect("UsesMask", penalty=lambda self, z_BK, batch: z_BK[z_BK > 0].mean()), CAPTURE),
    (defect("UnseededNoise", penalty=add_unseeded_noise), "test_equal_seeds_give_equal_bits"),
    (TwoForwards, "test_running_statistics_change_once_per_step"),
    (defect("AlwaysOn", least=0.01), "test_strength_zero_is_the_base_method"),
    (defect("Remembers", penalty=penalize_more_each_step), "test_a_resumed_training_has_the_same_bits"),
    (defect("Remembers", penalty=penalize_more_each_step), "test_a_reused_trainable_equals_a_new_one"),
    (defect("Undocumented", parameters={"strength": Parameter(help=" ", low=0)}), PARAMETERS),
    (defect("BadDefault", parameters={"strength": Parameter(help="strength", low=0, default=-1.0)}), PARAMETERS),
]


@pytest.mark.parametrize(("method", "check"), DEFECTS)
def test_a_defect_fails_its_check(method: type[MethodTrainable], check: str, tmp_path: Path) -> None:
    contract = type("Contract", (MethodContract,), {"method": method, "params": {"strength": 0.1}})()
    contract.setup_method()
    with pytest.raises(AssertionError):
        getattr(contract, check)(*[tmp_path] if check != PARAMETERS else [])
    contract.teardown_method()
