"""Target maps: SmoothGrad of a trained teacher, for every training image (Section 3.1)."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import torch
from ray import tune
from safetensors.torch import load_file

from trainables.base import PREVIEW
from trainables.job import Job
from tune_interpreg import ledger, saliency, seeding
from tune_interpreg.data import Split, pixels
from tune_interpreg.models import build
from tune_interpreg.store import Store

#: Images a step; each block has its own noise generator, so that an interrupted stage goes on with the same maps.
BLOCK = 512


class TargetsTrainable(tune.Trainable):
    """I(x) = (1/N) Σ |J_c(x + e_i)| (Eq. 4), raw, a block of images a step; φ is applied when a batch is drawn.

    A stage of a study: its teacher's weights and its maps lie in the study's store. The maps are made in float32 and
    stored as float16 where ``saliency.fits_half`` allows it; the record's ``maps_dtype`` says which it is.
    """

    def setup(self, config: dict[str, Any]) -> None:
        if "item" not in config:
            raise ValueError("TargetsTrainable runs within a study only: its configuration is {item, store, device}")
        self.job = Job.of_study(config)
        assert self.job.store is not None
        assert self.job.item.recipe.maps is not None
        self.store, self.maps = self.job.store, self.job.item.recipe.maps
        self.data = self.job.dataset()
        weights = load_file(self.store.model_file(self.maps.teacher, self.maps.teacher_seed), device=self.job.device)
        untrained = build(self.job.item.recipe.model, self.data.shape, self.data.classes, seeding.generator(0, "init"))
        self.teacher = untrained.to(self.job.device).eval()
        self.teacher.load_state_dict(weights)
        self._resume()

    def _resume(self) -> None:
        """Open the unfinished maps and go on after the last whole block."""
        folder = self.store.checkpoint_dir(self.job.item.key)
        folder.mkdir(parents=True, exist_ok=True)
        self.partial, self.progress = folder / "maps.npy", folder / "progress.json"
        begun = self.progress.exists() and self.partial.exists()
        known = json.loads(self.progress.read_text()) if begun else {"block": 0, "seconds": 0.0}
        self.block, self.seconds = int(known["block"]), float(known["seconds"])
        shape = tuple(self.data.train.x_NCHW.shape)
        self.raw = np.lib.format.open_memmap(self.partial, mode="r+" if begun else "w+", dtype=np.float32, shape=shape)

    def step(self) -> dict[str, Any]:
        """One block; a stage that died after its last block only has to finish."""
        started = time.perf_counter()
        images = len(self.data.train)
        if self.block * BLOCK < images:
            self._make_block(self.block * BLOCK)
            self.block += 1
            self.seconds += time.perf_counter() - started
            Store.write_json(self.progress, {"block": self.block, "seconds": self.seconds})
        done = min(images, self.block * BLOCK)
        return self._finish() if done == images else {"maps": done / images, "epoch": self.block}

    def _make_block(self, first: int) -> None:
        last, train = first + BLOCK, self.data.train
        self.raw[first:last] = self._smoothgrad(train.at(slice(first, last)), f"smoothgrad/{self.block}")
        self.raw.flush()

    def _smoothgrad(self, rows: Split, purpose: str) -> np.ndarray:
        maps_BCHW = saliency.smoothgrad(
            self.teacher,
            pixels(rows.x_NCHW),
            rows.y_N,
            settings=self.maps,
            generator=seeding.generator(self.maps.teacher_seed, purpose, self.job.device),
            chunk=1,
        )
        if not torch.isfinite(maps_BCHW).all():
            raise ArithmeticError(f"a map of the teacher {self.maps.teacher} is not finite (block {self.block})")
        return maps_BCHW.cpu().numpy()

    def _finish(self) -> dict[str, Any]:
        """The maps at their place and the record; the unfinished file goes last, so that a retry need not remake it."""
        preview = self._smoothgrad(self.data.validation.at(slice(PREVIEW)), "smoothgrad/preview")
        with Store.writing(self.store.preview_file(self.maps.key)) as temporary, temporary.open("wb") as file:
            np.save(file, preview)
        dtype = "float16" if saliency.fits_half(torch.from_numpy(self.raw)) else "float32"
        self._write_maps(dtype)
        record = ledger.record(
            self.job.item,
            "done",
            counts={"train": len(self.data.train)},
            epochs=self.block,
            seconds=self.seconds,
            device=self.job.device_name,
        )
        record["maps_dtype"] = dtype
        self.store.write_record(record)
        self.partial.unlink()
        return {"maps": 1.0, "epoch": self.block, "record": json.dumps(record), "done": True}

    def _write_maps(self, dtype: str) -> None:
        with Store.writing(self.store.maps_file(self.maps.key)) as temporary:
            stored = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=self.raw.shape)
            for first in range(0, len(stored), BLOCK):
                stored[first : first + BLOCK] = self.raw[first : first + BLOCK]
            stored.flush()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True
