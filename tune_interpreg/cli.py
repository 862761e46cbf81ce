"""The command line. An error of the user is one message on standard error, with exit code 2."""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tune_interpreg import __version__
from tune_interpreg.commands.dashboard import dashboard
from tune_interpreg.commands.guide import guide
from tune_interpreg.commands.init import init
from tune_interpreg.commands.launch import launch
from tune_interpreg.commands.plan import plan
from tune_interpreg.commands.report import report
from tune_interpreg.commands.run import run
from tune_interpreg.commands.shared import CHECKED, EPILOG
from tune_interpreg.commands.spaces import spaces
from tune_interpreg.commands.status import status
from tune_interpreg.commands.tensorboard import tensorboard
from tune_interpreg.commands.validate import validate

#: The exit code of a process that a closed pipe ended: 128 + SIGPIPE.
CLOSED_PIPE = 141


class _Commands(TyperGroup):
    """All commands; one that writes to a closed pipe (``| head``) ends quietly, as other Unix programs do."""

    def invoke(self, ctx: Any) -> Any:
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            if not _is_output_closed():
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its exit
            raise SystemExit(CLOSED_PIPE) from None


def _is_output_closed() -> bool:
    """Return whether nobody reads standard output any more. Another pipe, such as one of Ray's, may have broken."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


app = typer.Typer(
    cls=_Commands,
    name="tune-interpreg",
    help=(
        "Which regularizer, at which strength, over how many seeds: trains and searches every arm of a study "
        "on Ray Tune and Optuna, and ends with tables of means and 95% intervals.\n\n"
        "Start with:  tune-interpreg run digits"
    ),
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


app.command(epilog=EPILOG)(run)
for command in (plan, validate, status, report, tensorboard, dashboard, spaces, init, guide):
    app.command(epilog=CHECKED)(command)
app.add_typer(launch)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        typer.echo(f"tune-interpreg {__version__}")
        raise typer.Exit()


def main() -> None:
    """Run the ``tune-interpreg`` command. A character that the output's encoding lacks is printed as ``?``."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    app()
