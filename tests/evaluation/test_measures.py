"""Accuracies and gradient norms against closed forms, and what they must not depend on.

Shapes: B batch, C·H·W image, K classes.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tune_interpreg.data.dataset import Split
from tune_interpreg.evaluation import measures
from tune_interpreg.evaluation.measures import (
    compute_jacobian_norms,
    measure_accuracy,
    measure_adversarial_accuracy,
    measure_gradient_norms,
)
from tune_interpreg.networks.chain import Chain
from tune_interpreg.networks.modes import eval_mode
from tune_interpreg.study.config import Attack

SHAPE = (1, 4, 4)


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def halves(n: int = 200) -> Split:
    """Return noisy images, brighter on the left (label 0) or on the right (1), as bytes."""
    y = torch.arange(n) % 2
    side = torch.arange(4).view(1, 1, 1, 4) // 2 == y.view(-1, 1, 1, 1)
    x = (0.35 + 0.3 * side + 0.25 * torch.randn(n, *SHAPE, generator=random(5))).clamp(0, 1)
    return Split((255 * x).to(torch.uint8), y)


def linear(classes: int) -> Chain:
    model = Chain([nn.Flatten(), nn.Linear(math.prod(SHAPE), classes)])
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(generator=random(classes))
    return model


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A small net without plateaus, trained on halves, with dropout, in train mode."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.LeakyReLU(0.1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 2))
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(0.0, 0.3, generator=random(p.numel()))
    split, optimizer = halves(), torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    with eval_mode(net):
        for _ in range(40):
            optimizer.zero_grad()
            F.cross_entropy(net(split.x_NCHW / 255), split.y_N).backward()
            optimizer.step()
    return net


@pytest.mark.parametrize("batch_size", [7, 1000])
def test_accuracy_is_the_fraction_of_correct_images(batch_size: int) -> None:
    """Bytes count as pixels in [0, 1]. The model is correct except for 10 relabelled images of 40."""
    x, model = (255 * torch.rand(40, *SHAPE, generator=random(0))).to(torch.uint8), linear(2)
    y = model(x / 255).argmax(1)
    y[:10] = 1 - y[:10]
    assert measure_accuracy(model, Split(x, y), batch_size) == 0.75


def test_adversarial_accuracy_of_a_linear_model_counts_margins_above_eps_times_the_weights_distance() -> None:
    """Inside the box an l2 attack breaks exactly the images with margin ≤ ε‖w₁ − w₀‖₂."""
    x = 0.4 + 0.2 * torch.rand(200, *SHAPE, generator=random(1))
    model, eps = linear(2), 0.05
    w, b = (next(p for p in model.parameters() if p.dim() == dim).detach() for dim in (2, 1))
    b.copy_(-0.5 * w.sum(1))
    y = model(x).argmax(1)
    margin = (model(x).detach() @ torch.tensor([-1.0, 1.0])).abs()
    expected = (margin > eps * (w[1] - w[0]).norm()).float().mean()
    attack = Attack(norm="l2", eps=eps, steps=30, step_size=eps)
    accuracy = measure_adversarial_accuracy(model, Split(x, y), attack=attack, form="strict", seed=0, batch_size=64)
    assert accuracy == pytest.approx(float(expected), abs=0.5 / 200)
    assert 0 < accuracy < 1


@pytest.mark.parametrize("attack", [Attack(norm="l2", eps=0.6, steps=5), Attack(norm="linf", eps=0.1, steps=5)])
def test_strict_is_at_most_compat_and_clean_on_an_uncertain_model(trained: nn.Module, attack: Attack) -> None:
    """Strict counts every iterate and the clean image, compat the last iterate. Gradients exceed both floors here."""
    settings = {"attack": attack, "seed": 0, "batch_size": 50}
    strict = measure_adversarial_accuracy(trained, halves(), form="strict", **settings)
    assert strict <= measure_adversarial_accuracy(trained, halves(), form="compat", **settings)
    assert strict <= measure_accuracy(trained, halves(), 50)


def test_adversarial_accuracy_falls_with_eps_and_never_rises_with_steps(trained: nn.Module) -> None:
    """It reaches 0 when the ball contains the whole box."""

    def strict(eps: float, steps: int) -> float:
        attack = Attack(norm="l2", eps=eps, steps=steps, step_size=0.5)
        return measure_adversarial_accuracy(trained, halves(), attack=attack, form="strict", seed=0, batch_size=100)

    by_eps = [strict(eps, 20) for eps in (0.01, 0.5, 1.0, 4.0)]
    by_steps = [strict(0.8, steps) for steps in (1, 2, 5, 10)]
    assert (by_eps, by_steps) == (sorted(by_eps, reverse=True), sorted(by_steps, reverse=True))
    assert by_eps[-1] == 0.0


def test_adversarial_accuracy_depends_only_on_its_seed(trained: nn.Module) -> None:
    """The global generator has no effect and keeps its state."""
    broken = []
    for seed, global_seed in ((0, 1), (0, 2), (1, 3)):
        torch.manual_seed(global_seed)
        state, attack = torch.get_rng_state(), Attack(eps=0.6, steps=1)
        settings = {"attack": attack, "form": "strict", "seed": seed, "batch_size": 200}
        broken.append(measures.find_broken_images(trained, halves(), **settings))
        assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(broken[0], broken[1])
    assert not torch.equal(broken[0], broken[2])


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("start", ["sphere", "ball"])
def test_noise_differs_between_images_and_follows_their_position(
    norm: str, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of any size give the same sequence of noise, without repetition."""
    monkeypatch.setattr(measures, "IMAGES_PER_BLOCK", 8)
    attack = Attack(norm=norm, start=start)
    whole, *others = (torch.cat(list(measures._noise(halves(30), size, attack, 0, 1))) for size in (30, 1, 7, 8, 100))
    assert len(whole) == len(whole.flatten(1).unique(dim=0)) == 30
    assert all(torch.equal(whole, other) for other in others)


@pytest.mark.parametrize("batch_size", [3, 100])
def test_gradient_norms_of_a_linear_model_are_the_norms_of_its_rows(batch_size: int) -> None:
    """J of Wx is W: label averages ‖w_c‖₂, other the ‖w_k‖₂ of the other classes."""
    model, y = linear(4), torch.tensor([0, 1, 1, 3, 2, 1, 0, 3])
    norms_K = next(p for p in model.parameters() if p.dim() == 2).detach().norm(dim=1)
    split = Split(torch.rand(8, *SHAPE, generator=random(0)), y)
    norms = measure_gradient_norms(model, split, batch_size)
    others = torch.stack([norms_K[torch.arange(4) != c].mean() for c in y])
    assert norms == pytest.approx({"label": float(norms_K[y].mean()), "other": float(others.mean())}, rel=1e-5)


def test_jacobian_norms_equal_autograds(trained: nn.Module) -> None:
    """‖∂f_k/∂x‖₂ for each class, for a net without its own adjoint."""
    x = halves(6).x_NCHW / 255
    with eval_mode(trained):
        norms_BK = compute_jacobian_norms(trained, x)
        jacobian = torch.autograd.functional.jacobian(lambda x_BCHW: trained(x_BCHW).sum(0), x)
    torch.testing.assert_close(norms_BK, jacobian.flatten(2).norm(dim=2).T)
    assert not norms_BK.requires_grad


def test_measures_run_in_eval_mode_and_restore_each_modules_mode() -> None:
    """Dropout is off during a measure. A frozen submodule stays frozen, also after an error."""
    modes: list[bool] = []
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(16, 2)).train()
    model[0].eval()
    model.register_forward_pre_hook(lambda module, _: modes.append(module[1].training))
    split = halves(20)
    measure_accuracy(model, split, 8)
    measure_adversarial_accuracy(model, split, attack=Attack(steps=1), form="strict", seed=0, batch_size=8)
    measure_gradient_norms(model, split, 8)
    assert modes
    assert not any(modes)
    assert [module.training for module in model.modules()] == [True, False, True, True]
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(RuntimeError, match="stop"), eval_mode(model):
        raise RuntimeError("stop")
    assert [module.training for module in model.modules()] == [True, False, True, True]
