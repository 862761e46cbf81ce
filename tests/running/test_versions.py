"""The tested versions of libraries agree with what is installed and required, and others are named."""

import re
import tomllib
from pathlib import Path

import pytest

from tune_interpreg.running import versions

ROOT = Path(__file__).parents[2]


def test_tested_versions_begin_at_the_requirements_and_end_at_the_constraints() -> None:
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    oldest = dict(
        re.fullmatch(r"([a-z]+)(?:\[.*\])?>=(.*)", line).groups() for line in requirements if line[0] in "tro"
    )  # type: ignore[union-attr]
    pins = dict(re.findall(r"^([a-z]+)==(\d+\.\d+)", (ROOT / "constraints.txt").read_text(), flags=re.M))
    assert {name: (oldest[name], pins[name]) for name in versions.TESTED} == versions.TESTED


@pytest.mark.parametrize("installed", ["2.10.3", "2.16.0a1", "3.0"])
def test_a_version_outside_the_tested_ones_is_named(installed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "version", lambda name: {"torch": installed}.get(name, versions.TESTED[name][1]))
    (line,) = versions.list_untested()
    assert f"torch {installed} is not among the versions tested (2.11 to 2.15)" in line


@pytest.mark.parametrize("installed", ["2.11", "2.15.1+cu130", "2.12.0"])
def test_a_tested_version_is_not_mentioned(installed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "version", lambda name: {"torch": installed}.get(name, versions.TESTED[name][1]))
    assert versions.list_untested() == []
