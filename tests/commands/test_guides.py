"""Run the guides as they are written: write their files, execute their commands, compare the output."""

import io
import json
import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
from helpers.cli import output, refusal
from rich.console import Console

from tune_interpreg import guides
from tune_interpreg.guides.terminal import print_guide

#: A fenced block: its language, the name of its file if it is one, and its text.
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)

#: Lets pip install as in the guide, but without a network and into a folder of the test.
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
    """Return a regular expression for an output; a guide abbreviates outputs with …"""
    return ".*".join(map(re.escape, shown.strip().split("…")))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.alone] if "ray stop" in guides.text(name) else []) for name in guides.NAMES],
)
def test_a_guide_runs_as_it_is_written(tmp_path: Path, name: str) -> None:
    printed, languages = "", set()
    for language, file, text in BLOCK.findall(guides.text(name)):
        if file:
            (tmp_path / file).write_text(text)
        elif language == "sh":
            printed = run(text, tmp_path)
        else:
            assert language == "text", "a block is a file, a script or what the script before it prints"
            assert re.search(pattern(text), printed, re.DOTALL), printed
        languages.add(language)
    assert "sh" in languages


def test_guide_on_clusters_creates_a_token_before_it_starts_ray() -> None:
    first, *rest = [text for language, _, text in BLOCK.findall(guides.text("cluster")) if language == "sh"]
    assert first.startswith("ray get-auth-token --generate ")
    for script in rest:
        if "ray start" in script or "--cluster" in script:
            assert script.startswith("export RAY_AUTH_MODE=token\n")


def test_all_guides_are_listed_and_printed() -> None:
    listed = [line.split()[0] for line in output("guide").splitlines()]
    assert listed == [*guides.NAMES, "notebook", "options"]
    assert {path.stem for path in Path(guides.__file__).parent.glob("*.md")} == set(guides.NAMES)
    for name in guides.NAMES:
        assert output("guide", name) == guides.text(name)
    assert json.loads(output("guide", "notebook"))["nbformat"] == 4


@pytest.mark.parametrize("name", guides.NAMES)
def test_code_can_be_copied_from_a_terminal_from_below_the_name_of_its_file(name: str) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=40)
    print_guide(guides.text(name), screen)
    printed = screen.file.getvalue()  # type: ignore[attr-defined]
    for _, file, text in BLOCK.findall(guides.text(name)):
        assert (f"\nFile {file}:\n" if file else "\n") + text in printed


def test_guide_to_the_options_describes_sections_methods_and_networks() -> None:
    text = output("guide", "options")
    for name in ("adversarial_every", "log_uniform", "lambda_j", "mnist_cnn", "image_folder"):
        assert f"`{name}`" in text or f"# {name}" in text, name


def test_an_unknown_guide_is_refused_with_the_names_of_all() -> None:
    assert "first-study" in refusal("guide", "frist-study")
