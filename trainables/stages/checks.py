"""The stage that checks a trained model: whether the adversarial accuracy that it has can be believed."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from typing import Any

from ray import tune
from safetensors.torch import load_file
from torch import nn

from trainables.base.job import Job
from tune_interpreg import seeding
from tune_interpreg.data.dataset import Dataset
from tune_interpreg.evaluation import honesty
from tune_interpreg.evaluation.subject import Check, Subject
from tune_interpreg.networks.build import build
from tune_interpreg.store import ledger
from tune_interpreg.store.files import Damaged, read_checked
from tune_interpreg.training.device import keep_freed_memory, use_exact_float32


class ChecksTrainable(tune.Trainable):
    """One of ``honesty.CHECKS`` a step, on images of the validation split; a later run goes on after the last one made.

    A stage of a study: the models lie in the study's store. The record's ``checks`` holds them by seed.
    """

    def setup(self, config: dict[str, Any]) -> None:
        if "item" not in config:
            raise ValueError("ChecksTrainable runs within a study only: its configuration is {item, store, device}")
        keep_freed_memory()
        use_exact_float32()
        self.job = Job.of_study(config)
        assert self.job.store is not None
        assert self.job.item.recipe.checked is not None
        self.store, self.checked = self.job.store, self.job.item.recipe.checked
        self.progress = self.store.checkpoint_dir(self.job.item.key) / "progress.json"
        self.warning: str | None = None  # for the user, with the next result
        self.made, self.seconds = self._made_before()
        self.subject = self._subject(self.job.dataset())

    def _subject(self, images: Dataset) -> Subject:
        recipe, validation = self.job.item.recipe, images.validation
        return Subject(
            self._model(self.checked.model, images),
            validation.subset(self.checked.images, "checks"),
            recipe.evaluation_attack,
            seed=self.checked.seed,
            batch_size=recipe.evaluation.batch_size,
            restarts=recipe.evaluation.restarts,
            sources={arm: self._model(key, images) for arm, key in self.checked.sources.items()},
            ensemble=self.checked.autoattack,
        )

    def _model(self, key: str, images: Dataset) -> nn.Module:
        untrained = build(self.job.item.recipe.model, images.shape, images.classes, seeding.generator(0, "init"))
        model = untrained.to(self.job.device).eval()
        model.load_state_dict(load_file(self.store.model_file(key, self.checked.seed), device=self.job.device))
        return model

    def _made_before(self) -> tuple[list[dict[str, Any]], float]:
        """The checks that an interrupted stage made, and the seconds they took."""
        if not self.progress.exists():
            return [], 0.0
        try:
            known = read_checked(self.progress)
        except Damaged as error:
            self.warning = f"{self.store.set_aside(error)}; its checks are made anew"
            return [], 0.0
        return known["checks"], known["seconds"]

    def step(self) -> dict[str, Any]:
        """One check; a stage that died after its last one only has to finish."""
        started = time.perf_counter()
        if len(self.made) < len(honesty.CHECKS):
            found: Check = honesty.CHECKS[len(self.made)](self.subject)
            self.made.append(dict(vars(found)))
            self.seconds += time.perf_counter() - started
            known = {"checks": self.made, "seconds": self.seconds, "of": len(honesty.CHECKS)}
            self.store.write_checked(self.progress, known)
        done, of = len(self.made), len(honesty.CHECKS)
        return self._finish() if done == of else {"epoch": done, "of": of}

    def _finish(self) -> dict[str, Any]:
        record: Mapping[str, Any] = ledger.make_record(
            self.job.item,
            "done",
            counts={"checks": self.subject.n},
            epochs=len(self.made),
            seconds=self.seconds,
            spent={"checks": self.seconds},
            device=self.job.device_name,
            host=socket.gethostname(),
        )
        record = {**record, "checks": {str(self.checked.seed): self.made}}
        self.store.write_record(record)
        return {"epoch": len(self.made), "record": json.dumps(record), "done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True
