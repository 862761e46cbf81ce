"""Run the steps of several seeds: on a GPU captured as one CUDA graph and replayed, elsewhere one by one.

A replay launches a whole step without Python. Each seed is a branch of the graph on a stream of its own; it runs the
same kernels, and gives the same bits, as it would alone. All that a step reads or writes stays at the same address in
every epoch: the rows, the position in the order and the sums lie in the seed's lane, the learning rate in a tensor,
and the graph asks the generators for seed and offset at each replay. Steps that cannot be captured run one by one.

Shapes: B batch, T steps of an epoch.
"""

import gc
import os
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from tune_interpreg import seeding

#: Rows of a batch → the terms of its loss, detached, after one update of the weights.
Step = Callable[[Tensor], Mapping[str, Tensor]]


class Lane:
    """The steps of one seed, with fixed places for their rows (``order_TB``) and terms.

    generators: those that ``step`` draws from. isolate: gives a context for the steps of an epoch, in which the global
    generators are the seed's own. sums: per term, the sum over the steps since ``begin``.
    """

    def __init__(
        self,
        step: Step,
        generators: Sequence[torch.Generator],
        order_TB: Tensor,
        isolate: Callable[[], AbstractContextManager[None]] = nullcontext,
    ):
        self.step, self.generators, self.order_TB, self.isolate = step, generators, order_TB, isolate
        self.sums: dict[str, Tensor] = {}
        self._next_1 = torch.zeros(1, dtype=torch.long, device=order_TB.device)

    def begin(self, order_TB: Tensor) -> None:
        """Begin an epoch in this order."""
        self.order_TB.copy_(order_TB)
        self._next_1.zero_()
        for total in self.sums.values():
            total.zero_()

    def advance(self) -> None:
        """Run the next step; the first follows the last. Capture-safe from the second call on."""
        index_B = self.order_TB.index_select(0, self._next_1).squeeze(0)
        for name, term in self.step(index_B).items():
            if name not in self.sums:
                self.sums[name] = torch.zeros_like(term)
            self.sums[name] += term
        self._next_1.add_(1).remainder_(len(self.order_TB))


_ISSUED: set[str] = set()  # the warnings of this process so far


class Engine:
    """Run the steps of all lanes. Lanes share nothing that a step writes, so a NaN stays in its lane.

    capture: whether to capture steps; needs a GPU. reason: why the capture failed, or None.
    """

    def __init__(self, lanes: Sequence[Lane], device: torch.device, *, capture: bool):
        self.lanes, self.device = lanes, device
        self.reason: str | None = None
        self._capture_due = capture
        self._graph: torch.cuda.CUDAGraph | None = None

    @property
    def captured(self) -> bool:
        return self._graph is not None

    def describe_failure(self, method: str) -> str | None:
        """Return a warning that the steps of ``method`` could not be captured, once per process, else None."""
        rule = f"its steps run one by one, because a GPU could not capture them: {self.reason}"
        warning = f"method {method}: {rule}; let terms read nothing back and draw from batch.noise alone"
        if self.reason is None or warning in _ISSUED:
            return None
        _ISSUED.add(warning)
        return warning

    def prepare(self) -> bool:
        """Capture a step of all lanes on the first call. Return whether that took rehearsal steps, to be undone.

        After a failure, the lanes' generators must be replaced.
        """
        if not self._capture_due:
            return False
        self._capture_due = False
        gc.collect()  # earlier trainings in reference cycles would hold memory and streams
        try:
            with torch.cuda.device(self.device):
                self._graph = self._capture()
        except RuntimeError as error:
            self.reason = _find_reason(error)
        return True

    def discard(self, reason: str) -> None:
        """Run the steps one by one from now on. The lanes' generators must be replaced."""
        self._graph, self.reason = None, reason

    def run(self, steps: int) -> None:
        """Run ``steps`` steps of every lane."""
        if self._graph is None:
            for lane in self.lanes:
                with lane.isolate():
                    for _ in range(steps):
                        lane.advance()
            return
        with torch.cuda.device(self.device):
            for _ in range(steps):
                self._graph.replay()

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Rehearse two steps on the streams of the capture, where libraries initialize, then capture one."""
        trunk, branches = torch.cuda.Stream(), [torch.cuda.Stream() for _ in self.lanes]
        graph = torch.cuda.CUDAGraph()
        if torch.__version__ < "2.14":  # newer versions find the generators themselves, and warn here
            for lane in self.lanes:
                for generator in lane.generators:
                    graph.register_generator_state(generator)
        trunk.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(trunk):
                before = _global_states()
                self._advance_on(branches)
                if _global_states() != before:
                    raise RuntimeError("a layer draws from a global random generator, which the seeds would share")
                with _refuse_synchronization():
                    self._advance_on(branches)
                with torch.cuda.graph(graph, stream=trunk):
                    self._advance_on(branches)
        finally:
            torch.cuda.synchronize()  # an aborted rehearsal may still run, and the caller undoes it
        return graph

    def _advance_on(self, branches: Sequence[torch.cuda.Stream]) -> None:
        """Run a step of every lane on its branch, after the current stream's work and before its next."""
        trunk = torch.cuda.current_stream()
        for lane, branch in zip(self.lanes, branches, strict=True):
            branch.wait_stream(trunk)
            with torch.cuda.stream(branch):
                lane.advance()
        for branch in branches:
            trunk.wait_stream(branch)


def _global_states() -> tuple[Any, ...]:
    return seeding.read_global_state(), torch.cuda.get_rng_state().tolist()


@contextmanager
def _refuse_synchronization() -> Iterator[None]:
    """Raise ``RuntimeError`` for operations that make the host wait for the GPU, because a graph cannot hold them.

    A failed capture leaves more behind than a failed rehearsal.
    """
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that it misses some operations; the capture finds those
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _find_reason(error: BaseException) -> str:
    """Return the message of the first error in the chain, with the last line outside PyTorch that led to it."""
    while error.__context__ is not None:
        error = error.__context__
    message = (str(error).splitlines() or [type(error).__name__])[0]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(os.path.dirname(torch.__file__)):
            return f"{message} ({os.path.basename(frame.filename)}:{frame.lineno})"
    return message
