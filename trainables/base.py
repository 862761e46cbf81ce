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

from ray import tune
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainables import plain
from trainables.job import Job
from trainables.maps import preview_maps, training_maps
from tune_interpreg import ledger, objective, saliency
from tune_interpreg.data import pixels
from tune_interpreg.space import Parameter
from tune_interpreg.store import Store
from tune_interpreg.tensorboard_log import TrialLog
from tune_interpreg.training import Batch, Diverged, Guidance, Trainer

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
        self.seconds = 0.0
        self.curves: dict[int, list[dict[str, float]]] = {seed: [] for seed in self.job.item.seeds}
        self._resume()
        self.log = TrialLog(self._log_folder(), self.trainer.epoch)

    def step(self) -> dict[str, Any]:
        started, lr = time.perf_counter(), self.trainer.lr
        try:
            losses = self.trainer.run_epoch()
        except Diverged as error:
            if self.job.store is None:
                raise
            return self._settle("diverged", error=str(error))
        rate = len(losses) * self.trainer.images / (time.perf_counter() - started)
        metrics = self._validate(losses)
        for seed, one in metrics.items():
            self.curves[seed].append(one)
        mean = _mean(metrics)
        self.log.scalars(self.trainer.epoch, mean | {"train/lr": lr, "train/samples_per_second": rate})
        self.seconds += time.perf_counter() - started
        if self._last:
            return self._finish(metrics)
        self._save_in_store()
        return {**mean, "epoch": self.trainer.epoch}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        self._save(Path(checkpoint_dir) / CHECKPOINT)

    def load_checkpoint(self, checkpoint_dir: str | None) -> None:
        if checkpoint_dir is not None:
            self._load(Path(checkpoint_dir) / CHECKPOINT)
            self.log.close()
            self.log = TrialLog(self._log_folder(), self.trainer.epoch)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        self.log.close()

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
            | objective.validate(
                replica.model, self.data, self.recipe, seed=replica.seed, adversarial=self.job.item.adversarial and due
            )
            for replica in self.trainer.replicas
        }

    def _finish(self, metrics: Mapping[int, dict[str, float]]) -> dict[str, Any]:
        """The final evaluation of a repeat, the model, and the record."""
        started = time.perf_counter()
        counts = {"train": len(self.data.train), "val": len(self.data.validation)}
        judged: dict[int, dict[str, float]] = {seed: {} for seed in metrics}
        if self.job.item.role == "repeat":
            for replica in self.trainer.replicas:
                judged[replica.seed], counted = objective.final(
                    replica.model, self.data, self.recipe, seed=replica.seed
                )
                counts |= counted
                self._save_model(replica.seed, replica.model)
        self.log.scalars(self.trainer.epoch, _mean(judged))
        everything = {seed: one | judged[seed] for seed, one in metrics.items()}
        self._log_result(_mean(everything))
        self.seconds += time.perf_counter() - started
        return self._settle("done", metrics=everything, counts=counts)

    def _settle(self, state: ledger.Settled, **known: Any) -> dict[str, Any]:
        record = ledger.record(
            self.job.item,
            state,
            epochs=self.trainer.epoch,
            seconds=self.seconds,
            device=self.job.device_name,
            **known,
        )
        if state == "done":
            record["curves"] = {str(seed): curve for seed, curve in self.curves.items()}
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
        model, shown = self.trainer.replicas[0].model, self.data.validation.at(slice(PREVIEW))
        x_BCHW, raw_BCHW = pixels(shown.x_NCHW), preview_maps(self.job)
        own_BCHW = saliency.simple_gradient(model.eval(), x_BCHW, shown.y_N)
        self.log.maps(self.trainer.epoch, x_BCHW, own_BCHW, None if raw_BCHW is None else self.target(raw_BCHW))
        self.log.hparams(self.params | {"method": self.recipe.method}, mean)


def _mean(metrics: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """Each metric's mean over the seeds."""
    seeds = list(metrics.values())
    return {name: sum(one[name] for one in seeds) / len(seeds) for name in seeds[0]} if seeds else {}
