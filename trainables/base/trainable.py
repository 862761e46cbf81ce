"""The base of all training methods: Ray Tune's hooks, checkpoints, validation, TensorBoard and the record.

One step is one epoch. Within a study each epoch ends with a checkpoint in the store. A retry, another worker or a later
run resumes from it. The last epoch ends with the final evaluation and the record.
"""

import time
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from trainables.base import checkpoint
from trainables.base.assignment import Assignment
from trainables.base.item_trainable import ItemTrainable
from trainables.base.maps import load_preview_maps, load_training_maps
from tune_interpreg.data.dataset import to_pixels
from tune_interpreg.display.trial_log import TrialLog
from tune_interpreg.evaluation.metrics import final, validate
from tune_interpreg.gradients import saliency
from tune_interpreg.networks import weights
from tune_interpreg.networks.build import describe_gradients
from tune_interpreg.store import ledger
from tune_interpreg.store.files import replace_atomically
from tune_interpreg.study.metric_names import LEARNING_RATE, SAMPLES_PER_SECOND
from tune_interpreg.study.parameters import Parameter, with_defaults
from tune_interpreg.training.device import read_peak_memory, reset_peak_memory
from tune_interpreg.training.trainer import Batch, Diverged, Guidance, Trainer

NORM = Parameter(
    help="norm of the penalty: over the whole batch, the mean of the samples' norms, or of their squares",
    default="batch",
    choices=("batch", "sample", "squared"),
)
OUTPUT = Parameter(
    help="output that is differentiated with respect to the pixels",
    default="logits",
    choices=("logits", "probabilities"),
)

#: Validation images that TensorBoard shows with their maps.
PREVIEW = 8

CHECKPOINT = "epoch.safetensors"


class MethodTrainable(ItemTrainable):
    """Base of all training methods; a subclass defines ``parameters`` and ``terms``.

    Under a plain ``Tuner``, the configuration holds the method's parameters and the keys in ``assignment.SETTING`` and
    ``assignment.PlainOptions``. TensorBoard's events are then in the trial's working folder, which Tune keeps with
    ``SyncConfig(sync_artifacts=True)``. A loss that is not finite raises ``Diverged``.
    """

    #: The method's hyperparameters by name.
    parameters: ClassVar[Mapping[str, Parameter]] = {}
    #: True if the method needs target maps of the training images.
    needs_targets: ClassVar[bool] = False
    #: True if the target maps have signs, as with ``targets.sign: signed``.
    signed_targets: ClassVar[bool] = False
    #: True if the cross-entropy is taken at attacked images instead of the batch's own.
    attacks_images: ClassVar[bool] = False
    #: True if the loss has terms in addition to the cross-entropy. A combination leaves out a method without any.
    has_penalty: ClassVar[bool] = True

    def terms(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Return the named scalar terms of the loss; their sum is minimized.

        Must be capture-safe: fixed shapes, no value read on the host (``.item()``), no branch on data, and random
        numbers from ``batch.noise`` only.
        """
        raise TypeError(f"{type(self).__name__} has no method terms(model, batch); define it")

    def target(self, raw_BCHW: Tensor) -> Tensor:
        """Return the target maps of the loss, from raw maps. TensorBoard shows them."""
        return raw_BCHW

    # ------------------------------------------------------------- Ray's hooks
    def setup(self, config: dict[str, Any]) -> None:
        super().setup(config)
        reset_peak_memory(self.assignment.device)
        self.params: dict[str, Any] = with_defaults(self.parameters, self.recipe.params)
        self.trainer = Trainer(
            model=self.recipe.model,
            training=self.recipe.training,
            data=self.data,
            terms=self.terms,
            seeds=self.item.seeds,
            guidance=self._make_guidance(),
            device=self.assignment.device,
        )
        self.spent: defaultdict[str, float] = defaultdict(float)  # seconds by activity
        self.curves: dict[int, list[dict[str, float]]] = {seed: [] for seed in self.item.seeds}
        self.earlier: list[dict[str, float]] | None = None  # epochs before an interruption, for the next result
        self._resume()
        self.log = TrialLog(self._log_folder(), self.trainer.epoch)

    def step(self) -> dict[str, Any]:
        before, lr = self.spent["train"], self.trainer.lr
        try:
            with self._timed("train"):
                losses = self.trainer.run_epoch()
        except Diverged as error:
            if self.assignment.store is None:
                raise
            return self._finish_training("diverged", error=str(error))
        if failure := self.trainer.engine.describe_failure(self.recipe.method):
            if self.assignment.store is None:  # else the study's worker reports self.warning
                warnings.warn(failure, stacklevel=2)
            self.warning = "\n".join(filter(None, (self.warning, failure)))
        rate = len(losses) * self.trainer.images_per_epoch / (self.spent["train"] - before)
        with self._timed("evaluate"):
            metrics = self._validate(losses)
        for seed, values in metrics.items():
            self.curves[seed].append(values)
        mean = _mean(metrics.values())
        with self._timed("log"):
            self.log.scalars(self.trainer.epoch, mean | {LEARNING_RATE: lr, SAMPLES_PER_SECOND: rate})
        if self.trainer.epoch >= self.recipe.training.epochs:
            return self._evaluate(metrics)
        if store := self.assignment.store:
            with self._timed("save"), store.replace_atomically(self._checkpoint_file) as temporary:
                self._save(temporary)
        return {**mean, "epoch": self.trainer.epoch, "seconds": self.seconds}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        with replace_atomically(Path(checkpoint_dir) / CHECKPOINT) as temporary:
            self._save(temporary)

    def load_checkpoint(self, checkpoint_dir: str | None) -> None:
        if checkpoint_dir is not None:
            self._load(Path(checkpoint_dir) / CHECKPOINT)
            self.log = TrialLog(self._log_folder(), self.trainer.epoch)

    def _read_plain_config(self, config: dict[str, Any]) -> Assignment:
        return Assignment.from_plain_config(config, type(self))

    def _make_guidance(self) -> Guidance | None:
        if not self.needs_targets:
            return None
        redraw = self.recipe.maps is not None and self.recipe.maps.permute == "redrawn"
        return Guidance(load_training_maps(self.assignment, self.data), self.target, redraw=redraw)

    # ----------------------------------------------------- time and evaluation
    @property
    def seconds(self) -> float:
        """Seconds that the item has taken so far, in all of its workers."""
        return sum(self.spent.values())

    @contextmanager
    def _timed(self, activity: str) -> Iterator[None]:
        """Add the seconds of this block to ``spent``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.spent[activity] += time.perf_counter() - started

    def _validate(self, losses: Mapping[int, Mapping[str, float]]) -> dict[int, dict[str, float]]:
        """Return the metrics of the epoch by seed."""
        last = self.recipe.training.epochs
        every = self.recipe.evaluation.adversarial_every or last
        adversarial = self.item.adversarial and (self.trainer.epoch >= last or self.trainer.epoch % every == 0)
        return {
            replica.seed: {f"train/{name}": value for name, value in losses[replica.seed].items()}
            | validate(replica.model, self.data, self.recipe, seed=replica.seed, adversarial=adversarial)
            for replica in self.trainer.finite_replicas
        }

    def _evaluate(self, metrics: Mapping[int, dict[str, float]]) -> dict[str, Any]:
        """Evaluate and save the models of a repeat; log and record the item's result."""
        counts = {"train": len(self.data.train), "val": len(self.data.validation)}
        results: dict[int, dict[str, float]] = {}
        models: list[Path] = []
        if self.item.role == "repeat":
            for replica in self.trainer.finite_replicas:
                with self._timed("evaluate"):
                    results[replica.seed], images = final(replica.model, self.data, self.recipe, seed=replica.seed)
                counts |= images
                if store := self.assignment.store:
                    models.append(store.model_file(self.item.key, replica.seed))
                    with self._timed("save"), store.replace_atomically(models[-1]) as temporary:
                        weights.save(replica.model, temporary)
        with self._timed("log"):
            self.log.scalars(self.trainer.epoch, _mean(results.values()))
            self._log_result()
        with self._timed("save"):
            files = self.assignment.store.checksums(*models) if self.assignment.store else {}
        return self._finish_training(
            "done",
            metrics={seed: values | results.get(seed, {}) for seed, values in metrics.items()},
            counts=counts,
            files=files,
            error="; ".join(self.trainer.diverged.values()) or None,
        )

    def _finish_training(self, state: ledger.RecordState, **fields: Any) -> dict[str, Any]:
        curves = {str(replica.seed): self.curves[replica.seed] for replica in self.trainer.finite_replicas}
        extra: dict[str, Any] = {"gradients": describe_gradients(self.trainer.replicas[0].model)}
        if state == "done":
            extra["curves"] = curves
        peak = read_peak_memory(self.assignment.device)
        if peak is not None:
            extra["gpu_bytes_a_seed"] = peak // len(self.item.seeds)
        fields |= {"epochs": self.trainer.epoch, "seconds": self.seconds, "spent": self.spent}
        return _mean(fields.get("metrics", {}).values()) | self._finish_item(state, extra=extra, **fields)

    # ---------------------------------------------- checkpoints and TensorBoard
    @property
    def _checkpoint_file(self) -> Path:
        assert self.assignment.store is not None
        return self.assignment.store.checkpoint_dir(self.item.key) / CHECKPOINT

    def _save(self, path: Path) -> None:
        diverged = self.trainer.diverged
        progress = {"epoch": self.trainer.epoch, "spent": self.spent, "curves": self.curves, "diverged": diverged}
        checkpoint.save(path, self.trainer.state(), progress)

    def _load(self, path: Path) -> None:
        tensors, progress = checkpoint.load(path, self.assignment.device)
        self.trainer.load_state(tensors, progress["epoch"])
        self.spent = defaultdict(float, progress.get("spent", {}))  # missing in checkpoints of older versions
        self.curves = {int(seed): curve for seed, curve in progress["curves"].items()}
        self.trainer.diverged = {int(seed): reason for seed, reason in progress.get("diverged", {}).items()}

    def _resume(self) -> None:
        """Load the checkpoint that an interrupted training left in the store; set it aside if it is damaged."""
        if self.assignment.store is None or not self._checkpoint_file.exists():
            return
        with self._set_damage_aside("its training starts again"):
            self._load(self._checkpoint_file)
            epochs = zip(*self.curves.values(), strict=False)  # the curve of a seed that diverged is shorter
            self.earlier = [_mean(metrics) | {"epoch": epoch} for epoch, metrics in enumerate(epochs, start=1)]

    def _log_folder(self) -> Path:
        return self.assignment.store.trial_log(self.item) if self.assignment.store else Path(self.logdir)

    def _log_result(self) -> None:
        model, preview = self.trainer.finite_replicas[0].model, self.data.validation.subset(PREVIEW, "preview")
        x_BCHW, raw_BCHW = to_pixels(preview.x_NCHW), load_preview_maps(self.assignment)
        g_BCHW = saliency.simple_gradient(model.eval(), x_BCHW, preview.y_N)
        self.log.maps(self.trainer.epoch, x_BCHW, g_BCHW, None if raw_BCHW is None else self.target(raw_BCHW))
        self.log.hparams({"arm": self.item.arm, "method": self.recipe.method} | self.params)


def _mean(metrics: Collection[Mapping[str, float]]) -> dict[str, float]:
    """Return each metric's mean over the seeds."""
    names = next(iter(metrics), {})
    return {name: sum(values[name] for values in metrics) / len(metrics) for name in names}
