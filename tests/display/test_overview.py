"""What the driver writes for TensorBoard: its curves, layout and columns, read back as TensorBoard reads them."""

from pathlib import Path

import pytest
from helpers.closed_form import failing, steps, study, worker
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2, metadata
from tensorboard.plugins.hparams import metadata as hparams_plugin

from tune_interpreg.display.lines import summary
from tune_interpreg.display.tensorboard import CHARTS, Overview
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Item

LOSS, ACCURACY = "train/loss", "test/accuracy"
MADE = {"test/accuracy": 0.9, "test/adv_accuracy_compat": 0.6, "test/adv_accuracy_strict": 0.5}


class Told:
    """Remembers what it was told, as a terminal shows it."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def start(self, item: Item) -> None:
        self.lines.append("started")

    def epoch(self, item: Item, metrics: dict[str, float]) -> None:
        self.lines.append("epoch")

    def settle(self, item: Item, record: Record, settled: int, total: int) -> None:
        self.lines.append(summary(item, record))


def judged(item: Item) -> Record:
    """As ``worker``, with what the final evaluation adds; one trial diverges."""
    record = failing(lambda one: (one.arm, one.role, one.number) == ("robust", "search", 1), "diverged")(item)
    if item.role == "repeat":
        record["metrics"] = {seed: one | MADE for seed, one in record["metrics"].items()}
    return record


def drive(of: Study, store: Store, items: int = 1000) -> tuple[Dispatcher, Told]:
    """A driver that is killed once so many items have started."""
    dispatcher, told = Dispatcher(of, store, "f"), Told()
    dispatcher.listener = Overview(store, of, dispatcher.records, told)
    running = steps(dispatcher, judged, workers=2)
    for _, _ in zip(range(items), running, strict=False):
        pass
    return dispatcher, told


def events(store: Store) -> EventAccumulator:
    return EventAccumulator(str(store.tensorboard_dir), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def curve(read: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read.Scalars(tag)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("overview") / "store")
    drive(study(), store)
    return store


def shown(store: Store) -> dict[str, dict[str, list[str]]]:
    """The tab of custom scalars: arm → chart → the curves that the study's run has for it."""
    read = events(store)
    layout = layout_pb2.Layout.FromString(read.Tensors(metadata.CONFIG_SUMMARY_TAG)[0].tensor_proto.string_val[0])
    tags = [f"{tag}$" for tag in read.Tags()["scalars"]]
    return {
        category.title: {chart.title: [tag for tag in tags if tag in chart.multiline.tag] for chart in category.chart}
        for category in layout.category
    }


def test_the_layout_has_each_arms_loss_and_accuracies(finished: Store) -> None:
    found = shown(finished)
    assert list(found) == list(study().arms)
    assert found["standard"] == {
        "loss of the repeats": [f"standard/repeat/{LOSS}$"],
        "accuracy of the repeats": [f"standard/repeat/{tag}$" for tag in CHARTS["repeat"]["accuracy of the repeats"]],
    }
    assert found["robust"].keys() == {title for charts in CHARTS.values() for title in charts}
    assert all(tags for charts in found.values() for tags in charts.values())


def test_each_trial_that_is_done_is_one_point_of_its_arm(finished: Store) -> None:
    """In the order in which they were settled; a trial that diverged has no result."""
    read, records = events(finished), finished.records()
    for arm in study().arms:
        for role in ("search", "repeat"):
            done = [one for one in records if (one["arm"], one["role"], one["state"]) == (arm, role, "done")]
            losses = sorted(seed[LOSS] for one in done for seed in one["metrics"].values())
            points = curve(read, f"{arm}/{role}/{LOSS}") if losses else []
            assert [step for step, _ in points] == list(range(1, len(losses) + 1)), (arm, role)
            assert sorted(value for _, value in points) == pytest.approx(losses)
    assert "diverged" in {record["state"] for record in records}


def test_the_columns_are_the_parameters_of_all_arms_and_the_accuracies(finished: Store) -> None:
    content = events(finished).PluginTagToContent(hparams_plugin.PLUGIN_NAME)[hparams_plugin.EXPERIMENT_TAG]
    experiment = hparams_plugin.parse_experiment_plugin_data(content)
    parameters = {info.name: info for info in experiment.hparam_infos}
    assert {"method", "lambda", "phi", "lambda_j", "mode"} <= parameters.keys()
    assert [value.string_value for value in parameters["arm"].domain_discrete.values] == list(study().arms)
    clean, adversarial = ("val/accuracy", ACCURACY), ("val/adv_accuracy", "test/adv_accuracy_strict")
    assert {LOSS, *clean, *adversarial} <= {info.name.tag for info in experiment.metric_infos}


@pytest.mark.parametrize("killed", [0, 3, 9])
def test_a_driver_that_goes_on_leaves_what_one_would_have_written(killed: int, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    drive(study(), store, killed)
    before = sorted(store.tensorboard_dir.glob("events.*"))
    drive(study(), store)
    (file,) = store.tensorboard_dir.glob("events.*")
    assert file not in before
    read = events(store)
    assert len(curve(read, f"robust/search/{LOSS}")) == 5
    assert [step for step, _ in curve(read, f"adversarial/repeat/{ACCURACY}")] == [1, 2]


def test_a_study_that_grew_shows_its_new_arm(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    drive(study("adversarial"), store)
    drive(study("adversarial", "standard"), store)
    assert list(shown(store)) == ["adversarial", "standard"]
    assert len(curve(events(store), f"adversarial/repeat/{LOSS}")) == 2


def test_seeds_that_trained_together_are_a_point_each(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    drive(study("standard", seeds="[3, 4, 5]", gpus=1), store)
    assert curve(events(store), f"standard/repeat/{LOSS}") == [
        (step, pytest.approx(1 + seed / 1000)) for step, seed in ((1, 3), (2, 4), (3, 5))
    ]


def test_what_is_shown_elsewhere_is_told_all_the_same(tmp_path: Path) -> None:
    dispatcher, told = drive(study("standard"), Store(tmp_path / "store"))
    assert not dispatcher.is_open()
    assert told.lines.count("started") == 2
    assert sum("repeat, seed" in line for line in told.lines) == 2
    dispatcher.listener.epoch(worker, {"epoch": 1})
    assert told.lines[-1] == "epoch"
