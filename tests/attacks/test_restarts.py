"""Several starts of one attack: their worst case, their seeds, and what they must not depend on.

Shapes: B batch, N images, C·H·W image.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tune_interpreg import seeding
from tune_interpreg.attacks import balls
from tune_interpreg.attacks import pgd as attacks
from tune_interpreg.attacks.pgd import Form
from tune_interpreg.data.dataset import Split
from tune_interpreg.evaluation.measures import IMAGES_PER_BLOCK, measure_adversarial_accuracy
from tune_interpreg.study.config import Attack

SHAPE = (1, 4, 4)
FORMS: tuple[Form, ...] = ("strict", "compat")


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def halves(images: int = 200) -> tuple[Tensor, Tensor]:
    """Noisy images, brighter on the left (0) or on the right (1)."""
    y = torch.arange(images) % 2
    side = torch.arange(4).view(1, 1, 1, 4) // 2 == y.view(-1, 1, 1, 1)
    return (0.35 + 0.3 * side + 0.25 * torch.randn(images, *SHAPE, generator=random(5))).clamp(0, 1), y


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A small net, trained on halves, in eval mode."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(0.0, 0.3, generator=random(p.numel()))
    optimizer, (x, y) = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), halves()
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


def starts_of(x_BCHW: Tensor, attack: Attack, number: int) -> list[Tensor]:
    return [balls.draw_start(x_BCHW, attack, random(seed)) for seed in range(number)]


@pytest.mark.parametrize("form", FORMS)
def test_the_worst_of_several_starts_is_the_union_of_single_runs(trained: nn.Module, form: Form) -> None:
    """A sample is broken where at least one start breaks it, and each further start may add to them."""
    model, (x, y) = trained, halves()
    attack = Attack(norm="l2", eps=0.45, steps=2, step_size=0.02)
    starts = starts_of(x, attack, 6)
    singles = [attacks.find_broken(model, x, y, start, attack=attack, form=form) for start in starts]
    together = attacks.find_broken_by_any(model, x, y, iter(starts), attack=attack, form=form)
    assert torch.equal(together, torch.stack(singles).any(0))
    assert together.sum() > max(single.sum() for single in singles)


@pytest.mark.parametrize("form", FORMS)
def test_only_strict_spares_broken_samples_further_starts(
    trained: nn.Module, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every start of compat attacks the whole batch, whose mean its steps follow."""
    model, (x, y) = trained, halves()
    monkeypatch.setattr(attacks, "AT_ONCE", len(y))
    attack = Attack(norm="l2", eps=0.6, steps=1, step_size=0.1)
    first, *others = starts_of(x, attack, 2)
    still = int((~attacks.find_broken(model, x, y, first, attack=attack, form=form)).sum())
    seen: list[int] = []
    hook = model.register_forward_hook(lambda module, given, z: seen.append(len(z)))
    attacks.find_broken_by_any(model, x, y, [first], attack=attack, form=form)
    before = len(seen)
    attacks.find_broken_by_any(model, x, y, [first, *others], attack=attack, form=form)
    hook.remove()
    assert 0 < still < len(y)
    assert seen[2 * before] == (still if form == "strict" else len(y))


@pytest.mark.parametrize("form", FORMS)
def test_no_start_is_spent_on_a_batch_without_survivors(trained: nn.Module, form: Form) -> None:
    """No model sees an empty batch."""
    x, _ = halves(5)
    y = 1 - trained(x).argmax(1)
    sizes: list[int] = []
    hook = trained.register_forward_hook(lambda module, given, z: sizes.append(len(z)))
    broken = attacks.find_broken_by_any(trained, x, y, [x, x, x], attack=Attack(eps=1e-6, steps=1), form=form)
    hook.remove()
    assert min(sizes) == 5
    assert broken.all()


def accuracy(model: nn.Module, attack: Attack, form: Form, *, batch_size: int = 200, restarts: int = 1) -> float:
    return measure_adversarial_accuracy(
        model, Split(*halves()), attack=attack, form=form, seed=0, batch_size=batch_size, restarts=restarts
    )


@pytest.mark.parametrize("start", ["sphere", "ball"])
@pytest.mark.parametrize("form", FORMS)
def test_one_more_start_never_raises_the_accuracy(trained: nn.Module, form: Form, start: str) -> None:
    """The starts of fewer restarts are the first of those of more."""
    attack = Attack(norm="l2", eps=0.5, steps=1, step_size=0.02, start=start)
    by_restarts = [accuracy(trained, attack, form, restarts=restarts) for restarts in (1, 2, 4, 8)]
    assert by_restarts == sorted(by_restarts, reverse=True)
    assert by_restarts[-1] < by_restarts[0]


@pytest.mark.parametrize("start", ["sphere", "ball"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_strict_worst_case_does_not_depend_on_the_batch_size(
    trained: nn.Module, norm: str, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the blocks in which noise is drawn are smaller than the batches, and no multiple of them."""
    monkeypatch.setattr("tune_interpreg.evaluation.measures.IMAGES_PER_BLOCK", 24)
    attack = Attack(norm=norm, eps=0.5 if norm == "l2" else 0.1, steps=2, start=start)
    results = {accuracy(trained, attack, "strict", batch_size=size, restarts=3) for size in (7, 64, 1000)}
    assert len(results) == 1
    assert 0 < results.pop() < 1


def recorded(model: nn.Module, attack: Attack, restarts: int, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The starts that an evaluation of two batches attacks from, in order."""
    starts: list[Tensor] = []

    def record(*given: Tensor, **settings: object) -> Tensor:
        starts.append(given[3])
        return torch.zeros_like(given[2], dtype=torch.bool)

    monkeypatch.setattr(attacks, "find_broken", record)
    accuracy(model, attack, "strict", batch_size=100, restarts=restarts)
    return starts


def test_the_first_start_is_the_only_one_of_a_single_run(trained: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """x + Π(u − x), u the first uniform block of (seed, "evaluation-attack"), bit for bit, for any number of starts."""
    x, _ = halves()
    u = torch.rand(IMAGES_PER_BLOCK, *SHAPE, generator=seeding.generator(0, "evaluation-attack"))[:200]
    attack = Attack(norm="l2", eps=0.5, steps=1)
    expected = x + balls.project_l2(u - x, 0.5)
    assert torch.equal(torch.cat(recorded(trained, attack, 1, monkeypatch)), expected)
    assert torch.equal(torch.cat(recorded(trained, attack, 3, monkeypatch)[::3]), expected)


@pytest.mark.parametrize("start", ["sphere", "ball"])
def test_every_start_has_noise_of_its_own(trained: nn.Module, start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No two of three starts of one image agree, nor any of two images."""
    starts = recorded(trained, Attack(norm="l2", eps=0.5, steps=1, start=start), 3, monkeypatch)
    x, _ = halves()
    moved = torch.cat([one - x[:100] for one in starts[:3]] + [one - x[100:] for one in starts[3:]])
    assert len(moved.flatten(1).unique(dim=0)) == 600
