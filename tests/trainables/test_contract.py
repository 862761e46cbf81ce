"""The shipped contract finds what is wrong with a method."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables import Batch, MethodTrainable, Parameter
from trainables.testing import MethodContract


class ShrinkTrainable(MethodTrainable):
    """CE + strength · mean z²."""

    parameters: ClassVar[Mapping[str, Parameter]] = {"strength": Parameter(help="strength of the penalty", low=0)}
    least: ClassVar[float] = 0.0

    def terms(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        z_BK, _ = batch.linearize(model)
        strength = max(self.params["strength"], self.least)
        return {"ce": F.cross_entropy(z_BK, batch.y_B), "shrink": strength * self.penalty(z_BK, batch)}

    def penalty(self, z_BK: Tensor, batch: Batch) -> Tensor:
        return z_BK.square().mean()


class TestShrink(MethodContract):
    method = ShrinkTrainable
    params: ClassVar[Mapping[str, Any]] = {"strength": 0.1}


class Vector(ShrinkTrainable):
    def penalty(self, z_BK: Tensor, batch: Batch) -> Tensor:
        return z_BK.square().mean(0)


class NotFinite(ShrinkTrainable):
    def penalty(self, z_BK: Tensor, batch: Batch) -> Tensor:
        return z_BK.mean() / 0


class ReadsValue(ShrinkTrainable):
    def penalty(self, z_BK: Tensor, batch: Batch) -> Tensor:
        return z_BK.square().mean() * (1 if z_BK.mean() > 0 else 2)


class UsesMask(ShrinkTrainable):
    def penalty(self, z_BK: Tensor, batch: Batch) -> Tensor:
        return z_BK[z_BK > 0].mean()


class GlobalNoise(ShrinkTrainable):
    def penalty(self, z_BK: Tensor, batch: Batch) -> Tensor:
        return (z_BK * torch.randn(z_BK.shape)).mean()


class AlwaysOn(ShrinkTrainable):
    """Has a penalty at strength 0."""

    least: ClassVar[float] = 0.01


class Remembers(ShrinkTrainable):
    """Has state that no checkpoint holds."""

    steps = 0

    def penalty(self, z_BK: Tensor, batch: Batch) -> Tensor:
        self.steps += 1
        return z_BK.square().mean() * self.steps


class Undocumented(ShrinkTrainable):
    parameters: ClassVar[Mapping[str, Parameter]] = {"strength": Parameter(help=" ", low=0)}


class BadDefault(ShrinkTrainable):
    parameters: ClassVar[Mapping[str, Parameter]] = {"strength": Parameter(help="strength", low=0, default=-1.0)}


class Misdeclared(ShrinkTrainable):
    has_penalty: ClassVar[bool] = False


@pytest.mark.parametrize(
    ("method", "check"),
    [
        (Vector, "test_terms_are_named_finite_scalars"),
        (NotFinite, "test_terms_are_named_finite_scalars"),
        (Misdeclared, "test_terms_are_named_finite_scalars"),
        (ReadsValue, "test_steps_can_be_captured"),
        (UsesMask, "test_steps_can_be_captured"),
        (GlobalNoise, "test_equal_seeds_give_equal_bits"),
        (AlwaysOn, "test_strength_zero_is_the_base_method"),
        (Remembers, "test_a_resumed_training_has_the_same_bits"),
        (Remembers, "test_a_reused_trainable_equals_a_new_one"),
        (Undocumented, "test_parameters_are_documented_and_have_valid_defaults"),
        (BadDefault, "test_parameters_are_documented_and_have_valid_defaults"),
    ],
)
def test_a_defect_fails_its_check(method: type[MethodTrainable], check: str, tmp_path: Path) -> None:
    contract = type("Contract", (MethodContract,), {"method": method, "params": {"strength": 0.1}})()
    contract.setup_method()
    arguments = [tmp_path] if "parameters_are_documented" not in check else []
    with pytest.raises(AssertionError):
        getattr(contract, check)(*arguments)
    contract.teardown_method()
