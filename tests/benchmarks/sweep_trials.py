"""The trial of the sweep in ``bench_sweep``, registered as a user's package would do it."""

from functools import cache
from typing import Any, ClassVar

from torch import nn

from trainables import MethodTrainable
from trainables.base.assignment import Assignment
from trainables.base.job_trainable import result_of
from tune_interpreg.display.trial_log import TrialLog
from tune_interpreg.networks import weights
from tune_interpreg.networks.zoo import digits_cnn
from tune_interpreg.study.parameters import Parameter

SEED = 0
LOW, HIGH = -1.0, 1.0  # of both coordinates


def accuracy(x: float, y: float) -> float:
    """Return a parabola with its peak of height 1 at (0.3, −0.2)."""
    return 1 - (x - 0.3) ** 2 - (y + 0.2) ** 2


@cache
def make_network() -> nn.Module:
    return digits_cnn((1, 8, 8), 10)


class Parabola(MethodTrainable):
    """A study's trial without data, model, training and evaluation: TensorBoard's events and the record are left."""

    parameters: ClassVar[dict[str, Parameter]] = {
        name: Parameter(help="a coordinate", low=LOW, high=HIGH) for name in ("x", "y")
    }

    def setup(self, config: dict[str, Any]) -> None:
        self.assignment = Assignment.from_study(config) if "job" in config else self._read_plain_config(config)
        self.job, self.recipe = self.assignment.job, self.assignment.job.recipe
        self.params = self.recipe.params
        self.log = TrialLog(self._log_folder())

    def step(self) -> dict[str, Any]:
        """Write the records of the training, and of the judgments that its search asks for."""
        value = accuracy(float(self.params["x"]), float(self.params["y"]))
        metrics = {"train/loss": 1 - value, "val/accuracy": value}
        self.log.scalars(1, metrics)
        self.log.hparams(self.params)
        (model,) = self.job.models
        fields = {"metrics": {"train/loss": 1 - value}, "epochs": 1, "extra": {"curve": [metrics]}}
        records = [self._record(model, "done", files=self._save_network(model.key), **fields)]
        records += [self._record(item, "done", metrics={"val/accuracy": value}) for item in self.job.work]
        return metrics | result_of(records, done=True)

    def _save_network(self, key: str) -> dict[str, str]:
        """Write an untrained network to the store, as a training does; return the file with its checksum."""
        store = self.assignment.store
        if store is None:
            return {}
        path = store.model_file(key)
        with store.replace_atomically(path) as temporary:
            weights.save(make_network(), temporary)
        return store.checksums(path)
