"""Measures a device: pieces of a study's work, timed by as many processes at once as would work at once.

Cores that share a memory slow each other down, and so do processes on one GPU.
"""

from __future__ import annotations

import logging
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from tune_interpreg.planning import timing
from tune_interpreg.planning.costs import CostsError
from tune_interpreg.planning.pieces import Piece
from tune_interpreg.planning.timing import BLOCK, Seconds
from tune_interpreg.store.store import Store
from tune_interpreg.study.items import Item


def measure(
    pieces: Mapping[str, Piece], probe: Item, shape: tuple[int, ...], *, workers: int
) -> tuple[dict[str, Seconds], Seconds]:
    """The seconds of each piece, by key, and what was seen of the processes.

    Args:
        probe: the training of the model that is judged and explained. shape: N·C·H·W of the training images.
        workers: how many processes measure at once.
    Returns: of the pieces, and ``start``, the seconds from nothing to a worker with its images; ``memory`` and
        ``gpu_memory``, the bytes that the largest process took.
    Raises ``CostsError`` where a piece of work fails.
    """
    one = next(iter(pieces.values()))
    threads, device = max(1, int(one.cpus)), "cuda" if one.gpus else "cpu"
    with TemporaryDirectory() as folder, _pool(workers) as pool:

        def ask(timed: Callable[..., Any], what: object) -> Future[tuple[Any, Seconds]]:
            return pool.submit(_alone, threads, device, folder, timed, what)

        started = time.perf_counter()
        _told("a worker's start", ask(timing.begin, probe))
        start = time.perf_counter() - started
        _stand_in_maps(pieces, Store(folder), shape)
        probed = ask(timing.train_probe, probe)
        asked = {key: ask(timing.TIMED[piece.kind], piece) for key, piece in pieces.items() if piece.kind == "training"}
        _told("standard training", probed)
        asked |= {key: ask(timing.TIMED[piece.kind], piece) for key, piece in pieces.items() if key not in asked}
        found = {key: _told(pieces[key].title, future) for key, future in asked.items()}
    peaks = {name: max(seen[name] for _, seen in found.values()) for name in ("memory", "gpu_memory")}
    return {key: seconds for key, (seconds, _) in found.items()}, peaks | {"start": start}


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end without a word where this one is interrupted."""
    silent = (signal.SIGINT, signal.SIG_DFL)
    with ProcessPoolExecutor(workers, get_context("spawn"), signal.signal, silent) as pool:
        try:
            yield pool
        except BaseException:
            for child in active_children():
                child.terminate()
            raise


def _told(what: str, future: Future[Any]) -> Any:
    try:
        return future.result()
    except Exception as error:
        raise CostsError(f"{what} cannot be measured: {type(error).__name__}: {error}") from None


# ------------------------------------------------------------------ in a process of its own
def _alone(threads: int, device: str, folder: str, timed: Callable[..., Any], what: Any) -> tuple[Any, Seconds]:
    """What ``timed`` says of ``what``, and the process's peaks in bytes."""
    torch.set_num_threads(threads)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    said = timed(what, Store(folder), device)
    peak = re.search(r"VmHWM:\s+(\d+) kB", _status())
    gpu = torch.cuda.max_memory_reserved() if device == "cuda" else 0
    return said, {"memory": int(peak[1]) * 1024 if peak else 0, "gpu_memory": gpu}


def _stand_in_maps(pieces: Mapping[str, Piece], store: Store, shape: tuple[int, ...]) -> None:
    """Maps of the shape of the real ones, which need a trained teacher."""
    wanted = [piece.item.recipe.maps for piece in pieces.values() if piece.kind == "training"]
    for key in {maps.key for maps in wanted if maps}:
        file = store.maps_file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        maps_NCHW = np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=shape)
        for first in range(0, shape[0], BLOCK):
            drawn = np.random.default_rng(first).random(maps_NCHW[first : first + BLOCK].shape, np.float32)
            maps_NCHW[first : first + BLOCK] = drawn
        maps_NCHW.flush()


def _status() -> str:
    status = Path("/proc/self/status")
    return status.read_text() if status.exists() else ""
