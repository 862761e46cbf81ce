"""The events of a trial, read back as TensorBoard reads them."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.jobs import config_of, training_job
from ray.tune import Trainable
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams_plugin
from torch import Tensor

from trainables import InterpretationTrainable, MethodTrainable
from trainables.base.trainable import PREVIEW
from trainables.stages.judge import JudgeTrainable
from tune_interpreg.cluster.worker import StudyTrainable
from tune_interpreg.display.trial_log import TrialLog, tag
from tune_interpreg.store.files import read_checked
from tune_interpreg.store.store import Store
from tune_interpreg.study import measures
from tune_interpreg.study.config import Data, Study, Training
from tune_interpreg.study.items import Job, Judge, Train, judgments
from tune_interpreg.study.measures import AccuracyMeasure
from tune_interpreg.study.recipe import Recipe, TargetMaps

N, EPOCHS = 100, 4
MAPS = TargetMaps(key="maps")
STUDY = Study(
    attack={"eps": 0.5, "steps": 2},
    evaluation={"gradient_norms": {"images": 10}, "adversarial_every": 2},
    arms={"standard": {"method": "standard"}},
)
CURVES = {"train/loss", "train/ce", "train/interpretation", "train/lr", "train/samples_per_second", "val/accuracy"}
FINAL = {"test/accuracy", "test/adv_accuracy_compat", "test/adv_accuracy_strict", "grad_norm/label", "grad_norm/other"}

Make = Callable[..., MethodTrainable]


def job(number: int | None = None) -> Job:
    """Return the job of a trial, or of a repeat with its judgments."""
    recipe = Recipe(
        method="interpretation",
        params={"lambda": 0.1, "phi": 0.5},
        data=Data(name="digits", train_limit=N, validation=30, test_limit=20),
        training=Training(epochs=EPOCHS, batch_size=50, lr=0.04, lr_decay=0.5, decay_every=2),
        maps=MAPS,
    )
    key = Train(recipe=recipe, seed=0).key
    work = judgments(key, measures.list_repeat_questions(STUDY)) if number is None else []
    return training_job(recipe, "interp", number=number, work=work, observation=measures.observe(STUDY))


def raw_maps(images: int) -> np.ndarray:
    return np.random.default_rng(images).random((images, 1, 8, 8), dtype=np.float32)


def store(folder: Path) -> Store:
    made = Store(folder)
    made.maps_file(MAPS.key).parent.mkdir(parents=True)
    np.save(made.maps_file(MAPS.key), raw_maps(N))
    save_file({"smoothgrad_NCHW": torch.from_numpy(raw_maps(PREVIEW))}, made.preview_file(MAPS.key))
    return made


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """Return a function that makes a Trainable for the trial in a store."""
    made: list[MethodTrainable] = []

    def make_trainable(where: Store) -> MethodTrainable:
        made.append(InterpretationTrainable(config_of(job(number=0), where)))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path_factory.mktemp("logs")))
        yield make_trainable
        for trainable in made:
            trainable.cleanup()


def finish(trainable: Trainable) -> dict[str, float]:
    """Run all remaining steps; return the last value of each metric."""
    metrics: dict[str, float] = {}
    result: dict[str, Any] = {}
    while not result.get("done"):
        result = trainable.step()
        metrics |= {name: value for name, value in result.items() if "/" in name}
    trainable.cleanup()
    return metrics


def events(folder: Path) -> EventAccumulator:
    """The events of a folder as TensorBoard reads them, none left out."""
    return EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0, "images": 0}).Reload()


def curve(read: EventAccumulator, metric: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read.Scalars(tag(metric))]


@pytest.fixture(scope="module")
def repeat(make: Make, tmp_path_factory: pytest.TempPathFactory) -> tuple[EventAccumulator, dict[str, float]]:
    """The events and the metrics of an uninterrupted repeat."""
    where = store(tmp_path_factory.mktemp("repeat") / "store")
    metrics = finish(StudyTrainable(config_of(job(), where)))
    return events(where.trial_log(job())), metrics


def test_each_metric_is_a_curve_with_a_point_per_epoch(repeat: tuple[EventAccumulator, dict[str, float]]) -> None:
    """Losses, accuracy and rates at 1 … E, attacks when they ran, results on test data at the end.

    TensorBoard's first page has accuracies and losses, because it sorts all tags.
    """
    read, _ = repeat
    expected = {metric: [1, 2, 3, 4] for metric in CURVES} | {"val/adv_accuracy": [2, 4]}
    expected |= {metric: [4] for metric in FINAL}
    assert {name: [event.step for event in read.Scalars(name)] for name in read.Tags()["scalars"]} == {
        tag(metric): steps for metric, steps in expected.items()
    }
    tags = sorted(read.Tags()["scalars"] + read.Tags()["images"])
    assert tags[:5] == [tag(name) for name in ("val/accuracy", "val/adv_accuracy", *sorted(CURVES)[:3])]
    assert tags[-1:] == read.Tags()["images"]


def test_curves_hold_what_was_measured(repeat: tuple[EventAccumulator, dict[str, float]]) -> None:
    """Terms add up to the loss, the rate falls as configured, the last points are the results."""
    read, metrics = repeat
    curves = {metric: [value for _, value in curve(read, metric)] for metric in CURVES}
    terms = zip(curves["train/ce"], curves["train/interpretation"], strict=True)
    assert curves["train/loss"] == pytest.approx([sum(pair) for pair in terms])
    assert curves["train/lr"] == pytest.approx([0.04, 0.04, 0.02, 0.02])
    assert min(curves["train/samples_per_second"]) > 0
    assert {metric: curve(read, metric)[-1][1] for metric in metrics} == pytest.approx(metrics)


def test_the_hparams_tab_has_the_trial(repeat: tuple[EventAccumulator, dict[str, float]]) -> None:
    """All hyperparameters with defaults; the columns are TensorBoard's to collect over all trials."""
    read, _ = repeat
    content = read.PluginTagToContent(hparams_plugin.PLUGIN_NAME)
    start = content[hparams_plugin.SESSION_START_INFO_TAG]
    session = hparams_plugin.parse_session_start_info_plugin_data(start)
    values = {name: value.string_value or value.number_value for name, value in session.hparams.items()}
    method = {"arm": "interp", "method": "interpretation", "lambda": 0.1, "phi": 0.5, "sign": "abs", "norm": "batch"}
    assert values == method | {"threshold": "one_sided", "output": "logits"}
    assert hparams_plugin.EXPERIMENT_TAG not in content


def judge_as_repeat(where: Store) -> Job:
    """Judge the trial's model on test data as the repeat of its seed; return the job."""
    (model,) = job(number=0).models
    work = (Judge(model=model.key, measure=AccuracyMeasure(), split="test"),)
    judging = training_job(model.recipe, "interp", stage="judgments", trains=False, work=work)
    finish(JudgeTrainable(config_of(judging, where)))
    return judging


def test_a_trial_that_is_a_repeat_has_one_run(make: Make, tmp_path: Path) -> None:
    """The run holds the curves, the hyperparameters and the judgments of both."""
    where = store(tmp_path / "store")
    finish(make(where))
    judge_as_repeat(where)
    (run,) = (where.tensorboard_dir / "interp").iterdir()
    assert run == where.trial_log(job(number=0))
    read = events(run)
    assert [step for step, _ in curve(read, "train/loss")] == [1, 2, 3, 4]
    assert [step for step, _ in curve(read, "test/accuracy")] == [4]
    assert hparams_plugin.SESSION_START_INFO_TAG in read.PluginTagToContent(hparams_plugin.PLUGIN_NAME)


def test_a_model_without_a_run_gets_one_with_its_hyperparameters(make: Make, tmp_path: Path) -> None:
    """Another arm trained it, or a user deleted the runs."""
    where = store(tmp_path / "store")
    finish(make(where))
    shutil.rmtree(where.tensorboard_dir)
    (file,) = [path for path in where.record_files() if path.stem == job(number=0).models[0].key]
    record = read_checked(file)
    file.unlink()
    where.write_record({name: value for name, value in record.items() if name != "run"})
    run = where.trial_log(judge_as_repeat(where))
    read = events(run)
    assert [step for step, _ in curve(read, "test/accuracy")] == [4]
    content = read.PluginTagToContent(hparams_plugin.PLUGIN_NAME)[hparams_plugin.SESSION_START_INFO_TAG]
    assert hparams_plugin.parse_session_start_info_plugin_data(content).hparams["lambda"].number_value == 0.1


def test_one_image_shows_inputs_targets_and_own_maps(repeat: tuple[EventAccumulator, dict[str, float]]) -> None:
    """Three rows of eight images, each with a frame of one pixel: 3·(8 + 2) high, 8·(8 + 2) wide."""
    read, _ = repeat
    (name,) = read.Tags()["images"]
    (image,) = read.Images(name)
    assert (image.step, image.height, image.width) == (EPOCHS, 30, 80)


@pytest.mark.parametrize("killed_before_its_checkpoint", [False, True])
@pytest.mark.parametrize("epochs", [0, 1, 3])
def test_a_resumed_trial_has_each_epoch_once(
    epochs: int, killed_before_its_checkpoint: bool, make: Make, tmp_path: Path
) -> None:
    """A worker dies after ``epochs`` epochs, or in the next one between its events and its checkpoint."""
    where = store(tmp_path / "store")
    killed = make(where)
    for _ in range(epochs):
        killed.step()
    if killed_before_its_checkpoint:
        killed.log.scalars(epochs + 1, {"train/loss": -1.0})
    killed.cleanup()
    finish(make(where))
    read = events(where.trial_log(job(number=0)))
    for metric in CURVES:
        assert [step for step, _ in curve(read, metric)] == [1, 2, 3, 4], metric
    assert min(value for _, value in curve(read, "train/loss")) > 0


def test_tunes_own_checkpoints_keep_each_epoch_once(make: Make, tmp_path: Path) -> None:
    """A trial that Tune takes back to an earlier epoch drops the events after it."""
    where = store(tmp_path / "store")
    trainable = make(where)
    trainable.step()
    trainable.save_checkpoint(str(tmp_path))
    trainable.step()
    trainable.load_checkpoint(str(tmp_path))
    finish(trainable)
    steps = [step for step, _ in curve(events(where.trial_log(job(number=0))), "train/loss")]
    assert steps == [1, 2, 3, 4]


def test_files_of_the_same_second_keep_their_order(tmp_path: Path) -> None:
    """Restarts at once, and TensorBoard still reads them one after the other."""
    for epoch in range(3):
        log = TrialLog(tmp_path, epoch)
        log.scalars(epoch + 1, {"loss": epoch})
        log.scalars(epoch + 2, {"loss": -1.0})
    assert len(list(tmp_path.iterdir())) == 3
    assert curve(events(tmp_path), "loss") == [(1, 0.0), (2, 1.0), (3, 2.0), (4, -1.0)]


def picture(folder: Path, map_BCHW: Tensor, target: Tensor | None) -> Any:
    TrialLog(folder).maps(1, torch.zeros(2, 3, 4, 4), map_BCHW, target)
    read = events(folder)
    (name,) = read.Tags()["images"]
    (image,) = read.Images(name)
    return image


def test_maps_are_scaled_each_to_its_largest_magnitude(tmp_path: Path) -> None:
    """s·|g| looks the same for every s ≠ 0. Without targets there are two rows, inputs and the model's own maps."""
    map_BCHW = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    pictures = [picture(tmp_path / str(scale), scale * map_BCHW, None) for scale in (1.0, -1.0, 1e-6)]
    assert len({image.encoded_image_string for image in pictures}) == 1
    assert {(image.height, image.width) for image in pictures} == {(12, 12)}
    zeros = torch.zeros(2, 3, 4, 4)
    assert picture(tmp_path / "targets", map_BCHW, zeros).height == 18
