"""TensorBoard's view of one trial, written by its worker: curves by epoch, a few images, and hyperparameters.

TensorBoard sorts its cards by tag. A tag is a metric's name behind a group, so that the first page shows what a user
looks for first: accuracies and losses by epoch, then rates, final results and images.
"""

import io
import os
import socket
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard.summary import hparams, image, scalar

from tune_interpreg.store.files import as_refused
from tune_interpreg.study.fields import Scalar
from tune_interpreg.study.metric_names import LEARNING_RATE, SAMPLES_PER_SECOND


def tag(metric: str) -> str:
    """Return a metric's tag in TensorBoard, such as ``accuracy/val/accuracy`` or ``loss/train/ce``."""
    group = {"val": "accuracy", "train": "loss"}.get(metric.partition("/")[0], "results")
    return f"{'rate' if metric in (LEARNING_RATE, SAMPLES_PER_SECOND) else group}/{metric}"


class TrialLog:
    """The events of one trial in a file of their own; steps are epochs.

    Events are written at once by the calling thread, because a writer thread could only print that the disk is full.
    That error is raised. Any other failure to write leaves the trial with a warning, and without a log.

    Args:
        folder: may hold the files of earlier workers of this trial.
        epoch: last epoch to keep. TensorBoard drops later events of a worker that died before its checkpoint.
    """

    def __init__(self, folder: Path, epoch: int = 0):
        # TensorBoard reads a folder's files in the order of their names.
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        moment = f"{seconds:010d}.{nanoseconds:09d}"
        self._file = folder / f"events.out.tfevents.{moment}.{socket.gethostname()}.{os.getpid()}"
        restart = {"step": epoch + 1, "session_log": SessionLog(status=SessionLog.START)}
        self._write({"file_version": "brain.Event:2"}, restart)

    def scalars(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Write one point per metric."""
        self._write(*({"step": epoch, "summary": scalar(tag(name), value)} for name, value in metrics.items()))

    def maps(self, epoch: int, x_BCHW: Tensor, own_BCHW: Tensor, target_BCHW: Tensor | None) -> None:
        """Write an image with rows of inputs in [0, 1], target maps if any, and own maps, scaled to their maxima."""
        maps = [own_BCHW] if target_BCHW is None else [target_BCHW, own_BCHW]
        rows = [_row(x_BCHW), *(_row(_scale(map_BCHW)) for map_BCHW in maps)]
        name = "saliency/input_own" if target_BCHW is None else "saliency/input_target_own"
        self._write({"step": epoch, "summary": image(name, torch.cat(rows, dim=1), dataformats="CHW")})

    def hparams(self, params: Mapping[str, Scalar]) -> None:
        """Write the trial's row in the HParams tab, without columns: TensorBoard collects them from all trials."""
        _, *row = hparams(dict(params), {})
        self._write(*({"summary": summary} for summary in row))

    def _write(self, *events: Mapping[str, Any]) -> None:
        """Append events, each given by the fields of an ``Event``; the file is closed in between."""
        records = io.BytesIO()
        for event in events:
            RecordWriter(records).write(Event(wall_time=time.time(), **event).SerializeToString())
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("ab", buffering=0) as file:
                rest = records.getbuffer()
                while rest:
                    rest = rest[file.write(rest) :]
        except OSError as error:
            if as_refused(error, self._file.parent):
                raise
            warnings.warn(f"{self._file}: the trial continues without this log ({error})", stacklevel=3)


def _scale(maps_BCHW: Tensor) -> Tensor:
    largest = maps_BCHW.abs().amax(dim=(-3, -2, -1), keepdim=True)
    return maps_BCHW.abs() / largest.clamp(min=torch.finfo(maps_BCHW.dtype).tiny)


def _row(x_BCHW: Tensor) -> Tensor:
    """Return the images side by side, one pixel apart."""
    return torch.cat(list(torch.nn.functional.pad(x_BCHW, (1, 1, 1, 1), value=0.5)), dim=-1)
