"""`tune-interpreg status`."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from tune_interpreg.commands.shared import StoreArgument, console, report_errors

if TYPE_CHECKING:
    from tune_interpreg.status.facts import Status
    from tune_interpreg.status.observer import Observer


def status(
    store: StoreArgument,
    watch: Annotated[
        bool, typer.Option("--watch", metavar="", help="Update until the study is finished. Leave with Ctrl-C.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between updates of --watch.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print as JSON.")] = False,
) -> None:
    """Show the progress of the study in STORE: finished, running and failed items, best trials, matches, time left.

    It works at any time, from any machine that sees the folder. It writes nothing and does not disturb a run.

    Example:  tune-interpreg status runs/digits --watch
    """
    if watch and as_json:
        raise typer.BadParameter("--json prints once; drop --watch")
    with suppress(KeyboardInterrupt), report_errors():
        from dataclasses import asdict

        from tune_interpreg.status import text
        from tune_interpreg.status.observer import Observer
        from tune_interpreg.store.store import Store

        observer = Observer(Store(store))
        if watch:
            _watch(observer, every)
        elif as_json:
            typer.echo(json.dumps(asdict(observer.read_status()), indent=1))
        elif sys.stdout.isatty():
            screen = console()
            screen.print(text.tree(observer.read_status(), screen.width))
        else:
            typer.echo("\n".join(text.lines(observer.read_status())))


def _watch(observer: Observer, every: float) -> None:
    """Show the status again and again: in place in a terminal, else below the last one."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # restores the terminal's cursor
    from rich.live import Live

    from tune_interpreg.status import text

    screen = console()
    if not screen.is_terminal:
        for current in _statuses(observer, every):
            typer.echo("\n".join(text.lines(current)) + "\n")
        return
    with Live(console=screen, auto_refresh=False) as live:
        for current in _statuses(observer, every):
            live.update(text.tree(current, screen.width, screen.height), refresh=True)


def _statuses(observer: Observer, every: float) -> Iterator[Status]:
    """Yield the status every few seconds, until the study has ended."""
    while True:
        current = observer.read_status()
        yield current
        if current.state in ("finished", "ended"):
            return
        time.sleep(every)
