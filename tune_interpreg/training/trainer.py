"""The training engine: trains one or several seeds of one recipe, one epoch at a time. No Ray.

A step has fixed shapes, reads nothing back and draws only from its seed's generators, so that it can be captured (see
``capture``). At the start of each epoch every generator is seeded by (seed, purpose, epoch). A checkpoint therefore
needs no random state, a resumed training gives the same bits as an uninterrupted one, and an epoch that diverged can be
repeated to find the step. A seed that diverges does not stop the others.

Shapes: B batch, T steps of an epoch, N training images, C·H·W image.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from tune_interpreg import seeding
from tune_interpreg.data.augmentation import augment
from tune_interpreg.data.dataset import Dataset, to_pixels
from tune_interpreg.gradients import saliency
from tune_interpreg.networks import weights
from tune_interpreg.networks.build import build
from tune_interpreg.networks.layers import Adjoint, set_dropout_generator
from tune_interpreg.networks.linearize import linearize
from tune_interpreg.study.config import Model, Training
from tune_interpreg.training.capture import Engine, Lane
from tune_interpreg.training.device import matmul_precision
from tune_interpreg.training.divergence import find_first_fault, is_finite
from tune_interpreg.training.optimizer import Optimizer


class Diverged(ArithmeticError):
    """Raised for a loss term, a gradient or a weight that is not finite."""


@dataclass(frozen=True)
class Batch:
    """The input of a method's ``terms``: pixels in [0, 1], labels, and the method's target maps or None.

    Images and maps are augmented in the same way. noise: the seed's generator for the method's own draws. teacher: the
    teacher's network in eval mode, for methods that need one. epoch: number of finished epochs, a scalar on the device,
    so that a captured step follows it.
    """

    x_BCHW: Tensor
    y_B: Tensor
    target_BCHW: Tensor | None
    noise: torch.Generator
    teacher: nn.Module | None = None
    epoch: Tensor = field(default_factory=lambda: torch.zeros(()))
    _linearized: dict[str, tuple[Tensor, Adjoint]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def linearize(self, model: nn.Module) -> tuple[Tensor, Adjoint]:
        """Return the model's logits and adjoint at x (see ``networks.linearize``). All terms share one forward."""
        if "model" not in self._linearized:
            self._linearized["model"] = linearize(model, self.x_BCHW)
        return self._linearized["model"]

    def linearize_teacher(self) -> tuple[Tensor, Adjoint]:
        """Return the teacher's logits and adjoint at x, without graph. All terms share one forward.

        Raises:
            ValueError: the training has no teacher.
        """
        if self.teacher is None:
            raise ValueError("linearize_teacher: the training has no teacher; set needs_teacher = True in its method")
        if "teacher" not in self._linearized:
            with torch.no_grad():
                z_BK, adjoint = linearize(self.teacher, self.x_BCHW)
            self._linearized["teacher"] = z_BK, torch.no_grad()(adjoint)
        return self._linearized["teacher"]


#: (model in train mode, batch) → named scalar terms. Their sum is the loss.
Terms = Callable[[nn.Module, Batch], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Guidance:
    """The raw maps of all training images by seed, and the method's function of them (a threshold).

    redraw: permute each map's values again whenever a batch is drawn.
    """

    raw_NCHW: Mapping[int, Tensor]
    target: Callable[[Tensor], Tensor]
    redraw: bool = False


#: The purposes of a training's random draws. Each has its own generator.
STREAMS = ("order", "dropout", "noise", "augmentation", "permutation")


class Replica:
    """The model, optimizer and random streams of one seed."""

    def __init__(self, seed: int, model: nn.Module, training: Training):
        self.seed = seed
        self.model = model
        self.device = next(model.parameters()).device
        self.epoch = torch.zeros((), device=self.device)
        self.optimizer = Optimizer(model, training)
        #: Tensors that the builder gave values that are not finite, such as a mask of −inf.
        self.infinite = {name for name, tensor in weights.named_tensors(model) if not is_finite([tensor])}
        self.reset_generators()

    def reset_generators(self) -> None:
        self.streams = {purpose: torch.Generator(self.device) for purpose in STREAMS}
        set_dropout_generator(self.model, self.streams["dropout"])

    def begin_epoch(self, epoch: int, lr: float) -> None:
        """Set train mode and the learning rate, and seed the random streams for ``epoch``."""
        self.model.train()
        self.epoch.fill_(epoch)
        self.optimizer.lr.fill_(lr)
        for purpose, generator in self.streams.items():
            generator.manual_seed(seeding.number(self.seed, purpose, epoch))

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield weights, buffers and the optimizer's state under names that are unique among the seeds."""
        for name, tensor in weights.named_tensors(self.model):
            yield f"{self.seed}/model/{name}", tensor
            for kind, state in self.optimizer.state.get(tensor, {}).items():
                yield f"{self.seed}/{kind}/{name}", state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Copy the tensors' values from ``state``; raises ``KeyError`` if one is missing."""
        with torch.no_grad():
            for name, tensor in self.named_tensors():
                tensor.copy_(state[name])


class Trainer:
    """Train one replica per seed of one recipe.

    ``diverged`` maps each diverged seed to a description. Diverged seeds keep training, but are not reported.

    Args:
        data: its training split is used, already on ``device``. guidance: for methods that need target maps.
        teacher: for methods that need a teacher's network, on ``device``, in eval mode; all seeds share it.
        capture: whether a GPU captures and replays steps; no effect on a CPU.

    Raises ``ValueError`` if there are fewer images than one batch takes.
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
        teacher: nn.Module | None = None,
        device: torch.device | str = "cpu",
        capture: bool = True,
    ):
        if len(data.train) < training.batch_size:
            raise ValueError(
                f"training.batch_size: a batch takes {training.batch_size} images, but there are {len(data.train)} "
                "to train on; lower it, or raise data.train_limit"
            )
        self.training, self.data, self.terms = training, data, terms
        self.guidance, self.teacher = guidance, teacher
        # Only whole batches count, so that shapes are fixed.
        self.steps = len(data.train) // training.batch_size
        self.images_per_epoch = self.steps * training.batch_size
        self.epoch = 0
        self.diverged: dict[int, str] = {}
        self.replicas = [
            Replica(seed, build(model, data.shape, data.classes, seed, device), training) for seed in seeds
        ]
        device = self.replicas[0].device
        lanes = [self._lane(replica) for replica in self.replicas]
        self.engine = Engine(lanes, device, capture=capture and device.type == "cuda")

    @property
    def finite_replicas(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.seed not in self.diverged]

    @property
    def lr(self) -> float:
        return self.training.learning_rate(self.epoch)

    def run_epoch(self) -> dict[int, dict[str, float]]:
        """Train one epoch and return, per finite seed, each term's mean over the batches and their sum ``loss``.

        If a term, its gradient or a weight is not finite, ``diverged`` gets an entry with epoch, step and term.
        Raises ``Diverged`` if no seed is left.
        """
        before = {name: tensor.clone() for name, tensor in self.state().items()}
        places = self._places()
        with matmul_precision(self.training.matmul):
            self._begin_epoch()
            if self.engine.prepare():
                replaced = [name for name, place in self._places().items() if place != places[name]]
                if replaced:  # a replay would read the first tensor again and again
                    self.engine.discard(f"a step replaces the tensor {replaced[0]} instead of changing it in place")
                self._undo_rehearsal(before)
            self.engine.run(self.steps)
            means = {
                replica.seed: {name: float(total) / self.steps for name, total in lane.sums.items()}
                for replica, lane in zip(self.replicas, self.engine.lanes, strict=True)
            }
            for replica in self.finite_replicas:
                self._check_finite(replica, means[replica.seed], before)
        finite = [replica.seed for replica in self.finite_replicas]
        if not finite:
            raise Diverged("; ".join(self.diverged.values()))
        self.epoch += 1
        return {seed: means[seed] | {"loss": sum(means[seed].values())} for seed in finite}

    def _lane(self, replica: Replica) -> Lane:
        generators = [generator for purpose, generator in replica.streams.items() if purpose != "order"]
        order_TB = torch.zeros(self.steps, self.training.batch_size, dtype=torch.long, device=replica.device)
        return Lane(lambda index_B: self._step(replica, index_B), generators, order_TB, partial(self._isolate, replica))

    def _isolate(self, replica: Replica) -> AbstractContextManager[None]:
        """Return a context with the replica's own global generators, for layers that draw from these."""
        return seeding.seeded(replica.seed, "layers", self.epoch)

    def _begin_epoch(self) -> None:
        for replica, lane in zip(self.replicas, self.engine.lanes, strict=True):
            replica.begin_epoch(self.epoch, self.lr)
            lane.begin(self._draw_order(replica))

    def _places(self) -> dict[str, int]:
        """Return the address of each tensor of the state."""
        return {name: tensor.data_ptr() for name, tensor in self.state().items()}

    def _undo_rehearsal(self, before: Mapping[str, Tensor]) -> None:
        """Restart the epoch after the steps that a capture rehearsed."""
        self.load_state(before, self.epoch)
        if not self.engine.captured:
            for replica in self.replicas:
                replica.reset_generators()
        self._begin_epoch()

    def _draw_order(self, replica: Replica) -> Tensor:
        """Draw order_TB, the first draw of the epoch. It omits the images that fill no batch."""
        stream = replica.streams["order"]
        order_N = torch.randperm(len(self.data.train), generator=stream, device=stream.device)
        return order_N[: self.images_per_epoch].view(self.steps, -1)

    def _step(self, replica: Replica, index_B: Tensor) -> Mapping[str, Tensor]:
        terms = self.terms(replica.model, self.make_batch(replica, index_B))
        replica.optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        replica.optimizer.step()
        return {name: term.detach() for name, term in terms.items()}

    def make_batch(self, replica: Replica, index_B: Tensor) -> Batch:
        """Return the images of these rows and their target maps, augmented together."""
        x_BCHW, target_BCHW = to_pixels(self.data.train.x_NCHW[index_B]), None
        if self.guidance is not None:
            raw_BCHW = self.guidance.raw_NCHW[replica.seed][index_B].to(torch.float32)
            if self.guidance.redraw:
                raw_BCHW = saliency.permute(raw_BCHW, replica.streams["permutation"])
            target_BCHW = self.guidance.target(raw_BCHW)
        if self.training.augment is not None:
            generator = replica.streams["augmentation"]
            x_BCHW, target_BCHW = augment(x_BCHW, target_BCHW, self.training.augment, generator=generator)
        y_B, noise = self.data.train.y_N[index_B], replica.streams["noise"]
        return Batch(x_BCHW, y_B, target_BCHW, noise, teacher=self.teacher, epoch=replica.epoch)

    def _check_finite(self, replica: Replica, means: Mapping[str, float], before: Mapping[str, Tensor]) -> None:
        """Enter a diverged seed in ``diverged``. Repeats a faulty epoch without capture to find the step."""
        faults = [f"the mean of the term {name} was {mean}" for name, mean in means.items() if not math.isfinite(mean)]
        tensors = weights.named_tensors(replica.model)
        if not is_finite(tensor for name, tensor in tensors if name not in replica.infinite):
            faults.append("a weight was not finite")
        if not faults:
            return
        replica.load_state(before)
        replica.begin_epoch(self.epoch, self.lr)
        losses = (self.terms(replica.model, self.make_batch(replica, index_B)) for index_B in self._draw_order(replica))
        with self._isolate(replica):
            first = find_first_fault(losses, replica.model, replica.optimizer, except_for=replica.infinite)
        place = f"in epoch {self.epoch + 1} (seed {replica.seed})"
        if first is not None:
            step, description = first
            self.diverged[replica.seed] = f"{description} {place}, step {step} of {self.steps}"
        else:  # the sum over the steps can overflow by itself, and a user's method may be nondeterministic
            self.diverged[replica.seed] = f"{faults[0]} {place}; no step showed it when the epoch was repeated"

    def state(self) -> dict[str, Tensor]:
        """Return the named tensors of all replicas. A checkpoint adds ``epoch`` and ``diverged``."""
        return {name: tensor.detach() for replica in self.replicas for name, tensor in replica.named_tensors()}

    def load_state(self, state: Mapping[str, Tensor], epoch: int) -> None:
        """Continue after ``epoch`` epochs from a ``state``; raises ``KeyError`` if a tensor is missing."""
        for replica in self.replicas:
            replica.load_state(state)
        self.epoch = epoch
