"""Eleven checks whether an adversarial accuracy can be believed, and the model's maps.

They test a trained model and the attack that judges it. All comparisons use the same images. Each check names sets of
images that are almost empty in a sound evaluation. It warns if a set exceeds what chance makes of half a percent of the
checked images (see `subject.count_tolerated`). Checks 4 to 10 are about the images that are correctly classified
without an attack; without any, there is nothing to check. "Finds" lists the defects that a check is made for. Shapes
and units: see `subject`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tune_interpreg import seeding
from tune_interpreg.attacks import autoattack, balls, pgd, strict
from tune_interpreg.attacks.balls import DIRECTIONS
from tune_interpreg.data.dataset import split_stratified
from tune_interpreg.evaluation.interpretability import check_randomization
from tune_interpreg.evaluation.subject import Check, Subject, exceeds_chance, unbroken_fraction
from tune_interpreg.networks.layers import Adjoint
from tune_interpreg.networks.linearize import linearize
from tune_interpreg.networks.modes import eval_mode
from tune_interpreg.study.config import Attack

#: The numbers of steps, the multiples of eps, and the multiples of the logits that are compared.
STEPS, RADII, SCALES = (1, 10, 40, 100), (0.25, 0.5, 1.0, 1.5, 2.0), (0.01, 100.0)

#: A smaller gradient of the cross-entropy is useless to an attack that divides by max(‖g‖, 1e-6).
TINY = 1e-6

#: The summary of a check of attacks without a correctly classified image.
NOTHING = "no image is classified correctly, so there is nothing to attack"


def check_outputs(subject: Subject) -> Check:
    """1. Outputs are logits (not probabilities or their logarithms), finite, in eval mode and reproducible.

    Finds: a final softmax, a module in train mode, noise in eval mode, NaN.
    """
    training = sum(module.training for module in subject.model.modules())
    z_NK, again_NK = subject.logits(subject.x_NCHW), subject.logits(subject.x_NCHW)
    apart, largest = float((z_NK - again_NK).abs().max()), float(z_NK.abs().max())
    probabilities = bool((z_NK >= 0).all()) and torch.allclose(z_NK.sum(1), z_NK.new_ones(()), atol=1e-4)
    logarithms = torch.allclose(z_NK.logsumexp(1), z_NK.new_zeros(()), atol=1e-4)
    faults = {
        f"{training} modules are in train mode": training > 0,
        "outputs are not finite": not math.isfinite(largest),
        f"a second forward differs by up to {apart:.3g}": apart > 1e-5 * largest,
        "outputs are probabilities or their logarithms, not logits": probabilities or logarithms,
    }
    values = {"training_modules": training, "apart": apart, "largest": largest}
    return Check.from_faults("outputs", subject.n, "reproducible logits in eval mode", faults, values)


def check_ball(subject: Subject) -> Check:
    """2. Starts and adversarial images lie within eps·(1 + 1e-5), with pixels in [0, 1] and no NaN.

    Finds: a projection that overshoots or is undone by a later operation, a gradient that is NaN.
    """
    attack, generator = subject.attack, seeding.generator(subject.seed, "honesty-ball", subject.y_N.device)
    short = _change(attack, steps=min(10, attack.steps))
    start_NCHW = balls.draw_start(subject.x_NCHW, attack, generator)
    with eval_mode(subject.model):
        adv_NCHW, _ = strict.perturb(subject.model, subject.x_NCHW, subject.y_N, [start_NCHW], attack=short)
    both = torch.stack([start_NCHW, adv_NCHW])
    order = 2.0 if attack.norm == "l2" else math.inf
    length = float(torch.linalg.vector_norm((both - subject.x_NCHW).flatten(2), order, dim=2).max())
    low, high = float(both.min()), float(both.max())
    faults = {
        f"a perturbation of length {length:.6g} leaves the ball of {attack.eps:g}": length > attack.eps * (1 + 1e-5),
        f"pixels lie in [{low:.4g}, {high:.4g}]": low < 0 or high > 1,
        "an adversarial image is not finite": not math.isfinite(length),
    }
    summary = f"the longest perturbation is {length:.6g} of {attack.eps:g}; pixels lie in [{low:.4g}, {high:.4g}]"
    return Check.from_faults("ball", subject.n, summary, faults, {"length": length, "low": low, "high": high})


def check_gradient(subject: Subject) -> Check:
    """3. The cross-entropy has a usable gradient at nearly all images.

    compat divides by max(‖g‖₂, batch size · 1e-6), so it hardly moves if a confident model's ‖g‖₂ is far smaller.
    strict divides by the logits' spread, so it stops only if the network itself masks its gradient.
    Finds: logits that saturate the softmax, a layer with a zero backward, a quantizer.
    """

    def norms(x_BCHW: Tensor, y_B: Tensor) -> Tensor:
        z_BK, adjoint = linearize(subject.model, x_BCHW)
        gradients = [adjoint(e(z_BK, y_B)) for e in (pgd.logit_gradient, strict.softened_gradient)]
        return torch.stack([g_BCHW.flatten(1).norm(dim=1) for g_BCHW in gradients], dim=1)

    norm_N, strict_N = subject.map_batches(norms).unbind(1)
    floor = pgd.FLOORS["compat"](subject.batch_size)
    sets = {"zero": norm_N == 0, "tiny": ~(norm_N >= TINY), "floored": norm_N < floor, "masked": ~(strict_N > 0)}
    count = {name: int(images_N.sum()) for name, images_N in sets.items()}
    summary = (
        f"{count['tiny']} images have a gradient below {TINY:g} ({count['zero']} of them exactly 0); compat shortens "
        f"its steps at {count['floored']}, below its floor of {floor:g} for {subject.batch_size} images per batch"
    )
    masked = f"the network masks its gradient at {count['masked']} images, so no attack can follow it"
    faults = {masked: exceeds_chance(sets["masked"], subject.n), summary: exceeds_chance(sets["tiny"], subject.n)}
    values = {name: count[name] / subject.n for name in sets}
    return Check.from_faults("gradient", subject.n, summary, faults, values)


def check_batch_size(subject: Subject) -> Check:
    """4. Whether an image is broken does not depend on the batch size.

    Finds: compat at its floor (see `check_gradient`), a network that mixes the images of a batch.
    """

    def compat(size: int) -> Tensor:  # depends on the size of its batch through the floor alone
        generator = seeding.generator(subject.seed, "honesty-batch", subject.y_N.device)
        settings: dict[str, Any] = {"attack": subject.attack, "generator": generator, "form": "compat", "batch": size}
        return subject.misclassified(subject.map_batches(partial(pgd.perturb, subject.model, **settings)))

    large = min(subject.n, subject.batch_size)
    half, few = max(1, large // 2), max(1, large // 20)  # compat changes only with the logarithm of the batch size
    values: dict[str, float] = {}
    changed: dict[str, Tensor] = {}
    for form, small, small_N, large_N in (
        ("strict", half, subject.broken(subject.attack, batch_size=half), subject.broken_N),
        ("compat", few, compat(few), compat(large)),
    ):
        values |= {f"{form}/{size}": unbroken_fraction(N) for size, N in ((small, small_N), (large, large_N))}
        changed_N = small_N != large_N
        changed[f"{form}: {int(changed_N.sum())} images change between {small} and {large} per batch"] = changed_N
    return _compare("batch_size", subject, "; ".join(changed), changed, values)


def check_steps(subject: Subject) -> Check:
    """5. More steps rescue no image; twice the steps, the most steps or another start breaks no further images.

    Finds: an attack with too few steps, gradients that mislead so that one long step beats many short ones, a random
    network.
    """
    attack = subject.attack
    by_steps = [
        subject.broken_N if steps == attack.steps else subject.broken(_change(attack, steps=steps)) for steps in STEPS
    ]
    twice_N = subject.broken(_change(attack, steps=2 * attack.steps))
    other_N = subject.broken(attack, seed=seeding.number(subject.seed, "honesty-start"))
    rescued_N = _most_rescued(by_steps)
    doubled_N, most_N, restarted_N = (images_N & ~subject.broken_N for images_N in (twice_N, by_steps[-1], other_N))
    doubled, most, restarted = (int(images_N.sum()) for images_N in (doubled_N, most_N, restarted_N))
    summary = f"twice the steps break {doubled} more images, {STEPS[-1]} steps {most}, another start {restarted}"
    rescued = f"more steps rescue {int(rescued_N.sum())} images that fewer steps break"
    weak = f"{summary}: raise evaluation.steps or evaluation.restarts"
    faults = {rescued: rescued_N, weak: _largest([doubled_N, most_N, restarted_N])}
    sets = dict(zip(map(str, STEPS), by_steps, strict=True)) | {
        "own": subject.broken_N,
        "doubled": subject.broken_N | doubled_N,
        "restarted": subject.broken_N | restarted_N,
    }
    values = {name: unbroken_fraction(broken_N) for name, broken_N in sets.items()}
    return _compare("steps", subject, summary, faults, values)


def check_radius(subject: Subject) -> Check:
    """6. Accuracy falls as eps grows, and reaches 0 once the ball contains the whole box.

    The unbounded attack, "inf" in values, is PGD with short steps from the image, so that only gradients lead it away.
    Finds: gradients that lead nowhere however long they are followed.
    """
    attack, by_eps = subject.attack, {0.0: subject.misclassified_N}
    for factor in RADII:
        scaled = _change(attack, eps=factor * attack.eps)
        by_eps[scaled.eps] = subject.broken_N if factor == 1 else subject.broken(scaled)
    rescued_N = _most_rescued(list(by_eps.values()))
    # The least ball around any image that contains the box.
    diameter = math.sqrt(subject.x_NCHW[0].numel()) if attack.norm == "l2" else 1.0
    unbounded = _change(attack, eps=diameter, steps=max(40, attack.steps), step_size=None, direction=None)
    perturb = partial(pgd.perturb_from, subject.model, attack=unbounded, form="plain")
    unbounded_N = subject.misclassified_N | subject.misclassified(subject.map_batches(lambda x, y: perturb(x, y, x)))
    values = {f"{eps:g}": unbroken_fraction(broken_N) for eps, broken_N in by_eps.items()}
    values["inf"] = unbroken_fraction(unbounded_N)
    rescued = f"a larger radius rescues {int(rescued_N.sum())} images that a smaller radius breaks"
    unbroken = f"an unbounded attack leaves {int((~unbounded_N).sum())} images unbroken"
    summary = "accuracy " + ", ".join(f"{value:.3g} at {eps}" for eps, value in values.items())
    return _compare("radius", subject, summary, {rescued: rescued_N, unbroken: ~unbounded_N}, values)


def check_order(subject: Subject) -> Check:
    """7. Noise of length eps is weaker than one gradient step of eps, which is weaker than the attack.

    Weaker means, per image: noise leaves a larger margin than the step; the step breaks only what the attack breaks.
    Finds: gradients that point no better than noise, an attack that loses what its first step found.
    """
    attack = subject.attack
    steepest = DIRECTIONS[_change(attack, direction=None).direction_or_default]
    generator = seeding.generator(subject.seed, "honesty-noise", subject.y_N.device)
    noise_NCHW = torch.randn(subject.x_NCHW.shape, generator=generator, device=subject.y_N.device)
    noisy_NCHW = (subject.x_NCHW + attack.eps * steepest(noise_NCHW, 0.0)).clamp(0.0, 1.0)
    one_step = _change(attack, steps=1, step_size=attack.eps, direction=None)
    step = partial(pgd.perturb_from, subject.model, attack=one_step, form="plain")
    stepped_NCHW = subject.map_batches(lambda x, y: step(x, y, x))
    noisy_N, stepped_N = subject.misclassified(noisy_NCHW), subject.misclassified(stepped_NCHW)
    correct_N = ~subject.misclassified_N
    noise_N = correct_N & (_margins(subject, noisy_NCHW) < _margins(subject, stepped_NCHW))
    step_N = stepped_N & correct_N & ~subject.broken_N
    faults = {
        f"noise lowers the margin of {int(noise_N.sum())} images more than one gradient step": noise_N,
        f"one gradient step breaks {int(step_N.sum())} images that the attack does not": step_N,
    }
    sets = {"noise": noisy_N, "step": stepped_N, "own": subject.broken_N}
    values = {name: unbroken_fraction(~correct_N | broken_N) for name, broken_N in sets.items()}
    summary = "accuracy " + ", ".join(f"{value:.3g} under {name}" for name, value in values.items())
    return _compare("order", subject, summary, faults, values)


def check_transfer(subject: Subject) -> Check:
    """8. Adversarial examples of another model break only images that the attack on this model breaks.

    Finds: gradients that are masked in this model alone.
    """
    if not subject.sources:
        return Check.from_faults("transfer", 0, "the study has no other model to take examples from", {}, {})
    values, faults = {"own": unbroken_fraction(subject.broken_N)}, {}
    for name, source in subject.sources.items():
        generator = seeding.generator(subject.seed, "honesty-transfer", subject.y_N.device)
        perturb = partial(pgd.perturb, source, attack=subject.attack, generator=generator)
        transferred_N = subject.misclassified(replace(subject, model=source).map_batches(perturb))
        only_N = transferred_N & ~subject.broken_N
        values[name] = unbroken_fraction(transferred_N)
        fault = f"examples of {name} break {int(only_N.sum())} images that this model's own attack does not"
        faults[fault] = only_N
    return _compare("transfer", subject, "; ".join(faults), faults, values)


def check_scale(subject: Subject) -> Check:
    """9. Whether an image is broken does not depend on the scale of the logits, which changes no decision.

    Only strict is compared. compat depends on the scale by its definition: it stalls on large logits.
    Finds: an attack that flatters small or large logits, logits near the largest number of their format.
    """
    values, changed = {"1": unbroken_fraction(subject.broken_N)}, {}
    for scale in SCALES:
        scaled_N = replace(subject, model=Scaled(subject.model, scale)).broken_N
        values[f"{scale:g}"] = unbroken_fraction(scaled_N)
        changed_N = scaled_N != subject.broken_N
        changed[f"{int(changed_N.sum())} images change with logits times {scale:g}"] = changed_N
    return _compare("scale", subject, "; ".join(changed), changed, values)


def check_ensemble(subject: Subject) -> Check:
    """10. AutoAttack, an ensemble of four attacks, breaks no more images than the attack. Left out if not asked for.

    Finds: whatever the attack's gradients miss; one of the four attacks needs no gradient.
    """
    assert subject.ensemble
    images, (_, channels, height, width) = min(subject.ensemble, subject.n), subject.x_NCHW.shape
    problem = autoattack.find_problem(subject.attack, (channels, height, width))
    if problem:
        return Check.from_faults("ensemble", 0, problem, {}, {})
    rows_M = split_stratified(subject.y_N.cpu(), images, "autoattack")[0].to(subject.y_N.device)
    few = replace(subject, images=subject.images.at(rows_M))
    _, broken_M = autoattack.perturb(
        few.model, few.x_NCHW, few.y_N, attack=few.attack, seed=few.seed, batch_size=few.batch_size
    )
    own_M = subject.broken_N[rows_M]
    only_M = broken_M & ~own_M
    summary = f"AutoAttack breaks {int(only_M.sum())} images that the attack does not"
    sets = {"own": own_M, "autoattack": broken_M, "together": broken_M | own_M}
    values = {name: unbroken_fraction(images_M) for name, images_M in sets.items()}
    return _compare("ensemble", few, summary, {summary: only_M}, values)


#: A function that takes one check.
TakeCheck = Callable[[Subject], Check]

CHECKS: tuple[TakeCheck, ...] = (
    check_outputs,
    check_ball,
    check_gradient,
    check_batch_size,
    check_steps,
    check_radius,
    check_order,
    check_transfer,
    check_scale,
    check_ensemble,
    check_randomization,
)


def list_checks(ensemble: int | None) -> list[TakeCheck]:
    """Return the checks of a model in order; that by AutoAttack only with a number of images for it."""
    return [check for check in CHECKS if ensemble or check is not check_ensemble]


class Scaled(nn.Module):
    """A network with all logits multiplied by a number > 0."""

    def __init__(self, model: nn.Module, scale: float) -> None:
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, x_BCHW: Tensor) -> Tensor:
        z_BK: Tensor = self.model(x_BCHW)
        return self.scale * z_BK

    def linearize(self, x_BCHW: Tensor) -> tuple[Tensor, Adjoint]:
        z_BK, adjoint = linearize(self.model, x_BCHW)
        return self.scale * z_BK, lambda e: adjoint(self.scale * e)


def _compare(
    check: str, subject: Subject, summary: str, faults: Mapping[str, Tensor], values: Mapping[str, float]
) -> Check:
    """Return WARN if the images of a fault exceed chance. The correctly classified images are checked."""
    n = subject.correct_n
    exceeding = {fault: exceeds_chance(images_N, n) for fault, images_N in faults.items()}
    return Check.from_faults(check, n, summary if n else NOTHING, exceeding, values)


def _change(attack: Attack, **changes: Any) -> Attack:
    return attack.model_copy(update=changes)


def _most_rescued(sets: Sequence[Tensor]) -> Tensor:
    """Return the largest set of images that one attack breaks and the next one does not."""
    return _largest([weaker_N & ~stronger_N for weaker_N, stronger_N in pairwise(sets)])


def _largest(sets: Sequence[Tensor]) -> Tensor:
    return max(sets, key=lambda images_N: int(images_N.sum()))


def _margins(subject: Subject, x_NCHW: Tensor) -> Tensor:
    """Return z_y − max_{k≠y} z_k for these versions of the n images."""
    with eval_mode(subject.model):
        z_NK, y_N1 = subject.logits(x_NCHW), subject.y_N.unsqueeze(1)
    return z_NK.gather(1, y_N1).squeeze(1) - z_NK.scatter(1, y_N1, -torch.inf).amax(1)
