"""The base of all training methods: Ray Tune's hooks, checkpoints, validation, TensorBoard and the record.

One step is one epoch. Within a study each epoch ends with a checkpoint in the store. A retry, another worker or a later
run resumes from it. The last epoch ends with the models and one record per seed; the study's worker then judges the
models. Under a plain Tuner, the last epoch ends with their judgments.
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
from trainables.base.job_trainable import JobTrainable, result_of
from trainables.base.maps import load_preview_maps, load_training_maps
from trainables.base.models import load_teacher
from tune_interpreg.data.dataset import to_pixels
from tune_interpreg.display.trial_log import TrialLog
from tune_interpreg.evaluation.judging import judge, observe
from tune_interpreg.gradients import saliency
from tune_interpreg.networks import weights
from tune_interpreg.networks.build import describe_gradients
from tune_interpreg.store.files import replace_atomically
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.items import Judge
from tune_interpreg.study.metric_names import LEARNING_RATE, SAMPLES_PER_SECOND
from tune_interpreg.study.parameters import Parameter, with_defaults
from tune_interpreg.training.device import read_peak_memory, reset_peak_memory
from tune_interpreg.training.trainer import Batch, Diverged, Guidance, Replica, Trainer

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


class MethodTrainable(JobTrainable):
    """Base of all training methods; a subclass defines ``parameters`` and ``terms``.

    Under a plain ``Tuner``, the configuration holds the method's parameters and the keys in ``assignment.SETTING`` and
    ``assignment.PlainOptions``. TensorBoard's events are then in the trial's working folder, which Tune keeps with
    ``SyncConfig(sync_artifacts=True)``. A loss that is not finite raises ``Diverged``.
    """

    #: The method's hyperparameters by name.
    parameters: ClassVar[Mapping[str, Parameter]] = {}
    #: True if the method needs target maps of the training images.
    needs_targets: ClassVar[bool] = False
    #: True if the method needs the teacher's network: ``batch.linearize_teacher()``.
    needs_teacher: ClassVar[bool] = False
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
        guidance = self._prepare_images()
        self.trainer = Trainer(
            model=self.recipe.model,
            training=self.recipe.training,
            data=self.data,
            terms=self.terms,
            seeds=self.job.seeds,
            guidance=guidance,
            teacher=load_teacher(self.assignment, self.data) if self.needs_teacher else None,
            device=self.assignment.device,
        )
        self.spent: defaultdict[str, float] = defaultdict(float)  # seconds by activity
        self.curves: dict[int, list[dict[str, float]]] = {seed: [] for seed in self.job.seeds}
        self.earlier: list[dict[str, float]] | None = None  # epochs before an interruption, for the next result
        self._resume()
        self.log = TrialLog(self._log_folder(), self.trainer.epoch)

    def step(self) -> dict[str, Any]:
        before, lr = self.spent["train"], self.trainer.lr
        try:
            with self._timed("train"):
                losses = self.trainer.run_epoch()
        except Diverged:
            if self.assignment.store is None:
                raise
            return result_of(self._finish_trainings({}), done=True)
        if failure := self.trainer.engine.describe_failure(self.recipe.method):
            if self.assignment.store is None:  # else the study's worker reports self.warning
                warnings.warn(failure, stacklevel=2)
            self.warning = "\n".join(filter(None, (self.warning, failure)))
        rate = len(losses) * self.trainer.images_per_epoch / (self.spent["train"] - before)
        with self._timed("evaluate"):
            metrics = self._observe(losses)
        for seed, values in metrics.items():
            self.curves[seed].append(values)
        mean = _mean(metrics.values())
        with self._timed("log"):
            self.log.scalars(self.trainer.epoch, mean | {LEARNING_RATE: lr, SAMPLES_PER_SECOND: rate})
        if self.trainer.epoch >= self.recipe.training.epochs:
            return self._finish(losses)
        if store := self.assignment.store:
            with self._timed("save"), store.replace_atomically(self._checkpoint_file) as temporary:
                self._save(temporary)
        has_diverged = self.job.number is not None and len(metrics) < len(self.job.models)
        reported = {} if has_diverged else mean  # a pruner must not compare the mean of the rest
        return {**reported, "epoch": self.trainer.epoch, "seconds": self.seconds}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        with replace_atomically(Path(checkpoint_dir) / CHECKPOINT) as temporary:
            self._save(temporary)

    def load_checkpoint(self, checkpoint_dir: str | None) -> None:
        if checkpoint_dir is not None:
            self._load(Path(checkpoint_dir) / CHECKPOINT)
            self.log = TrialLog(self._log_folder(), self.trainer.epoch)

    def _read_plain_config(self, config: dict[str, Any]) -> Assignment:
        return Assignment.from_plain_config(config, type(self))

    def _prepare_images(self) -> Guidance | None:
        """Choose the training images of the recipe, and return their maps if the method needs any."""
        limit, raw_NCHW = self.recipe.train_limit, {}
        if self.needs_targets:
            raw_NCHW = load_training_maps(self.assignment, self.data)
        if limit is not None:
            rows_M = self.data.choose_rows(limit)
            self.data = self.data.with_rows(rows_M)
            raw_NCHW = {seed: maps_NCHW[rows_M.to(maps_NCHW.device)] for seed, maps_NCHW in raw_NCHW.items()}
        redraw = self.recipe.maps is not None and self.recipe.maps.permute == "redrawn"
        return Guidance(raw_NCHW, self.target, redraw=redraw) if self.needs_targets else None

    # ----------------------------------------------------- time and evaluation
    @property
    def seconds(self) -> float:
        """Seconds that the trainings have taken so far, in all of their workers."""
        return sum(self.spent.values())

    @contextmanager
    def _timed(self, activity: str) -> Iterator[None]:
        """Add the seconds of this block to ``spent``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.spent[activity] += time.perf_counter() - started

    def _observe(self, losses: Mapping[int, Mapping[str, float]]) -> dict[int, dict[str, float]]:
        """Return the metrics of the epoch by seed."""
        settings = {"epoch": self.trainer.epoch, "batch_size": self.job.batch_size}
        return {
            replica.seed: _name_terms(losses[replica.seed])
            | observe(replica.model, self.data, self.job.observation, seed=replica.seed, **settings)
            for replica in self.trainer.finite_replicas
        }

    def _finish(self, losses: Mapping[int, Mapping[str, float]]) -> dict[str, Any]:
        """Save the models, write the records, and return the last result."""
        with self._timed("log"):
            self._log_result()
        metrics = {seed: _name_terms(values) for seed, values in losses.items()}
        records = self._finish_trainings(metrics)
        mean = _mean(metrics.values())
        if self.assignment.store is None:
            judged = _mean([self._judge(replica) for replica in self.trainer.finite_replicas])
            self.log.scalars(self.trainer.epoch, judged)
            mean |= judged
        return mean | result_of(records, done=True)

    def _finish_trainings(self, metrics: Mapping[int, Mapping[str, float]]) -> list[Record]:
        """Write and return one record per seed: done with its metrics, or diverged."""
        files: dict[int, dict[str, str]] = {}
        if store := self.assignment.store:
            with self._timed("save"):
                files = {replica.seed: self._save_model(store, replica) for replica in self.trainer.finite_replicas}
        share = 1 / len(self.job.models)
        peak = read_peak_memory(self.assignment.device)
        times = {"seconds": share * self.seconds, "spent": {kind: share * spent for kind, spent in self.spent.items()}}
        records = []
        for model in self.job.models:
            is_done = model.seed in metrics
            extra: dict[str, Any] = {
                "gradients": describe_gradients(self.trainer.replicas[0].model),
                "run": self.job.label,  # of TensorBoard
            }
            if is_done:
                extra["curve"] = self.curves[model.seed]
            if peak is not None:
                extra["gpu_bytes_a_seed"] = round(share * peak)
            record = self._record(
                model,
                "done" if is_done else "diverged",
                metrics=metrics.get(model.seed),
                images={"train": len(self.data.train), "validation": len(self.data.validation)},
                files=files.get(model.seed),
                error=self.trainer.diverged.get(model.seed),
                epochs=self.trainer.epoch,
                extra=extra,
                **times,
            )
            records.append(record)
        return records

    def _save_model(self, store: Store, replica: Replica) -> dict[str, str]:
        """Write a model's weights to the store; return the file with its checksum."""
        (model,) = (model for model in self.job.models if model.seed == replica.seed)
        path = store.model_file(model.key)
        with store.replace_atomically(path) as temporary:
            weights.save(replica.model, temporary, self.recipe.model)
        return store.checksums(path)

    def _judge(self, replica: Replica) -> dict[str, float]:
        """Return the metrics of the job's judgments of a model."""
        (key,) = (model.key for model in self.job.models if model.seed == replica.seed)
        settings: dict[str, Any] = {"seed": replica.seed, "batch_size": self.job.batch_size}
        metrics: dict[str, float] = {}
        for item in self.job.work:
            if isinstance(item, Judge) and item.model == key:
                answer, _ = judge(replica.model, self.data, self.recipe, item.measure, item.split, **settings)
                metrics |= answer
        return metrics

    # ---------------------------------------------- checkpoints and TensorBoard
    @property
    def _checkpoint_file(self) -> Path:
        assert self.assignment.store is not None
        return self.assignment.store.checkpoint_dir(self.job.key) / CHECKPOINT

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
        return self.assignment.store.trial_log(self.job) if self.assignment.store else Path(self.logdir)

    def _log_result(self) -> None:
        model, preview = self.trainer.finite_replicas[0].model, self.data.validation.subset(PREVIEW, "preview")
        x_BCHW, raw_BCHW = to_pixels(preview.x_NCHW), load_preview_maps(self.assignment)
        g_BCHW = saliency.simple_gradient(model.eval(), x_BCHW, preview.y_N)
        self.log.maps(self.trainer.epoch, x_BCHW, g_BCHW, None if raw_BCHW is None else self.target(raw_BCHW))
        self.log.hparams({"arm": self.job.arm, "method": self.recipe.method} | self.params | self.job.settings)


def _name_terms(losses: Mapping[str, float]) -> dict[str, float]:
    """Return the loss and its terms under the names of their metrics."""
    return {f"train/{name}": value for name, value in losses.items()}


def _mean(metrics: Collection[Mapping[str, float]]) -> dict[str, float]:
    """Return each metric's mean over the seeds."""
    names = next(iter(metrics), {})
    return {name: sum(values[name] for values in metrics) / len(metrics) for name in names}
