"""What all methods share: Ray Tune's hooks, checkpoints, validation, TensorBoard, the ledger's record.

A step is an epoch. Under a study every epoch ends with a checkpoint in the store, from which a retry, another
worker or a later run goes on; the last one ends with the final evaluation and the record.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from ray import tune
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainables.job import Job, dataset
from tune_interpreg import ledger, objective, saliency, seeding
from tune_interpreg.config import Parameter
from tune_interpreg.data import pixels
from tune_interpreg.store import Store
from tune_interpreg.tensorboard_log import TrialLog
from tune_interpreg.training import Batch, Diverged, Trainer

NORM = Parameter(
    help="norm of the penalty: over the whole batch, the mean of the samples' norms, or of their squares",
    default="batch",
    choices=("batch", "sample", "squared"),
)

#: How many validation images TensorBoard shows with their maps.
PREVIEW = 8

CHECKPOINT = "epoch.safetensors"


class MethodTrainable(tune.Trainable):
    """Base of all training methods; a subclass gives ``parameters`` and ``terms``.

    Under a plain ``Tuner`` the configuration holds the method's parameters and the keys of a study file's
    setting (``data``, ``model``, ``training``, ``attack``, ``evaluation``) beside those of ``job.Plain``.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {}
    needs_targets: ClassVar[bool] = False

    def terms(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Named scalar terms of the loss, whose sum is minimized. Capture-safe: see ``training``."""
        raise TypeError(f"{type(self).__name__} gives no terms(model, batch)")

    # ------------------------------------------------------------- Ray's hooks
    def setup(self, config: dict[str, Any]) -> None:
        self.job = Job.read(config, type(self).__name__, self.parameters)
        self.recipe = self.job.item.recipe
        defaults = {name: parameter.default for name, parameter in self.parameters.items()}
        self.params: dict[str, Any] = defaults | self.recipe.params
        self.data = dataset(self.recipe.data, self.job.device)
        self.trainer = Trainer(
            model=self.recipe.model,
            training=self.recipe.training,
            data=self.data,
            terms=self.terms,
            seeds=self.job.item.seeds,
            maps=self._maps(),
            device=self.job.device,
        )
        self.seconds = 0.0
        self.curves: dict[int, list[dict[str, float]]] = {seed: [] for seed in self.job.item.seeds}
        self._resume()
        self.log = TrialLog(self._log_folder(), self.trainer.epoch)

    def step(self) -> dict[str, Any]:
        started = time.perf_counter()
        lr = self.trainer.lr
        try:
            losses = self.trainer.run_epoch()
        except Diverged as error:
            return self._settle("diverged", error=str(error))
        trained = time.perf_counter() - started
        metrics = self._validate(losses)
        rate = len(losses) * self.trainer.steps * self.recipe.training.batch_size / trained
        self.seconds += time.perf_counter() - started
        for seed, one in metrics.items():
            self.curves[seed].append(one)
        mean = _mean(metrics)
        self.log.scalars(self.trainer.epoch, mean | {"train/lr": lr, "train/samples_per_second": rate})
        if self.trainer.epoch >= self.recipe.training.epochs:
            return self._finish(metrics)
        self._save_in_store()
        return {**mean, "epoch": self.trainer.epoch}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        self._save(Path(checkpoint_dir) / CHECKPOINT)

    def load_checkpoint(self, checkpoint_dir: str | None) -> None:
        if checkpoint_dir is not None:
            self._load(Path(checkpoint_dir) / CHECKPOINT)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        self.log.close()

    # -------------------------------------------------------------- evaluation
    def _validate(self, losses: Mapping[int, Mapping[str, float]]) -> dict[int, dict[str, float]]:
        epoch, every = self.trainer.epoch, self.recipe.evaluation.adversarial_every
        last = epoch >= self.recipe.training.epochs
        adversarial = self.job.item.adversarial and (last or bool(every and epoch % every == 0))
        return {
            replica.seed: {f"train/{name}": value for name, value in losses[replica.seed].items()}
            | objective.validate(replica.model, self.data, self.recipe, seed=replica.seed, adversarial=adversarial)
            for replica in self.trainer.replicas
        }

    def _finish(self, metrics: dict[int, dict[str, float]]) -> dict[str, Any]:
        """The final evaluation of a repeat, the model, and the record."""
        started = time.perf_counter()
        counts = {"train": len(self.data.train), "val": len(self.data.validation)}
        if self.job.item.role == "repeat":
            for replica in self.trainer.replicas:
                judged, counted = objective.final(replica.model, self.data, self.recipe, seed=replica.seed)
                metrics[replica.seed] |= judged
                counts |= counted
                self._save_model(replica.seed, replica.model)
        self.seconds += time.perf_counter() - started
        self._log_result(_mean(metrics))
        return self._settle("done", metrics=metrics, counts=counts)

    def _settle(self, state: ledger.Settled, **known: Any) -> dict[str, Any]:
        record = ledger.record(
            self.job.item,
            state,
            epochs=self.trainer.epoch,
            seconds=self.seconds,
            device=self._device_name(),
            **known,
        )
        if self.job.item.role == "repeat" and state == "done":
            record["curves"] = {str(seed): curve for seed, curve in self.curves.items()}
        if self.job.store:
            self.job.store.write_record(record)
        return {
            **_mean(known.get("metrics") or {}),
            "epoch": self.trainer.epoch,
            "record": json.dumps(record),
            "done": True,
        }

    def _device_name(self) -> str:
        return torch.cuda.get_device_name(self.job.device) if self.job.device.startswith("cuda") else "cpu"

    # ------------------------------------------------------------------ inputs
    def _maps(self) -> dict[int, Tensor] | None:
        """The raw target maps for each seed, permuted within each map where the targets say so."""
        if not self.needs_targets:
            return None
        if self.job.maps is None:
            raise ValueError(f"{type(self).__name__} needs target maps: give maps, an .npy file of raw SmoothGrad maps")
        raw_NCHW = torch.from_numpy(np.load(self.job.maps, mmap_mode="c")).to(self.job.device)
        if raw_NCHW.shape != self.data.train.x_NCHW.shape:
            there, here = list(raw_NCHW.shape), list(self.data.train.x_NCHW.shape)
            raise ValueError(f"{self.job.maps}: maps of shape {there}, but the training images have shape {here}")
        if not (self.recipe.maps and self.recipe.maps.permute):
            return dict.fromkeys(self.job.item.seeds, raw_NCHW)
        return {
            seed: saliency.permute(raw_NCHW, seeding.generator(seed, "permutation", self.job.device))
            for seed in self.job.item.seeds
        }

    # ------------------------------------------------------------- checkpoints
    def _save(self, path: Path) -> None:
        progress = {"epoch": self.trainer.epoch, "seconds": self.seconds, "curves": self.curves}
        with Store.writing(path) as temporary:
            save_file(self.trainer.state(), temporary, metadata={"progress": json.dumps(progress)})

    def _load(self, path: Path) -> None:
        with safe_open(path, framework="pt") as opened:
            progress = json.loads(opened.metadata()["progress"])
        self.trainer.load_state(load_file(path, device=self.job.device), progress["epoch"])
        self.seconds = progress["seconds"]
        self.curves = {int(seed): curve for seed, curve in progress["curves"].items()}

    def _save_in_store(self) -> None:
        if self.job.store:
            self._save(self.job.store.checkpoint_dir(self.job.item.key) / CHECKPOINT)

    def _resume(self) -> None:
        if self.job.store and (path := self.job.store.checkpoint_dir(self.job.item.key) / CHECKPOINT).exists():
            self._load(path)

    def _save_model(self, seed: int, model: nn.Module) -> None:
        if self.job.store:
            with Store.writing(self.job.store.model_file(self.job.item.key, seed)) as temporary:
                save_file(model.state_dict(), temporary)

    # ------------------------------------------------------------- TensorBoard
    def _log_folder(self) -> Path:
        return self.job.store.trial_log(self.job.item) if self.job.store else Path(self.logdir)

    def _log_result(self, mean: Mapping[str, float]) -> None:
        replica = self.trainer.replicas[0]
        preview = self.data.validation
        x_BCHW, y_B = pixels(preview.x_NCHW[:PREVIEW]), preview.y_N[:PREVIEW]
        replica.model.eval()
        own_BCHW = saliency.simple_gradient(replica.model, x_BCHW, y_B)
        self.log.maps(self.trainer.epoch, x_BCHW, own_BCHW, self._preview_targets())
        self.log.hparams(self.params | {"method": self.recipe.method}, mean)

    def _preview_targets(self) -> Tensor | None:
        """The targets of the previewed images as the method sees them (thresholded), where the store has them."""
        maps = self.recipe.maps
        if not (maps and self.job.store):
            return None
        raw_BCHW = torch.from_numpy(np.load(self.job.store.preview_file(maps.key))).to(self.job.device)
        if maps.permute:
            raw_BCHW = saliency.permute(raw_BCHW, seeding.generator(self.job.item.seeds[0], "preview", self.job.device))
        return saliency.threshold(raw_BCHW, self.params["phi"])


def _mean(metrics: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """Each metric's mean over the seeds."""
    seeds = list(metrics.values())
    return {name: sum(one[name] for one in seeds) / len(seeds) for name in seeds[0]} if seeds else {}
