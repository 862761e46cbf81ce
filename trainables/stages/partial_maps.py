"""The maps of an unfinished stage: a file mapped into memory, and a checksum for each finished block of it.

Shapes: N training images, B images of a block, C·H·W image.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tune_interpreg.store.files import Damaged, preallocate, read_checked
from tune_interpreg.store.store import Store

#: Images per step. Each block has its own noise generator, so that a resumed stage makes the same maps.
BLOCK = 512


class PartialMaps:
    """The maps_NCHW, float32, that a stage has made so far, in ``folder`` of ``store``.

    What an interrupted stage left there is resumed. If it is damaged, it is set aside with a ``warning``, and the maps
    start again. ``blocks`` holds the checksums of the finished blocks, which took ``seconds``.
    """

    def __init__(self, store: Store, folder: Path, shape: Sequence[int]):
        self._store, self._progress_file, self.file = store, folder / "progress.json", folder / "maps.npy"
        self.block_count = -(-shape[0] // BLOCK)
        self.blocks: list[str] = []
        self.seconds = 0.0
        self.warning: str | None = None
        folder.mkdir(parents=True, exist_ok=True)
        if self._progress_file.exists():
            try:
                self.raw_NCHW = self._resume(tuple(shape))
                return
            except Damaged as error:
                self.warning = f"{store.set_aside(error)}; its maps start again"
                self._progress_file.unlink(missing_ok=True)
        self.raw_NCHW = _create(self.file, tuple(shape), np.float32)

    def _resume(self, shape: tuple[int, ...]) -> np.memmap:
        progress = read_checked(self._progress_file)
        try:
            raw_NCHW = np.lib.format.open_memmap(self.file, mode="r+")
        except (FileNotFoundError, ValueError, EOFError, SyntaxError) as error:
            raise Damaged(self.file, f"is damaged: it is not an .npy file ({error})") from None
        if raw_NCHW.shape != shape or raw_NCHW.dtype != np.float32:
            raise Damaged(self.file, f"is damaged: it has {raw_NCHW.dtype} of shape {list(raw_NCHW.shape)}")
        preallocate(self.file)  # NumPy extends a truncated file with holes
        for block, checksum in enumerate(progress["blocks"]):
            if _checksum(raw_NCHW[block * BLOCK : (block + 1) * BLOCK]) != checksum:
                raise Damaged(self.file, f"is damaged: block {block} has another checksum than when it was made")
        self.blocks, self.seconds = progress["blocks"], progress["seconds"]
        return raw_NCHW

    def add(self, maps_BCHW: np.ndarray, seconds: float) -> None:
        """Write the next block, which took ``seconds``."""
        first = len(self.blocks) * BLOCK
        self.raw_NCHW[first : first + BLOCK] = maps_BCHW
        self.raw_NCHW.flush()
        self.blocks.append(_checksum(maps_BCHW))
        self.seconds += seconds
        progress = {"blocks": self.blocks, "seconds": self.seconds, "of": self.block_count}
        self._store.write_checked(self._progress_file, progress)

    def copy(self, file: Path, dtype: str) -> None:
        """Write all maps to an .npy file of ``dtype``."""
        stored = _create(file, self.raw_NCHW.shape, np.dtype(dtype))
        for first in range(0, len(stored), BLOCK):
            stored[first : first + BLOCK] = self.raw_NCHW[first : first + BLOCK]
        stored.flush()


def _create(file: Path, shape: tuple[int, ...], dtype: Any) -> np.memmap:
    maps = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
    preallocate(file)
    return maps


def _checksum(maps_BCHW: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(maps_BCHW).data).hexdigest()
