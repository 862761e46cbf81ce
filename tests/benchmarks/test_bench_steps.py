"""The step benchmark: its rivals compute what the engine computes, its floors are sums, its page tells what it saw."""

import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tune_interpreg import registry, seeding
from tune_interpreg.attacks import balls
from tune_interpreg.attacks import pgd as attacks
from tune_interpreg.gradients import saliency
from tune_interpreg.networks.layers import set_dropout_generator
from tune_interpreg.study.config import MapSettings

sys.path.append(str(Path(__file__).parent))
import bench_steps
import steps_cases
import steps_floor
import steps_report
import steps_textbook
from steps_floor import Row, Timed

NETS = [*steps_cases.CASES]


class Small(steps_cases.Case):
    """A case of four images a batch."""

    @property
    def batch(self) -> int:
        return 4


@pytest.fixture(scope="module", params=NETS)
def case(request: pytest.FixtureRequest) -> Small:
    known = steps_cases.CASES[request.param]
    return Small(known.study, known.shape, steps=2, samples=2)


def assert_alike(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


def gradients(case: Small, model: nn.Module, loss: steps_cases.Loss) -> list[Tensor]:
    """The loss in train mode and its parameters' gradients, with the same draws of dropout whoever runs."""
    set_dropout_generator(model.train(), seeding.generator(0, "dropout"))
    value = loss(model)
    return [value.detach(), *torch.autograd.grad(value, list(model.parameters()))]


@pytest.mark.parametrize("name", registry.names("methods"))
def test_textbook_steps_are_the_methods_own(case: Small, name: str) -> None:
    """The loss and every gradient to 1e-5, in float32; the repeated batch has other masks, so it runs without any."""
    for rival, loss in case.rivals(name).items():
        layers = [layer for layer in case.net.modules() if hasattr(layer, "p")] if "repeated" in rival else []
        shares = [layer.p for layer in layers]
        for layer in layers:
            layer.p = 0.0
        try:
            assert_alike(gradients(case, case.net, case.method(name)), gradients(case, case.plain, loss))
        finally:
            for layer, p in zip(layers, shares, strict=True):
                layer.p = p


def test_every_method_that_ships_has_a_rival() -> None:
    assert all(steps_cases.CASES["mnist_cnn"].rivals(name) for name in registry.names("methods"))


def test_textbook_and_foolbox_attacks_are_ours(case: Small) -> None:
    """From the same start, on images that no step takes out of the box, where foolbox projects in another order."""
    x, y = case.images(4)
    x, attack = 0.4 + 0.2 * x, case.attack(2).model_copy(update={"eps": 0.3, "step_size": 0.05})
    start = balls.random_start(x, attack, case.noise())
    ours = attacks.perturb_from(case.net.eval(), x, y, start, attack=attack, form="strict")
    for theirs in (steps_textbook.pgd, steps_textbook.foolbox_pgd):
        assert_alike([ours - start], [theirs(case.plain.eval(), x, y, start, attack) - start])


def test_textbook_and_captum_maps_are_ours(case: Small) -> None:
    """Of the same noise."""
    x, y = case.images(4)
    theirs = {"sigma": 0.15, "samples": 2}
    generator, settings = torch.Generator().manual_seed(5), MapSettings(**theirs)
    ours = saliency.smoothgrad(case.net.eval(), x, y, settings=settings, generator=generator, chunk=1)
    for maps in (steps_textbook.smoothgrad, steps_textbook.captum_smoothgrad):
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(5)
            assert_alike([ours], [maps(case.plain.eval(), x, y, **theirs)])


@pytest.mark.parametrize(("net", "forward", "first"), [("mnist_cnn", 27.8e6, 1.25e6), ("cifar_cnn", 113.4e6, 3.1e6)])
def test_operations_are_those_of_the_papers_nets(net: str, forward: float, first: float) -> None:
    assert steps_cases.CASES[net].forward == pytest.approx((forward, first), rel=0.01)


def test_rivals_take_turns_after_a_round_that_does_not_count() -> None:
    turns: list[str] = []
    row = Row("row", 1.0, {name: lambda name=name: turns.append(name) for name in ("first", "second", "third")})
    (one,) = steps_floor.timed([row], rounds=2)
    assert turns == ["first", "second", "third", "second", "third", "first", "third", "first", "second"]
    assert {name: len(seconds) for name, seconds in one.seconds.items()} == {"first": 2, "second": 2, "third": 2}


def rows(**ours: float) -> dict[str, Timed]:
    """A net's rows, in which ours takes 1 s unless it says otherwise, and every rival 2 s."""
    named = {
        **{f"product of {side}": () for side in steps_floor.SIDES},
        "standard": ("textbook",),
        "interpretation": ("double backpropagation",),
        "jacobian": ("repeated batch", "batched double backpropagation"),
        "PGD, 40 steps": ("foolbox",),
        "SmoothGrad, 512 images, N = 4": ("captum",),
        "an epoch of 5 batches": ("DataLoader",),
        "idea: one": ("memory kept",),
    }
    made = {}
    for name, rivals in named.items():
        seconds = ours.get(name.partition(",")[0].partition(" ")[0], 1.0)
        short = {"bfloat16": [(0.5, 0.5)] * 2} if name.startswith(("PGD", "SmoothGrad")) else {}
        others = {rival: [(2.0, 2.0), (2.0, 3.0)] for rival in rivals}
        made[name] = Timed(name, 1e9, {"ours": [(seconds, seconds), (seconds, 2 * seconds)]} | short | others)
    return made


def test_goals_are_judged_by_processor_time() -> None:
    told = dict(reversed(one) for one in steps_report.verdicts({"net": rows(PGD=2.0)}))
    assert told["net, standard: at least 75% of the machine's rate: 100%"]
    assert told["net, PGD, 40 steps: at least 75% of the machine's rate: 50%"] is False
    assert told["net, PGD, 40 steps: at least 1.3 times as fast as foolbox: 1.00"] is False
    assert told["net, jacobian: at least 2.5 times as fast as repeated batch: 2.00"] is False
    assert told["net, jacobian: at least 1.5 times as fast as batched double backpropagation: 2.00"]
    assert told["net, PGD, 40 steps: bfloat16 at least 1.6 times as fast: 4.00"]
    assert not any("torchattacks" in goal for goal in told)


def test_the_page_shows_each_rival_and_who_is_missing() -> None:
    page = steps_report.page({"one process a core": {"net": rows()}}, load=0.5, threads=bench_steps.WAYS)
    assert (
        "| standard | 1000.0 | 1000.0 [1000.0, 1000.0] | 100% | 1500.0 | textbook 2000.0 [2000.0, 2000.0], ×2.00 |"
        in page
    )
    assert "torchattacks not installed" in page
    assert "load average 0.5" in page
    assert "| one | 1000.0 [1000.0, 1000.0] | 2000.0 [2000.0, 2000.0] | 2.00 |" in page
    assert "- **MISSED** net, jacobian: at least 2.5" in page


def test_processes_side_by_side_pool_their_rounds() -> None:
    """Also after the way through JSON, in which they are handed over."""
    told = json.loads(json.dumps([asdict(row) for row in rows().values()]))
    found = steps_floor.pooled([[Timed(**row) for row in told]] * 2)
    assert len(found["standard"].seconds["ours"]) == 4
    assert steps_floor.spread(found["standard"], "textbook", steps_report.WALL) == (2.0, 3.0)
    assert steps_floor.rate(found, steps_report.CPU) == 1e9
