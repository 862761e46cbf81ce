"""Check that what the README shows works."""

import re
import shlex
from pathlib import Path

import pytest
from helpers.studies import parse_study
from typer.testing import CliRunner

from trainables import JacobianTrainable
from trainables.base.assignment import Assignment
from tune_interpreg import guides, registry
from tune_interpreg.cli import app
from tune_interpreg.study.file.read import list_shipped_studies

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_study_file_is_valid() -> None:
    (text,) = blocks("yaml")
    arms = {"standard", "adversarial", "interp_robust", "jacobian"}
    assert set(parse_study(text).arms) == arms


def test_the_plain_tuner_takes_the_configuration_shown() -> None:
    (code,) = blocks("python")
    space = re.search(r"^space = (\{.*?^\})", code, flags=re.DOTALL | re.MULTILINE)
    assert space is not None
    config = eval(space[1], {"tune": type("Fixed", (), {"loguniform": staticmethod(lambda low, high: low)})})
    assignment = Assignment.from_plain_config(config, JacobianTrainable)
    assert assignment.job.recipe.params == {"lambda_j": 1e-3}


COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("tune-interpreg ")]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_exists(line: str) -> None:
    assert CliRunner().invoke(app, [line.split()[1], "--help"]).exit_code == 0


def test_a_study_goes_from_draft_to_job_file_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in COMMANDS:
        arguments = shlex.split(re.split(r"[#>]", line)[0])[1:]
        if arguments[0] in ("init", "validate", "launch"):
            result = CliRunner().invoke(app, arguments)
            assert (result.exit_code, result.stderr) == (0, "")


def test_every_method_study_and_guide_is_named() -> None:
    for name in [*registry.names("methods"), *list_shipped_studies(), *guides.NAMES, "options"]:
        assert f"`{name}`" in README
