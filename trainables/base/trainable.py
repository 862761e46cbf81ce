"""What all methods share: Ray Tune's hooks, checkpoints, validation, TensorBoard, the ledger's record.

A step is an epoch. Under a study every epoch ends with a checkpoint in the store, from which a retry, another
worker or a later run goes on; the last one ends with the final evaluation and the record.
"""

from __future__ import annotations

import json
import socket
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from ray import tune
from safetensors.torch import save_file
from torch import Tensor, nn

from trainables.base import checkpoint, plain
from trainables.base.job import Job
from trainables.base.maps import preview_maps, training_maps
from tune_interpreg.data.dataset import to_pixels
from tune_interpreg.display.trial_log import TrialLog
from tune_interpreg.evaluation.metrics import final, validate
from tune_interpreg.gradients import saliency
from tune_interpreg.store import files as integrity
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Damaged
from tune_interpreg.study.space import Parameter
from tune_interpreg.training.device import keep_freed_memory, read_peak_memory, reset_peak_memory, use_exact_float32
from tune_interpreg.training.trainer import Batch, Diverged, Guidance, Trainer

NORM = Parameter(
    help="norm of the penalty: over the whole batch, the mean of the samples' norms, or of their squares",
    default="batch",
    choices=("batch", "sample", "squared"),
)
OUTPUT = Parameter(
    help="whose input gradients are taken: the logits', or the probabilities'",
    default="logits",
    choices=("logits", "probabilities"),
)

#: How many validation images TensorBoard shows with their maps.
PREVIEW = 8

CHECKPOINT = "epoch.safetensors"


class MethodTrainable(tune.Trainable):
    """Base of all training methods; a subclass gives ``parameters`` and ``terms``.

    Under a plain ``Tuner`` the configuration holds the method's parameters, ``plain.SETTING`` and ``plain.Plain``'s
    keys. Its TensorBoard events lie in the trial's working folder, which Tune keeps with
    ``SyncConfig(sync_artifacts=True)``; a loss that is not finite raises ``Diverged``, which Tune tells the searcher.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {}
    needs_targets: ClassVar[bool] = False
    #: Whether the targets are signed maps, as ``targets.sign: signed`` makes them.
    signed_targets: ClassVar[bool] = False
    #: Whether the cross-entropy is taken at other images than the batch's own.
    moves: ClassVar[bool] = False

    @classmethod
    def combined(cls, *others: type[MethodTrainable]) -> type[MethodTrainable]:
        """The method that trains this one's loss and the others' penalties at once; see ``combination``."""
        from trainables.combination import combined  # it is built on this class

        return combined(cls, *others)

    def terms(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Named scalar terms of the loss, whose sum is minimized. Capture-safe: see ``training``."""
        raise TypeError(f"{type(self).__name__} gives no terms(model, batch)")

    def target(self, raw_BCHW: Tensor) -> Tensor:
        """The maps that the method trains towards, made of raw ones; TensorBoard shows them."""
        return raw_BCHW

    # ------------------------------------------------------------- Ray's hooks
    def setup(self, config: dict[str, Any]) -> None:
        self.job = self._job(config)
        self.recipe = self.job.item.recipe
        defaults = {name: parameter.default for name, parameter in self.parameters.items()}
        self.params: dict[str, Any] = defaults | self.recipe.params
        keep_freed_memory()
        use_exact_float32()
        reset_peak_memory(self.job.device)
        self.data = self.job.dataset()
        self.trainer = Trainer(
            model=self.recipe.model,
            training=self.recipe.training,
            data=self.data,
            terms=self.terms,
            seeds=self.job.item.seeds,
            guidance=self._guidance(),
            device=self.job.device,
        )
        self.spent: defaultdict[str, float] = defaultdict(float)  # seconds, by what they were spent on
        self.curves: dict[int, list[dict[str, float]]] = {seed: [] for seed in self.job.item.seeds}
        self.warning: str | None = None  # for the user, with the next result
        self.earlier: list[dict[str, float]] | None = None  # the epochs before an interruption, with the next result
        self._resume()
        self.log = TrialLog(self._log_folder(), self.trainer.epoch)

    def step(self) -> dict[str, Any]:
        before, lr = self.spent["train"], self.trainer.lr
        try:
            with self._timed("train"):
                losses = self.trainer.run_epoch()
        except Diverged as error:
            if self.job.store is None:
                raise
            return self._settle("diverged", error=str(error))
        self._warn(self.trainer.engine.describe_failure(self.recipe.method))
        rate = len(losses) * self.trainer.images_per_epoch / (self.spent["train"] - before)
        with self._timed("evaluate"):
            metrics = self._validate(losses)
        for seed, one in metrics.items():
            self.curves[seed].append(one)
        mean = _mean(metrics)
        with self._timed("log"):
            self.log.scalars(self.trainer.epoch, mean | {"train/lr": lr, "train/samples_per_second": rate})
        if self._last:
            return self._finish(metrics)
        with self._timed("save"):
            self._save_in_store()
        return {**mean, "epoch": self.trainer.epoch, "seconds": self.seconds}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        with integrity.writing(Path(checkpoint_dir) / CHECKPOINT) as temporary:
            self._save(temporary)

    def load_checkpoint(self, checkpoint_dir: str | None) -> None:
        if checkpoint_dir is not None:
            self._load(Path(checkpoint_dir) / CHECKPOINT)
            self.log = TrialLog(self._log_folder(), self.trainer.epoch)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    @property
    def seconds(self) -> float:
        """What the item has taken so far, in all of its workers."""
        return sum(self.spent.values())

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        """Adds what the block takes to the item's account."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.spent[what] += time.perf_counter() - started

    def _warn(self, told: str | None) -> None:
        """Tell the user: a study with the next result, plain Tune by Python's warning."""
        if told is not None and self.job.store is None:
            warnings.warn(told, stacklevel=3)
        self.warning = "\n".join(filter(None, (self.warning, told))) or None

    def _guidance(self) -> Guidance | None:
        if not self.needs_targets:
            return None
        maps = self.recipe.maps
        redraw = maps is not None and maps.permute == "redrawn"
        return Guidance(training_maps(self.job, self.data), self.target, redraw=redraw)

    def _job(self, config: dict[str, Any]) -> Job:
        if "item" in config:
            return Job.of_study(config)
        own = type(self)
        return plain.job(config, method=own.__name__, parameters=own.parameters, needs_targets=own.needs_targets)

    # -------------------------------------------------------------- evaluation
    @property
    def _last(self) -> bool:
        """Whether the last epoch is over."""
        return self.trainer.epoch >= self.recipe.training.epochs

    def _validate(self, losses: Mapping[int, Mapping[str, float]]) -> dict[int, dict[str, float]]:
        every = self.recipe.evaluation.adversarial_every
        due = self._last or bool(every and self.trainer.epoch % every == 0)
        return {
            replica.seed: {f"train/{name}": value for name, value in losses[replica.seed].items()}
            | validate(
                replica.model, self.data, self.recipe, seed=replica.seed, adversarial=self.job.item.adversarial and due
            )
            for replica in self.trainer.finite_replicas
        }

    def _finish(self, metrics: Mapping[int, dict[str, float]]) -> dict[str, Any]:
        """The final evaluation of a repeat, the model, and the record."""
        counts = {"train": len(self.data.train), "val": len(self.data.validation)}
        judged: dict[int, dict[str, float]] = {seed: {} for seed in metrics}
        if self.job.item.role == "repeat":
            for replica in self.trainer.finite_replicas:
                with self._timed("evaluate"):
                    judged[replica.seed], counted = final(replica.model, self.data, self.recipe, seed=replica.seed)
                counts |= counted
                with self._timed("save"):
                    self._save_model(replica.seed, replica.model)
        everything = {seed: one | judged[seed] for seed, one in metrics.items()}
        with self._timed("log"):
            self.log.scalars(self.trainer.epoch, _mean(judged))
            self._log_result()
        with self._timed("save"):
            files = self._made()
        error = "; ".join(self.trainer.diverged.values()) or None
        return self._settle("done", metrics=everything, counts=counts, files=files, error=error)

    def _settle(self, state: ledger.Settled, **known: Any) -> dict[str, Any]:
        record = ledger.record(
            self.job.item,
            state,
            epochs=self.trainer.epoch,
            seconds=self.seconds,
            spent=self.spent,
            device=self.job.device_name,
            host=socket.gethostname(),
            **known,
        )
        if state == "done":
            record["curves"] = {str(one.seed): self.curves[one.seed] for one in self.trainer.finite_replicas}
        if (peak := read_peak_memory(self.job.device)) is not None:
            record["gpu_bytes_a_seed"] = peak // len(self.job.item.seeds)
        if self.job.store:
            self.job.store.write_record(record)
        return {
            **_mean(known.get("metrics") or {}),
            "epoch": self.trainer.epoch,
            "record": json.dumps(record),
            "done": True,
        }

    # ------------------------------------------------------------- checkpoints
    def _save(self, path: Path) -> None:
        diverged = self.trainer.diverged
        progress = {"epoch": self.trainer.epoch, "spent": self.spent, "curves": self.curves, "diverged": diverged}
        checkpoint.save(path, self.trainer.state(), progress)

    def _load(self, path: Path) -> None:
        tensors, progress = checkpoint.load(path, self.job.device)
        self.trainer.load_state(tensors, progress["epoch"])
        self.spent = defaultdict(float, progress.get("spent", {}))  # older versions kept none
        self.curves = {int(seed): curve for seed, curve in progress["curves"].items()}
        self.trainer.diverged = {int(seed): why for seed, why in progress.get("diverged", {}).items()}

    def _save_in_store(self) -> None:
        if store := self.job.store:
            with store.writing(store.checkpoint_dir(self.job.item.key) / CHECKPOINT) as temporary:
                self._save(temporary)

    def _resume(self) -> None:
        """Go on from the store's checkpoint; from the start where that is damaged."""
        store = self.job.store
        if store is None or not (path := store.checkpoint_dir(self.job.item.key) / CHECKPOINT).exists():
            return
        try:
            self._load(path)
        except Damaged as error:
            self.warning = f"{store.set_aside(error)}; its training starts anew"
            return
        epochs = enumerate(zip(*self.curves.values(), strict=False), start=1)
        self.earlier = [_mean(dict(enumerate(one))) | {"epoch": epoch} for epoch, one in epochs]

    def _save_model(self, seed: int, model: nn.Module) -> None:
        if store := self.job.store:
            with store.writing(store.model_file(self.job.item.key, seed)) as temporary:
                save_file(model.state_dict(), temporary)

    def _made(self) -> dict[str, str]:
        """The models that a repeat leaves in the store, with their checksums."""
        store, item = self.job.store, self.job.item
        if store is None or item.role != "repeat":
            return {}
        return store.checksums(*(store.model_file(item.key, replica.seed) for replica in self.trainer.finite_replicas))

    # ------------------------------------------------------------- TensorBoard
    def _log_folder(self) -> Path:
        return self.job.store.trial_log(self.job.item) if self.job.store else Path(self.logdir)

    def _log_result(self) -> None:
        model, shown = self.trainer.finite_replicas[0].model, self.data.validation.subset(PREVIEW, "preview")
        x_BCHW, raw_BCHW = to_pixels(shown.x_NCHW), preview_maps(self.job)
        own_BCHW = saliency.simple_gradient(model.eval(), x_BCHW, shown.y_N)
        self.log.maps(self.trainer.epoch, x_BCHW, own_BCHW, None if raw_BCHW is None else self.target(raw_BCHW))
        self.log.hparams({"arm": self.job.item.arm, "method": self.recipe.method} | self.params)


def _mean(metrics: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """Each metric's mean over the seeds."""
    seeds = list(metrics.values())
    return {name: sum(one[name] for one in seeds) / len(seeds) for name in seeds[0]} if seeds else {}
