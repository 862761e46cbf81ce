"""What TensorBoard shows of a study as a whole, written by the driver into the run ``.`` at the folder's root.

A trial's curves are its own; which of them belong together, only the driver knows. It writes curves with a point for
each finished trial of an arm, a layout of the Custom Scalars tab that shows them arm by arm, and the columns of the
HParams tab.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import takewhile
from typing import Any

from torch.utils.tensorboard.summary import custom_scalars, hparams, scalar

from tune_interpreg import registry
from tune_interpreg.display.lines import Display
from tune_interpreg.display.trial_log import Events
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.fields import Scalar
from tune_interpreg.study.items import Item

LOSS = "train/loss"

#: An arm's charts, by the role of the trials whose results they show.
CHARTS = {
    "search": {"loss of the search": (LOSS,), "accuracy of the search": ("val/accuracy", "val/adv_accuracy")},
    "repeat": {
        "loss of the repeats": (LOSS,),
        "accuracy of the repeats": ("test/accuracy", "test/adv_accuracy_strict", "test/adv_accuracy_compat"),
    },
}

#: The metrics of the HParams tab, which shows the first five of them unless asked for more.
COLUMNS = (
    *("val/accuracy", "val/adv_accuracy", "test/accuracy", "test/adv_accuracy_strict", LOSS),
    "test/adv_accuracy_compat",
)


class Overview:
    """The study's own run in TensorBoard; hears of every item as ``shown`` does, and passes it on.

    records: of the study so far; those that it gets later are written when the next item is settled. The points of an
    arm stand in the order in which they were written: TensorBoard drops what comes before the last step.
    """

    def __init__(self, store: Store, study: Study, records: dict[Any, Record], shown: Display):
        self._records, self._shown = records, shown
        self._written: set[Any] = set()
        self._points: Counter[str] = Counter()
        earlier = list(store.tensorboard_dir.glob("events.*"))
        self._events = Events(store.tensorboard_dir)
        self._events.write({"summary": custom_scalars(layout(study))}, {"summary": columns(study)})
        self._write()
        for file in earlier:
            file.unlink(missing_ok=True)

    def start(self, item: Item) -> None:
        self._shown.start(item)

    def epoch(self, item: Item, metrics: Mapping[str, float]) -> None:
        self._shown.epoch(item, metrics)

    def settle(self, item: Item, record: Record, settled: int, total: int) -> None:
        self._write()
        self._shown.settle(item, record, settled, total)

    def _write(self) -> None:
        # Records are added at the end: to look through all of them for each item would slow down a sweep of thousands.
        new = list(takewhile(lambda name: name not in self._written, reversed(self._records)))[::-1]
        self._written.update(new)
        self._events.write(*(event for name in new for event in self._of(self._records[name])))

    def _of(self, record: Record) -> Iterator[dict[str, Any]]:
        """A point of each curve for each seed of a trial that is done."""
        if record["state"] != "done":
            return
        shown = [tag for tags in CHARTS.get(record["role"], {}).values() for tag in tags]
        for metrics in record["metrics"].values():
            for tag in filter(metrics.__contains__, shown):
                own = f"{record['arm']}/{record['role']}/{tag}"
                self._points[own] += 1
                yield {"step": self._points[own], "summary": scalar(own, metrics[tag])}


def layout(study: Study) -> dict[str, dict[str, tuple[str, list[str]]]]:
    """The Custom Scalars tab: a category an arm, with the loss and the accuracies of its trials."""
    return {
        name: {
            title: ("Multiline", [f"{name}/{role}/{tag}$" for tag in tags])
            for role, charts in CHARTS.items()
            if role == "repeat" or arm.search
            for title, tags in charts.items()
        }
        for name, arm in study.arms.items()
    }


def columns(study: Study) -> Any:
    """The HParams tab: the arm, its method, the parameters of all methods, and the metrics that arms are judged by.

    Where each trial named its own columns, TensorBoard would show those of any one of them.
    """
    known: dict[str, Scalar] = {"arm": "", "method": ""}
    for arm in study.arms.values():
        for name, parameter in registry.load_method(arm.method).parameters.items():
            known[name] = parameter.choices[0] if parameter.choices else 0.0
    experiment, *_ = hparams(known, dict.fromkeys(COLUMNS, 0.0), {"arm": list(study.arms)})
    return experiment
