"""A trained model under test, the result of a check, and the number of images that chance explains.

Shapes: n images, B batch, C·H·W image, K classes. All lengths are in pixels, and pixels are in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import scipy  # scipy.special is loaded on first use; scipy.stats would take each worker a second
import torch
from torch import Tensor, nn

from tune_interpreg.data.dataset import Split, to_pixels
from tune_interpreg.evaluation.measures import find_broken_images
from tune_interpreg.networks.modes import eval_mode
from tune_interpreg.study.config import Attack

#: The fraction of images that is tolerated, and the probability that chance exceeds the tolerance.
ALLOWED, CHANCE = 0.005, 0.01


def count_tolerated(n: int) -> int:
    """Return the least k with P(Binomial(n, ALLOWED) > k) ≤ CHANCE: 3 of 100 images, 11 of 1,000."""
    return int((scipy.special.bdtrc(np.arange(n + 1), n, ALLOWED) > CHANCE).sum())


def exceeds_chance(images_N: Tensor, n: int) -> bool:
    """Return whether a set of images, as bool_N, is larger than chance explains if n images are checked."""
    return int(images_N.sum()) > count_tolerated(n)


def unbroken_fraction(broken_N: Tensor) -> float:
    """Return the fraction of images that are not broken."""
    return int((~broken_N).sum()) / len(broken_N)


@dataclass(frozen=True)
class Check:
    """The result of the check named ``check``.

    state: WARN if the accuracy may mislead, NONE if there was nothing to check. n: number of images that were checked.
    values: the numbers behind ``summary``; accuracies and shares are fractions in [0, 1].
    """

    check: str
    state: Literal["PASS", "WARN", "NONE"]
    n: int
    summary: str
    values: dict[str, float]

    @classmethod
    def from_faults(
        cls, check: str, n: int, summary: str, faults: Mapping[str, bool], values: Mapping[str, float]
    ) -> Check:
        """Return WARN with the faults that hold. If none holds, return PASS with the summary, or NONE if n is 0."""
        present = [fault for fault, holds in faults.items() if holds]
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        passed: Literal["PASS", "NONE"] = "PASS" if n else "NONE"
        return cls(check, "WARN" if present else passed, n, "; ".join(present) or summary, finite)

    def as_record(self) -> dict[str, Any]:
        return {"check": self.check, "state": self.state, "n": self.n, "said": self.summary, "values": self.values}


@dataclass(frozen=True)
class Subject:
    """A trained model under test, with its images and the settings of its evaluation.

    images: n ≥ 1, on the model's device. attack, seed, batch_size, restarts: the evaluation's, see
    `find_broken_images`. sources: other models by name, which lend their adversarial examples.
    ensemble: number of images for AutoAttack (None: it does not run).
    """

    model: nn.Module
    images: Split
    attack: Attack
    seed: int
    batch_size: int
    restarts: int = 1
    sources: Mapping[str, nn.Module] = field(default_factory=dict)
    ensemble: int | None = None

    @property
    def n(self) -> int:
        return len(self.images)

    @property
    def y_N(self) -> Tensor:
        return self.images.y_N

    @cached_property
    def x_NCHW(self) -> Tensor:
        return to_pixels(self.images.x_NCHW)

    @cached_property
    def misclassified_N(self) -> Tensor:
        """bool_N: the images that are misclassified without an attack."""
        return self.misclassified(self.x_NCHW)

    @property
    def correct_n(self) -> int:
        """The number of images that are correctly classified without an attack. Only these can be attacked."""
        return int((~self.misclassified_N).sum())

    @cached_property
    def broken_N(self) -> Tensor:
        """bool_N: the images that the evaluation's own attack breaks, in its strict form."""
        return self.broken(self.attack)

    def broken(self, attack: Attack, **changes: Any) -> Tensor:
        """Return bool_N as `find_broken_images` does, strict, with these changes to the evaluation's settings."""
        settings: dict[str, Any] = {"form": "strict", "seed": self.seed, "batch_size": self.batch_size, **changes}
        return find_broken_images(self.model, self.images, attack=attack, restarts=self.restarts, **settings)

    def map_batches(self, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return the results of ``function(x_BCHW, y_B)`` for all batches, in eval mode and without graph."""
        batches = zip(self.x_NCHW.split(self.batch_size), self.y_N.split(self.batch_size), strict=True)
        with torch.no_grad(), eval_mode(self.model):
            return torch.cat([function(x_BCHW, y_B) for x_BCHW, y_B in batches])

    def logits(self, x_NCHW: Tensor) -> Tensor:
        """Return z_NK. The model keeps its mode."""
        with torch.no_grad():
            return torch.cat([self.model(x_BCHW) for x_BCHW in x_NCHW.split(self.batch_size)])

    def misclassified(self, x_NCHW: Tensor) -> Tensor:
        """Return bool_N: the versions x of the n images that the model, in eval mode, misclassifies."""
        with eval_mode(self.model):
            return self.logits(x_NCHW).argmax(1) != self.y_N
