"""The judgments of trained models, one per step; the honesty checks take a step for each check."""

import time
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from trainables.base import checkpoint
from trainables.base.job_trainable import result_of
from trainables.stages.partial_maps import BLOCK
from trainables.stages.stage import StageTrainable
from tune_interpreg import seeding
from tune_interpreg.data.dataset import Split, to_pixels
from tune_interpreg.display.trial_log import TrialLog
from tune_interpreg.evaluation.honesty import TakeCheck, list_checks
from tune_interpreg.evaluation.judging import judge
from tune_interpreg.evaluation.subject import Subject
from tune_interpreg.gradients import saliency
from tune_interpreg.store.files import read_checked
from tune_interpreg.study.items import Judge
from tune_interpreg.study.measures import ChecksMeasure, InterpretabilityMeasure
from tune_interpreg.study.metric_names import suffixed
from tune_interpreg.study.recipe import digest


class JudgeTrainable(StageTrainable):
    """Take the judgments of a job in order. The record of the honesty checks holds their results as ``checks``."""

    def setup(self, config: dict[str, Any]) -> None:
        super().setup(config)
        self.open = [item for item in self.job.work if isinstance(item, Judge)]
        # The judgments of one model follow each other.
        self.model_of = lru_cache(maxsize=1)(self.load_model)
        self._logs: dict[str, TrialLog] = {}  # by model
        self.checks: list[dict[str, Any]] = []
        self.seconds = 0.0
        self._progress_file = self.folder / "progress.json"
        self._resume()

    def step(self) -> dict[str, Any]:
        """Take the next judgment, or the next of its checks."""
        item = self.open[0]
        if isinstance(item.measure, ChecksMeasure):
            return self._check(item)
        started = time.perf_counter()
        settings: dict[str, Any] = {"seed": self.job.model_of(item).seed, "batch_size": self.job.batch_size}
        asked: dict[str, Any] = {"measure": item.measure, "split": item.split, "make_maps": self._make_maps}
        metrics, images = judge(self.model_of(item.model), self.data, self.recipe, **asked, **settings)
        name, epochs = self.job.names.get(item.key, ""), self.recipe.training.epochs
        if not self.job.observation.has_taken(item.measure, item.split, epochs):  # else the training has logged it
            self._log_of(item).scalars(epochs, {suffixed(key, name): value for key, value in metrics.items()})
        seconds = time.perf_counter() - started
        spent = {"evaluate": seconds}
        return self._finish(item, metrics=metrics, images={item.split: images}, seconds=seconds, spent=spent)

    def _log_of(self, item: Judge) -> TrialLog:
        """Return the log in the run of the model's training, so that a trial's model has one run as a repeat, too.

        The run is new, and then gets hyperparameters, if the training is another arm's or an earlier version's.
        """
        if item.model not in self._logs:
            training = self.store.read_record(self.job.arm, self.job.model_of(item)) or {}
            folder = self.store.tensorboard_dir / self.job.arm / training.get("run", self.job.label)
            is_new = not folder.exists()
            self._logs[item.model] = log = TrialLog(folder, self.recipe.training.epochs)
            if is_new:
                log.hparams(
                    {"arm": self.job.arm, "method": self.recipe.method} | self.recipe.params | self.job.settings
                )
        return self._logs[item.model]

    def _finish(self, item: Judge, **fields: Any) -> dict[str, Any]:
        """Write the judgment's record; return the step's result."""
        record = self._record(item, "done", **fields)
        self.open.pop(0)
        return {**record["metrics"], **result_of([record], done=not self.open)}

    def _make_maps(self, measure: InterpretabilityMeasure, images: Split) -> dict[str, Tensor]:
        """Return label → raw SmoothGrad maps_NCHW of the images by other models. The first job stores them."""
        return {label: self._maps_of(key, measure, images) for label, key in measure.maps.items()}

    def _maps_of(self, model: str, measure: InterpretabilityMeasure, images: Split) -> Tensor:
        settings = measure.settings.model_dump(mode="json", exclude_defaults=True)
        path = self.store.compared_maps_file(digest(["compared maps", model, settings, measure.images]))
        if path.exists():
            with self._set_damage_aside("its maps are made again"):
                return checkpoint.load(path, self.assignment.device)[0]["maps_NCHW"]
        teacher = self.load_model(model)
        blocks = [images.at(slice(first, first + BLOCK)) for first in range(0, len(images), BLOCK)]
        maps = [
            saliency.smoothgrad(
                teacher,
                to_pixels(block.x_NCHW),
                block.y_N,
                settings=measure.settings,
                generator=seeding.generator(0, f"compared-maps/{number}", self.assignment.device),
                chunk=1,
            )
            for number, block in enumerate(blocks)
        ]
        maps_NCHW = torch.cat(maps)
        with self.store.replace_atomically(path) as temporary:
            checkpoint.save(temporary, {"maps_NCHW": maps_NCHW}, {})
        return maps_NCHW

    def _check(self, item: Judge) -> dict[str, Any]:
        """Run the next of ``honesty.list_checks``. A later run resumes after the last one."""
        subject, started = self._checked, time.perf_counter()
        if len(self.checks) < len(self._asked):  # not so if the worker died between its last check and its record
            self.checks.append(self._asked[len(self.checks)](subject).as_record())
            self.seconds += time.perf_counter() - started
            progress = {"checks": self.checks, "seconds": self.seconds, "of": len(self._asked)}
            self.store.write_checked(self._progress_file, progress)
        if len(self.checks) < len(self._asked):
            return {"epoch": len(self.checks), "of": len(self._asked)}
        return self._finish(
            item,
            images={item.split: subject.n},
            epochs=len(self.checks),
            seconds=self.seconds,
            spent={"checks": self.seconds},
            extra={"checks": self.checks},
        )

    @cached_property
    def _checks_item(self) -> Judge:
        """The job's checks, of one model at most."""
        (item,) = (item for item in self.job.work if isinstance(item, Judge) and item.measure.kind == "checks")
        return item

    @cached_property
    def _asked(self) -> list[TakeCheck]:
        measure = self._checks_item.measure
        assert isinstance(measure, ChecksMeasure)
        return list_checks(measure.autoattack)

    @cached_property
    def _checked(self) -> Subject:
        """The model of the job's checks, with what they need."""
        item, measure = self._checks_item, self._checks_item.measure
        assert isinstance(measure, ChecksMeasure)
        return Subject(
            self.load_model(item.model),
            self.data.validation.subset(measure.images, "checks"),
            measure.attack,
            seed=self.job.model_of(item).seed,
            batch_size=measure.batch_size,
            restarts=measure.restarts,
            sources={arm: self.load_model(source) for arm, source in measure.sources.items()},
            ensemble=measure.autoattack,
        )

    def _resume(self) -> None:
        """Load the checks that an interrupted worker left; set them aside if they are damaged."""
        if self._progress_file.exists():
            with self._set_damage_aside("its checks start again"):
                progress = read_checked(self._progress_file)
                if progress["of"] == len(self._asked):  # not so if another version began
                    self.checks, self.seconds = progress["checks"], progress["seconds"]
