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
        bool, typer.Option("--watch", help="Look again and again, until the study is finished; leave with Ctrl-C.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks of --watch.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON.")] = False,
) -> None:
    """Tell how far the study of a STORE is: what is done, runs, failed, is best and is matched, and the time left.

    At any time, from any terminal and machine that sees the folder; nothing is written, and no run is disturbed.

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
            typer.echo(json.dumps(asdict(observer.look()), indent=1, ensure_ascii=False))
        elif sys.stdout.isatty():
            shown = console()
            shown.print(text.tree(observer.look(), shown.width))
        else:
            typer.echo("\n".join(text.lines(observer.look())))


def _watch(observer: Observer, every: float) -> None:
    """Show each look, in place in a terminal, else below the last one, until nothing more can come."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # so that the terminal's cursor comes back
    from rich.live import Live

    from tune_interpreg.status import text

    shown = console()
    if not shown.is_terminal:
        for now in _looks(observer, every):
            typer.echo("\n".join(text.lines(now)) + "\n")
        return
    with Live(console=shown, auto_refresh=False) as live:
        for now in _looks(observer, every):
            live.update(text.tree(now, shown.width, shown.height), refresh=True)


def _looks(observer: Observer, every: float) -> Iterator[Status]:
    while True:
        yield (now := observer.look())
        if now.state in ("finished", "ended"):
            return
        time.sleep(every)
