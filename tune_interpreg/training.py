"""The training engine: one or several seeds of one recipe, an epoch at a time. No Ray.

Data lies in memory on the device and is indexed by a seeded permutation. A step has fixed shapes, reads
nothing back and draws from its seed's generators only, so that it can be captured. Every generator is
seeded anew by (seed, purpose, epoch): a checkpoint needs no random state, and an interrupted training
goes on with the bits of an uninterrupted one.

Shapes: B batch, N training images, C·H·W image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tune_interpreg import saliency, seeding
from tune_interpreg.augmentation import augment
from tune_interpreg.config import Model, Training
from tune_interpreg.data import Dataset, pixels
from tune_interpreg.layers import Adjoint, set_dropout_generator
from tune_interpreg.models import build, linearize


class Diverged(ArithmeticError):
    """A loss term that is no finite number."""


@dataclass(frozen=True)
class Batch:
    """What a method's ``terms`` are computed from.

    x_BCHW: pixels in [0, 1], augmented. y_B: labels. target_BCHW: the target maps of these images as the method
    trains towards them, augmented alike, or None. noise: the seed's generator for the method's own draws.
    """

    x_BCHW: Tensor
    y_B: Tensor
    target_BCHW: Tensor | None
    noise: torch.Generator
    _forward: list[tuple[Tensor, Adjoint]] = field(default_factory=list, repr=False, compare=False)

    def linearize(self, model: nn.Module) -> tuple[Tensor, Adjoint]:
        """The model's logits and adjoint at x (see ``models.linearize``), of one forward for all terms of a loss."""
        if not self._forward:
            self._forward.append(linearize(model, self.x_BCHW))
        return self._forward[0]


#: (model in train mode, batch) → named scalar terms, whose sum is the loss.
Terms = Callable[[nn.Module, Batch], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Guidance:
    """The maps that a method trains towards.

    raw_NCHW: for each seed the raw maps of all training images. target: the method's own, of raw ones (a threshold).
    redraw: each map's values are permuted anew whenever a batch is drawn.
    """

    raw_NCHW: Mapping[int, Tensor]
    target: Callable[[Tensor], Tensor]
    redraw: bool = False


#: What is drawn in a training, each from a generator of its own.
STREAMS = ("order", "dropout", "noise", "augmentation", "permutation")


class Replica:
    """One seed's model, optimizer and random streams."""

    def __init__(self, seed: int, model: nn.Module, training: Training):
        self.seed = seed
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=training.lr, momentum=training.momentum)
        device = next(model.parameters()).device
        self.streams = {purpose: torch.Generator(device) for purpose in STREAMS}
        set_dropout_generator(model, self.streams["dropout"])

    def begin(self, epoch: int, lr: float) -> None:
        """Set the rate and seed the random streams for ``epoch``; the model goes to train mode."""
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        for purpose, generator in self.streams.items():
            generator.manual_seed(seeding.number(self.seed, purpose, epoch))


class Trainer:
    """Trains the replicas of one recipe.

    Args:
        model, training: as in the study. terms: the method. seeds: one replica each.
        data: its training split is used, already on ``device``.
        guidance: the target maps of methods that need them.

    Raises ``ValueError`` where the images do not fill one batch.
    """

    def __init__(
        self,
        *,
        model: Model,
        training: Training,
        data: Dataset,
        terms: Terms,
        seeds: Sequence[int],
        guidance: Guidance | None = None,
        device: torch.device | str = "cpu",
    ):
        if len(data.train) < training.batch_size:
            raise ValueError(
                f"training.batch_size: a batch takes {training.batch_size} images, but there are {len(data.train)} "
                "to train on; lower it, or raise data.train_limit"
            )
        self.training, self.data, self.terms, self.guidance = training, data, terms, guidance
        self.epoch = 0
        self.replicas = [
            Replica(seed, build(model, data.shape, data.classes, seeding.generator(seed, "init")).to(device), training)
            for seed in seeds
        ]

    @property
    def lr(self) -> float:
        """The rate of the coming epoch."""
        return self.training.rate(self.epoch)

    @property
    def steps(self) -> int:
        """Steps an epoch: whole batches only, so that shapes are fixed; the order's remainder waits for the next."""
        return len(self.data.train) // self.training.batch_size

    @property
    def images(self) -> int:
        """Images that a replica sees an epoch."""
        return self.steps * self.training.batch_size

    def run_epoch(self) -> dict[int, dict[str, float]]:
        """Train one epoch; returns for each seed the mean of each term over its batches, and their sum ``loss``.

        Raises ``Diverged`` with epoch and term where one is not finite.
        """
        for replica in self.replicas:
            replica.begin(self.epoch, self.lr)
        sums = {replica.seed: self._train(replica) for replica in self.replicas}
        means = {seed: {name: float(total) / self.steps for name, total in one.items()} for seed, one in sums.items()}
        for seed, one in means.items():
            self._refuse_non_finite(seed, one)
            one["loss"] = sum(one.values())
        self.epoch += 1
        return means

    def _train(self, replica: Replica) -> dict[str, Tensor]:
        stream = replica.streams["order"]
        order_N = torch.randperm(len(self.data.train), generator=stream, device=stream.device)
        sums: dict[str, Tensor] = {}
        for step in range(self.steps):
            index_B = order_N[step * self.training.batch_size : (step + 1) * self.training.batch_size]
            for name, term in self._step(replica, index_B).items():
                sums[name] = sums.get(name, 0.0) + term.detach()
        return sums

    def _step(self, replica: Replica, index_B: Tensor) -> Mapping[str, Tensor]:
        terms = self.terms(replica.model, self.batch(replica, index_B))
        replica.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        replica.optimizer.step()
        return terms

    def batch(self, replica: Replica, index_B: Tensor) -> Batch:
        """The training images of these rows as a step sees them: target maps are made, then all is augmented."""
        x_BCHW = pixels(self.data.train.x_NCHW[index_B])
        target_BCHW = self._target(replica, index_B)
        if self.training.augment is not None:
            x_BCHW, target_BCHW = augment(
                x_BCHW, target_BCHW, self.training.augment, generator=replica.streams["augmentation"]
            )
        return Batch(x_BCHW, self.data.train.y_N[index_B], target_BCHW, replica.streams["noise"])

    def _target(self, replica: Replica, index_B: Tensor) -> Tensor | None:
        if self.guidance is None:
            return None
        raw_BCHW = self.guidance.raw_NCHW[replica.seed][index_B].to(torch.float32)
        if self.guidance.redraw:
            raw_BCHW = saliency.permute(raw_BCHW, replica.streams["permutation"])
        return self.guidance.target(raw_BCHW)

    def _refuse_non_finite(self, seed: int, means: Mapping[str, float]) -> None:
        for name, value in means.items():
            if not abs(value) < float("inf"):
                raise Diverged(f"the term {name} was {value} in epoch {self.epoch + 1} (seed {seed})")

    # -------------------------------------------------------------- checkpoints
    def state(self) -> dict[str, Tensor]:
        """Weights and momenta of all replicas, by name; together with ``epoch`` all that going on needs."""
        return {name: tensor.detach() for name, tensor in self._tensors()}

    def load_state(self, state: Mapping[str, Tensor], epoch: int) -> None:
        """Go on after ``epoch`` epochs from what ``state`` returned; raises ``KeyError`` on a foreign state."""
        with torch.no_grad():
            for name, tensor in self._tensors():
                tensor.copy_(state[name])
        self.epoch = epoch

    def _tensors(self) -> list[tuple[str, Tensor]]:
        named = []
        for replica in self.replicas:
            for name, parameter in replica.model.named_parameters():
                momentum = replica.optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
                named += [(f"{replica.seed}/model/{name}", parameter), (f"{replica.seed}/momentum/{name}", momentum)]
            named += [(f"{replica.seed}/buffer/{name}", buffer) for name, buffer in replica.model.named_buffers()]
        return named
