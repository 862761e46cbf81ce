"""The maps of a stage under way: a file mapped into memory, and a checksum for each block of it that is finished.

Shapes: N training images, B images of a block, C·H·W image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tune_interpreg.store import files as integrity
from tune_interpreg.store.store import Damaged, Store

#: Images a step; each block has its own noise generator, so that an interrupted stage goes on with the same maps.
BLOCK = 512


class PartialMaps:
    """The maps_NCHW, float32, that a stage has made so far, in ``folder`` of ``store``; it goes on with what is whole.

    blocks: the checksums of the finished ones. seconds: that they took. warning: what was damaged, if anything was.
    """

    def __init__(self, store: Store, folder: Path, shape: Sequence[int]):
        self._store, self._file, self._progress = store, folder / "maps.npy", folder / "progress.json"
        self.warning: str | None = None
        folder.mkdir(parents=True, exist_ok=True)
        known = self._known()
        begun = self._reopened(tuple(shape)) if known["blocks"] else None
        self.blocks = [] if begun is None else self._whole(begun, known["blocks"])
        self.seconds = float(known["seconds"]) if self.blocks else 0.0
        self.raw_NCHW = _created(self._file, tuple(shape), np.float32) if begun is None else begun

    def add(self, maps_BCHW: np.ndarray, seconds: float) -> None:
        """The next block, which took ``seconds``; once this returns, it is kept."""
        first = len(self.blocks) * BLOCK
        self.raw_NCHW[first : first + BLOCK] = maps_BCHW
        self.raw_NCHW.flush()
        self.blocks.append(_checksum(maps_BCHW))
        self.seconds += seconds
        known = {"blocks": self.blocks, "seconds": self.seconds, "of": self.of}
        self._store.write_sealed(self._progress, known)

    @property
    def of(self) -> int:
        """How many blocks the maps have."""
        return -(-len(self.raw_NCHW) // BLOCK)

    def copy(self, file: Path, dtype: str) -> None:
        """All maps as an .npy file of ``dtype``."""
        stored = _created(file, self.raw_NCHW.shape, np.dtype(dtype))
        for first in range(0, len(stored), BLOCK):
            stored[first : first + BLOCK] = self.raw_NCHW[first : first + BLOCK]
        stored.flush()

    def drop(self) -> None:
        """Remove the file: its maps lie elsewhere now."""
        self._file.unlink()

    def _known(self) -> dict[str, Any]:
        nothing: dict[str, Any] = {"blocks": [], "seconds": 0.0}
        try:
            return integrity.opened(self._progress) if self._progress.exists() else nothing
        except Damaged as error:
            self._warn(self._store.set_aside(error))
            return nothing

    def _reopened(self, shape: tuple[int, ...]) -> np.memmap | None:
        """The file's maps; None, with the file set aside, where it holds none of this shape."""
        try:
            raw_NCHW = np.lib.format.open_memmap(self._file, mode="r+")
            if raw_NCHW.shape == shape and raw_NCHW.dtype == np.float32:
                integrity.preallocate(self._file)  # a truncated file was just filled up with holes
                return raw_NCHW
            reason = f"is damaged: it has {raw_NCHW.dtype} of shape {list(raw_NCHW.shape)}, not the stage's maps"
        except FileNotFoundError:
            reason = "is missing"
        except (ValueError, EOFError, SyntaxError) as error:
            reason = f"is damaged: it is no .npy file ({error})"
        self._warn(self._store.set_aside(Damaged(self._file, reason)))
        return None

    def _whole(self, raw_NCHW: np.ndarray, checksums: Sequence[str]) -> list[str]:
        """The checksums of the blocks before the first one that is damaged."""
        for block, checksum in enumerate(checksums):
            if _checksum(raw_NCHW[block * BLOCK : (block + 1) * BLOCK]) != checksum:
                self._warn(f"{self._file}: block {block} of the maps is damaged")
                return list(checksums[:block])
        return list(checksums)

    def _warn(self, damage: str) -> None:
        self.warning = f"{damage}; its maps are made anew from there"


def _created(file: Path, shape: tuple[int, ...], dtype: Any) -> np.memmap:
    made = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
    integrity.preallocate(file)
    return made


def _checksum(maps_BCHW: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(maps_BCHW).data).hexdigest()
