"""What the items of a study cost: reckoned from measured pieces, or read off the records of items like them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean

from pydantic import ValidationError

from tune_interpreg import __version__
from tune_interpreg.planning.pieces import Piece, pieces
from tune_interpreg.schedule.graph import Task
from tune_interpreg.store import files as integrity
from tune_interpreg.store.storage import StoreError
from tune_interpreg.store.store import Damaged, Record
from tune_interpreg.study.config import Study
from tune_interpreg.study.fields import Frozen
from tune_interpreg.study.items import Role
from tune_interpreg.study.space import Search

#: Of the files that costs are kept in.
FORMAT = 1

#: Seconds beyond what a record counts: of Ray, to hand over an item, and an epoch's result.
ITEM, RESULT = 0.05, 0.01

#: A run begins with the start of the command, of Ray and of its workers, and ends with tables, figures and the page:
#: so many times the start of a worker.
AROUND = 3.0


class CostsError(StoreError):
    """A measurement that cannot be used; the message names the file, what is wrong and what to do."""


class Costs(Frozen):
    """A measurement of one device.

    device: as records name it. host: of the machine. workers: how many worked at once. measured: when, and
    seconds: how long that took. processes: of one worker, ``start`` in seconds, ``memory`` and ``gpu_memory`` in bytes.
    pieces: key → name → seconds (see ``measuring``).
    """

    format: int = FORMAT
    version: str = __version__
    device: str
    host: str
    workers: int
    measured: str
    seconds: float
    processes: dict[str, float]
    pieces: dict[str, dict[str, float]]

    def save(self, path: Path) -> None:
        """Raises ``CostsError`` where the file cannot be written."""
        try:
            with integrity.writing(path) as temporary:
                temporary.write_text(json.dumps(integrity.sealed(self.model_dump()), indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise CostsError(f"{path}: cannot be written ({error.strerror}); name another file with --save") from None


def read(path: Path) -> Costs:
    """The measurement in a file.

    Raises ``CostsError`` where there is none, where it is none, damaged, or of another format.
    """
    if not path.exists():
        raise CostsError(f"{path}: no such file; `plan STUDY --save {path}` writes one")
    try:
        known = integrity.opened(path)
    except (Damaged, OSError) as error:
        reason = error.reason if isinstance(error, Damaged) else f"cannot be read ({error.strerror})"
        raise CostsError(f"{path}: {reason}; give a file that `plan --save` wrote") from None
    if known.get("format") != FORMAT:
        told = f"format {known.get('format')} of version {known.get('version')}, this is format {FORMAT}"
        raise CostsError(f"{path}: is of {told}; measure again with --save")
    try:
        return Costs.model_validate(known)
    except ValidationError as error:
        one = error.errors()[0]
        place = ".".join(map(str, one["loc"]))
        raise CostsError(f"{path}: is no measurement ({place}: {one['msg']}); measure again with --save") from None


class Prices:
    """The seconds of any task of a study.

    Args:
        tests: how many images the final evaluation has. records: of this study; their own seconds are the best evidence
        for further items of their arm and role. ray: whether items are handed over by Ray.
    """

    def __init__(self, study: Study, tests: int, records: Iterable[Record] = (), *, ray: bool = True):
        self.study, self.tests, self.ray = study, tests, ray
        self.costs: Mapping[str, Mapping[str, float]] = {}
        self.evidence = _evidence(study, records)
        self._known: dict[Like, float] = {}

    def lacking(self, tasks: Iterable[Task]) -> dict[str, Piece]:
        """The pieces, by key, that have to be known for these tasks and are not."""
        new = {alike: task for task in tasks if (alike := like(self.study, task)) not in self.evidence}
        needed = [piece for task in new.values() for piece in pieces(self.study, task, self.tests).values()]
        return {key: piece for piece in needed if (key := piece.key) not in self.costs}

    def __call__(self, task: Task) -> float:
        """Seconds from a worker's taking the task up to its being free again."""
        alike = like(self.study, task)
        if alike not in self._known:
            self._known[alike] = self.evidence.get(alike) or self._reckoned(task)
        results = self.study.training.epochs if task.role in ("search", "repeat") else 0
        return self._known[alike] + self.ray * (ITEM + RESULT * results)

    def _reckoned(self, task: Task) -> float:
        known = {kind: self.costs[piece.key] for kind, piece in pieces(self.study, task, self.tests).items()}
        if task.role == "targets":
            return known["maps"]["all"]
        if task.role == "checks":
            return known["checks"]["all"]
        training, judging = known["training"], known["judging"]
        seeds = len(task.parts) if task.role == "repeat" else 1
        attacked = adversarial(self.study, task) * judging["validation"]
        last = judging["final"] if task.role == "repeat" else 0.0
        return training["setup"] + self.study.training.epochs * training["epoch"] + seeds * (attacked + last)


def adversarial(study: Study, task: Task) -> int:
    """How many of a training's validations are under attack."""
    search = study.arms[task.arm].search
    if task.role == "search" and search and not is_attacked(search):
        return 0
    epochs, every = study.training.epochs, study.evaluation.adversarial_every
    return sum(epoch == epochs or bool(every and epoch % every == 0) for epoch in range(1, epochs + 1))


def is_attacked(search: Search) -> bool:
    """Whether the trials of a search are judged under attack."""
    return not search.match_loss_of or len(search.combinations()) > 1


#: What items of equal cost have in common: arm, role, and how many seeds are trained or noisy copies taken.
Like = tuple[str, Role, int]


def like(study: Study, task: Task) -> Like:
    """What tells which items cost the same; maps are their teacher's, as their records are."""
    targets = study.arms[task.arm].targets
    if targets and task.role == "targets":
        return targets.teacher, task.role, targets.samples
    return task.arm, task.role, len(task.parts)


def _evidence(study: Study, records: Iterable[Record]) -> dict[Like, float]:
    """The mean seconds of what is done; a result that was taken over from an equal item took none."""
    taken: defaultdict[Like, list[float]] = defaultdict(list)
    for record in records:
        same_kind = (record.get("device") != "cpu") == bool(study.resources.gpus)
        maps = record["recipe"]["maps"] if record["role"] == "targets" else None
        if record["state"] == "done" and record["seconds"] > 0 and same_kind:
            count = maps["samples"] if maps else len(record["seeds"])
            taken[record["arm"], record["role"], count].append(record["seconds"])
    return {alike: fmean(seconds) for alike, seconds in taken.items()}
