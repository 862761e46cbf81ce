"""The stage that runs the honesty checks of a trained model: can its adversarial accuracy be believed?"""

import time
from typing import Any

from trainables.stages.stage import StageTrainable
from tune_interpreg.evaluation.honesty import CHECKS
from tune_interpreg.evaluation.subject import Subject
from tune_interpreg.store.files import read_checked


class ChecksTrainable(StageTrainable):
    """One of ``honesty.CHECKS`` per step, on images of the validation split. A later run resumes after the last one.

    The record's ``checks`` holds the results by seed.
    """

    def setup(self, config: dict[str, Any]) -> None:
        super().setup(config)
        assert self.recipe.checked is not None
        self.checked = self.recipe.checked
        self.results: list[dict[str, Any]] = []
        self.seconds = 0.0
        self._progress_file = self.folder / "progress.json"
        if self._progress_file.exists():
            with self._set_damage_aside("its checks start again"):
                progress = read_checked(self._progress_file)
                self.results, self.seconds = progress["checks"], progress["seconds"]
        evaluation, checked = self.recipe.evaluation, self.checked
        self.subject = Subject(
            self.load_model(checked.model, checked.seed),
            self.data.validation.subset(checked.images, "checks"),
            self.recipe.evaluation_attack,
            seed=checked.seed,
            batch_size=evaluation.batch_size,
            restarts=evaluation.restarts,
            sources={arm: self.load_model(key, checked.seed) for arm, key in checked.sources.items()},
            ensemble=checked.autoattack,
        )

    def step(self) -> dict[str, Any]:
        """Run one check, and finish after the last one."""
        started = time.perf_counter()
        if len(self.results) < len(CHECKS):  # not so if the stage died between its last check and its record
            check = CHECKS[len(self.results)](self.subject)
            self.results.append(check.as_record())
            self.seconds += time.perf_counter() - started
            progress = {"checks": self.results, "seconds": self.seconds, "of": len(CHECKS)}
            self.store.write_checked(self._progress_file, progress)
        if len(self.results) < len(CHECKS):
            return {"epoch": len(self.results), "of": len(CHECKS)}
        return self._finish_item(
            "done",
            extra={"checks": {str(self.checked.seed): self.results}},
            counts={"checks": self.subject.n},
            epochs=len(self.results),
            seconds=self.seconds,
            spent={"checks": self.seconds},
        )
