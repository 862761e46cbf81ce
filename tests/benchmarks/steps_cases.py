"""What the step benchmark times, net by net: every method's training step, attacks, maps, an epoch; ours and others'.

Shapes: B batch, C·H·W image, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

import steps_textbook as textbook
import torch
from steps_floor import Row, operations
from torch import Tensor, nn

from trainables import MethodTrainable
from trainables.stages.partial_maps import BLOCK
from tune_interpreg import registry, seeding
from tune_interpreg.attacks import balls
from tune_interpreg.attacks import pgd as attacks
from tune_interpreg.data.dataset import Dataset, Split
from tune_interpreg.gradients import penalties, saliency
from tune_interpreg.networks import piecewise_linear as models
from tune_interpreg.networks.layers import set_dropout_generator
from tune_interpreg.study.config import Attack, MapSettings, Study
from tune_interpreg.study.file import read as study_file
from tune_interpreg.study.items import Recipe
from tune_interpreg.training.trainer import Batch, Trainer, optimizer

CLASSES, STRENGTH = 10, 0.1

#: Steps of the attack in the training steps that are timed, and batches in an epoch.
FEW = 5

Loss = Callable[[nn.Module], Tensor]


@dataclass(frozen=True)
class Case:
    """A net in the setting of the study that trains it.

    study: the name of a shipped one. steps: of the attack. samples: N of the maps. torchattacks: whether it is there.
    """

    study: str
    shape: tuple[int, int, int]
    steps: int
    samples: int
    torchattacks: bool = False

    @cached_property
    def setting(self) -> Study:
        return study_file.read(self.study).study

    @cached_property
    def net(self) -> nn.Module:
        return models.build(self.setting.model, self.shape, CLASSES, seeding.generator(0, "init"))

    @cached_property
    def plain(self) -> nn.Module:
        """The same layers and weights in PyTorch's own Sequential."""
        return nn.Sequential(*self.net.layers)

    @property
    def batch(self) -> int:
        return self.setting.training.batch_size

    @cached_property
    def forward(self) -> tuple[int, int]:
        self.net.eval()
        return operations(self.net, self.shape)

    def images(self, count: int) -> tuple[Tensor, Tensor]:
        draws = seeding.generator(count, "images")
        return torch.rand(count, *self.shape, generator=draws), torch.randint(CLASSES, (count,), generator=draws)

    def noise(self) -> torch.Generator:
        return seeding.generator(0, "noise")

    @cached_property
    def target(self) -> Tensor:
        return torch.rand(self.batch, *self.shape, generator=seeding.generator(0, "targets"))

    def attack(self, steps: int) -> Attack:
        return self.setting.attack.model_copy(update={"steps": steps})

    # ---------------------------------------------------------------- methods
    def method(self, name: str) -> Loss:
        """The loss of a registered method on a batch, its strengths 0.1."""
        kind: type[MethodTrainable] = registry.method(name)
        one = kind.__new__(kind)  # what terms() reads, without a trial around it
        one.params = {
            key: STRENGTH if known.default is None else known.default for key, known in kind.parameters.items()
        }
        one.recipe = Recipe.of(self.setting, method=name).model_copy(update={"attack": self.attack(FEW)})
        x_BCHW, y_B = self.images(self.batch)
        return lambda model: torch.stack(
            list(one.terms(model, Batch(x_BCHW, y_B, self.target, self.noise())).values())
        ).sum()

    def rivals(self, name: str) -> dict[str, Loss]:
        """The method's loss in textbook PyTorch, in as many forms as people write it."""
        x, y = self.images(self.batch)
        guided = {"x_BCHW": x, "y_B": y, "target": self.target, "strength": STRENGTH}
        penalized = {"x_BCHW": x, "y_B": y, "strength": STRENGTH}
        known: dict[str, dict[str, Loss]] = {
            "standard": {"textbook": partial(textbook.standard, x_BCHW=x, y_B=y)},
            "interpretation": {"double backpropagation": partial(textbook.interpretation, **guided)},
            "cosine": {"double backpropagation": partial(textbook.cosine, **guided)},
            "input_gradient": {"double backpropagation": partial(textbook.input_gradient, **penalized)},
            "jacobian_projections": {"double backpropagation": lambda model: self._projected(model, x, y)},
            "jacobian": {
                "repeated batch": partial(textbook.repeated_jacobian, **penalized),
                "batched double backpropagation": partial(textbook.batched_jacobian, **penalized),
                "memory kept, repeated batch": partial(textbook.repeated_jacobian, **penalized),
                "memory kept, batched double backpropagation": partial(textbook.batched_jacobian, **penalized),
                "K double backpropagations": partial(textbook.looped_jacobian, **penalized),
            },
            "adversarial": {"textbook": lambda model: self._attacked(model, x, y, self.attack(FEW))},
            "fast_adversarial": {"textbook": lambda model: self._attacked(model, x, y, self._one_step())},
        }
        return known.get(name, {})

    def _projected(self, model: nn.Module, x_BCHW: Tensor, y_B: Tensor) -> Tensor:
        v_1BK = penalties.unit_vectors(torch.empty(len(y_B), CLASSES), 1, self.noise())
        return textbook.projected_jacobian(model, x_BCHW, y_B, v_BK=v_1BK[0], strength=STRENGTH)

    def _attacked(self, model: nn.Module, x_BCHW: Tensor, y_B: Tensor, attack: Attack) -> Tensor:
        start_BCHW = balls.random_start(x_BCHW, attack, self.noise())
        return textbook.standard(model, textbook.pgd(model, x_BCHW, y_B, start_BCHW, attack).detach(), y_B)

    def _one_step(self) -> Attack:
        eps = self.setting.attack.eps
        return self.attack(1).model_copy(update={"step_size": 1.25 * eps, "start": "ball"})

    def work(self, name: str) -> float:
        """The fewest operations of a method's step for one image; of one that is not known, of standard training."""
        F, f1 = self.forward
        gradient = 6 * F - f1
        known = {
            "jacobian": (3 * CLASSES + 3) * F - f1,
            "adversarial": (2 * FEW + 3) * F - f1,
            "fast_adversarial": 5 * F - f1,
        } | dict.fromkeys(("interpretation", "cosine", "input_gradient", "jacobian_projections"), gradient)
        return known.get(name, 3 * F - f1)

    # ------------------------------------------------------------------- rows
    def rows(self) -> Iterator[Row]:
        """Each method's step, the attack, maps and an epoch."""
        for name in registry.names("methods"):
            yield self.step(name)
        yield self.pgd()
        yield self.maps()
        yield self.epoch()

    def step(self, name: str) -> Row:
        """A training step: the loss, its gradients, and SGD."""
        work, losses = self.work(name), {"ours": self.method(name)} | self.rivals(name)
        own = optimizer(self.net, self.setting.training.model_copy(update={"lr": 1e-5}))
        theirs = torch.optim.SGD(self.plain.parameters(), lr=1e-5, momentum=0.9)

        def run(who: str) -> None:
            model, sgd = (self.net, own) if who == "ours" else (self.plain, theirs)
            set_dropout_generator(self.net.train(), self.noise())
            sgd.zero_grad(set_to_none=True)
            losses[who](model).backward()
            sgd.step()

        label = f"{name}, {FEW} steps of attack" if name == "adversarial" else name
        return Row(label, self.batch * work, {who: partial(run, who) for who in losses})

    def pgd(self) -> Row:
        """The attack on a model in eval mode, from one start, strict."""
        attack, (x, y) = self.attack(self.steps), self.images(self.batch)
        short = attack.model_copy(update={"precision": "bfloat16"})
        start = balls.random_start(x, attack, self.noise())
        calls: dict[str, Callable[[], object]] = {
            "ours": lambda: attacks.perturb_from(self.net.eval(), x, y, start, attack=attack, form="strict"),
            "bfloat16": lambda: attacks.perturb_from(self.net.eval(), x, y, start, attack=short, form="strict"),
            "textbook": lambda: textbook.pgd(self.plain.eval(), x, y, start, attack),
            "foolbox": lambda: textbook.foolbox_pgd(self.plain.eval(), x, y, start, attack),
        }
        if self.torchattacks:
            calls["torchattacks"] = lambda: textbook.torchattacks_pgd(self.plain.eval(), x, y, start, attack)
        return Row(f"PGD, {self.steps} steps", 2 * self.steps * self.batch * self.forward[0], calls)

    def maps(self) -> Row:
        """SmoothGrad of as many images as a study makes the maps of at a time."""
        settings, (x, y) = MapSettings(samples=self.samples), self.images(BLOCK)

        def ours(precision: str) -> Tensor:
            chosen = settings.model_copy(update={"precision": precision})
            return saliency.smoothgrad(self.net.eval(), x, y, settings=chosen, generator=self.noise(), chunk=1)

        theirs = {"sigma": settings.sigma, "samples": self.samples}
        calls: dict[str, Callable[[], object]] = {
            "ours": partial(ours, "float32"),
            "bfloat16": partial(ours, "bfloat16"),
            "textbook": lambda: textbook.smoothgrad(self.plain.eval(), x, y, **theirs),
            "captum": lambda: textbook.captum_smoothgrad(self.plain.eval(), x, y, **theirs),
        }
        return Row(f"SmoothGrad, {BLOCK} images, N = {self.samples}", 2 * self.samples * BLOCK * self.forward[0], calls)

    def epoch(self) -> Row:
        """Standard training of a few batches of bytes: ours with data in memory, theirs with a DataLoader."""
        x_NCHW, y_N = self.images(FEW * self.batch)
        bytes_NCHW = (255 * x_NCHW).byte()
        data = Dataset(Split(bytes_NCHW, y_N), Split(bytes_NCHW, y_N), CLASSES, self.shape, "")
        training, method = self.setting.training, registry.method("standard")
        trainer = Trainer(
            model=self.setting.model, training=training, data=data, terms=method.__new__(method).terms, seeds=[0]
        )
        images = textbook.Images(bytes_NCHW.movedim(1, -1).squeeze(-1).numpy(), y_N.tolist())
        sgd = torch.optim.SGD(self.plain.parameters(), lr=1e-5, momentum=0.9)

        def theirs() -> float:
            set_dropout_generator(self.plain.train(), self.noise())
            return textbook.epoch(self.plain, sgd, images, self.batch)

        return Row(
            f"an epoch of {FEW} batches",
            FEW * self.batch * self.work("standard"),
            {"ours": trainer.run_epoch, "DataLoader": theirs},
        )


#: The nets of the paper, in the settings of the paper's studies. CIFAR's attack is timed with fewer steps.
CASES = {
    "mnist_cnn": Case("mnist", (1, 28, 28), steps=40, samples=4),
    "cifar_cnn": Case("cifar10", (3, 32, 32), steps=5, samples=1),
}


def case(net: str, torchattacks: bool) -> Case:
    return replace(CASES[net], torchattacks=torchattacks)
