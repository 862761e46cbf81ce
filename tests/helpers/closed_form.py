"""A worker that computes records by closed form instead of training, and studies drained with it.

The loss is 1 + √λ + 0.001·seed, and the adversarial accuracy peaks at λ = 0.1. So every search has a known result: the
robust arm gets λ = 0.1 and loss 1.316, and so does any arm matched to it.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from helpers.studies import parse_study
from tune_interpreg.schedule.dispatch import Dispatcher, Pause
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study import metric_names
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Item, Job, Judge, Maps, Train
from tune_interpreg.study.measures import AccuracyMeasure, ChecksMeasure, GradientNormsMeasure

ARMS = {
    "standard": "{method: standard}",
    "adversarial": "{method: adversarial}",
    "robust": "{method: interpretation, targets: {teacher: adversarial}, search: {maximize: val/adv_accuracy,"
    " trials: 6, space: {lambda: {log_uniform: [0.05, 0.2]}, phi: {choice: [0.0, 1.0]}}}}",
    "permuted": "{method: interpretation, phi: 1.0, targets: {teacher: adversarial, permute: true},"
    " search: {match_loss_of: robust, trials: 5, space: {lambda: {log_uniform: [0.001, 1.0]}}}}",
    "jacobian": "{method: jacobian, search: {match_loss_of: robust, trials: 4,"
    " space: {lambda_j: {log_uniform: [0.001, 1.0]}}}}",
}
TWINS = {
    "one": "{method: interpretation, lambda: 0.1, targets: {teacher: standard},"
    " search: {maximize: val/accuracy, trials: 8, space: {phi: {choice: [0.0, 1.0]}}}}",
}
#: Returns the record of an item of a job.
Worker = Callable[[Job, Item], Record]


def study(*names: str, seeds: str = "[0, 1]", gpus: int = 0, checks: str = "null", **arms: str) -> Study:
    lines = [f"  {name}: {text}" for name, text in ({name: ARMS[name] for name in names or ARMS} | arms).items()]
    every = int(any("pruner" in text for text in arms.values()))  # a pruner reads accuracies of epochs
    shared = f"resources: {{gpus: {gpus}}}\nevaluation: {{checks: {checks}, adversarial_every: {every}}}"
    text = f"data: digits\nseeds: {seeds}\n{shared}\narms:\n"
    return parse_study(text + "\n".join(lines))


def strength(job: Job) -> float:
    params = job.recipe.params
    return float(params.get("lambda", params.get("lambda_j", 0.0)))


def worker(job: Job, item: Item) -> Record:
    metrics: dict[str, float] = {}
    extra: dict[str, Any] = {}
    if isinstance(item, Train):
        metrics["train/loss"] = 1 + strength(job) ** 0.5 + item.seed / 1000
    elif isinstance(item, Judge) and isinstance(item.measure, ChecksMeasure):
        extra["checks"] = [{"check": "steps", "state": "PASS", "n": 8, "said": "as it should be", "values": {}}]
    elif isinstance(item, Judge) and isinstance(item.measure, GradientNormsMeasure):
        metrics = {metric_names.GRAD_NORM_LABEL: 2.0, metric_names.GRAD_NORM_OTHER: 1.0}
    elif isinstance(item, Judge) and isinstance(item.measure, AccuracyMeasure):
        metrics[metric_names.accuracy(item.split)] = 0.9
    elif isinstance(item, Judge):
        accuracy = math.exp(-(math.log(max(strength(job), 1e-9) / 0.1) ** 2))
        metrics[metric_names.adversarial_accuracy(item.measure.kind, item.split)] = accuracy
    return ledger.make_record(job, item, "done", epochs=3, metrics=metrics, images={"train": 1, "test": 1}) | extra


def failing(wrong: Callable[[Job, Item], bool], state: ledger.RecordState = "failed") -> Worker:
    def answer(job: Job, item: Item) -> Record:
        is_wrong = wrong(job, item)
        return ledger.make_record(job, item, state, error="as asked") if is_wrong else worker(job, item)

    return answer


def untrained(job: Job, item: Item) -> bool:
    """Return whether an item is a training."""
    return isinstance(item, Train)


def losing(seed: int) -> Worker:
    """Answer in closed form, but the repeats of one seed diverge."""
    return failing(
        lambda job, item: isinstance(item, Train) and job.stage == "repeats" and item.seed == seed, "diverged"
    )


def run(dispatcher: Dispatcher, job: Job, answer: Worker = worker, *, items: int | None = None) -> None:
    """Run a job as a worker does: a record per item, and no judgments of models that were not trained.

    items: stop after so many items, as if the worker died.
    """
    lost: set[str] = set()
    for item in job.maps.items if job.maps else ():
        record = answer(job.maps, item)
        dispatcher.store.write_record(record)
        dispatcher.take(job, [record])
    for count, item in enumerate(job.items):
        if count == items:
            return
        if isinstance(item, Judge) and item.model in lost:
            continue
        record = answer(job, item)
        dispatcher.store.write_record(record)
        dispatcher.take(job, [record])
        if record["state"] != "done":
            lost.add(item.key)
    dispatcher.end(job)


def steps(dispatcher: Dispatcher, answer: Worker = worker, *, workers: int = 1) -> Iterator[Job]:
    """Yield every job as it starts. To kill the driver while ``workers`` jobs run, stop iterating."""
    running: list[Job] = []
    while True:
        while len(running) < workers and isinstance(job := dispatcher.next(), Job):
            running.append(job)
            yield job
        if not running:
            assert dispatcher.next() is Pause.DRAINED
            assert not dispatcher.is_open()
            return
        run(dispatcher, running.pop(0), answer)


def drain(of: Study, store: Store, answer: Worker = worker, *, workers: int = 1) -> list[Job]:
    return list(steps(Dispatcher(of, store, "f"), answer, workers=workers))


def trainings(jobs: list[Job]) -> list[str]:
    """Return the keys of what jobs train."""
    return [model.key for job in jobs if job.trains for model in job.models]


def shape(jobs: list[Job]) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(job.arm, job.stage, job.parts) for job in jobs]


class Leaving:
    """A worker that also leaves the files of real workers: models, maps and previews.

    Files with ``spoils`` in their names are damaged after their checksums are taken.
    """

    def __init__(self, store: Store, spoils: str = "nothing"):
        self.store, self.spoils = store, spoils
        self.ran: list[Item] = []

    def __call__(self, job: Job, item: Item) -> Record:
        self.ran.append(item)
        files = self.files(item)
        for path in files:
            self.store.write_bytes(path, item.key.encode() * 4)
        record = worker(job, item) | {"files": self.store.checksums(*files)}
        for path in files:
            if self.spoils in path.name:
                path.write_bytes(b"spoilt")
        return record

    def files(self, item: Item) -> tuple[Path, ...]:
        if isinstance(item, Train):
            return (self.store.model_file(item.key),)
        if isinstance(item, Maps):
            return self.store.maps_file(item.key), self.store.preview_file(item.key)
        return ()


def outcome(store: Store) -> list[tuple[str, ...]]:
    """Return everything that the records say about the results."""
    names = ("arm", "kind", "number", "seed", "key", "state", "metrics", "files")
    return [tuple(str(record.get(name)) for name in names) for record in store.records()]
