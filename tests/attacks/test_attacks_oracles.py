"""PGD against foolbox, and the adapter to AutoAttack, on a small network trained on the digits.

Shapes: B batch, N images, C·H·W image, K classes.
"""

import contextlib
import copy
import logging
import random as python_random
import sys
import warnings

import eagerpy
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from trainables import testing
from tune_interpreg import seeding
from tune_interpreg.attacks import autoattack, balls, judging, pgd
from tune_interpreg.data import shipped as datasets
from tune_interpreg.data.dataset import Split, to_pixels
from tune_interpreg.evaluation.honesty import Scaled
from tune_interpreg.networks.zoo import digits_cnn
from tune_interpreg.study.config import Attack

pytestmark = pytest.mark.thorough

with warnings.catch_warnings():
    # foolbox imports it from a module that SciPy deprecates.
    warnings.filterwarnings("ignore", "Please import `gaussian_filter`", DeprecationWarning)
    import foolbox

PGD = {
    "l2": foolbox.attacks.L2ProjectedGradientDescentAttack,
    "linf": foolbox.attacks.LinfProjectedGradientDescentAttack,
}


@pytest.fixture(scope="module")
def digits() -> Split:
    """The test images."""
    return datasets.digits(None).test()


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """digits_cnn after six epochs, with about 96% test accuracy."""
    train, generator = datasets.digits(None).train(), seeding.generator(0, "order")
    with seeding.seeded(0, "initialisation"):
        model = digits_cnn((1, 8, 8), 10)
    optimizer, x_NCHW = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), to_pixels(train.x_NCHW)
    for _ in range(6):
        for rows in torch.randperm(len(train), generator=generator).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x_NCHW[rows]), train.y_N[rows]).backward()
            optimizer.step()
    return model.eval()


def linear(inputs: int, classes: int) -> nn.Sequential:
    """Return f(x) = Wx + b."""
    with seeding.seeded(0, "initialisation"):
        return nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes))


def foolbox_pgd(model: nn.Module, x: Tensor, y: Tensor, start: Tensor, attack: Attack) -> Tensor:
    """Return the last iterates of foolbox's PGD from this start."""
    theirs = PGD[attack.norm](abs_stepsize=attack.step_length, steps=attack.steps, random_start=True)
    theirs.get_random_start = lambda x0, epsilon: eagerpy.astensor(start)
    adv_BCHW: Tensor = theirs.run(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilon=attack.eps)
    return adv_BCHW


@pytest.mark.parametrize("start", ["sphere", "ball"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_adversarial_images_equal_foolboxs(trained: nn.Module, digits: Split, norm: str, start: str) -> None:
    """Image by image from the same start, in double precision because foolbox computes p_y − 1.

    Ours clamps before and after the projection, foolbox only after it. Pixels in [0.4, 0.6] move by at most
    ε + step ≤ 0.4, so no pixel is clamped.
    """
    step_size = 0.1 if norm == "l2" else 0.04
    attack = Attack(norm=norm, eps=0.3, steps=10, step_size=step_size, start=start)
    x, y = (0.4 + 0.2 * to_pixels(digits.x_NCHW)).double()[:100], digits.y_N[:100]
    first, model = balls.draw_start(x, attack, seeding.generator(0, "start")), copy.deepcopy(trained).double()
    ours = pgd.perturb_from(model, x, y, first, attack=attack, form="plain")
    torch.testing.assert_close(ours, foolbox_pgd(model, x, y, first, attack), rtol=0.0, atol=1e-6)
    assert (ours - first).abs().flatten(1).amax(1).min() > 0.05


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.4), ("l2", 0.8), ("linf", 0.08), ("linf", 0.12)])
def test_strict_is_never_weaker_than_foolbox(trained: nn.Module, digits: Split, norm: str, eps: float) -> None:
    """By more than 0.2 points, on 360 test images, with 20 steps from the same start."""
    attack, x, y = Attack(norm=norm, eps=eps, steps=20), to_pixels(digits.x_NCHW), digits.y_N
    first = balls.draw_start(x, attack, seeding.generator(0, "start"))
    ours = judging.find_broken(trained, x, y, [first], attack=attack, form="strict")
    theirs = trained(foolbox_pgd(trained, x, y, first, attack)).argmax(1) != y
    assert ours.sum() >= theirs.sum() - 0.002 * len(y)
    assert 0 < theirs.sum() < len(y)


def test_autoattack_breaks_as_many_as_pgd(trained: nn.Module, digits: Split) -> None:
    """At l2 0.9 on 40 images, within one image."""
    x, y, attack = to_pixels(digits.x_NCHW[:40]), digits.y_N[:40], Attack(norm="l2", eps=0.9, steps=40)
    adv, broken = autoattack.perturb(trained, x, y, attack=attack, seed=0, batch_size=25)
    start = balls.draw_start(x, attack, seeding.generator(0, "start"))
    strict = judging.find_broken(trained, x, y, [start], attack=attack, form="strict")
    assert broken.sum() >= strict.sum() - 1
    assert strict.sum() > 30
    assert torch.linalg.vector_norm((adv - x).flatten(1), dim=1).max() <= 0.9 * (1 + 1e-5)
    assert adv.min() >= 0
    assert adv.max() <= 1
    assert torch.equal(trained(adv).argmax(1) != y, broken)


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.5), ("linf", 0.1)])
@pytest.mark.parametrize(
    "whole", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["gradient attacks", "whole"]
)
def test_strict_is_within_a_point_of_autoattack_at_any_scale(
    trained: nn.Module, digits: Split, norm: str, eps: float, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On 100 images, also with logits times 0.01, where PGD on the cross-entropy breaks fewer images.

    APGD-CE and APGD-T are the ensemble's attacks that follow gradients; FAB and Square take most of its time.
    """
    if not whole:
        monkeypatch.setattr(autoattack, "list_attacks", lambda classes: ["apgd-ce", "apgd-t"])
    x, y, attack = to_pixels(digits.x_NCHW[:100]), digits.y_N[:100], Attack(norm=norm, eps=eps, steps=40)
    _, broken = autoattack.perturb(trained, x, y, attack=attack, seed=0, batch_size=100)
    start = balls.draw_start(x, attack, seeding.generator(0, "start"))
    small = Scaled(trained, 0.01).eval()
    for model in (trained, small):
        strict = judging.find_broken(model, x, y, [start], attack=attack, form="strict")
        assert int(strict.sum()) >= int(broken.sum()) - 1
    plain = pgd.is_wrong(small(pgd.perturb_from(small, x, y, start, attack=attack, form="plain")), y)
    assert int(plain.sum()) < int(broken.sum()) - 1
    assert 20 < int(broken.sum()) < 95


def test_autoattack_breaks_a_linear_model_up_to_the_exact_margin() -> None:
    """Within the box: m ≤ ε‖w₁ − w₀‖₁ under linf."""
    x, net = 0.4 + 0.2 * torch.rand(20, 1, 4, 4, generator=seeding.generator(0, "x")), linear(16, 2)
    w, b = net[1].weight.detach(), net[1].bias.detach()
    b.copy_(-0.5 * w.sum(1))
    y, margin = net(x).argmax(1), (net(x).detach() @ torch.tensor([-1.0, 1.0])).abs()
    distance = (w[1] - w[0]).abs().sum()
    eps = float(margin.sort().values[9:11].mean() / distance)
    adv, broken = autoattack.perturb(net, x, y, attack=Attack(norm="linf", eps=eps), seed=0, batch_size=20)
    assert torch.equal(broken, margin <= eps * distance)
    assert int(broken.sum()) == 10
    assert torch.equal(adv[~broken], x[~broken])
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


#: Radii at which the ensemble's first attack breaks every image, so that it ends within a second.
WIDE = {"l2": Attack(norm="l2", eps=2.0), "linf": Attack(norm="linf", eps=0.4)}


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_autoattack_depends_on_its_seed_alone(trained: nn.Module, digits: Split, norm: str) -> None:
    """Not on the global generator."""
    x, y = to_pixels(digits.x_NCHW[:12]), digits.y_N[:12]

    def images(seed: int, disturbance: int) -> Tensor:
        torch.manual_seed(disturbance)
        return autoattack.perturb(trained, x, y, attack=WIDE[norm], seed=seed, batch_size=12)[0]

    assert torch.equal(images(0, 1), images(0, 2))
    assert not torch.equal(images(0, 1), images(1, 1))
    accuracy = autoattack.measure_adversarial_accuracy(
        trained, digits.at(slice(12)), attack=WIDE[norm], seed=0, batch_size=12
    )
    assert accuracy == 0.0


class Stops(nn.Module):
    """A network that draws from every global generator and raises after a number of forwards.

    It returns probabilities, about which the library warns.
    """

    def __init__(self, net: nn.Module, forwards: float) -> None:
        super().__init__()
        self.net, self.forwards, self.count = net, forwards, 0

    def forward(self, x_BCHW: Tensor) -> Tensor:
        self.count += 1
        torch.rand(1), np.random.rand(), python_random.random()
        if self.count > self.forwards:
            raise RuntimeError("stop")
        p_BK: Tensor = self.net(x_BCHW).softmax(-1)
        return p_BK


def global_state(model: nn.Module) -> list[object]:
    """Return everything that an attack must not change."""
    return [
        *testing.global_state(),
        sys.gettrace(),
        logging.getLogger("auto-attack").disabled,
        [module.training for module in model.modules()],
        [(p.requires_grad, p.tolist(), None if p.grad is None else p.grad.tolist()) for p in model.parameters()],
    ]


@pytest.mark.parametrize("forwards", [float("inf"), 8, 30], ids=["whole", "in the checks", "in an attack"])
def test_autoattack_restores_global_state(
    trained: nn.Module,
    digits: Split,
    forwards: float,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Generators, trace function, modes, requires_grad and grad, also if the model raises. It prints nothing."""
    model = Stops(copy.deepcopy(trained).train(), forwards)
    model.net.layers[0].eval()
    first, *others = model.parameters()
    first.requires_grad_(False)
    others[0].grad = torch.ones_like(others[0])
    tracer = sys.gettrace()
    sys.settrace(lambda frame, event, arg: None)  # as debuggers do; the library sets its own, then none
    before = global_state(model)
    with pytest.raises(RuntimeError, match="stop") if forwards < 99 else contextlib.nullcontext():
        autoattack.measure_adversarial_accuracy(model, digits.at(slice(6)), attack=WIDE["linf"], seed=0, batch_size=6)
    after = global_state(model)
    sys.settrace(tracer)
    assert after == before
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert model.count > 8


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_autoattack_supports_few_classes(classes: int) -> None:
    """With two classes there is no APGD-T, with three APGD on DLR replaces it."""
    x_NCHW, net = torch.rand(8, 1, 6, 6, generator=seeding.generator(0, "x")), linear(36, classes)
    split = Split(x_NCHW, net(x_NCHW).argmax(1))
    attack = Attack(norm="l2", eps=3.0)
    assert autoattack.measure_adversarial_accuracy(net, split, attack=attack, seed=0, batch_size=8) == 0.0
    dlr = {2: [], 3: ["apgd-dlr"], 4: ["apgd-t"]}[classes]
    assert autoattack.list_attacks(classes) == ["apgd-ce", *dlr, "fab-t", "square"]


@pytest.mark.parametrize(("shape", "fits"), [((1, 8, 8), True), ((3, 32, 32), True), ((1, 14, 14), False)])
def test_find_problem_agrees_with_square(shape: tuple[int, int, int], fits: bool) -> None:
    """Under l2 its first grid does not fit into an image of 14 pixels; under linf any image works."""
    assert (autoattack.find_problem(Attack(norm="l2"), shape) is None) == fits
    assert autoattack.find_problem(Attack(norm="linf"), shape) is None
    model = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 2))
    square = SquareAttack(model, norm="L2", n_queries=3, eps=1e-3, seed=0, device="cpu")
    with (
        torch.random.fork_rng(),
        contextlib.nullcontext() if fits else pytest.raises(RuntimeError, match=r"size|shape"),
    ):
        x = torch.rand(2, *shape)
        square.perturb(x, model(x).argmax(1))


def test_without_the_extra_the_error_has_the_remedy(
    trained: nn.Module, digits: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert autoattack.is_installed()
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    assert not autoattack.is_installed()
    with pytest.raises(autoattack.AutoAttackError, match=r'AutoAttack: .*pip install "tune-interpreg\[auto'):
        autoattack.measure_adversarial_accuracy(trained, digits, attack=WIDE["l2"], seed=0, batch_size=100)
