"""The command line. An error of the user is one message on standard error, with exit code 2."""

import errno
import os
import select
import signal
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tune_interpreg import __version__
from tune_interpreg.commands.compare import compare
from tune_interpreg.commands.dashboard import dashboard
from tune_interpreg.commands.export import export
from tune_interpreg.commands.guide import guide
from tune_interpreg.commands.init import init
from tune_interpreg.commands.launch import launch
from tune_interpreg.commands.plan import plan
from tune_interpreg.commands.prune import prune
from tune_interpreg.commands.report import report
from tune_interpreg.commands.run import run
from tune_interpreg.commands.shared import CHECKED, EPILOG, prepare_process
from tune_interpreg.commands.spaces import spaces
from tune_interpreg.commands.status import status
from tune_interpreg.commands.tensorboard import tensorboard
from tune_interpreg.commands.validate import validate


class _Commands(TyperGroup):
    """All commands; one that writes to a closed pipe (``| head``) ends quietly, as other Unix programs do."""

    def invoke(self, ctx: Any) -> Any:
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            output, poll = sys.stdout.fileno(), select.poll()
            poll.register(output, 0)
            if not any(event & select.POLLERR for _, event in poll.poll(0)):
                raise  # another pipe has broken, such as one of Ray's
            os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # Python flushes once more at its exit
            raise SystemExit(128 + signal.SIGPIPE) from None
        except OSError as error:
            if error.filename or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            print(f"error: the output cannot be written: {error.strerror}", file=sys.stderr)
            raise SystemExit(2) from None


app = typer.Typer(
    cls=_Commands,
    name="tune-interpreg",
    help="Which regularizer, at which strength, over how many seeds: trains and searches every arm of a study "
    "on Ray Tune and Optuna, and ends with tables of means and 95% intervals.\n\n"
    "Start with:  tune-interpreg run digits, and:  tune-interpreg guide first-study",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


app.command(epilog=EPILOG)(run)
for command in (plan, validate, status, report, compare, export, tensorboard, dashboard, prune, spaces, init, guide):
    app.command(epilog=CHECKED)(command)
app.add_typer(launch)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", metavar="", help="Print the version and stop.")] = False,
) -> None:
    if version:
        typer.echo(f"tune-interpreg {__version__}")
        raise typer.Exit()


def main() -> None:
    """Run the ``tune-interpreg`` command."""
    prepare_process()
    app()
