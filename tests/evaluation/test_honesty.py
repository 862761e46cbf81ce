"""The nine checks: a sound model passes them, and each is tripped by the defects that it is there for.

Shapes: n images, B batch, C·H·W image, K classes.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binom
from torch import Tensor, nn

from tune_interpreg import seeding
from tune_interpreg.attacks import autoattack
from tune_interpreg.attacks import pgd as attacks
from tune_interpreg.data import dataset as data
from tune_interpreg.evaluation import honesty
from tune_interpreg.evaluation import measures as evaluation
from tune_interpreg.evaluation.subject import Check, Subject, tolerated
from tune_interpreg.networks import piecewise_linear as models
from tune_interpreg.networks.layers import Adjoint
from tune_interpreg.study.config import Attack, Data, Model

ATTACK = Attack(norm="l2", eps=0.5, steps=40)
IMAGES = 40


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def digits_net(seed: int, epochs: int = 4) -> nn.Module:
    """The digits' net after a short training, in eval mode."""
    net, train = models.build(Model(), (1, 8, 8), 10, seeding.generator(seed, "init")), data.load(Data()).train
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
    validation = data.load(Data()).validation
    images = validation.at(data.stratified(validation.y_N, IMAGES, "checks")[0])
    return Subject(net, images, ATTACK, seed=0, batch_size=500, sources={"another": digits_net(1)})


class Masked(nn.Module):
    """A net whose outputs are another's, and whose gradient is what ``mask(x_BCHW, g)`` makes of the true one."""

    def __init__(self, net: nn.Module, mask: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.mask = net, mask

    def forward(self, x_BCHW: Tensor) -> Tensor:
        z_BK: Tensor = self.net(x_BCHW)
        return z_BK

    def linearize(self, x_BCHW: Tensor) -> tuple[Tensor, Adjoint]:
        z_BK, adjoint = models.linearize(self.net, x_BCHW)
        return z_BK, lambda e: self.mask(x_BCHW, adjoint(e))


def none(x_BCHW: Tensor, g: Tensor) -> Tensor:
    return torch.zeros_like(g)


def elsewhere(x_BCHW: Tensor, g: Tensor) -> Tensor:
    """One and the same direction for all images, at random."""
    return torch.randn(g.shape[-3:], generator=random(1)).expand_as(g)


class Quantized(nn.Module):
    """Pixels rounded to multiples of 1/8, whose derivative is 0 wherever there is one."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x_BCHW: Tensor) -> Tensor:
        z_BK: Tensor = self.net((8 * x_BCHW).round() / 8)
        return z_BK


class After(nn.Module):
    """A net whose outputs are changed by a function."""

    def __init__(self, net: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.change(self.net(x_BCHW))


def warned(check: Check, *words: str) -> None:
    assert check.state == "WARN", check
    assert all(word in check.said for word in words), check.said


# ------------------------------------------------------------------ a sound model
@pytest.mark.parametrize("check", honesty.CHECKS, ids=lambda check: check.__name__)
def test_a_sound_model_passes(check: Callable[[Subject], Check], sound: Subject) -> None:
    """Over all images; but the ensemble was not asked for."""
    found = check(sound)
    assert (found.state, found.check) == ("PASS", check.__name__), found
    assert found.n == (0 if check is honesty.ensemble else IMAGES)
    assert found.said
    assert all(math.isfinite(value) for value in found.values.values())


@pytest.mark.parametrize("check", [honesty.ball, honesty.steps, honesty.radius, honesty.order])
def test_a_sound_model_passes_under_linf(check: Callable[[Subject], Check], sound: Subject) -> None:
    assert check(replace(sound, attack=Attack(norm="linf", eps=0.06, steps=40, start="ball"))).state == "PASS"


def test_checks_leave_everything_as_it_was_and_say_the_same_again(sound: Subject) -> None:
    """Neither the global generator nor the parameters are touched, and a disturbed one changes nothing."""
    before = [p.detach().clone() for p in sound.model.parameters()]
    few = replace(sound, attack=Attack(eps=0.5, steps=4))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = [check(few) for check in honesty.CHECKS]
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert [check(replace(few)) for check in honesty.CHECKS] == first
    assert all(torch.equal(p, old) and p.grad is None for p, old in zip(sound.model.parameters(), before, strict=True))
    assert not any(module.training for module in sound.model.modules())


def test_the_own_accuracy_is_the_evaluations(sound: Subject) -> None:
    """Images, starts and settings are those of `evaluation.adversarial_accuracy`, in several checks alike."""
    own = evaluation.adversarial_accuracy(
        sound.model, sound.images, attack=ATTACK, form="strict", seed=0, batch_size=500, restarts=1
    )
    told = [honesty.radius(sound).values["0.5"], honesty.order(sound).values["pgd"]]
    told += [honesty.transfer(sound).values["own"], honesty.batch_size(sound).values["strict/40"]]
    assert told == pytest.approx([own] * 4)
    assert 0 < own < 1


def test_radii_are_numbers_from_none_to_unbounded(sound: Subject) -> None:
    assert [float(eps) for eps in honesty.radius(sound).values] == [0.0, 0.125, 0.25, 0.5, 0.75, 1.0, math.inf]


# ------------------------------------------------------------------------- chance
@pytest.mark.parametrize(("n", "most"), [(1, 0), (10, 1), (100, 3), (1_000, 11), (10_000, 67)])
def test_what_chance_makes_of_half_a_percent_is_tolerated(n: int, most: int) -> None:
    """The least k with P(Binomial(n, 0.005) > k) ≤ 1%."""
    assert tolerated(n) == most
    assert binom.sf(most, n, 0.005) <= 0.01
    assert most == 0 or binom.sf(most - 1, n, 0.005) > 0.01


def test_a_check_says_its_faults_or_what_is_sound() -> None:
    """A value that is not finite has no place in a record."""
    passed = Check.of("c", 5, "well", {"bad": False, "worse": False}, {"a": 1, "b": math.nan})
    assert passed == Check("c", "PASS", 5, "well", {"a": 1.0})
    assert Check.of("c", 5, "well", {"bad": True, "worse": True}, {}) == Check("c", "WARN", 5, "bad; worse", {})


# ---------------------------------------------------------------- planted defects
def test_probabilities_and_their_logarithms_are_no_logits(sound: Subject) -> None:
    for change in (lambda z: z.softmax(-1), lambda z: z.log_softmax(-1)):
        warned(honesty.outputs(replace(sound, model=After(sound.model, change).eval())), "no logits")


def test_a_model_left_in_train_mode_is_told(sound: Subject) -> None:
    """With dropout, two forwards differ besides."""
    dropped = nn.Sequential(nn.Dropout(0.5), sound.model)
    dropped[0].train()
    warned(honesty.outputs(replace(sound, model=dropped)), "modules are in train mode", "a second forward differs")
    dropped.eval()
    assert honesty.outputs(replace(sound, model=dropped)).state == "PASS"


def test_noise_that_eval_mode_leaves_on_is_told(sound: Subject) -> None:
    draws = random(0)
    noisy = After(sound.model, lambda z: z + 0.1 * torch.randn(z.shape, generator=draws)).eval()
    warned(honesty.outputs(replace(sound, model=noisy)), "a second forward differs")


def test_outputs_that_are_not_finite_are_told(sound: Subject) -> None:
    broken = After(sound.model, lambda z: z / (z.argmax(-1, keepdim=True) != 3)).eval()
    warned(honesty.outputs(replace(sound, model=broken)), "not finite")


def overshoots(model: nn.Module, x: Tensor, y: Tensor, start: Tensor, *, attack: Attack, form: attacks.Form) -> Tensor:
    """Projects to a ball that is a hundredth too large."""
    larger = attack.model_copy(update={"eps": 1.01 * attack.eps})
    return attacks.perturb_from(model, x, y, start, attack=larger, form=form)


def escapes(model: nn.Module, x: Tensor, *_: Tensor, attack: Attack, form: attacks.Form) -> Tensor:
    """Forgets that pixels end at 0."""
    return x - 0.1 * attack.eps / math.sqrt(x[0].numel())


def fails(model: nn.Module, x: Tensor, *_: Tensor, attack: Attack, form: attacks.Form) -> Tensor:
    return x / 0 * 0


@pytest.mark.parametrize(
    ("perturb", "fault"), [(overshoots, "leaves the ball of 0.5"), (escapes, "pixels lie in [-"), (fails, "not finite")]
)
def test_a_wrong_projection_is_told(perturb: Callable[..., Tensor], fault: str, sound: Subject) -> None:
    warned(honesty.ball(sound, perturb), fault)


def test_a_masked_gradient_is_told(sound: Subject, net: nn.Module) -> None:
    """By a backward of zero, or by a quantizer."""
    for masked in (Masked(net, none), Quantized(net)):
        found = honesty.gradient(replace(sound, model=masked.eval()))
        warned(found, f"masks its gradient at {IMAGES} images")
        assert found.values["zero"] == found.values["masked"] == 1.0


def test_saturated_logits_are_told_as_compats_defect_and_no_mask(sound: Subject) -> None:
    """Logits times 1e4: the cross-entropy has no gradient left, the network has."""
    found = honesty.gradient(replace(sound, model=After(sound.model, lambda z: 1e4 * z).eval()))
    warned(found, "images have a gradient below 1e-06", "compat shortens its steps")
    assert found.values["zero"] > 0.5
    assert found.values["masked"] == 0


def test_compats_dependence_on_the_batch_is_told(sound: Subject) -> None:
    """Margins at which its floor, B·1e-6, decides whether it moves."""
    confident = After(sound.model, lambda z: 6 * z).eval()
    found = honesty.batch_size(replace(sound, model=confident))
    warned(found, "compat: ")
    assert "strict" not in found.said
    assert found.values["compat/2"] < found.values["compat/40"]
    assert found.values["strict/20"] == found.values["strict/40"]


def test_a_network_that_mixes_images_is_told(sound: Subject) -> None:
    """Its outputs follow the batch's mean, as batch normalization's in train mode would."""
    mixing = After(sound.model, lambda z: z - z.mean(0)).eval()
    warned(honesty.batch_size(replace(sound, model=mixing)), "strict: ")


@pytest.mark.parametrize(
    "attack", [Attack(eps=0.5, steps=2, step_size=0.05), Attack(eps=0.5, steps=20, step_size=0.005)]
)
def test_an_attack_that_stops_too_soon_is_told(attack: Attack, sound: Subject) -> None:
    """From within the ball; with too few steps, or too short ones."""
    warned(honesty.steps(replace(sound, attack=attack.model_copy(update={"start": "ball"}))), "raise evaluation.steps")


def test_a_gradient_that_only_one_long_step_can_use_is_told(sound: Subject, net: nn.Module) -> None:
    """It is there at the starts alone, so that short steps soon stand still."""
    starts: list[Tensor] = []

    def at_starts(x_BCHW: Tensor, g: Tensor) -> Tensor:
        starts.append(x_BCHW)
        known = (x_BCHW.flatten(1).unsqueeze(1) == starts[0].flatten(1)).all(2).any(1)
        return g * known.view(-1, 1, 1, 1)

    warned(honesty.steps(replace(sound, model=Masked(net, at_starts).eval())), "more steps rescue")


@pytest.mark.parametrize("mask", [none, elsewhere])
def test_gradients_that_lead_nowhere_are_told(mask: Callable[[Tensor, Tensor], Tensor], sound: Subject) -> None:
    """No radius is enough for them, and noise is as good."""
    lost = replace(sound, model=Masked(sound.model, mask).eval())
    warned(honesty.radius(lost), "without bounds leaves")
    warned(honesty.order(lost), "noise lowers the margin")
    warned(honesty.transfer(replace(lost, sources={"the same, unmasked": sound.model})), "the same, unmasked break")


def test_a_step_that_the_attack_loses_again_is_told(sound: Subject) -> None:
    """PGD that does not move far enough breaks less than one step of eps does."""
    short = Attack(eps=0.5, steps=1, step_size=1e-6, start="ball")
    warned(honesty.order(replace(sound, attack=short)), "one gradient step breaks")


@pytest.mark.skipif(not autoattack.available(), reason="needs the extra autoattack")
def test_the_ensemble_breaks_what_pgd_cannot_see(net: nn.Module, sound: Subject) -> None:
    """Square needs no gradient. Of two classes, so that the ensemble is small."""
    rows = (sound.images.y_N < 2).nonzero().squeeze(1)[:5]
    two = Quantized(After(net, lambda z: z[:, :2])).eval()
    few = replace(sound, model=two, images=sound.images.at(rows), attack=Attack(eps=4.0, steps=4, start="ball"))
    found = honesty.ensemble(replace(few, ensemble=100))
    warned(found, "AutoAttack breaks")
    assert found.n == 5
    assert found.values["together"] < found.values["own"]


def test_what_cannot_run_says_so_and_warns_of_nothing(sound: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoattack, "available", lambda: False)
    absent, alone = honesty.ensemble(replace(sound, ensemble=10)), honesty.transfer(replace(sound, sources={}))
    assert [(found.state, found.n) for found in (absent, alone)] == [("PASS", 0)] * 2
    assert "needs the package pyautoattack" in absent.said
    assert "no other model" in alone.said
