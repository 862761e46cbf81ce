"""The guides run as they are written: their files are written, their commands executed, their outputs seen."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tune_interpreg import guides
from tune_interpreg.cli import app

#: What stands between two fences: the language, the file it is of, if any, and the text.
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)

#: pip as in the guide, but without a network and into a folder of the test's own.
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def run(script: str, folder: Path) -> str:
    site, scripts = folder / "site", sysconfig.get_path("scripts")
    environment = os.environ | OFFLINE | {
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "PIP_TARGET": str(site),
        "PYTHONPATH": str(site),
        "HOME": str(folder),
        "COLUMNS": "200",
    }  # fmt: skip
    ran = subprocess.run(["sh", "-ec", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, f"{script}{ran.stdout}{ran.stderr}"
    return ran.stdout


def pattern(shown: str) -> str:
    """A regular expression for an output of which a guide leaves parts out, as …"""
    return ".*".join(map(re.escape, shown.strip().split("…")))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", guides.NAMES)
def test_a_guide_runs_as_it_is_written(tmp_path: Path, name: str) -> None:
    printed, done = "", []
    for language, file, text in BLOCK.findall(guides.text(name)):
        if file:
            (tmp_path / file).write_text(text)
        elif language == "sh":
            printed = run(text, tmp_path)
        else:
            assert language == "text", "a block is a file, a script or what the script before it prints"
            assert re.search(pattern(text), printed, re.DOTALL), printed
        done.append(language)
    assert "sh" in done


def test_no_ray_is_started_in_the_guide_on_clusters_before_there_is_a_token_to_ask_for() -> None:
    made, *uses = [text for language, _, text in BLOCK.findall(guides.text("cluster")) if language == "sh"]
    assert made.startswith("ray get-auth-token --generate ")
    for script in uses:
        if "ray start" in script or "--cluster" in script:
            assert script.startswith("export RAY_AUTH_MODE=token\n")


def test_all_guides_are_listed_and_printed() -> None:
    listed = CliRunner().invoke(app, ["guide"])
    assert [line.split()[0] for line in listed.output.splitlines()] == list(guides.NAMES)
    assert {path.stem for path in Path(guides.__file__).parent.glob("*.md")} == set(guides.NAMES)
    for name in guides.NAMES:
        assert CliRunner().invoke(app, ["guide", name]).output == guides.text(name)


def test_an_unknown_guide_names_the_known_ones() -> None:
    refused = CliRunner().invoke(app, ["guide", "frist-study"])
    assert refused.exit_code == 2
    assert "first-study" in refused.output


def test_the_running_python_is_the_one_that_the_guides_call() -> None:
    assert Path(sysconfig.get_path("scripts"), "python").resolve() == Path(sys.executable).resolve()
