"""Make target maps: SmoothGrad of a trained teacher for every training image (Section 3.1)."""

import time
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from trainables.base.job_trainable import result_of
from trainables.base.trainable import PREVIEW
from trainables.stages.partial_maps import BLOCK, PartialMaps
from trainables.stages.stage import StageTrainable
from tune_interpreg import seeding
from tune_interpreg.data.dataset import Split, to_pixels
from tune_interpreg.gradients import saliency
from tune_interpreg.store import ledger
from tune_interpreg.study.items import Maps
from tune_interpreg.training.trainer import Diverged


class MapsTrainable(StageTrainable):
    """I(x) = (1/N) Σ |J_c(x + e_i)| (Eq. 4), one block of images per step. The maps are raw: batches apply φ.

    They are computed in float32 and stored in float16 if ``saliency.fits_float16`` allows it. The record's
    ``maps_dtype`` holds the type.
    """

    def setup(self, config: dict[str, Any]) -> None:
        super().setup(config)
        (self.item,) = (item for item in self.job.work if isinstance(item, Maps))
        (self.teacher_seed,) = self.job.seeds
        self.teacher = self.load_model(self.item.teacher)
        self.partial = PartialMaps(self.store, self.folder, self.data.train.x_NCHW.shape)
        self.warning = self.partial.warning

    def step(self) -> dict[str, Any]:
        """Make one block of maps, and finish after the last one."""
        try:
            if self.block < self.partial.block_count:  # not so if the stage died between its last block and its record
                self._make_block()
            if self.block == self.partial.block_count:
                return self._finish()
        except Diverged as error:  # no retry: the teacher gives the same maps again
            return self._finish_stage("diverged", error=str(error))
        done = self.block * BLOCK / len(self.data.train)
        return {"maps": done, "epoch": self.block, "of": self.partial.block_count}

    @property
    def block(self) -> int:
        """Number of finished blocks."""
        return len(self.partial.blocks)

    def _make_block(self) -> None:
        started, first = time.perf_counter(), self.block * BLOCK
        maps_BCHW = self._smoothgrad(self.data.train.at(slice(first, first + BLOCK)), f"smoothgrad/{self.block}")
        self._check_finite(maps_BCHW, "training", first)
        self.partial.add(maps_BCHW, time.perf_counter() - started)

    def _smoothgrad(self, images: Split, purpose: str) -> np.ndarray:
        maps_BCHW = saliency.smoothgrad(
            self.teacher,
            to_pixels(images.x_NCHW),
            images.y_N,
            settings=self.item.settings,
            generator=seeding.generator(self.teacher_seed, purpose, self.assignment.device),
            chunk=1,
        )
        return maps_BCHW.cpu().numpy()

    def _check_finite(self, maps_BCHW: np.ndarray, split: str, first: int = 0) -> None:
        """Raise ``Diverged`` with the teacher and the first image that has a map with a value that is not finite."""
        infinite_B = ~np.isfinite(maps_BCHW).all(axis=(1, 2, 3))
        if infinite_B.any():
            image = f"{split} image {first + int(infinite_B.argmax())}"
            teacher = f"the teacher {self.job.arm}, seed {self.teacher_seed}"
            raise Diverged(f"{teacher}: the map of {image} is not finite")

    def _finish(self) -> dict[str, Any]:
        maps_file, preview_file = self.store.maps_file(self.item.key), self.store.preview_file(self.item.key)
        with self.store.replace_atomically(preview_file) as temporary:
            save_file(self._make_preview(), temporary)
        dtype = "float16" if saliency.fits_float16(torch.from_numpy(self.partial.raw_NCHW)) else "float32"
        with self.store.replace_atomically(maps_file) as temporary:
            self.partial.copy(temporary, dtype)
        images, files = {"train": len(self.data.train)}, self.store.checksums(maps_file, preview_file)
        return self._finish_stage("done", extra={"maps_dtype": dtype}, images=images, files=files) | {"maps": 1.0}

    def _finish_stage(self, state: ledger.RecordState, **fields: Any) -> dict[str, Any]:
        seconds = self.partial.seconds
        record = self._record(self.item, state, epochs=self.block, seconds=seconds, spent={"maps": seconds}, **fields)
        self.partial.file.unlink()  # last, so that a retry of this step still finds it
        return result_of([record], done=True)

    def _make_preview(self) -> dict[str, torch.Tensor]:
        """Return a few validation images and the teacher's maps of them, for TensorBoard and figures."""
        images = self.data.validation.subset(PREVIEW, "preview")
        x_NCHW, maps_NCHW = to_pixels(images.x_NCHW), self._smoothgrad(images, "smoothgrad/preview")
        self._check_finite(maps_NCHW, "validation")
        tensors = {
            "images_NCHW": x_NCHW.float(),
            "labels_N": images.y_N.long(),
            "smoothgrad_NCHW": torch.from_numpy(maps_NCHW),
            "gradient_NCHW": saliency.simple_gradient(self.teacher, x_NCHW, images.y_N),
        }
        return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
