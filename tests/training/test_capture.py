"""Several seeds in one engine, step by step: against a loop as a textbook has it, and each seed against itself alone.

Where a GPU is at hand the engine replays captured steps, and the same tests compare those. Shapes: see ``engines``.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.contract import METHODS, Make, making
from helpers.engines import (
    CUDA,
    DEVICE,
    MODEL,
    SHAPE,
    TRAINING,
    B,
    N,
    T,
    assert_same_bits,
    drawing,
    guidance,
    images,
    trained,
    trainer,
)
from torch import Tensor, nn

from tune_interpreg import seeding
from tune_interpreg.networks.piecewise_linear import build
from tune_interpreg.training.capture import Engine, Lane
from tune_interpreg.training.trainer import STREAMS, Batch, Trainer, optimizer


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    yield from making(tmp_path, monkeypatch)


# ------------------------------------------------------------------------- a step
def lane_of(seen: list[list[int]]) -> Lane:
    """A lane that notes its rows; its term is their sum."""

    def step(index_B: Tensor) -> Mapping[str, Tensor]:
        seen.append(index_B.tolist())
        return {"rows": index_B.sum().float()}

    return Lane(step, [], torch.zeros(3, 2, dtype=torch.long))


def test_a_lane_goes_through_its_order_and_adds_up_its_terms() -> None:
    """Each epoch from the beginning, in places that stay the same."""
    seen: list[list[int]] = []
    lane = lane_of(seen)
    engine = Engine([lane], torch.device("cpu"), capture=False)
    lane.begin(torch.tensor([[4, 5], [0, 1], [2, 3]]))
    assert not engine.prepare()
    engine.run(3)
    assert seen == [[4, 5], [0, 1], [2, 3]]
    total = lane.sums["rows"]
    assert total == 15
    lane.begin(torch.tensor([[1, 1], [7, 8], [9, 9]]))
    engine.run(2)
    assert seen[3:] == [[1, 1], [7, 8]]
    assert total == 17
    assert lane.sums["rows"] is total
    engine.run(2)
    assert seen[5:] == [[9, 9], [1, 1]]  # so a rehearsal may take more steps than an epoch has


# ------------------------------------------------------------------------ an epoch
def textbook(seed: int, epochs: int) -> tuple[nn.Module, list[dict[str, float]]]:
    """One seed in a plain loop: PyTorch's SGD, a permutation an epoch, each generator seeded by its purpose."""
    data = images()
    model = build(MODEL, SHAPE, 10, seeding.generator(seed, "init")).to(DEVICE)
    alone = Trainer(
        model=MODEL, training=TRAINING, data=data, terms=drawing, seeds=(seed,), guidance=guidance(seed), device=DEVICE
    )
    alone.replicas[0].model = model
    sgd, means = optimizer(model, TRAINING), []
    for epoch in range(epochs):
        streams = {name: seeding.generator(seed, name, DEVICE) for name in STREAMS}
        for name, stream in streams.items():
            stream.manual_seed(seeding.number(seed, name, epoch))
        for layer in model.modules():
            if hasattr(layer, "generator"):
                layer.generator = streams["dropout"]
        alone.replicas[0].streams = streams
        for group in sgd.param_groups:
            group["lr"] = torch.tensor(TRAINING.rate(epoch), device=DEVICE) if CUDA else TRAINING.rate(epoch)
        order_N, totals = torch.randperm(N, generator=streams["order"], device=DEVICE), {"ce": 0.0, "noise": 0.0}
        for step in range(T):
            terms = drawing(model, alone.batch(alone.replicas[0], order_N[step * B : (step + 1) * B]))
            sgd.zero_grad()
            (terms["ce"] + terms["noise"]).backward()
            sgd.step()
            totals = {name: totals[name] + term.detach() for name, term in terms.items()}
        means.append({name: float(total) / T for name, total in totals.items()})
    return model, means


def test_the_engine_trains_with_the_bits_of_a_textbook_loop() -> None:
    """Three epochs of falling rates: the same weights, and the same means of each term."""
    engine = trainer(3)
    means = [one[3] for one in trained(engine, 3)]
    model, expected = textbook(3, 3)
    assert_same_bits(engine.replicas[0].model.state_dict(), model.state_dict())
    assert [{name: one[name] for name in ("ce", "noise")} for one in means] == expected
    assert [one["loss"] for one in means] == [one["ce"] + one["noise"] for one in expected]
    assert engine.engine.captured == CUDA


@pytest.mark.parametrize("name", METHODS)
def test_seeds_side_by_side_have_the_bits_that_each_has_alone_uncaptured(name: str, make: Make) -> None:
    """Of every method, through two epochs: weights, momenta and means."""
    together = make(name, seed=[1, 5], device=DEVICE).trainer
    alone = [_uncaptured(make(name, seed=seed, device=DEVICE).trainer) for seed in (1, 5)]
    for _ in range(2):
        assert together.run_epoch() == {seed: means for one in alone for seed, means in one.run_epoch().items()}
    assert_same_bits(together.state(), {name: tensor for one in alone for name, tensor in one.state().items()})
    assert together.engine.captured == CUDA


def _uncaptured(engine: Trainer) -> Trainer:
    engine.engine = Engine(engine.engine.lanes, torch.device(DEVICE), capture=False)
    return engine


def test_every_epoch_draws_anew() -> None:
    """The mean of the noise is another in each epoch, the same in the same one."""
    one, other = ([means[3]["noise"] for means in trained(trainer(3, capture=capture), 3)] for capture in (True, False))
    assert one == other
    assert len(set(one)) == 3


def test_the_rate_of_each_epoch_is_followed() -> None:
    """A loss Σw has the gradient 1: w falls by lr_e·T an epoch without momentum."""

    def terms(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return {"sum": torch.stack([weight.sum() for weight in model.parameters()]).sum()}

    training = TRAINING.model_copy(update={"momentum": 0.0})
    engine = trainer(2, terms=terms, training=training)
    for epoch in range(3):
        before = {name: weight.detach().clone() for name, weight in engine.replicas[0].model.named_parameters()}
        engine.run_epoch()
        for name, weight in engine.replicas[0].model.named_parameters():
            torch.testing.assert_close(before[name] - weight.detach(), torch.full_like(weight, T * 0.05 / 2**epoch))


def test_all_that_steps_read_and_write_stays_where_it_is() -> None:
    """Weights, momenta, order, sums, and the rate where it is a tensor: a captured step knows places, not names."""
    engine = trainer(3, 4)
    engine.run_epoch()

    def places() -> list[int]:
        lanes = engine.engine.lanes
        own = [tensor for lane in lanes for tensor in (lane.order_TB, *lane.sums.values())]
        rates = [group["lr"] for replica in engine.replicas for group in replica.optimizer.param_groups]
        return [one.data_ptr() for one in (*engine.state().values(), *own, *rates) if isinstance(one, Tensor)]

    before = places()
    trained(engine, 2)
    assert places() == before


def test_a_training_goes_on_in_another_engine() -> None:
    """State after one epoch → another engine, which captures anew → two more = three epochs."""
    whole, first, rest = (trainer(1, 2) for _ in range(3))
    expected = trained(whole, 3)
    trained(first, 1)
    rest.load_state({name: tensor.clone() for name, tensor in first.state().items()}, first.epoch)
    assert trained(rest, 2) == expected[1:]
    assert_same_bits(rest.state(), whole.state())


def test_a_rehearsal_leaves_no_trace() -> None:
    """Steps that were taken to prepare a capture, and then undone, change no bit of what follows."""
    plain, rehearsed = trainer(1, 2, capture=False), trainer(1, 2, capture=False)
    before = {name: tensor.clone() for name, tensor in rehearsed.state().items()}
    rehearsed._begin()
    rehearsed.engine.run(2)
    rehearsed._undo(before)
    assert trained(rehearsed, 2) == trained(plain, 2)
    assert_same_bits(rehearsed.state(), plain.state())


# ----------------------------------------------------------------------- the update
def test_the_fused_update_follows_a_rate_on_the_device() -> None:
    """SGD in one kernel is SGD, up to rounding, when the tensor that holds its rate changes."""
    training = TRAINING.model_copy(update={"lr": 0.1})
    models = [build(MODEL, SHAPE, 10, seeding.generator(0, "init")).to(DEVICE).eval() for _ in range(2)]
    plain = torch.optim.SGD(models[0].parameters(), lr=training.lr, momentum=training.momentum)
    fused = optimizer(models[1], training)
    data = images().train
    for lr in (0.1, 0.03, 0.03):
        plain.param_groups[0]["lr"] = lr
        fused.param_groups[0]["lr"].fill_(lr)
        for model, sgd in zip(models, (plain, fused), strict=True):
            sgd.zero_grad(set_to_none=True)
            F.cross_entropy(model(data.x_NCHW), data.y_N).backward()
            sgd.step()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
