"""Steps of several seeds: on a GPU captured side by side as one CUDA graph and replayed, elsewhere run one by one.

A captured step is launched as a whole, with nothing from Python in between: each seed is a branch of the graph, on a
stream of its own, with the kernels and so the bits that it has alone. Whatever a step reads or writes lies at the
same place in every epoch: rows, place in the order and sums in its lane, the rate in a tensor, draws in generators
that the graph asks for seed and offset at each replay. A step that cannot be captured runs like on a CPU.

Shapes: B batch, T steps of an epoch.
"""

from __future__ import annotations

import gc
import os
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

#: The rows of a batch → the terms of its loss, without graph, after one update of the weights.
Step = Callable[[Tensor], Mapping[str, Tensor]]


class Lane:
    """One seed's steps, and the places where they find their rows and leave their terms.

    step: of this seed. generators: those that it draws from. order_TB: the rows of each step of the epoch.
    sums: of each term, over the steps since ``begin``.
    """

    def __init__(self, step: Step, generators: Sequence[torch.Generator], order_TB: Tensor):
        self.step, self.generators, self.order_TB = step, generators, order_TB
        self.sums: dict[str, Tensor] = {}
        self._next_1 = torch.zeros(1, dtype=torch.long, device=order_TB.device)

    def begin(self, order_TB: Tensor) -> None:
        """Begin an epoch, in this order."""
        self.order_TB.copy_(order_TB)
        self._next_1.zero_()
        for total in self.sums.values():
            total.zero_()

    def advance(self) -> None:
        """Do the next step; after the last one comes the first. Capture-safe from the second time on."""
        index_B = self.order_TB.index_select(0, self._next_1).squeeze(0)
        for name, term in self.step(index_B).items():
            if name not in self.sums:
                self.sums[name] = torch.zeros_like(term)
            self.sums[name] += term
        self._next_1.add_(1).remainder_(len(self.order_TB))


#: What this process has told its user.
_TOLD: set[str] = set()


class Engine:
    """Runs the lanes' steps. Lanes share nothing that a step writes, so a NaN stays in its lane.

    device: of all lanes. capture: whether to capture steps, which takes a GPU. reason: why they could not be, or None.
    """

    def __init__(self, lanes: Sequence[Lane], device: torch.device, *, capture: bool):
        self.lanes, self.device = lanes, device
        self.reason: str | None = None
        self._due = capture
        self._graph: torch.cuda.CUDAGraph | None = None

    @property
    def captured(self) -> bool:
        """Whether steps are replayed."""
        return self._graph is not None

    def describe_failure(self, method: str) -> str | None:
        """For the user: why the steps of ``method`` could not be captured; the same only once in a process."""
        told = (
            f"method {method}: its steps run one by one, because a GPU could not capture them: {self.reason}; "
            "let terms read nothing back and draw from batch.noise alone"
        )
        if self.reason is None or told in _TOLD:
            return None
        _TOLD.add(told)
        return told

    def prepare(self) -> bool:
        """Capture a step of all lanes, the first time that this is asked for; True: two were taken, to be undone.

        Where that fails, ``reason`` says why, and the lanes' generators may be of no more use.
        """
        if not self._due:
            return False
        self._due = False
        gc.collect()  # what a dead training left in cycles would hold memory, and its streams
        try:
            with torch.cuda.device(self.device):
                self._graph = self._capture()
        except RuntimeError as error:
            self.reason = _reason(error)
        return True

    def run(self, steps: int) -> None:
        """So many steps of every lane."""
        if self._graph is None:
            for lane in self.lanes:
                for _ in range(steps):
                    lane.advance()
            return
        with torch.cuda.device(self.device):
            for _ in range(steps):
                self._graph.replay()

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Two steps to rehearse, on the streams of the capture: libraries set up what they need for each stream."""
        trunk, branches = torch.cuda.Stream(), [torch.cuda.Stream() for _ in self.lanes]
        graph = torch.cuda.CUDAGraph()
        self._register(graph)
        trunk.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(trunk):
                self._advance_on(branches)
                with _no_waiting():
                    self._advance_on(branches)
                with torch.cuda.graph(graph, stream=trunk):
                    self._advance_on(branches)
        finally:
            torch.cuda.synchronize()  # a rehearsal that broke off still runs there, and is to be undone
        return graph

    def _advance_on(self, branches: Sequence[torch.cuda.Stream]) -> None:
        """A step of every lane, each on its branch, between what the current stream did and what it does next."""
        trunk = torch.cuda.current_stream()
        for lane, branch in zip(self.lanes, branches, strict=True):
            branch.wait_stream(trunk)
            with torch.cuda.stream(branch):
                lane.advance()
        for branch in branches:
            trunk.wait_stream(branch)

    def _register(self, graph: torch.cuda.CUDAGraph) -> None:
        """Tell the graph whom its steps draw from; since PyTorch 2.14 it sees that itself, and warns of being told."""
        if torch.__version__ < "2.14":
            for generator in (one for lane in self.lanes for one in lane.generators):
                graph.register_generator_state(generator)


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Within it, an operation for which the host would wait on the GPU raises ``RuntimeError``: none can be captured.

    A failed capture leaves more behind than a failed rehearsal.
    """
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that it does not see all such operations; the capture does
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _reason(error: BaseException) -> str:
    """What went wrong first, and the last line outside of PyTorch that led there."""
    while error.__context__ is not None:
        error = error.__context__
    said = (str(error).splitlines() or [type(error).__name__])[0]
    inside = os.path.dirname(torch.__file__)
    frames = [one for one in traceback.extract_tb(error.__traceback__) if not one.filename.startswith(inside)]
    return f"{said} ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else said
