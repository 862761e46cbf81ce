"""What the README shows is true of the program."""

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trainables import JacobianTrainable
from trainables.base.assignment import Assignment
from tune_interpreg import registry
from tune_interpreg.cli import app
from tune_interpreg.study.file.read import list_shipped_studies, parse_study, read_study_file

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_study_file_is_valid() -> None:
    (text,) = blocks("yaml")
    assert set(parse_study(text, where="README.md").arms) == {
        "standard",
        "adversarial",
        "interp_robust",
        "jacobian",
    }


def test_the_plain_tuner_takes_the_configuration_shown() -> None:
    (code,) = blocks("python")
    space = re.search(r"^space = (\{.*?^\})", code, flags=re.DOTALL | re.MULTILINE)
    assert space is not None
    config = eval(space[1], {"tune": type("Fixed", (), {"loguniform": staticmethod(lambda low, high: low)})})
    made = Assignment.from_plain_config(config, method="JacobianTrainable", parameters=JacobianTrainable.parameters)
    assert made.item.recipe.params == {"lambda_j": 1e-3}


@pytest.mark.parametrize(
    "line", [line for block in blocks("sh") for line in block.splitlines() if "interpreg " in line]
)
def test_every_command_exists_and_every_study_takes_what_it_is_given(line: str) -> None:
    command, *words = line.split()[1:]
    assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0
    if command == "run" and not words[0].endswith(".yaml"):
        assert words[0] in list_shipped_studies()
        read_study_file(words[0], [value for option, value in pairwise(words) if option == "--set"])


@pytest.mark.parametrize("line", re.findall(r"^tune-interpreg (launch .*)$", README, flags=re.MULTILINE))
def test_every_launch_shown_prints_its_file(line: str) -> None:
    shown = CliRunner().invoke(app, shlex.split(re.split(r" [|>] ", line)[0]))
    assert (shown.exit_code, shown.stderr) == (0, "")


def test_every_method_and_study_has_its_line() -> None:
    for name in [*registry.names("methods"), *list_shipped_studies()]:
        assert f"| `{name}` |" in README
