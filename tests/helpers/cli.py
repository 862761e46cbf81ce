"""Call the command line in this process."""

import re

from click.testing import Result
from typer.testing import CliRunner

from tune_interpreg.cli import app


def call(*arguments: str, answer: str | None = None) -> Result:
    """Return the result of a command; answer: what the user types."""
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments, input=answer)


def output(*arguments: str, answer: str | None = None) -> str:
    """Return the output of a command that succeeds without a message."""
    result = call(*arguments, answer=answer)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def refusal(*arguments: str) -> str:
    """Return the message of a command that refuses its input, with single spaces; the message is all it prints."""
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert "Traceback" not in result.stderr
    return re.sub(r"[\s│]+", " ", result.stderr).strip()
