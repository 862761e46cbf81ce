"""The training engine: one or several seeds of one recipe, an epoch at a time. No Ray.

Data lies in memory on the device and is indexed by a seeded permutation. A step has fixed shapes, reads
nothing back and draws from its seed's generators only, so that it can be captured (see ``capture``). Every
generator is seeded anew by (seed, purpose, epoch): a checkpoint needs no random state, an interrupted training
goes on with the bits of an uninterrupted one, and an epoch that diverged can be trained again to see where.
A seed that diverges does not hold up the others.

Shapes: B batch, T steps of an epoch, N training images, C·H·W image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tune_interpreg import seeding
from tune_interpreg.data.augmentation import augment
from tune_interpreg.data.dataset import Dataset, to_pixels
from tune_interpreg.gradients import saliency
from tune_interpreg.networks.layers import Adjoint, set_dropout_generator
from tune_interpreg.networks.piecewise_linear import build, linearize
from tune_interpreg.study.config import Model, Training
from tune_interpreg.training import divergence
from tune_interpreg.training.capture import Engine, Lane
from tune_interpreg.training.device import matmul_precision


class Diverged(ArithmeticError):
    """A loss term, a gradient or a weight that is no finite number."""


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
        self.device = next(model.parameters()).device
        self.optimizer = build_optimizer(model, training)
        self.reset_generators()

    def reset_generators(self) -> None:
        """Take new generators, seeded when an epoch begins."""
        self.streams = {purpose: torch.Generator(self.device) for purpose in STREAMS}
        set_dropout_generator(self.model, self.streams["dropout"])

    def begin_epoch(self, epoch: int, lr: float) -> None:
        """Set the rate and seed the random streams for ``epoch``; the model goes to train mode."""
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"].fill_(lr)
        for purpose, generator in self.streams.items():
            generator.manual_seed(seeding.number(self.seed, purpose, epoch))

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Weights, momenta and buffers, by names that no other seed has."""
        for name, parameter in self.model.named_parameters():
            momentum = self.optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
            yield f"{self.seed}/model/{name}", parameter
            yield f"{self.seed}/momentum/{name}", momentum
        yield from ((f"{self.seed}/buffer/{name}", buffer) for name, buffer in self.model.named_buffers())

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take the tensors' values from ``state``; raises ``KeyError`` where it lacks one."""
        with torch.no_grad():
            for name, tensor in self.tensors():
                tensor.copy_(state[name])


def build_optimizer(model: nn.Module, training: Training) -> torch.optim.SGD:
    """SGD with momentum; all weights in one kernel, once through memory, which reads the rate where it runs.

    A captured step then follows the rate from epoch to epoch, and is captured once.
    """
    parameters = list(model.parameters())
    lr = torch.tensor(training.lr, dtype=torch.float32, device=parameters[0].device)
    return torch.optim.SGD(parameters, lr=lr, momentum=training.momentum, fused=True)


class Trainer:
    """Trains the replicas of one recipe.

    Args:
        model, training: as in the study. terms: the method. seeds: one replica each.
        data: its training split is used, already on ``device``.
        guidance: the target maps of methods that need them.
        capture: whether a GPU replays captured steps; on a CPU it changes nothing.

    ``diverged`` holds the seeds that did, and what became of each in words; they train on, but count no more.
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
        capture: bool = True,
    ):
        if len(data.train) < training.batch_size:
            raise ValueError(
                f"training.batch_size: a batch takes {training.batch_size} images, but there are {len(data.train)} "
                "to train on; lower it, or raise data.train_limit"
            )
        self.training, self.data, self.terms, self.guidance = training, data, terms, guidance
        self.epoch = 0
        self.diverged: dict[int, str] = {}
        self.replicas = [
            Replica(seed, build(model, data.shape, data.classes, seeding.generator(seed, "init")).to(device), training)
            for seed in seeds
        ]
        self._lanes = [self._lane(replica) for replica in self.replicas]
        own = self.replicas[0].device
        self.engine = Engine(self._lanes, own, capture=capture and own.type == "cuda")

    @property
    def finite_replicas(self) -> list[Replica]:
        """The replicas that have not diverged."""
        return [replica for replica in self.replicas if replica.seed not in self.diverged]

    @property
    def lr(self) -> float:
        """The rate of the coming epoch."""
        return self.training.rate(self.epoch)

    @property
    def steps(self) -> int:
        """Steps an epoch: whole batches only, so that shapes are fixed; the order's remainder waits for the next."""
        return len(self.data.train) // self.training.batch_size

    @property
    def images_per_epoch(self) -> int:
        """Images that a replica sees an epoch."""
        return self.steps * self.training.batch_size

    def run_epoch(self) -> dict[int, dict[str, float]]:
        """Train one epoch; returns for each sound seed the mean of each term over its batches, and their sum ``loss``.

        Where a term, its gradient or a weight of a seed is not finite, ``diverged`` says so with epoch, step and term;
        raises ``Diverged`` where no seed is left.
        """
        before = {name: tensor.clone() for name, tensor in self.state().items()}
        with matmul_precision(self.training.matmul):
            self._begin()
            if self.engine.prepare():
                self._undo(before)
            self.engine.run(self.steps)
            means = self._means()
            for replica in self.finite_replicas:
                if fault := self._fault(replica, means[replica.seed], before):
                    self.diverged[replica.seed] = fault
        if not self.finite_replicas:
            raise Diverged("; ".join(self.diverged.values()))
        self.epoch += 1
        return {
            replica.seed: means[replica.seed] | {"loss": sum(means[replica.seed].values())}
            for replica in self.finite_replicas
        }

    def _lane(self, replica: Replica) -> Lane:
        drawn = [generator for purpose, generator in replica.streams.items() if purpose != "order"]
        order_TB = torch.zeros(self.steps, self.training.batch_size, dtype=torch.long, device=replica.device)
        return Lane(lambda index_B: self._step(replica, index_B), drawn, order_TB)

    def _begin(self) -> None:
        for replica, lane in zip(self.replicas, self._lanes, strict=True):
            replica.begin_epoch(self.epoch, self.lr)
            lane.begin(self._order(replica))

    def _undo(self, before: Mapping[str, Tensor]) -> None:
        """Begin the epoch anew, after steps that were a rehearsal."""
        self.load_state(before, self.epoch)
        if not self.engine.captured:
            for replica in self.replicas:
                replica.reset_generators()
        self._begin()

    def _means(self) -> dict[int, dict[str, float]]:
        pairs = zip(self.replicas, self._lanes, strict=True)
        return {
            replica.seed: {name: float(total) / self.steps for name, total in lane.sums.items()}
            for replica, lane in pairs
        }

    def _order(self, replica: Replica) -> Tensor:
        """order_TB, drawn as the epoch's first number; the remainder of the images is left out."""
        stream = replica.streams["order"]
        order_N = torch.randperm(len(self.data.train), generator=stream, device=stream.device)
        return order_N[: self.images_per_epoch].view(self.steps, -1)

    def _step(self, replica: Replica, index_B: Tensor) -> Mapping[str, Tensor]:
        terms = self.terms(replica.model, self.make_batch(replica, index_B))
        replica.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        replica.optimizer.step()
        return {name: term.detach() for name, term in terms.items()}

    def make_batch(self, replica: Replica, index_B: Tensor) -> Batch:
        """The training images of these rows as a step sees them: target maps are made, then all is augmented."""
        x_BCHW = to_pixels(self.data.train.x_NCHW[index_B])
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

    def _fault(self, replica: Replica, means: Mapping[str, float], before: Mapping[str, Tensor]) -> str | None:
        """What was not finite, where a mean or a weight is not: its epoch is trained anew, uncaptured, to see where."""
        wrong = [f"the mean of the term {name} was {mean}" for name, mean in means.items() if not math.isfinite(mean)]
        if not wrong and divergence.is_finite(replica.model.state_dict().values()):
            return None
        replica.load(before)
        replica.begin_epoch(self.epoch, self.lr)
        losses = (self.terms(replica.model, self.make_batch(replica, index_B)) for index_B in self._order(replica))
        fault = divergence.first_fault(losses, replica.model, replica.optimizer)
        place = f"in epoch {self.epoch + 1} (seed {replica.seed})"
        if fault is not None:
            return f"{fault.what} {place}, step {fault.step} of {self.steps}{fault.beside}"
        # The sum over the steps may overflow by itself, and a method of a user may not be deterministic.
        return f"{(wrong or ['a weight was not finite'])[0]} {place}; no step showed it when trained again"

    # -------------------------------------------------------------- checkpoints
    def state(self) -> dict[str, Tensor]:
        """Weights and momenta of all replicas, by name; with ``epoch`` and ``diverged`` all that going on needs."""
        return {name: tensor.detach() for replica in self.replicas for name, tensor in replica.tensors()}

    def load_state(self, state: Mapping[str, Tensor], epoch: int) -> None:
        """Go on after ``epoch`` epochs from what ``state`` returned; raises ``KeyError`` on a foreign state."""
        for replica in self.replicas:
            replica.load(state)
        self.epoch = epoch
