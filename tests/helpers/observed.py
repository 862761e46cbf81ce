"""Stores of running and finished studies, and the `status` of them."""

from collections.abc import Iterator
from contextlib import contextmanager

from click.testing import Result
from typer.testing import CliRunner

from helpers.closed_form import drain
from tune_interpreg.cli import app
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.status.facts import ArmStatus, Status
from tune_interpreg.status.observer import Observer
from tune_interpreg.store import lock
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Study


@contextmanager
def driving(store: Store, study: Study, fingerprint: str = "f") -> Iterator[Dispatcher]:
    """Make this process the driver of a study in this block."""
    with lock.hold(store):
        lock.sign(store)
        dispatcher = Dispatcher(study, store, fingerprint)
        store.save_study(study)
        yield dispatcher


def finished(store: Store, study: Study) -> Status:
    with driving(store, study):
        drain(study, store)
    return Observer(store).read_status()


def arm(status: Status, name: str) -> ArmStatus:
    return next(arm for arm in status.arms if arm.name == name)


def run_status(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["status", *arguments])
