"""What TensorBoard shows of one trial, written by the worker itself.

Scalars an epoch, a few images, and the hyperparameters with the result metrics in the HParams tab.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from tune_interpreg.fields import Param


class TrialLog:
    """The event file of one trial in ``folder``.

    epoch: how many epochs are kept of those that were logged before. Later ones come from a worker that died
    before its checkpoint, and TensorBoard drops them.
    """

    def __init__(self, folder: Path, epoch: int = 0):
        _wait_for_a_new_second(folder)
        self._writer = SummaryWriter(str(folder), purge_step=epoch + 1, max_queue=1000)

    def scalars(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """One point a curve at ``epoch``."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def maps(self, epoch: int, x_BCHW: Tensor, own_BCHW: Tensor, target_BCHW: Tensor | None) -> None:
        """A row each: the inputs, the target maps where there are any, and the model's own maps.

        Each map is scaled to its own largest magnitude; the images are pixels in [0, 1].
        """
        rows = [_row(x_BCHW)] + [_row(_scaled(maps)) for maps in (target_BCHW, own_BCHW) if maps is not None]
        tag = "maps/input_target_own" if target_BCHW is not None else "maps/input_own"
        self._writer.add_image(tag, torch.cat(rows, dim=1), epoch)

    def hparams(self, params: Mapping[str, Param], metrics: Mapping[str, float]) -> None:
        """The trial's line in the HParams tab; each metric's value there is its curve's last point."""
        events = self._writer.file_writer
        assert events is not None
        for summary in hparams(dict(params), dict(metrics)):
            events.add_summary(summary)

    def close(self) -> None:
        self._writer.close()


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
