"""The strict attack: free of the logits' scale, exact on linear models, and bounded in cost.

Shapes: B batch, C·H·W image, K classes.
"""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tune_interpreg.attacks import balls, pgd, strict
from tune_interpreg.study.config import Attack

SHAPE, CLASSES = (1, 4, 4), 5
NORMS = ("l2", "linf")
ATTACKS = {"l2": Attack(norm="l2", eps=0.25, steps=20), "linf": Attack(norm="linf", eps=0.08, steps=20)}


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(images: int = 150) -> tuple[Tensor, Tensor]:
    """Return noisy images in float64 around one pattern per class."""
    y = torch.arange(images) % CLASSES
    patterns = 0.3 + 0.4 * torch.rand(CLASSES, *SHAPE, generator=random(1))
    return (patterns[y] + 0.12 * torch.randn(images, *SHAPE, generator=random(2))).clamp(0, 1).double(), y


def linear(seed: int = 0) -> nn.Sequential:
    """Return f(x) = Wx + b with W ~ N(0, 1) and zero logits for a grey image, in float64."""
    head = nn.Linear(math.prod(SHAPE), CLASSES)
    with torch.no_grad():
        head.weight.normal_(generator=random(seed))
        head.bias.copy_(-0.5 * head.weight.sum(1))
    return nn.Sequential(nn.Flatten(), head).double()


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A network trained on blobs, in eval mode and float64."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, CLASSES)).double()
    x, y = blobs()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=random(p.numel())))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


def scaled(model: nn.Module, scale: float, shift: float = 0.0) -> nn.Module:
    """Return the model with logits scale·z + shift."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model[-1].weight.mul_(scale)
        model[-1].bias.mul_(scale).add_(shift)
    return model


def start(x: Tensor, attack: Attack, seed: int = 0) -> Tensor:
    return balls.draw_start(x.float(), attack, random(seed)).double()


@given(
    st.lists(st.integers(-8000, 8000).map(lambda number: number / 1000), min_size=CLASSES, max_size=CLASSES),
    st.integers(0, CLASSES - 1),
    st.floats(-30, 30),
    st.floats(-5, 5),
)
@settings(max_examples=100, deadline=None)
def test_neither_scale_nor_shift_changes_the_direction(
    z: list[float], label: int, log_scale: float, shift: float
) -> None:
    """e = softmax_{k≠y}(τ·z/s) − onehot(y): −1 at the label; the others are ≥ 0 and sum to 1."""
    z_BK, y_B = torch.tensor([z], dtype=torch.float64), torch.tensor([label])
    e_BK = strict.softened_gradient(z_BK, y_B)
    scaled_BK = strict.softened_gradient(math.exp(log_scale) * (z_BK + shift * z_BK.abs().max()), y_B)
    torch.testing.assert_close(scaled_BK, e_BK, rtol=1e-5, atol=1e-6)
    assert float(e_BK[0, label]) == -1
    assert float(e_BK.clamp(min=0).sum()) == pytest.approx(1)
    spread = (z_BK - z_BK.mean()).abs().mean()
    if spread > 1e-9:
        expected = pgd.unit_logit_gradient(strict.SHARPNESS * z_BK / spread, y_B)
        torch.testing.assert_close(e_BK, expected, rtol=1e-6, atol=1e-9)


def test_equal_logits_point_to_all_rivals_alike() -> None:
    expected = torch.full((1, CLASSES), 1 / (CLASSES - 1)).index_fill(1, torch.tensor([2]), -1.0)
    torch.testing.assert_close(strict.softened_gradient(torch.full((1, CLASSES), 7.0), torch.tensor([2])), expected)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [0.01, 2.0**-8, 2.0**8, 100.0])
def test_the_scale_of_the_logits_changes_neither_iterates_nor_results(
    trained: nn.Module, norm: str, scale: float
) -> None:
    """To rounding; bit for bit for powers of two. The cross-entropy of the logits themselves is not free of scale."""
    (x, y), attack = blobs(), ATTACKS[norm]
    starts = [start(x, attack)]
    adv, broken = strict.perturb(trained, x, y, starts, attack=attack)
    other, other_broken = strict.perturb(scaled(trained, scale), x, y, starts, attack=attack)
    exact = math.log2(scale).is_integer()
    torch.testing.assert_close(other, adv, rtol=0.0, atol=0.0 if exact else 1e-7)
    assert torch.equal(broken, other_broken)
    assert 0.2 * len(y) < broken.sum() < 0.9 * len(y)
    plain, shifted = (
        pgd.perturb_from(model, x, y, starts[0], attack=attack, form="plain")
        for model in (trained, scaled(trained, scale))
    )
    assert (plain - shifted).abs().max() > 1e-3


@pytest.mark.parametrize(("norm", "dual"), [("l2", 2), ("linf", 1)])
def test_a_linear_model_is_broken_exactly_up_to_its_distance(norm: str, dual: int) -> None:
    """In the box: broken if (z_y − z_k) ≤ ε·‖w_y − w_k‖ in the dual norm for some k, at any scale of W."""
    x = 0.4 + 0.2 * torch.rand(300, *SHAPE, generator=random(0), dtype=torch.float64)
    model = linear()
    z_BK = model(x).detach()
    y, w = z_BK.argmax(1), model[-1].weight.detach()
    gaps = z_BK.amax(1, keepdim=True) - z_BK
    distances = gaps / (w[y][:, None] - w).norm(p=dual, dim=2).clamp(min=1e-12)
    nearest = distances.scatter(1, y[:, None], math.inf).amin(1)
    eps = float(nearest.quantile(0.5))
    attack = Attack(norm=norm, eps=eps, steps=40, start="ball")
    for scale in (0.01, 1.0, 100.0):
        _, broken = strict.perturb(scaled(model, scale), x, y, [start(x, attack)], attack=attack)
        assert not broken[nearest > eps].any()
        assert broken[nearest < 0.99 * eps].all()


@pytest.mark.parametrize("norm", NORMS)
def test_broken_images_are_misclassified_in_the_ball_and_in_the_box(trained: nn.Module, norm: str) -> None:
    (x, y), attack = blobs(), ATTACKS[norm]
    y = y.clone()
    y[:5] = (y[:5] + 1) % CLASSES  # misclassified without an attack
    adv, broken = strict.perturb(trained, x, y, [start(x, attack)], attack=attack)
    assert torch.equal(pgd.is_wrong(trained(adv), y), broken)
    assert torch.equal(adv[:5], x[:5])
    order = 2 if norm == "l2" else math.inf
    assert torch.linalg.vector_norm((adv - x).flatten(1), order, dim=1).max() <= attack.eps * (1 + 1e-5)
    assert adv.min() >= 0
    assert adv.max() <= 1


def run(model: nn.Module, x: Tensor, y: Tensor, x_t: Tensor, attack: Attack, steps: int, rank: int | None) -> Tensor:
    """Return which images of the whole batch any iterate breaks, by autograd on each run's own objective."""
    rivals = model(x).scatter(1, y[:, None], -torch.inf).topk(4).indices
    broken = pgd.is_wrong(model(x), y)
    for t in range(steps + 1):
        x_t = x_t.detach().requires_grad_()
        z = model(x_t)
        broken = broken | pgd.is_wrong(z, y)
        if rank is None:
            spread = (z - z.mean(1, keepdim=True)).abs().mean(1, keepdim=True).detach()
            objective = F.cross_entropy(strict.SHARPNESS * z / spread, y, reduction="sum")
        else:
            objective = (z.gather(1, rivals[:, rank : rank + 1]) - z.gather(1, y[:, None])).sum()
        (g,) = torch.autograd.grad(objective, x_t)
        g = g / g.flatten(1).norm(dim=1).view(-1, 1, 1, 1) if attack.norm == "l2" else g.sign()
        moved = (x_t + attack.eps * (1 - t / steps) * g).clamp(0, 1)
        x_t = (x + balls.project(moved - x, attack)).clamp(0, 1)
    return broken


@pytest.mark.parametrize("norm", NORMS)
def test_the_result_is_the_union_of_its_runs(trained: nn.Module, norm: str) -> None:
    """Along the cross-entropy of divided logits from each start; from x towards four rivals, each with steps/4."""
    (x, y), attack = blobs(), ATTACKS[norm]
    starts = [start(x, attack, seed) for seed in range(2)]
    runs = [run(trained, x, y, first, attack, attack.steps, None) for first in starts]
    runs += [run(trained, x, y, x, attack, attack.steps // 4, rank) for rank in range(4)]
    _, broken = strict.perturb(trained, x, y, iter(starts), attack=attack)
    assert torch.equal(broken, torch.stack(runs).any(0))


def test_step_size_and_direction_of_training_have_no_effect(trained: nn.Module) -> None:
    (x, y), attack = blobs(), ATTACKS["l2"]
    other = attack.model_copy(update={"step_size": 1e-6, "direction": "sign"})
    results = [strict.perturb(trained, x, y, [start(x, attack)], attack=setting) for setting in (attack, other)]
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_have_fewer_rivals(classes: int) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, classes)).double()
    with torch.no_grad():
        model[1].weight.normal_(generator=random(0))
        model[1].bias.copy_(-0.5 * model[1].weight.sum(1))
    x, attack = blobs(20)[0], Attack(eps=3.0, steps=10)
    assert strict.perturb(model, x, model(x).argmax(1), [start(x, attack)], attack=attack)[1].all()


@pytest.mark.parametrize("steps", [1, 5, 40])
def test_an_unbreakable_image_costs_twice_the_steps_of_one_run(steps: int) -> None:
    """1 forward at x, steps + 1 from the start, ⌈steps/4⌉ + 1 towards each rival: 86 at 40 steps; PGD has 41."""
    counted: list[int] = []
    model = linear()
    model.register_forward_hook(lambda module, inputs, z: counted.append(len(z)))
    x, attack = blobs(3)[0], Attack(eps=1e-9, steps=steps)
    y = model(x).argmax(1)
    counted.clear()
    strict.perturb(model, x, y, [x], attack=attack)
    assert sum(counted) == 3 * (1 + steps + 1 + 4 * (math.ceil(steps / 4) + 1))
