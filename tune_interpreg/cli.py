"""The command line. Errors are one message on standard error, with exit code 2."""

from __future__ import annotations

from typing import Annotated

import typer

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

app = typer.Typer(
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
    """Entry point of the ``tune-interpreg`` command."""
    app()
