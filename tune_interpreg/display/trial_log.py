"""What TensorBoard shows of one trial, written by the worker itself.

Scalars an epoch, a few images, and the hyperparameters for the HParams tab, whose columns ``overview`` names.
"""

from __future__ import annotations

import io
import os
import socket
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard.summary import hparams, image, scalar

from tune_interpreg.store.files import as_refused
from tune_interpreg.study.fields import Scalar


class Events:
    """An events file of its own in ``folder``.

    step: how many steps are kept of those that were logged there before; TensorBoard drops later ones.

    Events are written at once and by the caller: what a disk refuses, a thread could only print. That alone is raised;
    any other failure to write them leaves the caller with a warning, and without a log.
    """

    whose: ClassVar[str] = "the run"

    def __init__(self, folder: Path, step: int = 0):
        _wait_for_a_new_second(folder)
        self._file = folder / f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        purge = {"step": step + 1, "session_log": SessionLog(status=SessionLog.START)}
        self.write({"file_version": "brain.Event:2"}, purge)

    def write(self, *events: Mapping[str, Any]) -> None:
        """Append events, each the fields of an ``Event``; nothing is open in between."""
        records = io.BytesIO()
        for event in events:
            RecordWriter(records).write(Event(wall_time=time.time(), **event).SerializeToString())
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("ab", buffering=0) as file:
                left = records.getbuffer()
                while left:
                    left = left[file.write(left) :]
        except OSError as error:
            if as_refused(error, self._file.parent):
                raise
            warnings.warn(f"{self._file}: {self.whose} goes on without this log ({error})", stacklevel=3)


class TrialLog(Events):
    """The events of one trial; its steps are epochs.

    Later ones than those kept come from a worker that died before its checkpoint.
    """

    whose = "the trial"

    def scalars(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """One point a curve at ``epoch``."""
        self.write(*({"step": epoch, "summary": scalar(name, value)} for name, value in metrics.items()))

    def maps(self, epoch: int, x_BCHW: Tensor, own_BCHW: Tensor, target_BCHW: Tensor | None) -> None:
        """A row each: the inputs, the target maps where there are any, and the model's own maps.

        Each map is scaled to its own largest magnitude; the images are pixels in [0, 1].
        """
        rows = [_row(x_BCHW)] + [_row(_scaled(maps)) for maps in (target_BCHW, own_BCHW) if maps is not None]
        tag = "maps/input_target_own" if target_BCHW is not None else "maps/input_own"
        self.write({"step": epoch, "summary": image(tag, torch.cat(rows, dim=1), dataformats="CHW")})

    def hparams(self, params: Mapping[str, Scalar]) -> None:
        """The trial's line in the HParams tab; each metric's value there is its curve's last point."""
        _, *line = hparams(dict(params), {})
        self.write(*({"summary": summary} for summary in line))


def _wait_for_a_new_second(folder: Path) -> None:
    """TensorBoard reads a folder's files by name, and within the second of their making names are in no order."""
    while any(folder.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
        time.sleep(0.05)


def _scaled(maps_BCHW: Tensor) -> Tensor:
    largest = maps_BCHW.abs().amax(dim=(-3, -2, -1), keepdim=True)
    return maps_BCHW.abs() / largest.clamp(min=torch.finfo(maps_BCHW.dtype).tiny)


def _row(x_BCHW: Tensor) -> Tensor:
    """Images side by side, one pixel apart."""
    return torch.cat(list(torch.nn.functional.pad(x_BCHW, (1, 1, 1, 1), value=0.5)), dim=-1)
