"""Whether an adversarial accuracy can be believed: nine checks of a trained model and of the attack that judges it.

Shapes: n images, B batch, C·H·W image, K classes. All lengths are in pixels, and pixels are in [0, 1].

Every comparison is of the same n images. Each check names sets of images that a sound evaluation keeps all but empty,
and warns where one holds more of them than chance makes of half a percent (see `subject.tolerated`). "Trips on" names
the defects that a check is there for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from tune_interpreg import seeding
from tune_interpreg.attacks import autoattack, balls
from tune_interpreg.attacks import pgd as attacks
from tune_interpreg.attacks.balls import DIRECTIONS, STEEPEST
from tune_interpreg.data.dataset import split_stratified
from tune_interpreg.evaluation import measures as evaluation
from tune_interpreg.evaluation.subject import Check, Subject, accuracy, many
from tune_interpreg.networks.piecewise_linear import linearize
from tune_interpreg.study.config import Attack

#: The numbers of steps and the multiples of eps that are compared; steps are 2.5·eps/number long, but the evaluation's.
STEPS, RADII = (1, 10, 40, 100), (0.25, 0.5, 1.0, 1.5, 2.0)

NORMS = {"l2": 2.0, "linf": math.inf}

#: A cross-entropy's gradient below this is as good as none to an attack that divides by max(‖g‖, 1e-6).
TINY = 1e-6


def outputs(subject: Subject) -> Check:
    """1. In eval mode, finite, the same in a second forward, and logits: no probabilities nor their logarithms.

    Trips on: a softmax at the end; a module left in train mode; noise that eval mode does not end; NaN.
    """
    training = sum(module.training for module in subject.model.modules())
    z_NK, again_NK = subject.logits(subject.x_NCHW), subject.logits(subject.x_NCHW)
    apart, size = float((z_NK - again_NK).abs().max()), float(z_NK.abs().max())
    faults = {
        f"{training} modules are in train mode": training > 0,
        "outputs are not finite": not math.isfinite(size),
        f"a second forward differs by up to {apart:.3g}": apart > 1e-5 * size,
        "outputs are probabilities, or their logarithms, and no logits": _is_normalized(z_NK),
    }
    values = {"training_modules": training, "apart": apart, "largest": size}
    return Check.from_faults("outputs", subject.n, "logits, in eval mode, the same in a second forward", faults, values)


def _is_normalized(z_NK: Tensor) -> bool:
    probabilities = bool((z_NK >= 0).all()) and torch.allclose(z_NK.sum(1), z_NK.new_ones(len(z_NK)), atol=1e-4)
    return probabilities or torch.allclose(z_NK.logsumexp(1), z_NK.new_zeros(len(z_NK)), atol=1e-4)


def ball(subject: Subject, perturb: Callable[..., Tensor] = attacks.perturb_from) -> Check:
    """2. Starts and adversarial images lie within eps·(1 + 1e-5), their pixels in [0, 1], none of them NaN.

    Trips on: a projection that overshoots, or that a later operation undoes; a gradient that is NaN.
    """
    attack, generator = subject.attack, seeding.generator(subject.seed, "honesty-ball", subject.y_N.device)
    few = attack.model_copy(update={"steps": min(10, attack.steps), "step_size": attack.step})
    start_NCHW = balls.random_start(subject.x_NCHW, attack, generator)
    with evaluation.eval_mode(subject.model):
        adv_NCHW = perturb(subject.model, subject.x_NCHW, subject.y_N, start_NCHW, attack=few, form="strict")
    both = torch.stack([start_NCHW, adv_NCHW])
    length = float(torch.linalg.vector_norm((both - subject.x_NCHW).flatten(2), NORMS[attack.norm], dim=2).max())
    low, high = float(both.min()), float(both.max())
    faults = {
        f"a perturbation of length {length:.6g} leaves the ball of {attack.eps:g}": length > attack.eps * (1 + 1e-5),
        f"pixels lie in [{low:.4g}, {high:.4g}]": low < 0 or high > 1,
        "an adversarial image is not finite": not math.isfinite(length),
    }
    sound = f"perturbations are at most {length:.6g} long, of {attack.eps:g}; pixels lie in [{low:.4g}, {high:.4g}]"
    return Check.from_faults("ball", subject.n, sound, faults, {"length": length, "low": low, "high": high})


def gradient(subject: Subject) -> Check:
    """3. The cross-entropy has a gradient at all but a few images.

    compat divides by max(‖g‖₂, batch size · 1e-6), and so all but stands still where a confident model's ‖g‖₂ is far
    below that; strict divides that confidence out, and stands still only where the network itself masks its gradient.
    Trips on: logits that saturate softmax; a layer whose backward is zero; a quantizer.
    """

    def norms(x_BCHW: Tensor, y_B: Tensor) -> Tensor:
        z_BK, adjoint = linearize(subject.model, x_BCHW)
        pulled = [adjoint(residual(z_BK, y_B)) for residual in (attacks.residual, attacks.unit_residual)]
        return torch.stack([g_BCHW.flatten(1).norm(dim=1) for g_BCHW in pulled], dim=1)

    norm_N, unit_N = subject.each(norms).unbind(1)
    floor = attacks.FLOORS["compat"](subject.batch_size)
    sets = {"zero": norm_N == 0, "tiny": ~(norm_N >= TINY), "floored": norm_N < floor, "masked": ~(unit_N > 0)}
    count = {name: int(images_N.sum()) for name, images_N in sets.items()}
    told = (
        f"{count['tiny']} images have a gradient below {TINY:g}, {count['zero']} of them none; compat shortens its "
        f"steps at {count['floored']}, below its floor of {floor:g} for {subject.batch_size} images a batch"
    )
    faults = {
        f"the network masks its gradient at {count['masked']} images, where no attack can follow it": many(
            sets["masked"]
        ),
        told: many(sets["tiny"]),
    }
    values = {name: count[name] / subject.n for name in sets}
    return Check.from_faults("gradient", subject.n, told, faults, values)


def batch_size(subject: Subject) -> Check:
    """4. Whether an image is broken does not depend on how many others are attacked beside it.

    Trips on: compat, where its floor (see `gradient`) bites; a network that mixes the images of a batch.
    """
    large = min(subject.n, subject.batch_size)
    values: dict[str, float] = {}
    faults: dict[str, bool] = {}
    for form, part in (("strict", 2), ("compat", 20)):  # compat changes with the logarithm of the batch size alone
        small = max(1, large // part)
        small_N, large_N = (subject.broken(subject.attack, form=form, batch_size=size) for size in (small, large))
        values |= {f"{form}/{small}": accuracy(small_N), f"{form}/{large}": accuracy(large_N)}
        changed_N = small_N != large_N
        faults[f"{form}: {int(changed_N.sum())} images change between {small} and {large} a batch"] = many(changed_N)
    return Check.from_faults("batch_size", subject.n, "; ".join(faults), faults, values)


def steps(subject: Subject) -> Check:
    """5. More steps rescue no image, and neither twice the steps nor more starts break more of them.

    Trips on: an attack that stops too soon, or with steps too short; gradients that mislead, so that one long step
    finds what many short ones miss; a network that answers by chance.
    """
    attack = subject.attack
    by_steps = [subject.broken(_with_steps(attack, k)) for k in STEPS]
    twice_N = subject.broken(attack.model_copy(update={"steps": 2 * attack.steps, "step_size": attack.step}))
    other_N = subject.broken(attack, seed=seeding.number(subject.seed, "honesty-start"))
    rescued = [few_N & ~more_N for few_N, more_N in pairwise(by_steps)]
    rescued_N, doubled_N, restarted_N = _largest(rescued), twice_N & ~subject.pgd_N, other_N & ~subject.pgd_N
    told = f"twice the steps break {int(doubled_N.sum())} images more, another start {int(restarted_N.sum())}"
    faults = {
        f"more steps rescue {int(rescued_N.sum())} images that fewer break": many(rescued_N),
        f"{told}: raise evaluation.steps or evaluation.restarts": many(doubled_N) or many(restarted_N),
    }
    values = {str(k): accuracy(broken_N) for k, broken_N in zip(STEPS, by_steps, strict=True)}
    values |= {"own": accuracy(subject.pgd_N), "doubled": accuracy(subject.pgd_N | doubled_N)}
    return Check.from_faults(
        "steps", subject.n, told, faults, values | {"restarted": accuracy(subject.pgd_N | restarted_N)}
    )


def radius(subject: Subject) -> Check:
    """6. Accuracy falls as eps grows, and to 0 where the ball holds the whole box.

    values: accuracies by eps, as text; "inf" is the unbounded attack. It starts at the image, so that gradients alone
    must lead it out, and not the noise that it would else start from.
    Trips on: gradients that lead nowhere, however far one follows them.
    """
    attack, by_eps = subject.attack, {0.0: subject.missed_N}
    for factor in RADII:
        step_size = attack.step_size and factor * attack.step_size
        scaled = attack.model_copy(update={"eps": factor * attack.eps, "step_size": step_size})
        by_eps[scaled.eps] = subject.broken(scaled)
    rescued_N = _largest([near_N & ~far_N for near_N, far_N in pairwise(by_eps.values())])
    left_N = ~_from_images(subject, _unbounded(subject))
    values = {f"{eps:g}": accuracy(broken_N) for eps, broken_N in by_eps.items()} | {"inf": accuracy(~left_N)}
    faults = {
        f"a larger radius rescues {int(rescued_N.sum())} images that a smaller one breaks": many(rescued_N),
        f"an attack without bounds leaves {int(left_N.sum())} images right": many(left_N),
    }
    told = ", ".join(f"{value:.3g} at {eps}" for eps, value in values.items())
    return Check.from_faults("radius", subject.n, f"accuracy {told}", faults, values)


def order(subject: Subject) -> Check:
    """7. Noise of length eps is weaker than one step of eps along the gradient, and that is weaker than PGD.

    Weaker on an image: noise leaves a larger margin than the step; the step breaks nothing that PGD does not.
    Trips on: gradients that point no better than noise does; an attack that loses what its first step found.
    """
    attack, steepest = subject.attack, DIRECTIONS[STEEPEST[subject.attack.norm]]
    generator = seeding.generator(subject.seed, "honesty-noise", subject.y_N.device)
    noise_NCHW = torch.randn(subject.x_NCHW.shape, generator=generator, device=subject.y_N.device)
    noisy_NCHW = (subject.x_NCHW + attack.eps * steepest(noise_NCHW, 0.0)).clamp(0.0, 1.0)
    one = attack.model_copy(update={"steps": 1, "step_size": attack.eps, "direction": None})
    stepped_NCHW = subject.each(lambda x, y: attacks.perturb_from(subject.model, x, y, x, attack=one, form="strict"))
    broken = {"noise": subject.missed(noisy_NCHW), "step": subject.missed(stepped_NCHW), "pgd": subject.pgd_N}
    noise_N = ~subject.missed_N & (subject.margins(noisy_NCHW) < subject.margins(stepped_NCHW))
    step_N = broken["step"] & ~subject.missed_N & ~subject.pgd_N
    faults = {
        f"noise lowers the margin of {int(noise_N.sum())} images more than one gradient step": many(noise_N),
        f"one gradient step breaks {int(step_N.sum())} images that PGD does not": many(step_N),
    }
    values = {name: accuracy(subject.missed_N | broken_N) for name, broken_N in broken.items()}
    told = ", ".join(f"{value:.3g} under {name}" for name, value in values.items())
    return Check.from_faults("order", subject.n, f"accuracy {told}", faults, values)


def transfer(subject: Subject) -> Check:
    """8. What breaks another model breaks nothing here that the attack on this model does not.

    Trips on: gradients masked in this model alone.
    """
    values, faults = {"own": accuracy(subject.pgd_N)}, {}
    for name, source in subject.sources.items():
        moved_N = subject.missed(_examples_of(source, subject))
        values[name], only_N = accuracy(moved_N), moved_N & ~subject.pgd_N
        faults[f"examples of {name} break {int(only_N.sum())} images that the own attack does not"] = many(only_N)
    if not faults:
        return Check.from_faults("transfer", 0, "the study has no other model to take examples from", {}, values)
    return Check.from_faults("transfer", subject.n, "; ".join(faults), faults, values)


def ensemble(subject: Subject) -> Check:
    """9. AutoAttack, which chooses its own steps, breaks no more than PGD does.

    Trips on: whatever PGD's gradients miss; one of the ensemble's four attacks needs none.
    """
    images = min(subject.ensemble or 0, subject.n)
    if not images:
        return Check.from_faults("ensemble", 0, "checks.autoattack names no images", {}, {})
    _, channels, height, width = subject.x_NCHW.shape
    if problem := autoattack.problem(subject.attack, (channels, height, width)):
        return Check.from_faults("ensemble", 0, problem, {}, {})
    rows_M = split_stratified(subject.y_N.cpu(), images, "autoattack")[0].to(subject.y_N.device)
    _, broken_M = autoattack.perturb(
        subject.model,
        subject.x_NCHW[rows_M],
        subject.y_N[rows_M],
        attack=subject.attack,
        seed=subject.seed,
        batch_size=subject.batch_size,
    )
    pgd_M = subject.pgd_N[rows_M]
    only_M = broken_M & ~pgd_M
    told = f"AutoAttack breaks {int(only_M.sum())} images that PGD does not"
    values = {"own": accuracy(pgd_M), "autoattack": accuracy(broken_M), "together": accuracy(broken_M | pgd_M)}
    return Check.from_faults("ensemble", images, told, {told: many(only_M)}, values)


#: All nine, in their order.
CHECKS: tuple[Callable[[Subject], Check], ...] = (
    outputs,
    ball,
    gradient,
    batch_size,
    steps,
    radius,
    order,
    transfer,
    ensemble,
)


def _largest(sets: list[Tensor]) -> Tensor:
    return max(sets, key=lambda images_N: int(images_N.sum()))


def _with_steps(attack: Attack, number: int) -> Attack:
    return attack if number == attack.steps else attack.model_copy(update={"steps": number, "step_size": None})


def _unbounded(subject: Subject) -> Attack:
    """The attack in the least ball that holds the whole box around any image of it."""
    diameter = math.sqrt(subject.x_NCHW[0].numel()) if subject.attack.norm == "l2" else 1.0
    return subject.attack.model_copy(
        update={"eps": diameter, "steps": max(40, subject.attack.steps), "step_size": None}
    )


def _from_images(subject: Subject, attack: Attack) -> Tensor:
    """bool_N: which images the attack breaks that starts from the image itself."""
    return subject.each(lambda x, y: attacks.broken_from(subject.model, x, y, x, attack=attack, form="strict"))


def _examples_of(source: nn.Module, subject: Subject) -> Tensor:
    """The images, adversarial for another model: the last iterates of the strict attack."""
    generator, attack = seeding.generator(subject.seed, "honesty-transfer", subject.y_N.device), subject.attack
    return replace(subject, model=source).each(
        lambda x, y: attacks.perturb(source, x, y, attack=attack, generator=generator)
    )
