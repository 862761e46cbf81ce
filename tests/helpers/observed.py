"""Stores as `status` finds them, with a driver at work or finished, and what it tells of them."""

from __future__ import annotations

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
def driving(store: Store, of: Study, fingerprint: str = "f") -> Iterator[Dispatcher]:
    """This process as the driver of a study."""
    with lock.hold(store):
        lock.sign(store)
        dispatcher = Dispatcher(of, store, fingerprint)
        store.save_study(of)
        yield dispatcher


def finished(store: Store, of: Study) -> Status:
    with driving(store, of):
        drain(of, store)
    return Observer(store).read_status()


def arm(status: Status, name: str) -> ArmStatus:
    return next(one for one in status.arms if one.name == name)


def told(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["status", *arguments])
