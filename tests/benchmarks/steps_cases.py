"""The tasks of the step benchmark per network: every method's training step, attacks, maps and an epoch, with rivals.

Shapes: B batch, C·H·W image, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import steps_textbook as textbook
import torch
from steps_floor import Row, count_operations
from torch import Tensor, nn

from trainables import AlignedTrainable, MethodTrainable
from trainables.stages.partial_maps import BLOCK
from tune_interpreg import registry, seeding
from tune_interpreg.attacks import balls, pgd
from tune_interpreg.data.dataset import Dataset, Split
from tune_interpreg.gradients import penalties, saliency
from tune_interpreg.networks.build import build
from tune_interpreg.networks.layers import set_dropout_generator
from tune_interpreg.study.config import Attack, MapSettings, Study
from tune_interpreg.study.file.read import read_study_file
from tune_interpreg.study.recipe import Recipe
from tune_interpreg.training.optimizer import Optimizer
from tune_interpreg.training.trainer import Batch, Trainer

CLASSES, STRENGTH = 10, 0.1

#: The steps of training's attack, and the batches of an epoch.
FEW = 5

Loss = Callable[[nn.Module], Tensor]


@dataclass(frozen=True)
class Case:
    """A network in the setting of the shipped study that trains it.

    steps: of the attack. samples: N of the maps. torchattacks: whether it is installed.
    """

    study: str
    shape: tuple[int, int, int]
    steps: int
    samples: int
    torchattacks: bool = False

    @cached_property
    def setting(self) -> Study:
        return read_study_file(self.study).study

    @cached_property
    def net(self) -> nn.Module:
        return build(self.setting.model, self.shape, CLASSES, 0)

    @cached_property
    def teacher(self) -> nn.Module:
        return build(self.setting.model, self.shape, CLASSES, 1).eval().requires_grad_(False)

    @cached_property
    def plain(self) -> nn.Module:
        """The same layers and weights in PyTorch's Sequential."""
        return nn.Sequential(*self.net.layers)

    @property
    def batch(self) -> int:
        return self.setting.training.batch_size

    @cached_property
    def forward(self) -> tuple[int, int]:
        return count_operations(self.net.eval(), self.shape)

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
        """Return the loss of a registered method on a batch, with all strengths 0.1."""
        kind: type[MethodTrainable] = registry.load_method(name)
        method = kind.__new__(kind)  # without a trial; terms() reads only params and recipe
        defaults = {key: parameter.default for key, parameter in kind.parameters.items()}
        method.params = {key: STRENGTH if default is None else default for key, default in defaults.items()}
        method.recipe = Recipe.from_study(self.setting, method=name).model_copy(update={"attack": self.attack(FEW)})
        if isinstance(method, AlignedTrainable):
            method.means_KCHW = self.images(CLASSES)[0]
        x_BCHW, y_B = self.images(self.batch)

        def loss(model: nn.Module) -> Tensor:
            batch = Batch(x_BCHW, y_B, self.target, self.noise(), teacher=self.teacher)
            return torch.stack(list(method.terms(model, batch).values())).sum()

        return loss

    def rivals(self, name: str) -> dict[str, Loss]:
        """Return the method's loss in textbook PyTorch."""
        x, y = self.images(self.batch)
        guided = {"x_BCHW": x, "y_B": y, "target": self.target, "strength": STRENGTH}
        penalized = {"x_BCHW": x, "y_B": y, "strength": STRENGTH}
        one_step = self.attack(1).model_copy(update={"step_size": 1.25 * self.setting.attack.eps, "start": "ball"})
        losses: dict[str, dict[str, Loss]] = {
            "standard": {"textbook": partial(textbook.standard, x_BCHW=x, y_B=y)},
            "interpretation": {"double backpropagation": partial(textbook.interpretation, **guided)},
            "cosine": {"double backpropagation": partial(textbook.cosine, **guided)},
            "input_gradient": {"double backpropagation": partial(textbook.input_gradient, **penalized)},
            "jacobian_projections": {"double backpropagation": lambda model: self._projected(model, x, y)},
            "jacobian": {
                "repeated batch": partial(textbook.repeated_jacobian, **penalized),
                "batched double backpropagation": partial(textbook.batched_jacobian, **penalized),
            },
            "adversarial": {"textbook": lambda model: self._attacked(model, x, y, self.attack(FEW))},
            "fast_adversarial": {"textbook": lambda model: self._attacked(model, x, y, one_step)},
        }
        return losses.get(name, {})

    def _projected(self, model: nn.Module, x_BCHW: Tensor, y_B: Tensor) -> Tensor:
        v_1BK = penalties.unit_vectors(torch.empty(len(y_B), CLASSES), 1, self.noise())
        return textbook.projected_jacobian(model, x_BCHW, y_B, v_BK=v_1BK[0], strength=STRENGTH)

    def _attacked(self, model: nn.Module, x_BCHW: Tensor, y_B: Tensor, attack: Attack) -> Tensor:
        start_BCHW = balls.draw_start(x_BCHW, attack, self.noise())
        return textbook.standard(model, textbook.pgd(model, x_BCHW, y_B, start_BCHW, attack).detach(), y_B)

    def work(self, name: str) -> float:
        """Return the least operations per image of a method's step; those of standard training for other methods."""
        F, f1 = self.forward
        gradient = 6 * F - f1
        operations = {
            "trades": (2 * FEW + 7) * F - 2 * f1,
            "curvature": 15 * F - 3 * f1,
            "distill": 4 * F - f1,
            "gradient_match": 8 * F - f1,
            "jacobian": (3 * CLASSES + 3) * F - f1,
            "adversarial": (2 * FEW + 3) * F - f1,
            "fast_adversarial": 5 * F - f1,
            "mart": (2 * FEW + 6) * F - 2 * f1,
            "aligned": (3 * CLASSES + 3) * F - f1,
            "gradient_align": 12 * F - 2 * f1,
        } | dict.fromkeys(("interpretation", "cosine", "input_gradient", "jacobian_projections"), gradient)
        return operations.get(name, 3 * F - f1)

    # ------------------------------------------------------------------- rows
    def rows(self) -> list[Row]:
        steps = [self.step(name) for name in registry.names("methods")]
        return [*steps, self.pgd(), self.maps(), self.epoch()]

    def step(self, name: str) -> Row:
        """Return a training step: the loss, its gradients, and SGD."""
        work, losses = self.work(name), {"ours": self.method(name)} | self.rivals(name)
        ours = Optimizer(self.net, self.setting.training.model_copy(update={"lr": 1e-5}))
        theirs = torch.optim.SGD(self.plain.parameters(), lr=1e-5, momentum=0.9)

        def run(rival: str) -> None:
            model, sgd = (self.net, ours) if rival == "ours" else (self.plain, theirs)
            set_dropout_generator(self.net.train(), self.noise())
            sgd.zero_grad()
            losses[rival](model).backward()
            sgd.step()

        label = f"{name}, {FEW} steps of attack" if name == "adversarial" else name
        return Row(label, self.batch * work, {rival: partial(run, rival) for rival in losses})

    def pgd(self) -> Row:
        """Return the strict attack on a model in eval mode from one start."""
        attack, (x, y) = self.attack(self.steps), self.images(self.batch)
        short = attack.model_copy(update={"precision": "bfloat16"})
        start = balls.draw_start(x, attack, self.noise())
        calls: dict[str, Callable[[], object]] = {
            "ours": lambda: pgd.perturb_from(self.net.eval(), x, y, start, attack=attack, form="plain"),
            "bfloat16": lambda: pgd.perturb_from(self.net.eval(), x, y, start, attack=short, form="plain"),
            "textbook": lambda: textbook.pgd(self.plain.eval(), x, y, start, attack),
            "foolbox": lambda: textbook.foolbox_pgd(self.plain.eval(), x, y, start, attack),
        }
        if self.torchattacks:
            calls["torchattacks"] = lambda: textbook.torchattacks_pgd(self.plain.eval(), x, y, start, attack)
        return Row(f"PGD, {self.steps} steps", 2 * self.steps * self.batch * self.forward[0], calls)

    def maps(self) -> Row:
        """Return SmoothGrad of as many images as a study takes at a time."""
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
        """Return standard training on a few batches of bytes: ours with data in memory, theirs with a DataLoader."""
        x_NCHW, y_N = self.images(FEW * self.batch)
        bytes_NCHW = (255 * x_NCHW).byte()
        data = Dataset(Split(bytes_NCHW, y_N), Split(bytes_NCHW, y_N), CLASSES, self.shape, "")
        training, method = self.setting.training, registry.load_method("standard")
        terms = method.__new__(method).terms
        trainer = Trainer(model=self.setting.model, training=training, data=data, terms=terms, seeds=[0])
        images = textbook.Images(bytes_NCHW.movedim(1, -1).squeeze(-1).numpy(), y_N.tolist())
        sgd = torch.optim.SGD(self.plain.parameters(), lr=1e-5, momentum=0.9)

        def theirs() -> float:
            set_dropout_generator(self.plain.train(), self.noise())
            return textbook.epoch(self.plain, sgd, images, self.batch)

        calls = {"ours": trainer.run_epoch, "DataLoader": theirs}
        return Row(f"an epoch of {FEW} batches", FEW * self.batch * self.work("standard"), calls)


#: The paper's networks in the settings of the paper's studies. CIFAR's attack has fewer steps to save time.
CASES = {
    "mnist_cnn": Case("mnist", (1, 28, 28), steps=40, samples=4),
    "cifar_cnn": Case("cifar10", (3, 32, 32), steps=5, samples=1),
}
