"""A trained model that is questioned, and the rule that tells chance from more than chance.

Shapes: n images, B batch, C·H·W image, K classes. All lengths are in pixels, and pixels are in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from scipy.stats import binom
from torch import Tensor, nn

from tune_interpreg.data.dataset import Split, to_pixels
from tune_interpreg.evaluation import measures as evaluation
from tune_interpreg.study.config import Attack

#: A share of images that means nothing, and how seldom chance may make more of it than is tolerated.
ALLOWED, CHANCE = 0.005, 0.01


def tolerated(n: int) -> int:
    """The least k with P(Binomial(n, ALLOWED) > k) ≤ CHANCE: 3 of 100 images, 11 of 1,000."""
    return int(binom.isf(CHANCE, n, ALLOWED))


@dataclass(frozen=True)
class Check:
    """What one check found.

    check: its name. state: WARN where the accuracy may mislead. n: the images it rests on, 0 where it did not run.
    said: in words. values: the numbers behind it; accuracies and shares are fractions in [0, 1].
    """

    check: str
    state: Literal["PASS", "WARN"]
    n: int
    said: str
    values: dict[str, float]

    @classmethod
    def from_faults(
        cls, check: str, n: int, sound: str, faults: Mapping[str, bool], values: Mapping[str, float]
    ) -> Check:
        """PASS and what is sound; where some of the faults hold, WARN and these."""
        found = [fault for fault, holds in faults.items() if holds]
        said = "; ".join(found) or sound
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        return cls(check, "WARN" if found else "PASS", n, said, finite)


@dataclass(frozen=True)
class Subject:
    """A trained model, and how it is judged.

    images: n ≥ 1, on the model's device. attack, seed, batch_size, restarts: the evaluation's, as in
    `measures.find_broken`. sources: other models by name, whose adversarial examples are tried on this one.
    ensemble: how many of the images AutoAttack attacks (None: it does not run).
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
    def missed_N(self) -> Tensor:
        """Which images are misclassified as they are."""
        return self.missed(self.x_NCHW)

    @cached_property
    def pgd_N(self) -> Tensor:
        """Which images the evaluation's own attack breaks, in its strict form."""
        return evaluation.find_broken(self.model, self.images, attack=self.attack, **self._own)

    @property
    def _own(self) -> dict[str, Any]:
        batch_size = min(self.n, self.batch_size)
        return {"form": "strict", "seed": self.seed, "batch_size": batch_size, "restarts": self.restarts}

    def broken(self, attack: Attack, **other: Any) -> Tensor:
        """bool_N as `measures.find_broken` finds it, strict; other: what differs from the evaluation's settings."""
        if attack == self.attack and self._own == self._own | other:
            return self.pgd_N
        return evaluation.find_broken(self.model, self.images, attack=attack, **self._own | other)

    def each(self, made: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """What ``made`` makes of (x_BCHW, y_B), batch by batch, of the model in eval mode and without graph."""
        batches = zip(self.x_NCHW.split(self.batch_size), self.y_N.split(self.batch_size), strict=True)
        with torch.no_grad(), evaluation.eval_mode(self.model):
            return torch.cat([made(x_BCHW, y_B) for x_BCHW, y_B in batches])

    def logits(self, x_NCHW: Tensor) -> Tensor:
        """z_NK, of the model in the mode it is in."""
        with torch.no_grad():
            return torch.cat([self.model(x_BCHW) for x_BCHW in x_NCHW.split(self.batch_size)])

    def missed(self, x_NCHW: Tensor) -> Tensor:
        """bool_N: which of these versions of the n images the model, in eval mode, misclassifies."""
        with evaluation.eval_mode(self.model):
            return self.logits(x_NCHW).argmax(1) != self.y_N

    def margins(self, x_NCHW: Tensor) -> Tensor:
        """z_y − max_{k≠y} z_k of each of these versions of the n images, in eval mode."""
        with evaluation.eval_mode(self.model):
            z_NK = self.logits(x_NCHW)
        y_N1 = self.y_N.unsqueeze(1)
        return z_NK.gather(1, y_N1).squeeze(1) - z_NK.scatter(1, y_N1, -torch.inf).amax(1)


def many(images_N: Tensor) -> bool:
    """Whether a set of the n images, as bool_N, is larger than chance makes it."""
    return int(images_N.sum()) > tolerated(len(images_N))


def accuracy(broken_N: Tensor) -> float:
    """The share of images that are not broken."""
    return int((~broken_N).sum()) / len(broken_N)
