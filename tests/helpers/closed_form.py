"""A worker that computes records by closed form instead of training, and studies drained with it.

The loss is 1 + √λ + 0.001·seed, and the adversarial accuracy peaks at λ = 0.1. So every search has a known result: the
robust arm gets λ = 0.1 and loss 1.316, and so does any arm matched to it.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

from helpers.studies import parse_study
from tune_interpreg.schedule.dispatch import Dispatcher, Pause
from tune_interpreg.store import ledger
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Item

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
Worker = Callable[[Item], Record]


def study(*names: str, seeds: str = "[0, 1]", gpus: int = 0, checks: str = "null", **arms: str) -> Study:
    lines = [f"  {name}: {text}" for name, text in ({name: ARMS[name] for name in names or ARMS} | arms).items()]
    text = f"data: digits\nseeds: {seeds}\nresources: {{gpus: {gpus}}}\nchecks: {checks}\narms:\n"
    return parse_study(text + "\n".join(lines))


def strength(item: Item) -> float:
    params = item.recipe.params
    return float(params.get("lambda", params.get("lambda_j", 0.0)))


def worker(item: Item) -> Record:
    accuracy = math.exp(-(math.log(max(strength(item), 1e-9) / 0.1) ** 2))
    metrics = {"train/loss": 1 + strength(item) ** 0.5, "val/adv_accuracy": accuracy, "val/accuracy": 0.9}
    return ledger.make_record(
        item,
        "done",
        epochs=3,
        metrics={s: metrics | {"train/loss": metrics["train/loss"] + s / 1000} for s in item.seeds},
    )


def failing(wrong: Callable[[Item], bool], state: ledger.RecordState = "failed") -> Worker:
    return lambda item: ledger.make_record(item, state, error="as asked") if wrong(item) else worker(item)


def losing(seed: int) -> Worker:
    """Answer in closed form, but without the metrics of one seed among several of a repeat, as if it diverged."""

    def answer(item: Item) -> Record:
        record = worker(item)
        if item.role == "repeat" and len(item.seeds) > 1:
            record["metrics"].pop(str(seed), None)
        return record

    return answer


def steps(dispatcher: Dispatcher, answer: Worker = worker, *, workers: int = 1) -> Iterator[Item]:
    """Yield every item as it starts. To kill the driver while ``workers`` items run, stop iterating."""
    running: list[Item] = []
    while True:
        while len(running) < workers and isinstance(item := dispatcher.next(), Item):
            running.append(item)
            yield item
        if not running:
            assert dispatcher.next() is Pause.DRAINED
            assert not dispatcher.is_open()
            return
        item = running.pop(0)
        record = answer(item)
        dispatcher.store.write_record(record)
        dispatcher.finish(item, record)


def drain(of: Study, store: Store, answer: Worker = worker, *, workers: int = 1) -> list[Item]:
    return list(steps(Dispatcher(of, store, "f"), answer, workers=workers))


class Leaving:
    """A worker that also leaves the files of real workers: a model per repeat, maps and a preview.

    Files with ``spoils`` in their names are damaged after their checksums are taken.
    """

    def __init__(self, store: Store, spoils: str = "nothing"):
        self.store, self.spoils = store, spoils
        self.ran: list[Item] = []

    def __call__(self, item: Item) -> Record:
        self.ran.append(item)
        files = self.files(item)
        for path in files:
            self.store.write_bytes(path, item.key.encode() * 4)
        record = worker(item) | {"files": self.store.checksums(*files)}
        for path in files:
            if self.spoils in path.name:
                path.write_bytes(b"spoilt")
        return record

    def files(self, item: Item) -> tuple[Path, ...]:
        if item.role == "repeat":
            return tuple(self.store.model_file(item.key, seed) for seed in item.seeds)
        return self.store.input_files("repeat", item.recipe.maps) if item.role == "targets" else ()


def outcome(store: Store) -> list[tuple]:
    """Return everything that the records say about the results."""
    names = ("arm", "role", "number", "seeds", "key", "state", "metrics", "files")
    return [tuple(str(record[name]) for name in names) for record in store.records()]
