"""The step benchmark: rivals compute the engine's results, floors are correct sums, the page reports all rows."""

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
from tune_interpreg.attacks import balls, pgd
from tune_interpreg.gradients import saliency
from tune_interpreg.networks.layers import set_dropout_generator
from tune_interpreg.study.config import MapSettings
from tune_interpreg.study.file.step_costs import STEP_COSTS

sys.path.append(str(Path(__file__).parent))
import steps_cases
import steps_textbook
from steps_floor import SIDES, Row, Timed, machine_rate, pool_processes, time_rows
from steps_report import goals, page

pytestmark = pytest.mark.thorough


class Small(steps_cases.Case):
    batch = 2


@pytest.fixture(scope="module", params=[*steps_cases.CASES])
def case(request: pytest.FixtureRequest) -> Small:
    full = steps_cases.CASES[request.param]
    return Small(full.study, full.shape, steps=2, samples=2)


def assert_close(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    for actual, expected in zip(ours, theirs, strict=True):
        assert (actual - expected).norm() <= 1e-5 * expected.norm()


def gradients(model: nn.Module, loss: steps_cases.Loss) -> list[Tensor]:
    """Return the loss in train mode and its gradients, with the same dropout masks for all rivals."""
    set_dropout_generator(model.train(), seeding.generator(0, "dropout"))
    value = loss(model)
    return [value.detach(), *torch.autograd.grad(value, list(model.parameters()))]


#: Methods without a textbook form. Their formulas are tested in ``trainables/test_field_methods``.
ALONE = {"aligned", "curvature", "distill", "gaussian", "gradient_align", "gradient_match", "mart", "trades"}


@pytest.mark.parametrize("name", sorted({*registry.names("methods")} - ALONE))
def test_textbook_steps_equal_the_methods(case: Small, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and gradients agree to 1e-5. A repeated batch has other masks, so it runs without dropout."""
    rivals = case.rivals(name)
    assert rivals
    for rival, loss in rivals.items():
        with monkeypatch.context() as patch:
            for layer in case.net.modules():
                if "repeated" in rival and hasattr(layer, "p"):
                    patch.setattr(layer, "p", 0.0)
            assert_close(gradients(case.net, case.method(name)), gradients(case.plain, loss))


def test_rivals_attacks_and_maps_equal_ours(case: Small) -> None:
    """From the same start, on images that stay inside the box, where foolbox projects in another order."""
    x, y = case.images(4)
    x, attack = 0.4 + 0.2 * x, case.attack(2).model_copy(update={"eps": 0.3, "step_size": 0.05})
    start = balls.draw_start(x, attack, case.noise())
    ours = pgd.perturb_from(case.net.eval(), x, y, start, attack=attack, form="plain")
    for rival in (steps_textbook.pgd, steps_textbook.foolbox_pgd):
        assert_close([ours - start], [rival(case.plain.eval(), x, y, start, attack) - start])
    options = {"sigma": 0.15, "samples": 2}
    generator, settings = torch.Generator().manual_seed(5), MapSettings(**options)
    ours = saliency.smoothgrad(case.net.eval(), x, y, settings=settings, generator=generator, chunk=1)
    for rival in (steps_textbook.smoothgrad, steps_textbook.captum_smoothgrad):
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(5)
            assert_close([ours], [rival(case.plain.eval(), x, y, **options)])


@pytest.mark.parametrize(("net", "forward", "first"), [("mnist_cnn", 27.8e6, 1.25e6), ("cifar_cnn", 113.4e6, 3.1e6)])
def test_operations_are_those_of_the_papers_networks(net: str, forward: float, first: float) -> None:
    assert steps_cases.CASES[net].forward == pytest.approx((forward, first), rel=0.01)


@pytest.mark.parametrize("name", sorted(ALONE))
def test_methods_without_a_textbook_form_can_be_timed(case: Small, name: str) -> None:
    """And their floor is that of standard training at least."""
    assert all(tensor.isfinite().all() for tensor in gradients(case.net, case.method(name)))
    assert case.work(name) >= case.work("standard")


def test_the_options_guide_states_the_cost_of_every_method() -> None:
    assert STEP_COSTS.keys() == {*registry.names("methods")}
    for name, cost in STEP_COSTS.items():
        case = steps_cases.CASES["mnist_cnn"]
        assert cost.floor == pytest.approx(case.work(name) / case.work("standard"), abs=0.05)
        assert cost.measured >= 0.9 * cost.floor, "a step cannot take less than its operations"


def test_rivals_take_turns_after_a_round_that_does_not_count() -> None:
    turns: list[str] = []
    row = Row("row", 1.0, {name: lambda name=name: turns.append(name) for name in ("first", "second", "third")})
    (timed,) = time_rows([row], rounds=2)
    assert turns == ["first", "second", "third", "second", "third", "first", "third", "first", "second"]
    assert {name: len(seconds) for name, seconds in timed.seconds.items()} == {"first": 2, "second": 2, "third": 2}


RIVALS = {
    **{f"product of {side}": () for side in SIDES},
    "standard": ("textbook",),
    "interpretation": ("double backpropagation",),
    "jacobian": ("repeated batch", "batched double backpropagation"),
    "PGD, 40 steps": ("foolbox",),
    "SmoothGrad, 512 images, N = 4": ("captum",),
    "an epoch of 5 batches": ("DataLoader",),
}


def rows(**ours: float) -> dict[str, Timed]:
    """Return a network's rows: ours take 1 s or the given seconds, every rival 2 s, bfloat16 0.5 s."""
    made = {}
    for name, rivals in RIVALS.items():
        seconds = ours.get(name.partition(",")[0], 1.0)
        times = {"ours": [(seconds, seconds), (seconds, 2 * seconds)]}
        times |= {rival: [(2.0, 2.0), (2.0, 3.0)] for rival in rivals}
        if name.startswith(("PGD", "SmoothGrad")):
            times["bfloat16"] = [(0.5, 0.5)] * 2
        made[name] = Timed(name, 1e9, times)
    return made


def test_goals_are_judged_by_processor_time() -> None:
    met = {goal: met for met, goal in goals({"net": rows(PGD=2.0)})}
    assert met["net, standard: at least 75% of the machine's rate: 100%"]
    assert met["net, PGD, 40 steps: at least 75% of the machine's rate: 50%"] is False
    assert met["net, PGD, 40 steps: ours at least 1.3 times as fast as foolbox: 1.00"] is False
    assert met["net, jacobian: ours at least 1.5 times as fast as batched double backpropagation: 2.00"]
    assert met["net, PGD, 40 steps: bfloat16 at least 1.6 times as fast as ours: 4.00"]
    assert not any("torchattacks" in goal for goal in met)


def test_the_page_shows_each_rival_and_names_the_missing_one() -> None:
    text = page({"net": rows()}, load=0.5, processes=2)
    assert "| 1000.0 [1000.0, 1000.0] | 100% | 1500.0 | textbook 2000.0 [2000.0, 2000.0], ×2.00 |" in text
    assert "torchattacks not installed" in text


def test_processes_pool_their_rounds() -> None:
    process = [Timed(**row) for row in json.loads(json.dumps([asdict(row) for row in rows().values()]))]
    pooled = pool_processes([process, process])
    assert pooled["standard"].seconds["textbook"] == [(2.0, 2.0), (2.0, 3.0)] * 2
    assert machine_rate(pooled) == 1e9
