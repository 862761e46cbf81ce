"""The interface of a tracker, and a training as a tracker receives it.

A tracker is a class that a package registers under the entry points ``tune_interpreg.trackers``.

Ray Tune's WandbLoggerCallback and MLflowLoggerCallback cannot do this, because they make a run per Tune trial. Here a
Tune trial is an attempt at a job: a restart or a later run of the study gets another id, a trial may train several
seeds, and judgments of stored models are trials of their own. The callbacks also read nothing but a Tune run under way,
so they could neither export a store nor follow a run with ``--cluster in-process``.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from tune_interpreg import registry

#: Trackers of this package. Each needs the package of its name, and the extra of its name installs it.
SHIPPED = ("mlflow", "wandb")


class TrackerError(ValueError):
    """A tracker that is unknown, lacks its package, or does not take what it is sent."""


@dataclass(frozen=True)
class TrackedRun:
    """A training as a tracker shows it.

    id: 16 hexadecimal digits, from the arm and the key of the training: equal whenever this training is sent.
    name: for people, such as ``jacobian trial 3 seed 0``.
    stages: ``search`` for a trial, ``repeats`` for a repeat; the best trial of a search may be both.
    state: ``done``, ``failed``, ``diverged`` or ``pruned``.
    params: the arm, the method, its parameters and the whole setting, by the names of a study file: ``training.lr``.
    facts: further texts, which a later run of the study may change.
    epochs: the metrics of each epoch; the first is epoch 1.
    metrics: the results of the training and of all judgments of its model, by the names of ``tune_interpreg.results``.
    records: the records behind all this: ``ARM/KEY`` of the training, and the keys of the judgments.
    is_complete: whether everything that the study asks about the model has been judged.
    """

    id: str
    name: str
    arm: str
    stages: tuple[str, ...]
    state: str
    params: Mapping[str, Any]
    facts: Mapping[str, str]
    epochs: Sequence[Mapping[str, float]]
    metrics: Mapping[str, float]
    started: datetime
    finished: datetime
    records: frozenset[str]
    is_complete: bool


class Tracker(Protocol):
    """Receives the trainings of a study. Any exception of it is reported as a ``TrackerError``.

    study: name of the study. place: where the runs are, for people.
    """

    place: str

    def __init__(self, study: str): ...

    def write_run(self, run: TrackedRun) -> None:
        """Write a training. One with the same id replaces it, or adds to it what it lacks."""

    def write_tables(self, files: Sequence[Path]) -> None:
        """Write the files of the study's tables, which replace earlier ones."""


def check_trackers(names: Iterable[str], others: Sequence[str] = (), *, run_here: bool = True) -> None:
    """Raise ``TrackerError`` if a name is neither a usable tracker nor one of the others. Imports no tracker.

    run_here: whether this environment will run them, so that their packages must be installed in it.
    """
    available = [*registry.names("trackers"), *others]
    for name in names:
        if name not in available:
            raise TrackerError(f'unknown tracker "{name}"; there are: {", ".join(sorted(available))}')
        if run_here and name in SHIPPED and not _is_installed(name):
            raise TrackerError(f"{name}: is not installed; install it: pip install 'tune-interpreg[{name}]'")


def _is_installed(package: str) -> bool:
    """Return whether a package can be imported; wandb's folder of runs, ``./wandb``, is none."""
    if package in sys.modules:
        return sys.modules[package] is not None
    spec = find_spec(package)
    return spec is not None and spec.origin is not None
