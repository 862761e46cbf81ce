"""Several seeds in one engine: against a textbook loop, and each seed against itself alone.

On a machine with a GPU the engine replays captured steps, and the same tests compare those. Shapes: see ``engines``.
"""

from collections.abc import Mapping

import pytest
import torch
from helpers.contract import METHODS, Make
from helpers.engines import CUDA, DEVICE, assert_same_bits, copy_state, textbook, train, trainer
from torch import Tensor

from tune_interpreg.training.capture import Engine, Lane

pytestmark = pytest.mark.thorough


# --------------------------------------------------------------------- a step
def test_a_lane_follows_its_order_and_sums_its_terms() -> None:
    """Each epoch restarts the order. The sums stay in the same tensors."""
    steps: list[list[int]] = []

    def step(index_B: Tensor) -> Mapping[str, Tensor]:
        steps.append(index_B.tolist())
        return {"rows": index_B.sum().float()}

    lane = Lane(step, [], torch.zeros(3, 2, dtype=torch.long))
    engine = Engine([lane], torch.device("cpu"), capture=False)
    lane.begin(torch.tensor([[4, 5], [0, 1], [2, 3]]))
    assert not engine.prepare()
    engine.run(3)
    total = lane.sums["rows"]
    assert (steps, total) == ([[4, 5], [0, 1], [2, 3]], 15)
    lane.begin(torch.tensor([[1, 1], [7, 8], [9, 9]]))
    engine.run(2)
    assert (steps[3:], total) == ([[1, 1], [7, 8]], 17)
    assert lane.sums["rows"] is total
    engine.run(2)
    assert steps[5:] == [[9, 9], [1, 1]], "a rehearsal may take more steps than an epoch has"


# ------------------------------------------------------------------- an epoch
def test_the_engine_gives_the_bits_of_a_textbook_loop() -> None:
    """The same weights and means of each term, over three epochs of falling rates, with new noise in each."""
    engine = trainer(3)
    means = [epoch[3] for epoch in train(engine, 3)]
    model, expected = textbook(3, 3)
    assert_same_bits(engine.replicas[0].model.state_dict(), model.state_dict())
    assert [{name: epoch[name] for name in ("ce", "noise")} for epoch in means] == expected
    assert [epoch["loss"] for epoch in means] == [epoch["ce"] + epoch["noise"] for epoch in expected]
    assert len({epoch["noise"] for epoch in means}) == 3
    assert engine.engine.captured == CUDA


@pytest.mark.parametrize("name", METHODS)
def test_seeds_together_have_the_bits_of_each_alone_uncaptured(name: str, make: Make) -> None:
    """Weights, momenta and means of every method over two epochs."""
    together = make(name, seed=[1, 5], device=DEVICE).trainer
    alone = [make(name, seed=seed, device=DEVICE).trainer for seed in (1, 5)]
    for engine in alone:
        engine.engine = Engine(engine.engine.lanes, torch.device(DEVICE), capture=False)
    for _ in range(2):
        assert together.run_epoch() == alone[0].run_epoch() | alone[1].run_epoch()
    assert_same_bits(together.state(), alone[0].state() | alone[1].state())
    assert together.engine.captured == CUDA


def test_all_tensors_of_a_step_keep_their_addresses() -> None:
    """Weights, momenta, order, sums and the rate: a captured step knows addresses, not names."""
    engine = trainer(3, 4)
    engine.run_epoch()

    def addresses() -> list[int]:
        lanes = [tensor for lane in engine.engine.lanes for tensor in (lane.order_TB, *lane.sums.values())]
        rates = [replica.optimizer.lr for replica in engine.replicas]
        return [tensor.data_ptr() for tensor in [*engine.state().values(), *lanes, *rates]]

    before = addresses()
    train(engine, 2)
    assert addresses() == before


def test_a_training_resumes_in_another_engine() -> None:
    """State after one epoch → another engine, which captures again → two more epochs = three epochs."""
    whole, first, rest = (trainer(1, 2) for _ in range(3))
    expected = train(whole, 3)
    train(first, 1)
    rest.load_state(copy_state(first), first.epoch)
    assert train(rest, 2) == expected[1:]
    assert_same_bits(rest.state(), whole.state())


def test_a_rehearsal_leaves_no_trace() -> None:
    """Undone steps change no bit of the epochs that follow."""
    plain, rehearsed = trainer(1, 2, capture=False), trainer(1, 2, capture=False)
    before = copy_state(rehearsed)
    rehearsed._begin_epoch()
    rehearsed.engine.run(2)
    rehearsed._undo_rehearsal(before)
    assert train(rehearsed, 2) == train(plain, 2)
    assert_same_bits(rehearsed.state(), plain.state())
