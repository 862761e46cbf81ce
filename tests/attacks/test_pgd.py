"""PGD against closed forms on linear models; the forms of training and of judging; several starts; no side effects.

Shapes: B batch, C·H·W image, K classes.
"""

import math
from collections.abc import Iterable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tune_interpreg import seeding
from tune_interpreg.attacks import balls, judging, pgd
from tune_interpreg.data.dataset import Split
from tune_interpreg.evaluation.measures import IMAGES_PER_BLOCK, measure_adversarial_accuracy
from tune_interpreg.networks.chain import Chain
from tune_interpreg.networks.linearize import logit_gradient
from tune_interpreg.study.config import Attack

SHAPE = (1, 4, 4)
FORMS: tuple[pgd.Form, ...] = ("plain", "compat")
JUDGES: tuple[judging.Form, ...] = ("strict", "compat")
NORMS = ("l2", "linf")


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grey(batch: int, seed: int = 0) -> Tensor:
    """Return images with pixels in [0.4, 0.6], far from 0 and 1."""
    return 0.4 + 0.2 * torch.rand(batch, *SHAPE, generator=random(seed))


def linear(classes: int, seed: int = 0) -> Chain:
    """Return f(x) = Wx with W ~ N(0, 1)."""
    head = nn.Linear(math.prod(SHAPE), classes)
    with torch.no_grad():
        head.weight.normal_(generator=random(seed))
        head.bias.zero_()
    return Chain([nn.Flatten(), head])


def weight(model: Chain) -> Tensor:
    return next(p for p in model.parameters() if p.dim() == 2).detach()


def relu_net(seed: int = 0, scale: float = 1.0) -> nn.Sequential:
    """Return a small network without a linearize method, in train mode."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(0.0, scale, generator=random(seed + p.numel()))
    return net


def halves(images: int = 96) -> tuple[Tensor, Tensor]:
    """Return noisy images that are brighter on the left (0) or on the right (1)."""
    y = torch.arange(images) % 2
    side = torch.arange(4).view(1, 1, 1, 4) // 2 == y.view(-1, 1, 1, 1)
    return (0.35 + 0.3 * side + 0.25 * torch.randn(images, *SHAPE, generator=random(5))).clamp(0, 1), y


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A network trained on halves, in eval mode."""
    net, (x, y) = relu_net(1, 0.3), halves()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


def find_broken(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, form: judging.Form) -> Tensor:
    return judging.find_broken(model, x, y, [balls.draw_start(x, attack, random(0))], attack=attack, form=form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("norm", "default"), [("l2", "l2"), ("linf", "sign")])
@pytest.mark.parametrize("direction", ["l2", "sign", None])
def test_a_step_reduces_a_linear_margin_by_its_length_in_the_dual_norm(
    norm: str, default: str, direction: str | None, form: pgd.Form
) -> None:
    """Along g/‖g‖₂ by step·‖w₁ − w₀‖₂, along sign(g) by step·‖w₁ − w₀‖₁, in a ball that contains the step."""
    model, x = linear(2), grey(6)
    attack = Attack(norm=norm, eps=0.5, steps=1, step_size=0.1, direction=direction)
    adv = pgd.perturb_from(model, x, torch.ones(6, dtype=torch.long), x, attack=attack, form=form)
    reduction = (model(x) - model(adv)) @ torch.tensor([-1.0, 1.0])
    distance = (weight(model)[1] - weight(model)[0]).norm(p=2 if (direction or default) == "l2" else 1)
    torch.testing.assert_close(reduction.detach(), (0.1 * distance).expand(6), rtol=1e-4, atol=1e-5)


@given(st.lists(st.floats(-8, 8), min_size=3, max_size=3), st.integers(0, 2))
@settings(max_examples=50, deadline=None)
def test_the_unit_logit_gradient_is_the_logit_gradient_over_one_minus_p(z: list[float], label: int) -> None:
    z_BK, y_B = torch.tensor([z], dtype=torch.float64), torch.tensor([label])
    expected = logit_gradient(z_BK, y_B) / (1 - z_BK.softmax(-1)[:, label])
    torch.testing.assert_close(pgd.unit_logit_gradient(z_BK, y_B), expected, rtol=1e-6, atol=1e-9)


def test_gradients_of_confident_models_are_exact() -> None:
    """At margin 40, float32's p_y − 1 is 0. At margin 1,000 the whole gradient is, but not that of the plain form."""
    y = torch.tensor([1])
    e = logit_gradient(torch.tensor([[0.0, 40.0]]), y)
    torch.testing.assert_close(e, math.exp(-40) * torch.tensor([[1.0, -1.0]]), rtol=1e-4, atol=0.0)
    assert torch.equal(logit_gradient(torch.tensor([[0.0, 1000.0]]), y), torch.zeros(1, 2))
    assert torch.equal(pgd.unit_logit_gradient(torch.tensor([[0.0, 1000.0]]), y), torch.tensor([[1.0, -1.0]]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("norm", NORMS)
@given(
    st.floats(0.01, 3),
    st.floats(0.01, 3),
    st.integers(1, 4),
    st.integers(0, 99),
    st.sampled_from(["l2", "sign"]),
    st.sampled_from(["sphere", "ball"]),
)
@settings(max_examples=20, deadline=None)
def test_adversarial_images_lie_in_the_ball_and_in_the_box(
    norm: str, form: pgd.Form, eps: float, step_size: float, steps: int, seed: int, direction: str, start: str
) -> None:
    """‖δ‖ ≤ ε(1 + 1e-5) and pixels in [0, 1], also for images with pixels at 0 and 1."""
    x = (2 * torch.rand(4, *SHAPE, generator=random(seed)) - 0.5).clamp(0, 1)
    attack = Attack(norm=norm, eps=eps, steps=steps, step_size=step_size, direction=direction, start=start)
    adv = pgd.perturb(linear(3), x, torch.arange(4) % 3, attack=attack, generator=random(seed), form=form)
    order = 2 if norm == "l2" else math.inf
    assert torch.linalg.vector_norm((adv - x).flatten(1), order, dim=1).max() <= eps * (1 + 1e-5) + 1e-6
    assert adv.min() >= 0
    assert adv.max() <= 1
    assert not adv.requires_grad


def confident(margin: float) -> tuple[Chain, Tensor, Tensor, Tensor]:
    """Return a linear model with this margin for label 1 on a grey image; the image, its label, w₁ − w₀."""
    model, x = linear(2), torch.full((1, *SHAPE), 0.5)
    w = weight(model)[1] - weight(model)[0]
    with torch.no_grad():
        next(p for p in model.parameters() if p.dim() == 1).copy_(torch.tensor([0.5 * float(w.sum()), margin]))
    return model, x, torch.ones(1, dtype=torch.long), w


def test_on_a_confident_model_compat_stalls_and_plain_does_not() -> None:
    """At margin 20, five steps of 0.02 move plain by 0.1 and compat by less than a fiftieth of that."""
    model, x, y, _ = confident(20.0)
    attack = Attack(norm="l2", eps=0.1, steps=5, step_size=0.02)
    moved = {form: float((pgd.perturb_from(model, x, y, x, attack=attack, form=form) - x).norm()) for form in FORMS}
    assert moved["plain"] == pytest.approx(0.1, rel=1e-4)
    assert 0 < moved["compat"] < 0.02 * moved["plain"]


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("per_forward", [7, 64])
def test_compat_divides_the_gradient_of_the_mean_by_its_floor(
    batch: int, per_forward: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the floor one step moves by step·‖g/B‖₂ / 1e-6, for the whole batch's B and not that of a forward."""
    monkeypatch.setattr(pgd, "IMAGES_PER_FORWARD", per_forward)
    model, x, y, w = confident(18.0)
    model.eval()
    x, y, attack = x.repeat(batch, 1, 1, 1), y.repeat(batch), Attack(norm="l2", eps=0.5, steps=1, step_size=0.5)
    last = pgd.perturb_from(model, x, y, x, attack=attack, form="compat")
    expected = 0.5 * math.exp(-18) * w.norm() / batch / 1e-6
    torch.testing.assert_close((last - x).flatten(1).norm(dim=1), expected.expand(batch), rtol=1e-2, atol=0.0)
    single = pgd.perturb_from(model, x[:1], y[:1], x[:1], attack=attack, form="compat", batch=batch)
    torch.testing.assert_close(single, last[:1])


def draw_starts(x_BCHW: Tensor, attack: Attack, count: int) -> list[Tensor]:
    return [balls.draw_start(x_BCHW, attack, random(seed)) for seed in range(count)]


@pytest.mark.parametrize("form", JUDGES)
def test_several_starts_break_the_union_of_single_runs(trained: nn.Module, form: judging.Form) -> None:
    (x, y), attack = halves(200), Attack(norm="l2", eps=0.45, steps=2, step_size=0.02)
    starts = draw_starts(x, attack, 6)
    singles = [judging.find_broken(trained, x, y, [start], attack=attack, form=form) for start in starts]
    together = judging.find_broken(trained, x, y, iter(starts), attack=attack, form=form)
    assert torch.equal(together, torch.stack(singles).any(0))
    assert together.any()
    if form == "compat":
        assert together.sum() > max(single.sum() for single in singles)


@pytest.mark.parametrize("form", JUDGES)
def test_a_completely_broken_batch_is_not_attacked_again(trained: nn.Module, form: judging.Form) -> None:
    """No model gets an empty batch."""
    x, _ = halves(5)
    y = 1 - trained(x).argmax(1)
    sizes: list[int] = []
    hook = trained.register_forward_hook(lambda module, inputs, z: sizes.append(len(z)))
    broken = judging.find_broken(trained, x, y, [x, x, x], attack=Attack(eps=1e-6, steps=1), form=form)
    hook.remove()
    assert min(sizes) == 5
    assert broken.all()


def accuracy(
    model: nn.Module, attack: Attack, form: judging.Form, *, batch_size: int = 200, restarts: int = 1
) -> float:
    return measure_adversarial_accuracy(
        model, Split(*halves(200)), attack=attack, form=form, seed=0, batch_size=batch_size, restarts=restarts
    )


@pytest.mark.parametrize("start", ["sphere", "ball"])
@pytest.mark.parametrize("form", JUDGES)
def test_another_start_never_raises_the_accuracy(trained: nn.Module, form: judging.Form, start: str) -> None:
    """The starts of fewer restarts are the first of those of more."""
    attack = Attack(norm="l2", eps=0.5, steps=1, step_size=0.02, start=start)
    by_restarts = [accuracy(trained, attack, form, restarts=restarts) for restarts in (1, 2, 4, 8)]
    assert by_restarts == sorted(by_restarts, reverse=True)
    if form == "compat":
        assert by_restarts[-1] < by_restarts[0]


@pytest.mark.parametrize("start", ["sphere", "ball"])
@pytest.mark.parametrize("norm", NORMS)
def test_the_strict_accuracy_does_not_depend_on_the_batch_size(
    trained: nn.Module, norm: str, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if noise is drawn in blocks that are smaller than the batches and do not divide them."""
    monkeypatch.setattr("tune_interpreg.evaluation.measures.IMAGES_PER_BLOCK", 24)
    attack = Attack(norm=norm, eps=0.5 if norm == "l2" else 0.1, steps=2, start=start)
    results = {accuracy(trained, attack, "strict", batch_size=size, restarts=3) for size in (7, 64, 1000)}
    assert len(results) == 1
    assert 0 < results.pop() < 1


def record_starts(model: nn.Module, attack: Attack, restarts: int, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Return the starts of an evaluation of two batches, in order."""
    starts: list[Tensor] = []

    def record(model: nn.Module, x: Tensor, y: Tensor, of_batch: Iterable[Tensor], **settings: object) -> Tensor:
        starts.extend(of_batch)
        return torch.zeros_like(y, dtype=torch.bool)

    monkeypatch.setattr(judging, "find_broken", record)
    accuracy(model, attack, "strict", batch_size=100, restarts=restarts)
    return starts


def test_the_first_start_is_the_same_for_any_number_of_starts(
    trained: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """x + Π(u − x), with the first uniform block u of (seed, "evaluation-attack"), bit for bit."""
    x, _ = halves(200)
    u = torch.rand(IMAGES_PER_BLOCK, *SHAPE, generator=seeding.generator(0, "evaluation-attack"))[:200]
    expected = x + balls.project_l2(u - x, 0.5)
    attack = Attack(norm="l2", eps=0.5, steps=1)
    assert torch.equal(torch.cat(record_starts(trained, attack, 1, monkeypatch)), expected)
    assert torch.equal(torch.cat(record_starts(trained, attack, 3, monkeypatch)[::3]), expected)


@pytest.mark.parametrize("start", ["sphere", "ball"])
def test_all_starts_of_all_images_differ(trained: nn.Module, start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = record_starts(trained, Attack(norm="l2", eps=0.5, steps=1, start=start), 3, monkeypatch)
    x, _ = halves(200)
    offsets = [start_BCHW - x[:100] for start_BCHW in starts[:3]] + [start_BCHW - x[100:] for start_BCHW in starts[3:]]
    assert len(torch.cat(offsets).flatten(1).unique(dim=0)) == 600


@pytest.mark.parametrize("start", ["sphere", "ball"])
@pytest.mark.parametrize("form", FORMS)
def test_only_the_given_generator_draws(form: pgd.Form, start: str) -> None:
    """The global generator has no effect and is not changed; another seed changes the start."""
    model, x, y, attack = relu_net(), grey(4), torch.arange(4) % 3, Attack(eps=0.5, steps=2, start=start)
    first = pgd.perturb(model, x, y, attack=attack, generator=random(0), form=form)
    torch.manual_seed(12345)
    state = torch.get_rng_state()
    assert torch.equal(first, pgd.perturb(model, x, y, attack=attack, generator=random(0), form=form))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first, pgd.perturb(model, x, y, attack=attack, generator=random(1), form=form))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", [lambda: linear(3), relu_net], ids=["adjoint", "fallback"])
def test_an_attack_does_not_change_the_model(make: type[nn.Module], training: bool) -> None:
    """Mode, requires_grad, parameters and their gradients."""
    model, x, y, attack = make().train(training), grey(4), torch.arange(4) % 3, Attack(eps=0.5, steps=2)
    frozen = next(model.parameters()).requires_grad_(False)
    before = [p.detach().clone() for p in model.parameters()]
    pgd.perturb(model, x, y, attack=attack, generator=random(0))
    for form in JUDGES:
        find_broken(model, x, y, attack, form)
    assert model.training == training
    assert [p.requires_grad for p in model.parameters()] == [p is not frozen for p in model.parameters()]
    assert all(p.grad is None and torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("start", ["sphere", "ball"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("norm", NORMS)
def test_perturb_reads_no_data_on_the_host(norm: str, form: pgd.Form, start: str) -> None:
    """It runs on tensors without data, so no shape, branch or number depends on data, and a graph can capture it."""
    model = linear(3).to("meta")
    x, y = torch.empty(4, *SHAPE, device="meta"), torch.empty(4, dtype=torch.long, device="meta")
    attack = Attack(norm=norm, eps=0.5, steps=2, start=start)
    assert pgd.perturb(model, x, y, attack=attack, generator=random(0), form=form).shape == x.shape


@pytest.mark.parametrize("batch", [1, 96])
def test_compat_under_l2_is_the_papers_attack_bit_for_bit(trained: nn.Module, batch: int) -> None:
    """Step along g/max(‖g‖₂, B·1e-6), clamp to [0, 1], project to the ball, clamp; from x + Π(u − x); last iterate."""
    (x, y), attack = halves(), Attack(norm="l2", eps=0.6, steps=7, step_size=0.15)
    x, y = x[:batch], y[:batch]
    u = torch.rand(x.shape, generator=random(3))

    def project(d: Tensor) -> Tensor:
        return d * (0.6 / torch.linalg.vector_norm(d, dim=(1, 2, 3), keepdim=True)).clamp(max=1.0)

    x_t = x + project(u - x)
    for _ in range(7):
        leaf = x_t.detach().requires_grad_()
        z = trained(leaf)
        (g,) = torch.autograd.grad(z, leaf, logit_gradient(z.detach(), y))
        g = g / torch.linalg.vector_norm(g, dim=(1, 2, 3), keepdim=True).clamp(min=1e-6 * batch)
        x_t = (x + project((x_t + 0.15 * g).clamp(0, 1) - x)).clamp(0, 1)
    assert torch.equal(pgd.perturb(trained, x, y, attack=attack, generator=random(3), form="compat"), x_t)
