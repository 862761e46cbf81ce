"""Target maps: SmoothGrad of a trained teacher, for every training image (Section 3.1)."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from ray import tune
from safetensors.torch import load_file, save_file

from trainables.base.job import Job
from trainables.base.trainable import PREVIEW
from trainables.stages.partial_maps import BLOCK, PartialMaps
from tune_interpreg import seeding
from tune_interpreg.data.dataset import Split, to_pixels
from tune_interpreg.gradients import saliency
from tune_interpreg.networks.build import build
from tune_interpreg.store import ledger
from tune_interpreg.training.device import keep_freed_memory, use_exact_float32
from tune_interpreg.training.trainer import Diverged


class TargetsTrainable(tune.Trainable):
    """I(x) = (1/N) Σ |J_c(x + e_i)| (Eq. 4), raw, a block of images a step; φ is applied when a batch is drawn.

    A stage of a study: its teacher's weights and its maps lie in the study's store. The maps are made in float32 and
    stored as float16 where ``saliency.fits_half`` allows it; the record's ``maps_dtype`` says which it is.
    """

    def setup(self, config: dict[str, Any]) -> None:
        if "item" not in config:
            raise ValueError("TargetsTrainable runs within a study only: its configuration is {item, store, device}")
        keep_freed_memory()
        use_exact_float32()
        self.job = Job.of_study(config)
        assert self.job.store is not None
        assert self.job.item.recipe.maps is not None
        self.store, self.maps = self.job.store, self.job.item.recipe.maps
        self.data = self.job.dataset()
        weights = load_file(self.store.model_file(self.maps.teacher, self.maps.teacher_seed), device=self.job.device)
        untrained = build(self.job.item.recipe.model, self.data.shape, self.data.classes, seeding.generator(0, "init"))
        self.teacher = untrained.to(self.job.device).eval()
        self.teacher.load_state_dict(weights)
        shape = self.data.train.x_NCHW.shape
        self.partial = PartialMaps(self.store, self.store.checkpoint_dir(self.job.item.key), shape)
        self.warning = self.partial.warning  # for the user, with the next result

    def step(self) -> dict[str, Any]:
        """One block; a stage that died after its last block only has to finish."""
        try:
            return self._step()
        except Diverged as error:  # the teacher's maps are the same however often they are made
            return self._settle("diverged", error=str(error))

    def _step(self) -> dict[str, Any]:
        started = time.perf_counter()
        images = len(self.data.train)
        if self.block * BLOCK < images:
            first = self.block * BLOCK
            rows = self.data.train.at(slice(first, first + BLOCK))
            maps_BCHW = self._smoothgrad(rows, f"smoothgrad/{self.block}")
            self._refuse_non_finite(maps_BCHW, f"training image {{}} (block {self.block})", first)
            self.partial.add(maps_BCHW, time.perf_counter() - started)
        done = min(images, self.block * BLOCK)
        going_on = {"maps": done / images, "epoch": self.block, "of": self.partial.of}
        return self._finish() if done == images else going_on

    @property
    def block(self) -> int:
        """How many blocks are made."""
        return len(self.partial.blocks)

    def _smoothgrad(self, rows: Split, purpose: str) -> np.ndarray:
        maps_BCHW = saliency.smoothgrad(
            self.teacher,
            to_pixels(rows.x_NCHW),
            rows.y_N,
            settings=self.maps,
            generator=seeding.generator(self.maps.teacher_seed, purpose, self.job.device),
            chunk=1,
        )
        return maps_BCHW.cpu().numpy()

    def _refuse_non_finite(self, maps_BCHW: np.ndarray, image: str, first: int = 0) -> None:
        """Raise ``Diverged`` with the teacher and the first image, by its row, whose map is not finite."""
        wrong_B = ~np.isfinite(maps_BCHW).all(axis=(1, 2, 3))
        if wrong_B.any():
            teacher = f"the teacher {self.job.item.arm}, seed {self.maps.teacher_seed}"
            raise Diverged(f"{teacher}: the map of {image.format(first + int(wrong_B.argmax()))} is not finite")

    def _finish(self) -> dict[str, Any]:
        """The maps at their place and the record; the unfinished file goes last, so that a retry need not remake it."""
        maps, preview = self.store.maps_file(self.maps.key), self.store.preview_file(self.maps.key)
        with self.store.replace_atomically(preview) as temporary:
            save_file(self._preview(), temporary)
        dtype = "float16" if saliency.fits_half(torch.from_numpy(self.partial.raw_NCHW)) else "float32"
        with self.store.replace_atomically(maps) as temporary:
            self.partial.copy(temporary, dtype)
        counts, files = {"train": len(self.data.train)}, self.store.checksums(maps, preview)
        return self._settle("done", {"maps_dtype": dtype}, counts=counts, files=files) | {"maps": 1.0}

    def _settle(self, state: ledger.RecordState, own: Mapping[str, Any] | None = None, **known: Any) -> dict[str, Any]:
        """Write the record, with keys of this stage's own, and drop the unfinished maps."""
        record = ledger.make_record(
            self.job.item,
            state,
            epochs=self.block,
            seconds=self.partial.seconds,
            spent={"maps": self.partial.seconds},
            device=self.job.device_name,
            host=socket.gethostname(),
            **known,
        ) | dict(own or {})
        self.store.write_record(record)
        self.partial.drop()
        return {"epoch": self.block, "record": json.dumps(record), "done": True}

    def _preview(self) -> dict[str, torch.Tensor]:
        """A few validation images and the teacher's maps of them, for TensorBoard and figures."""
        shown = self.data.validation.subset(PREVIEW, "preview")
        images_NCHW, maps_NCHW = to_pixels(shown.x_NCHW), self._smoothgrad(shown, "smoothgrad/preview")
        self._refuse_non_finite(maps_NCHW, "validation image {}")
        tensors = {
            "images_NCHW": images_NCHW.float(),
            "labels_N": shown.y_N.long(),
            "smoothgrad_NCHW": torch.from_numpy(maps_NCHW),
            "gradient_NCHW": saliency.simple_gradient(self.teacher, images_NCHW, shown.y_N),
        }
        return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True
