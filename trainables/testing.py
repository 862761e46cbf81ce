"""The contract of training methods, as a test class for the packages that define them.

A test module subclasses ``MethodContract`` and pytest runs its checks::

    class TestSparse(MethodContract):
        method = SparseTrainable
        params = {"strength": 0.1}
"""

import json
import random
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from trainables.base.assignment import SETTING, ConfigError, PlainOptions
from trainables.base.trainable import MethodTrainable
from trainables.standard import StandardTrainable
from tune_interpreg.data.dataset import load_dataset
from tune_interpreg.networks import weights
from tune_interpreg.networks.build import build
from tune_interpreg.study.config import Data, Model
from tune_interpreg.study.fields import Scalar
from tune_interpreg.training.trainer import Batch

BATCH = 32

#: Functions of PyTorch that read values on the host, or give results with shapes that depend on values.
HOST_READS = re.compile(
    r"__(bool|contains|float|index|int)__|allclose|cpu|equal|is_nonzero|item|masked_select|nonzero|numpy|tolist|"
    r"unique(_consecutive)?|a mask as an index"
)

#: A plain configuration with two batches of small images.
CONFIG: dict[str, Any] = {
    "data": {"name": "digits", "train_limit": 2 * BATCH, "validation": 30, "test_limit": 30},
    "attack": {"norm": "l2", "eps": 0.5, "steps": 3},
    "evaluation": {"steps": 3},
    "training": {"epochs": 2, "batch_size": BATCH, "lr": 0.05},
}


class MethodContract:
    """Checks that every training method passes. Each trains a few steps on small images, on the CPU.

    Attributes:
        method: the class under test.
        params: values of its parameters; at least of those without a default.
        config: further keys of a plain configuration, for example a model or a data set.
        base: the method that this one equals if all its ``strengths`` are 0; None if there is no such method.
    """

    method: ClassVar[type[MethodTrainable]]
    params: ClassVar[Mapping[str, Scalar]] = {}
    config: ClassVar[Mapping[str, Any]] = {}
    base: ClassVar[type[MethodTrainable] | None] = StandardTrainable

    def setup_method(self) -> None:
        self._trainables: list[MethodTrainable] = []

    def teardown_method(self) -> None:
        for trainable in self._trainables:
            trainable.cleanup()
            shutil.rmtree(trainable.logdir, ignore_errors=True)

    def make(self, tmp_path: Path, *, method: type[MethodTrainable] | None = None, **changes: Any) -> MethodTrainable:
        """Return a Trainable of the method, or of another one, in a plain configuration with these changes.

        Target maps, and weights of a teacher, are written to ``tmp_path`` if the method needs them. The change None
        removes a key.
        """
        method = method or self.method
        params = {name: value for name, value in self.params.items() if name in method.parameters}
        config = {**CONFIG, **self.config, **params, **changes}
        config = {key: value for key, value in config.items() if value is not None}
        if method.needs_targets and "maps" not in config:
            config["maps"] = write_maps(tmp_path / "maps.npy", config["data"], method)
        if method.needs_teacher and "teacher" not in config:
            config["teacher"] = write_teacher(tmp_path / "teacher.safetensors", config)
        self._trainables.append(method(config))
        return self._trainables[-1]

    def test_parameters_are_documented_and_have_valid_defaults(self) -> None:
        for name, parameter in self.method.parameters.items():
            assert parameter.help.strip(), f"{name}: needs a help text"
            assert name not in (*SETTING, *PlainOptions.model_fields), f"{name}: is a key of the configuration already"
            if parameter.default is not None:
                problem = parameter.find_problem(parameter.default)
                assert problem is None, f"{name}: the default {problem}"

    def test_bad_parameters_are_refused(self, tmp_path: Path) -> None:
        """Values of another type or out of range, unknown names, and missing values."""
        bad: list[tuple[str, Any]] = [("no_such_parameter", 1)]
        for name, parameter in self.method.parameters.items():
            bad.append((name, [1, 2]))
            if np.isfinite(parameter.low):
                bad.append((name, parameter.low - 1))
            if parameter.default is None:
                bad.append((name, None))
        for name, value in bad:
            with pytest.raises(ConfigError, match=re.escape(name)):
                self.make(tmp_path, **{name: value})

    def test_terms_are_named_finite_scalars(self, tmp_path: Path) -> None:
        trainable = self.make(tmp_path)
        terms = trainable.terms(trainable.trainer.replicas[0].model, first_batch(trainable))
        assert terms, "terms: needs at least one"
        assert "loss" not in terms, "terms: loss is the name of their sum"
        for name, term in terms.items():
            assert isinstance(term, Tensor), f"{name}: must be a tensor"
            assert term.shape == (), f"{name}: must be a scalar, has shape {tuple(term.shape)}"
            assert term.isfinite(), f"{name}: must be finite"
        if not self.method.has_penalty:
            assert terms.keys() == {"ce"}, "has_penalty: must be True, because ce is not the only term"

    def test_gradients_reach_every_weight(self, tmp_path: Path) -> None:
        trainable = self.make(tmp_path)
        model = trainable.trainer.replicas[0].model
        names = [name for name, weight in model.named_parameters() if weight.requires_grad]
        for name, gradient in zip(names, gradients(trainable, first_batch(trainable)), strict=True):
            assert gradient.isfinite().all(), f"{name}: its gradient must be finite"
            assert gradient.any(), f"{name}: its gradient is 0"

    def test_the_loss_is_the_sum_of_the_terms(self, tmp_path: Path) -> None:
        (means,) = self.make(tmp_path).trainer.run_epoch().values()
        loss = means.pop("loss")
        np.testing.assert_allclose(loss, sum(means.values()), rtol=1e-6)

    def test_running_statistics_change_once_per_step(self, tmp_path: Path) -> None:
        """By the forward of the cross-entropy. Run every other forward within ``constant_statistics(model)``."""
        trainable = self.make(tmp_path)
        batch = first_batch(trainable)
        norm = nn.BatchNorm1d(batch.x_BCHW[0].numel())
        trainable.terms(nn.Sequential(nn.Flatten(), norm, nn.Linear(norm.num_features, trainable.data.classes)), batch)
        assert norm.num_batches_tracked == 1, "terms: one forward must change running statistics"

    def test_strength_zero_is_the_base_method(self, tmp_path: Path) -> None:
        """With all strengths at 0, weights and momenta have the same bits after two epochs."""
        zeros: dict[str, Any] = dict.fromkeys(strengths(self.method), 0.0)
        if self.base is None or not zeros or (self.method.attacks_images and not self.base.attacks_images):
            return
        without, base = self.make(tmp_path, **zeros), self.make(tmp_path, method=self.base)
        for _ in range(2):
            assert without.trainer.run_epoch()[0]["ce"] == base.trainer.run_epoch()[0]["ce"]
        assert_same_bits(without, base)

    def test_steps_can_be_captured(self, tmp_path: Path) -> None:
        """``terms`` reads no value on the host, and makes the same calls for other images and labels."""
        trainable = self.make(tmp_path)
        model, batch = trainable.trainer.replicas[0].model, first_batch(trainable)
        black = replace(batch, x_BCHW=torch.zeros_like(batch.x_BCHW), y_B=torch.zeros_like(batch.y_B))
        calls = []
        for images in (batch, black):
            with _RecordCalls() as recorded:
                trainable.terms(model, images)
            reads = sorted({name for name, _ in recorded.calls if HOST_READS.fullmatch(name)})
            assert not reads, f"terms: must not use {', '.join(reads)}, because a captured step cannot"
            calls.append(recorded.calls)
        assert calls[0] == calls[1], "terms: must not depend on the data in what it calls"

    def test_equal_seeds_give_equal_bits(self, tmp_path: Path) -> None:
        """Global random generators have no effect, and are not changed. Draw from ``batch.noise`` only."""
        trained = []
        for disturbance in (1, 2):
            torch.manual_seed(disturbance)
            np.random.seed(disturbance)
            random.seed(disturbance)
            before = global_state()
            trained.append(self.make(tmp_path))
            trained[-1].step()
            assert global_state() == before
        assert_same_bits(*trained)

    def test_seeds_together_equal_seeds_alone(self, tmp_path: Path) -> None:
        together = self.make(tmp_path, seed=[3, 5])
        losses = together.trainer.run_epoch()
        for seed in (3, 5):
            alone = self.make(tmp_path, seed=seed)
            assert alone.trainer.run_epoch()[seed] == losses[seed]
            state = together.trainer.state()
            for name, tensor in alone.trainer.state().items():
                assert torch.equal(tensor, state[name]), name

    def test_a_resumed_training_has_the_same_bits(self, tmp_path: Path) -> None:
        """A new Trainable loads the checkpoint of the first epoch: weights, momenta and metrics are equal."""
        whole, first, resumed = (self.make(tmp_path) for _ in range(3))
        whole.step()
        first.step()
        first.save_checkpoint(str(tmp_path))
        resumed.load_checkpoint(str(tmp_path))
        results = [trainable.step() for trainable in (whole, resumed)]
        metrics = [{name: value for name, value in result.items() if "/" in name} for result in results]
        assert metrics[0] == metrics[1]
        records = [json.loads(result["records"])[0] for result in results]
        assert records[0]["state"] == "done"
        for key in ("metrics", "curve", "images"):
            assert records[0][key] == records[1][key]
        assert_same_bits(whole, resumed)

    def test_a_reused_trainable_equals_a_new_one(self, tmp_path: Path) -> None:
        """``reset_config``, with which Tune reuses an actor, leaves nothing of the former trial."""
        reused, new = self.make(tmp_path, seed=1), self.make(tmp_path)
        reused.step()
        assert reused.reset_config(dict(new.config))
        assert reused.params == new.params
        for trainable in (reused, new):
            trainable.step()
        assert_same_bits(reused, new)


def strengths(method: type[MethodTrainable]) -> list[str]:
    """Return the names of the method's strengths: required parameters with a lower bound of 0."""
    parameters = method.parameters
    return [name for name, parameter in parameters.items() if parameter.default is None and parameter.low == 0]


def write_maps(file: Path, data: Any, method: type[MethodTrainable]) -> str:
    """Write random target maps for the training images, non-negative unless the method takes signed ones."""
    images = load_dataset(Data.model_validate(data)).train.x_NCHW
    maps_NCHW = np.random.default_rng(0).random(images.shape, dtype=np.float32)
    np.save(file, 2 * maps_NCHW - 1 if method.signed_targets else maps_NCHW)
    return str(file)


def write_teacher(file: Path, config: Mapping[str, Any]) -> str:
    """Write the initial weights of seed 99 of a plain configuration's network, as a teacher's."""
    images = load_dataset(Data.model_validate(config["data"]))
    weights.save(build(Model.model_validate(config.get("model", {})), images.shape, images.classes, seed=99), file)
    return str(file)


def first_batch(trainable: MethodTrainable, images: int = BATCH) -> Batch:
    """Return the first images of the training split as the trainer makes a batch, with restarted random streams."""
    replica = trainable.trainer.replicas[0]
    replica.begin_epoch(0, lr=0.05)
    return trainable.trainer.make_batch(replica, torch.arange(images))


def gradients(trainable: MethodTrainable, batch: Batch) -> list[Tensor]:
    """Return the gradients of the loss with respect to the trained parameters of the first seed's model."""
    model = trainable.trainer.replicas[0].model
    terms = trainable.terms(model, batch)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return list(torch.autograd.grad(torch.stack(list(terms.values())).sum(), trained))


def global_state() -> tuple[Any, ...]:
    """Return the states of the global random generators."""
    return torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()


def assert_same_bits(first: MethodTrainable, second: MethodTrainable) -> None:
    """Assert that two Trainables have equal weights, momenta and buffers."""
    states = first.trainer.state(), second.trainer.state()
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


class _RecordCalls(TorchFunctionMode):
    """Record the name of each function of PyTorch that is called, and the shapes of its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, list[torch.Size]]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", str(func))
        if name in ("__getitem__", "__setitem__"):
            indexes = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(index, Tensor) and index.dtype == torch.bool for index in indexes):
                name = "a mask as an index"
        self.calls.append((name, [value.shape for value in args if isinstance(value, Tensor)]))
        return func(*args, **(kwargs or {}))
