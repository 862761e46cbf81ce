"""PGD against closed forms: steps on linear models, the two forms' floors, what an attack may touch.

Shapes: B batch, C·H·W image, K classes, D = C·H·W.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tune_interpreg.attacks import balls
from tune_interpreg.attacks import pgd as attacks
from tune_interpreg.attacks.pgd import Form
from tune_interpreg.networks.linearize import linearize
from tune_interpreg.networks.piecewise_linear import PiecewiseLinear
from tune_interpreg.study.config import Attack

SHAPE = (1, 4, 4)
FORMS: tuple[Form, ...] = ("strict", "compat")
NORMS = ("l2", "linf")


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grey(batch: int, seed: int = 0) -> Tensor:
    """Images with pixels in [0.4, 0.6], far from the box's faces."""
    return 0.4 + 0.2 * torch.rand(batch, *SHAPE, generator=random(seed))


def linear(classes: int, scale: float = 1.0, seed: int = 0) -> PiecewiseLinear:
    """f(x) = Wx + b, W ~ N(0, scale²)."""
    head = nn.Linear(math.prod(SHAPE), classes)
    with torch.no_grad():
        head.weight.normal_(0.0, scale, generator=random(seed))
        head.bias.zero_()
    return PiecewiseLinear([nn.Flatten(), head])


def find_broken(
    model: nn.Module, x: Tensor, y: Tensor, *, attack: Attack, form: Form, generator: torch.Generator
) -> Tensor:
    """`attacks.find_broken` from one random start."""
    return attacks.find_broken(model, x, y, balls.draw_start(x, attack, generator), attack=attack, form=form)


def weight(model: PiecewiseLinear) -> Tensor:
    return next(p for p in model.parameters() if p.dim() == 2).detach()


def relu_net(seed: int = 0, scale: float = 1.0) -> nn.Sequential:
    """A small net without an adjoint of its own, in train mode."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(0.0, scale, generator=random(seed + p.numel()))
    return net


Trained = tuple[nn.Module, Tensor, Tensor]


@pytest.fixture(scope="module")
def trained() -> Trained:
    """A net that tells bright left halves from bright right halves, with its data."""
    y = torch.arange(96) % 2
    side = torch.arange(4).view(1, 1, 1, 4) // 2 == y.view(-1, 1, 1, 1)
    x = (0.35 + 0.3 * side + 0.25 * torch.randn(96, *SHAPE, generator=random(5))).clamp(0, 1)
    net = relu_net(1, 0.3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval(), x, y


@pytest.mark.parametrize("form", FORMS)
def test_one_l2_step_cuts_a_linear_margin_by_eps_times_the_weights_distance(form: Form) -> None:
    """m(x) = (w₁ − w₀)·x falls by exactly ε‖w₁ − w₀‖₂ when no pixel meets the box."""
    model, x, attack = linear(2), grey(6), Attack(norm="l2", eps=0.1, steps=1, step_size=0.1)
    y = model(x).argmax(1)
    adv = attacks.perturb_from(model, x, y, x, attack=attack, form=form)
    sign = (2 * y - 1).float()
    cut = sign * ((model(x) - model(adv)) @ torch.tensor([-1.0, 1.0]))
    distance = (weight(model)[1] - weight(model)[0]).norm()
    torch.testing.assert_close(cut.detach(), (0.1 * distance).expand(6), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("norm", "direction"), [("l2", "l2"), ("l2", "sign"), ("linf", "l2"), ("linf", "sign")])
def test_a_step_cuts_a_linear_margin_by_its_length_in_the_dual_norm(norm: str, direction: str) -> None:
    """Along g/‖g‖₂ by step·‖w₁ − w₀‖₂, along sign(g) by step·‖w₁ − w₀‖₁, in a ball that holds the step."""
    model, x = linear(2), grey(6)
    attack = Attack(norm=norm, eps=0.5, steps=1, step_size=0.1, direction=direction)
    adv = attacks.perturb_from(model, x, torch.ones(6, dtype=torch.long), x, attack=attack, form="strict")
    cut = (model(x) - model(adv)) @ torch.tensor([-1.0, 1.0])
    distance = (weight(model)[1] - weight(model)[0]).norm(p=2 if direction == "l2" else 1)
    torch.testing.assert_close(cut.detach(), (0.1 * distance).expand(6), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_without_a_direction_the_norm_chooses_it(norm: str) -> None:
    """null is l2 under l2 and sign under linf, of which the steepest descent in the ball consists."""
    model, x, y = linear(3), grey(6), torch.arange(6) % 3

    def moved(direction: str | None) -> Tensor:
        attack = Attack(norm=norm, eps=0.2, steps=3, direction=direction)
        return attacks.perturb_from(model, x, y, x, attack=attack, form="strict")

    same, other = ("l2", "sign") if norm == "l2" else ("sign", "l2")
    assert torch.equal(moved(None), moved(same))
    assert not torch.equal(moved(None), moved(other))


@pytest.mark.parametrize("make", [lambda: linear(5), relu_net], ids=["adjoint", "fallback"])
def test_the_input_gradient_is_autograds(make: type[nn.Module]) -> None:
    """Jᵀ(softmax − onehot) is the input gradient of the summed cross-entropy."""
    model, x, y = make(), grey(7), torch.arange(7) % 3
    with torch.no_grad():
        z, adjoint = linearize(model, x)
        ours = adjoint(attacks.logit_gradient(z, y))
    leaf = x.clone().requires_grad_()
    (theirs,) = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_large_margin_leaves_the_gradients_direction_exact() -> None:
    """At margin 40 float32's p_y − 1 is 0; the direction is still −(w₁ − w₀)/‖w₁ − w₀‖₂."""
    e = attacks.logit_gradient(torch.tensor([[0.0, 40.0]]), torch.tensor([1]))
    torch.testing.assert_close(e, math.exp(-40) * torch.tensor([[1.0, -1.0]]), rtol=1e-4, atol=0.0)


@given(st.lists(st.floats(-8, 8), min_size=3, max_size=3), st.integers(0, 2))
@settings(max_examples=50, deadline=None)
def test_the_unit_residual_is_the_residual_over_one_minus_p(z: list[float], label: int) -> None:
    """(softmax − onehot)/(1 − p_y), whose label entry is −1."""
    z_BK, y_B = torch.tensor([z], dtype=torch.float64), torch.tensor([label])
    expected = attacks.logit_gradient(z_BK, y_B) / (1 - z_BK.softmax(-1)[:, label])
    torch.testing.assert_close(attacks.unit_logit_gradient(z_BK, y_B), expected, rtol=1e-6, atol=1e-9)


def test_no_margin_takes_the_unit_residual_away() -> None:
    """At margin 1,000 the cross-entropy's gradient is 0 in float32; the strict attack's is not."""
    z, y = torch.tensor([[0.0, 1000.0]]), torch.tensor([1])
    assert torch.equal(attacks.logit_gradient(z, y), torch.zeros(1, 2))
    assert torch.equal(attacks.unit_logit_gradient(z, y), torch.tensor([[1.0, -1.0]]))


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
def test_adversarial_images_stay_in_the_ball_and_the_box(
    norm: str, form: Form, eps: float, step_size: float, steps: int, seed: int, direction: str, start: str
) -> None:
    """‖δ‖ ≤ ε(1 + 1e-5) and pixels in [0, 1], also from images on the box's faces."""
    x = (2 * torch.rand(4, *SHAPE, generator=random(seed)) - 0.5).clamp(0, 1)
    attack = Attack(norm=norm, eps=eps, steps=steps, step_size=step_size, direction=direction, start=start)
    y = torch.arange(4) % 3
    adv = attacks.perturb(linear(3), x, y, attack=attack, generator=random(seed), form=form)
    order = 2 if norm == "l2" else math.inf
    assert torch.linalg.vector_norm((adv - x).flatten(1), order, dim=1).max() <= eps * (1 + 1e-5) + 1e-6
    assert adv.min() >= 0
    assert adv.max() <= 1
    assert not adv.requires_grad


def confident(margin: float) -> tuple[PiecewiseLinear, Tensor, Tensor, Tensor]:
    """A linear model that favours label 1 by this margin on a grey image; the image, its label, w₁ − w₀."""
    model, x = linear(2), torch.full((1, *SHAPE), 0.5)
    w = weight(model)[1] - weight(model)[0]
    with torch.no_grad():
        next(p for p in model.parameters() if p.dim() == 1).copy_(torch.tensor([0.5 * float(w.sum()), margin]))
    return model, x, torch.ones(1, dtype=torch.long), w


def test_on_a_confident_model_compat_stalls_and_strict_does_not() -> None:
    """At margin 20, five steps of 0.02 move strict by 0.1 and compat by a hundredth of that."""
    model, x, y, _ = confident(20.0)
    attack = Attack(norm="l2", eps=0.1, steps=5, step_size=0.02)
    moved = {form: float((attacks.perturb_from(model, x, y, x, attack=attack, form=form) - x).norm()) for form in FORMS}
    assert moved["strict"] == pytest.approx(0.1, rel=1e-4)
    assert 0 < moved["compat"] < 0.02 * moved["strict"]


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("at_once", [7, 64])
def test_compat_divides_the_gradient_of_the_mean_by_its_floor(
    batch: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step moves by step·‖g/B‖₂ / 1e-6 under the floor: the larger the batch, however few run at once, the less."""
    monkeypatch.setattr(attacks, "AT_ONCE", at_once)
    model, x, y, w = confident(18.0)
    model.eval()
    x, y, attack = x.repeat(batch, 1, 1, 1), y.repeat(batch), Attack(norm="l2", eps=0.5, steps=1, step_size=0.5)
    moved = (attacks.perturb_from(model, x, y, x, attack=attack, form="compat") - x).flatten(1).norm(dim=1)
    expected = 0.5 * math.exp(-18) * w.norm() / batch / 1e-6
    torch.testing.assert_close(moved, expected.expand(batch), rtol=1e-2, atol=0.0)


@pytest.mark.parametrize("form", FORMS)
def test_how_many_images_run_at_once_changes_nothing(
    trained: Trained, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, y = trained
    attack, found = Attack(norm="l2", eps=0.5, steps=5, step_size=0.1), []
    for at_once in (1, 7, 96):
        monkeypatch.setattr(attacks, "AT_ONCE", at_once)
        found.append(attacks.perturb_from(model, x, y, x, attack=attack, form=form))
    torch.testing.assert_close(found[0], found[2], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[1], found[2], rtol=0, atol=1e-5)


def test_strict_breaks_what_is_broken_at_the_clean_image() -> None:
    """With an attack too small to change anything, broken means misclassified, under both forms."""
    model, x = linear(3), grey(30)
    y = torch.arange(30) % 3
    attack, wrong = Attack(norm="l2", eps=1e-6, steps=2), model(x).argmax(1) != y
    for form in FORMS:
        assert torch.equal(find_broken(model, x, y, attack=attack, form=form, generator=random(0)), wrong)


@pytest.mark.parametrize("norm", NORMS)
def test_strict_breaks_whatever_its_last_iterate_breaks(trained: Trained, norm: str) -> None:
    """Success at any iterate contains success at the last one, and misclassification of x."""
    model, x, y = trained
    attack = Attack(norm=norm, eps=0.6 if norm == "l2" else 0.12, steps=4, step_size=0.2)
    strict = find_broken(model, x, y, attack=attack, form="strict", generator=random(3))
    last = model(attacks.perturb(model, x, y, attack=attack, generator=random(3))).argmax(1) != y
    clean = model(x).argmax(1) != y
    assert not (last & ~strict).any()
    assert not (clean & ~strict).any()
    assert 0 < strict.sum() < len(y)


def test_dropping_broken_samples_changes_nothing(trained: Trained) -> None:
    """strict equals: x or any of the iterates of the whole batch, seen one by one, is misclassified."""
    model, x, y = trained
    u = torch.rand(x.shape, generator=random(4))
    attacked = {n: Attack(norm="l2", eps=0.6, steps=n, step_size=0.15) for n in range(1, 6)}
    start = balls.place_near_sphere(x, u, attacked[5])
    seen = [x, start] + [attacks.perturb_from(model, x, y, start, attack=attacked[n], form="strict") for n in attacked]
    expected = torch.stack([model(x_t).argmax(1) != y for x_t in seen]).any(0)
    ours = find_broken(model, x, y, attack=attacked[5], form="strict", generator=random(4))
    assert torch.equal(ours, expected)


def test_a_wholly_broken_batch_needs_no_step() -> None:
    """Nothing is left to attack, and no model sees an empty batch."""
    model, x = linear(2), grey(5)
    y = 1 - model(x).argmax(1)
    assert find_broken(model, x, y, attack=Attack(steps=3), form="strict", generator=random(0)).all()


def test_more_steps_never_rescue_a_sample_under_strict(trained: Trained) -> None:
    """The iterates of fewer steps of the same length are a prefix of those of more."""
    model, x, y = trained
    before = torch.zeros(len(y), dtype=torch.bool)
    for steps in (1, 3, 10, 20):
        attack = Attack(norm="l2", eps=0.8, steps=steps, step_size=0.1)
        now = find_broken(model, x, y, attack=attack, form="strict", generator=random(0))
        assert not (before & ~now).any()
        before = now
    assert before.any()


def test_an_unbounded_attack_breaks_everything(trained: Trained) -> None:
    """A ball that holds the whole box leaves no sample of a trained model right."""
    model, x, y = trained
    attack = Attack(norm="l2", eps=4.0, steps=40, step_size=0.3)
    assert find_broken(model, x, y, attack=attack, form="strict", generator=random(0)).all()


@pytest.mark.parametrize("start", ["sphere", "ball"])
@pytest.mark.parametrize("form", FORMS)
def test_only_the_given_generator_draws(form: Form, start: str) -> None:
    """A disturbed global generator changes nothing and is not drawn from; another seed changes the start."""
    model, x, y, attack = relu_net(), grey(4), torch.arange(4) % 3, Attack(eps=0.5, steps=2, start=start)
    one = attacks.perturb(model, x, y, attack=attack, generator=random(0), form=form)
    torch.manual_seed(12345)
    state = torch.get_rng_state()
    two = attacks.perturb(model, x, y, attack=attack, generator=random(0), form=form)
    assert torch.equal(one, two)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(one, attacks.perturb(model, x, y, attack=attack, generator=random(1), form=form))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", [lambda: linear(3), relu_net], ids=["adjoint", "fallback"])
def test_an_attack_leaves_the_model_as_it_was(make: type[nn.Module], training: bool) -> None:
    """Mode, requires_grad, parameters and their gradients are those of before."""
    model, x, y, attack = make().train(training), grey(4), torch.arange(4) % 3, Attack(eps=0.5, steps=2)
    frozen = next(model.parameters()).requires_grad_(False)
    before = [p.detach().clone() for p in model.parameters()]
    attacks.perturb(model, x, y, attack=attack, generator=random(0))
    find_broken(model, x, y, attack=attack, form="strict", generator=random(0))
    assert model.training == training
    assert [p.requires_grad for p in model.parameters()] == [p is not frozen for p in model.parameters()]
    assert all(p.grad is None and torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("start", ["sphere", "ball"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("norm", NORMS)
def test_perturb_reads_no_data_on_the_host(norm: str, form: Form, start: str) -> None:
    """Tensors without data suffice, so no shape, branch or number depends on data: a graph can capture it."""
    model = linear(3).to("meta")
    x, y = torch.empty(4, *SHAPE, device="meta"), torch.empty(4, dtype=torch.long, device="meta")
    attack = Attack(norm=norm, eps=0.5, steps=2, start=start)
    adv = attacks.perturb(model, x, y, attack=attack, generator=random(0), form=form)
    assert adv.shape == x.shape
