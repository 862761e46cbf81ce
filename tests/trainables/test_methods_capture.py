"""The contract that lets a GPU replay a step: fixed shapes, nothing read back, no branch on data."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.contract import METHODS, B, Make, batch, gradients, making
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tune_interpreg.training.trainer import Batch

ATEN = torch.ops.aten
INDEXED = (ATEN.index, ATEN.index_put, ATEN.index_put_)
READS = (ATEN._local_scalar_dense, ATEN.item, ATEN.is_nonzero, ATEN.equal, ATEN.nonzero, ATEN.masked_select)

#: What an option changes in a step, beside each method's defaults.
OPTIONS = [
    ("adversarial", {"mode": "eval"}),
    ("cosine", {"threshold": "one_sided", "output": "probabilities"}),
    ("interpretation", {"threshold": "two_sided", "output": "probabilities", "sign": "signed"}),
    ("jacobian", {"dropout": "independent", "output": "probabilities"}),
    ("jacobian_projections", {"projections": 3, "norm": "sample"}),
]
CASES = [*((name, {}) for name in METHODS), *OPTIONS]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    yield from making(tmp_path, monkeypatch)


class Operations(TorchDispatchMode):
    """Notes each operation with the shapes of its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Any, list[torch.Size]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shapes = [one.shape for one in args if isinstance(one, Tensor)]
        packet = func.overloadpacket
        masked = packet in INDEXED and any(one is not None and one.dtype == torch.bool for one in args[1])
        self.found.append((ATEN.nonzero if masked else packet, shapes))
        return func(*args, **(kwargs or {}))

    def host_reads(self) -> list[Any]:
        """The operations that bring a value to the host, or whose output's shape depends on values."""
        return [packet for packet, _ in self.found if packet in READS]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_steps_read_nothing_back(name: str, options: dict[str, Any], make: Make) -> None:
    """An epoch reads one mean a term, and whether all weights are finite, however many steps it has.

    So a GPU can capture a step, and waits once an epoch.
    """
    for images in (B, 3 * B):
        trainable = make(name, images=images, net="digits_cnn", **options)
        with Operations() as operations:
            (means,) = trainable.trainer.run_epoch().values()
        assert operations.host_reads() == [ATEN._local_scalar_dense] * len(means)  # the loss is a sum of the means


@pytest.mark.parametrize(("name", "options"), CASES)
def test_steps_do_the_same_whatever_the_data(name: str, options: dict[str, Any], make: Make) -> None:
    """No branch on data: black images of one class take the same operations, on the same shapes, as any."""
    trainable = make(name, **options)
    given = batch(trainable)
    black = Batch(torch.zeros_like(given.x_BCHW), torch.zeros_like(given.y_B), given.target_BCHW, given.noise)
    traces = []
    for one in (given, black):
        with Operations() as operations:
            gradients(trainable, one)
        traces.append(operations.found)
    assert traces[0] == traces[1]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_every_step_of_an_epoch_does_the_same(name: str, options: dict[str, Any], make: Make) -> None:
    """From the choice of the rows to the update of the weights, so that one captured step stands for all."""
    trainable = make(name, images=4 * B, net="digits_cnn", **options)
    trainable.trainer._begin()
    (lane,) = trainable.trainer.engine.lanes
    lane.advance()
    traces = []
    for _ in range(2):
        with Operations() as operations:
            lane.advance()
        assert operations.host_reads() == []
        traces.append(operations.found)
    assert traces[0] == traces[1]
