"""The eleven checks: a sound model passes them, and each finds the defects that it is made for.

Shapes: n images, B batch, C·H·W image, K classes.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binom
from torch import Tensor, nn

from tune_interpreg.attacks import autoattack, pgd, strict
from tune_interpreg.data.dataset import Split, load_dataset, split_stratified
from tune_interpreg.evaluation import honesty
from tune_interpreg.evaluation.interpretability import measure_interpretability
from tune_interpreg.evaluation.measures import measure_adversarial_accuracy
from tune_interpreg.evaluation.subject import Check, Subject, count_tolerated
from tune_interpreg.networks.build import build
from tune_interpreg.networks.layers import Adjoint
from tune_interpreg.networks.linearize import linearize
from tune_interpreg.study.config import Attack, Data, Model

pytestmark = pytest.mark.thorough

ATTACK = Attack(norm="l2", eps=0.5, steps=40)
COSINE = "alignment_cosine"
IMAGES = 40


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def digits_net(seed: int, epochs: int = 4) -> nn.Module:
    """Return the digits' network after a short training, in eval mode."""
    net, train = build(Model(), (1, 8, 8), 10, seed), load_dataset(Data()).train
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(epochs):
        for rows in torch.randperm(len(train), generator=random(epoch)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(train.x_NCHW[rows]), train.y_N[rows]).backward()
            optimizer.step()
    optimizer.zero_grad()
    return net.eval()


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return digits_net(0)


@pytest.fixture(scope="module")
def sound(net: nn.Module) -> Subject:
    validation = load_dataset(Data()).validation
    images = validation.at(split_stratified(validation.y_N, IMAGES, "checks")[0])
    return Subject(net, images, ATTACK, seed=0, batch_size=500, sources={"another": digits_net(1)})


class Function(nn.Module):
    """A function as a layer without weights."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.forward = function


class Masked(nn.Sequential):
    """A network with the outputs of ``net`` and the gradient ``mask(x_BCHW, g)`` in place of the true g."""

    def __init__(self, net: nn.Module, mask: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(net)
        self.mask = mask

    def linearize(self, x_BCHW: Tensor) -> tuple[Tensor, Adjoint]:
        z_BK, adjoint = linearize(self[0], x_BCHW)
        return z_BK, lambda e: self.mask(x_BCHW, adjoint(e))


def zero(x_BCHW: Tensor, g: Tensor) -> Tensor:
    return torch.zeros_like(g)


def random_direction(x_BCHW: Tensor, g: Tensor) -> Tensor:
    """Return the same random direction for all images."""
    return torch.randn(g.shape[-3:], generator=random(1)).expand_as(g)


def quantize_inputs(net: nn.Module) -> nn.Module:
    """Round pixels to multiples of 1/8, so that the derivative is 0 almost everywhere."""
    return nn.Sequential(Function(lambda x_BCHW: (8 * x_BCHW).round() / 8), net)


def change_outputs(subject: Subject, change: Callable[[Tensor], Tensor]) -> Subject:
    return replace(subject, model=nn.Sequential(subject.model, Function(change)).eval())


def assert_warns(check: Check, *words: str) -> None:
    assert check.state == "WARN", check
    assert all(word in check.summary for word in words), check.summary


# ------------------------------------------------------------------ a sound model
@pytest.mark.parametrize("check", honesty.list_checks(None), ids=lambda check: check.__name__)
def test_a_sound_model_passes(check: Callable[[Subject], Check], sound: Subject) -> None:
    """On all images, or all correctly classified ones."""
    result = check(sound)
    assert (result.state, f"check_{result.check}") == ("PASS", check.__name__), result
    all_images = (honesty.check_outputs, honesty.check_ball, honesty.check_gradient, honesty.check_randomization)
    of_images = check in all_images
    correct = int((sound.model(sound.x_NCHW).argmax(1) == sound.y_N).sum())
    assert 0 < correct < IMAGES
    assert result.n == (IMAGES if of_images else correct)
    assert result.summary
    assert all(math.isfinite(value) for value in result.values.values())


def test_a_sound_model_passes_under_linf(sound: Subject) -> None:
    linf = replace(sound, attack=Attack(norm="linf", eps=0.06, steps=40))
    for check in (honesty.check_ball, honesty.check_steps, honesty.check_radius, honesty.check_order):
        assert check(linf).state == "PASS"


def test_checks_change_nothing_and_are_reproducible(sound: Subject) -> None:
    """They leave the parameters and the global generator unchanged and do not depend on its state."""
    before = [p.detach().clone() for p in sound.model.parameters()]
    few = replace(sound, attack=Attack(eps=0.5, steps=4))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = [check(few) for check in honesty.list_checks(None)]
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert [check(replace(few)) for check in honesty.list_checks(None)] == first
    assert all(torch.equal(p, old) and p.grad is None for p, old in zip(sound.model.parameters(), before, strict=True))
    assert not any(module.training for module in sound.model.modules())


def test_the_own_accuracy_equals_the_evaluations(sound: Subject) -> None:
    """Several checks attack with the images, starts and settings of `measure_adversarial_accuracy`."""
    settings = {"attack": ATTACK, "form": "strict", "seed": 0, "batch_size": 500, "restarts": 1}
    expected, by_eps = measure_adversarial_accuracy(sound.model, sound.images, **settings), honesty.check_radius(sound)
    accuracies = [by_eps.values["0.5"], honesty.check_order(sound).values["own"]]
    accuracies += [honesty.check_transfer(sound).values["own"], honesty.check_batch_size(sound).values["strict/40"]]
    accuracies += [honesty.check_scale(sound).values["1"], honesty.check_steps(sound).values["40"]]
    assert accuracies == pytest.approx([expected] * 6)
    assert 0 < expected < 1
    assert [float(eps) for eps in by_eps.values] == [0.0, 0.125, 0.25, 0.5, 0.75, 1.0, math.inf]


# ------------------------------------------------------------------------- chance
def test_half_a_percent_plus_chance_is_tolerated() -> None:
    """The least k with P(Binomial(n, 0.005) > k) ≤ 1%."""
    for n, most in ((1, 0), (10, 1), (100, 3), (1_000, 11), (10_000, 67)):
        assert count_tolerated(n) == most
        assert binom.sf(most, n, 0.005) <= 0.01 < (binom.sf(most - 1, n, 0.005) if most else 1)


def test_a_check_reports_its_faults_or_its_summary() -> None:
    """It drops values that are not finite. Without images there is nothing to pass."""
    passed = Check.from_faults("c", 5, "well", {"bad": False}, {"a": 1, "b": math.nan})
    assert passed == Check("c", "PASS", 5, "well", {"a": 1.0})
    assert Check.from_faults("c", 5, "", {"bad": True, "worse": True}, {}) == Check("c", "WARN", 5, "bad; worse", {})
    assert Check.from_faults("c", 0, "none", {"bad": False}, {}) == Check("c", "NONE", 0, "none", {})
    assert Check.from_faults("c", 0, "none", {"bad": True}, {}).state == "WARN"


# ---------------------------------------------------------------- planted defects
NOISE = random(0)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda z_BK: z_BK.softmax(-1), "not logits"),
        (lambda z_BK: z_BK.log_softmax(-1), "not logits"),
        (lambda z_BK: z_BK + 0.1 * torch.randn(z_BK.shape, generator=NOISE), "a second forward differs"),
        (lambda z_BK: z_BK / (z_BK.argmax(-1, keepdim=True) != 3), "not finite"),
    ],
    ids=["probabilities", "their logarithms", "noise in eval mode", "infinite"],
)
def test_wrong_outputs_are_found(change: Callable[[Tensor], Tensor], fault: str, sound: Subject) -> None:
    assert_warns(honesty.check_outputs(change_outputs(sound, change)), fault)


def test_a_module_in_train_mode_is_found(sound: Subject) -> None:
    """With dropout, two forwards differ, too."""
    dropped = replace(sound, model=nn.Sequential(nn.Dropout(0.5), sound.model))
    assert_warns(honesty.check_outputs(dropped), "modules are in train mode", "a second forward differs")
    dropped.model.eval()
    assert honesty.check_outputs(dropped).state == "PASS"


strict_perturb = strict.perturb


def overshoots(*inputs: Any, attack: Attack) -> tuple[Tensor, Tensor]:
    """Project to a ball that is 1% too large."""
    return strict_perturb(*inputs, attack=attack.model_copy(update={"eps": 1.01 * attack.eps}))


@pytest.mark.parametrize(
    ("perturb", "fault"),
    [
        (overshoots, "leaves the ball of 0.5"),
        (lambda model, x, y, *_, **settings: (x - 0.01, y < 0), "pixels lie in [-"),
        (lambda model, x, y, *_, **settings: (x / 0 * 0, y < 0), "not finite"),
    ],
    ids=["overshoots", "leaves the box", "nan"],
)
def test_a_wrong_projection_is_found(
    perturb: Callable[..., object], fault: str, sound: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strict, "perturb", perturb)
    assert_warns(honesty.check_ball(sound), fault)


def test_a_masked_gradient_is_found(sound: Subject, net: nn.Module) -> None:
    """A zero backward or a quantizer masks it."""
    for masked in (Masked(net, zero), quantize_inputs(net)):
        result = honesty.check_gradient(replace(sound, model=masked.eval()))
        assert_warns(result, f"masks its gradient at {IMAGES} images")
        assert result.values["zero"] == result.values["masked"] == 1.0


def test_saturated_logits_are_found_but_are_no_mask(sound: Subject) -> None:
    """At logits times 1e4 the cross-entropy has no gradient left, but the network has one."""
    result = honesty.check_gradient(change_outputs(sound, lambda z_BK: 1e4 * z_BK))
    assert_warns(result, "images have a gradient below 1e-06", "compat shortens its steps")
    assert result.values["zero"] > 0.5
    assert result.values["masked"] == 0


def test_compats_dependence_on_the_batch_size_is_found(sound: Subject) -> None:
    """At these margins its floor, B·1e-6, decides whether it moves."""
    result = honesty.check_batch_size(change_outputs(sound, lambda z_BK: 6 * z_BK))
    assert_warns(result, "compat: ")
    assert "strict" not in result.summary
    assert result.values["compat/2"] < result.values["compat/40"]
    assert result.values["strict/20"] == result.values["strict/40"]


def test_a_network_that_mixes_images_is_found(sound: Subject) -> None:
    """Its outputs depend on the batch's mean, as with batch normalization in train mode."""
    assert_warns(honesty.check_batch_size(change_outputs(sound, lambda z_BK: z_BK - z_BK.mean(0))), "strict: ")


def test_an_attack_with_too_few_steps_is_found(sound: Subject) -> None:
    assert_warns(honesty.check_steps(replace(sound, attack=Attack(eps=0.5, steps=1))), "raise evaluation.steps")


def test_gradients_that_only_few_steps_can_use_are_found(sound: Subject, net: nn.Module) -> None:
    """They are 0 after the 1 + 4·1 steps of the first attack and the 10 + 4·3 of the second: the third has none."""
    used: list[int] = []

    def fades(x_BCHW: Tensor, g: Tensor) -> Tensor:
        used.append(1)
        return g if len(used) <= 27 else torch.zeros_like(g)

    assert_warns(honesty.check_steps(replace(sound, model=Masked(net, fades).eval())), "more steps rescue")


@pytest.mark.parametrize("mask", [zero, random_direction])
def test_gradients_that_lead_nowhere_are_found(mask: Callable[[Tensor, Tensor], Tensor], sound: Subject) -> None:
    """No radius suffices for them, and noise is as good."""
    lost = replace(sound, model=Masked(sound.model, mask).eval())
    assert_warns(honesty.check_radius(lost), "an unbounded attack leaves")
    assert_warns(honesty.check_order(lost), "noise lowers the margin")
    assert_warns(honesty.check_transfer(replace(lost, sources={"the unmasked": sound.model})), "the unmasked break")


def weaken(model: nn.Module, x: Tensor, y: Tensor, _: object, *, attack: Attack) -> tuple[Tensor, Tensor]:
    """Attack from x with a hundredth of the radius."""
    return strict_perturb(model, x, y, [x], attack=attack.model_copy(update={"eps": 0.01 * attack.eps}))


def test_an_attack_that_is_weaker_than_one_step_is_found(sound: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict, "perturb", weaken)
    assert_warns(honesty.check_order(replace(sound)), "one gradient step breaks")


def test_an_attack_that_depends_on_the_scale_is_found(sound: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cross-entropy of the logits as they are has a blurred direction at small logits."""
    assert honesty.check_scale(sound).state == "PASS"
    monkeypatch.setattr(strict, "softened_gradient", pgd.unit_logit_gradient)
    monkeypatch.setattr(strict, "RIVALS", 0)
    result = honesty.check_scale(replace(sound))
    assert_warns(result, "images change with logits times 0.01")
    assert result.values["0.01"] > result.values["1"]


def test_logits_near_the_largest_number_are_found(sound: Subject) -> None:
    """Times 100, they are infinite."""
    assert_warns(honesty.check_scale(change_outputs(sound, lambda z_BK: 1e36 * z_BK)), "with logits times 100")


@pytest.mark.skipif(not autoattack.is_installed(), reason="needs the extra autoattack")
def test_the_ensemble_breaks_images_that_pgd_cannot(net: nn.Module, sound: Subject) -> None:
    """Square needs no gradient. Two classes keep the ensemble small."""
    rows = (sound.images.y_N < 2).nonzero().squeeze(1)[:5]
    two = quantize_inputs(nn.Sequential(net, Function(lambda z_BK: z_BK[:, :2]))).eval()
    few = replace(sound, model=two, images=sound.images.at(rows), attack=Attack(eps=4.0, steps=4, start="ball"))
    result = honesty.check_ensemble(replace(few, ensemble=100))
    assert_warns(result, "AutoAttack breaks")
    assert result.n == 5
    assert result.values["together"] < result.values["own"]


class Lookalike(nn.Module):
    """A network with the outputs of ``net`` and gradients that show the image: ∂z_k/∂x = c_k·x with c_k > 0."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x_BCHW: Tensor) -> Tensor:
        energy_B1 = x_BCHW.square().flatten(1).sum(1, keepdim=True) / 2
        drawn_BK = energy_B1 * torch.linspace(1, 2, 10)
        z_BK: Tensor = self.net(x_BCHW.detach()) + drawn_BK - drawn_BK.detach()
        return z_BK


@pytest.mark.skipif(not autoattack.is_installed(), reason="needs the extra autoattack")
def test_a_fragile_model_with_gradients_that_look_perfect_is_warned_of(net: nn.Module, sound: Subject) -> None:
    """Its alignment is the largest possible and PGD breaks almost nothing, but AutoAttack breaks every image."""
    model = Lookalike(net).eval()
    fooled = replace(sound, model=model, attack=Attack(norm="l2", eps=1.2, steps=20), ensemble=8)
    settings: dict[str, Any] = {"maps": {}, "with_deletion": False, "seed": 0, "batch_size": 500}
    alignment = [float(measure_interpretability(m, sound.images, **settings)[COSINE].mean()) for m in (net, model)]
    assert alignment == [pytest.approx(0.4, abs=0.2), pytest.approx(1.0)]
    ensemble = honesty.check_ensemble(fooled)
    assert (ensemble.values["own"], ensemble.values["autoattack"]) == (pytest.approx(1.0, abs=0.2), 0.0)
    assert_warns(ensemble, "AutoAttack breaks")
    warned = {check for check in honesty.list_checks(None) if check(fooled).state == "WARN"}
    asked = {honesty.check_radius, honesty.check_order, honesty.check_transfer, honesty.check_randomization}
    assert asked <= warned, "without AutoAttack, four checks warn"


def test_a_check_that_cannot_run_says_why_and_passes_nothing(sound: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoattack, "is_installed", lambda: False)
    absent = honesty.check_ensemble(replace(sound, ensemble=10))
    assert honesty.check_ensemble in honesty.list_checks(10)
    assert honesty.check_ensemble not in honesty.list_checks(None)
    alone = honesty.check_transfer(replace(sound, sources={}))
    assert [(result.state, result.n) for result in (absent, alone)] == [("NONE", 0)] * 2
    assert "pyautoattack" in absent.summary
    assert "no other model" in alone.summary


def test_without_a_correct_image_no_attack_is_judged(sound: Subject) -> None:
    """The attacks have nothing to break, so comparing them shows nothing. The other checks need no correct image."""
    wrong = (sound.model(sound.x_NCHW).argmax(1) + 1) % 10
    lost = replace(sound, images=Split(sound.images.x_NCHW, wrong), attack=Attack(eps=0.5, steps=4), ensemble=2)
    states = {check.__name__: check(lost) for check in honesty.CHECKS}
    nothing = {name for name, result in states.items() if result.state == "NONE"}
    attacks = ("batch_size", "steps", "radius", "order", "transfer", "scale", "ensemble")
    assert nothing == {f"check_{name}" for name in attacks}
    assert all((states[name].n, states[name].summary) == (0, honesty.NOTHING) for name in nothing)
    assert states["check_ball"].n == IMAGES


def test_few_correct_images_tolerate_little(sound: Subject) -> None:
    """The tolerance is that of the correctly classified images: 3 of 100 images, but 0 of 2."""
    assert count_tolerated(2) == 0 < count_tolerated(IMAGES)
    y_N = (sound.model(sound.x_NCHW).argmax(1) + 1) % 10
    correct = (~sound.misclassified_N).nonzero().squeeze(1)[:2]
    y_N[correct] = sound.y_N[correct]
    few = replace(sound, images=Split(sound.images.x_NCHW, y_N), model=Masked(sound.model, zero).eval())
    result = honesty.check_radius(few)
    assert_warns(result, "an unbounded attack leaves 2 images")
    assert result.n == 2
