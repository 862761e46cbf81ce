"""An exception of a plugin's code is described by its type, its text and the plugin's last line."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from tune_interpreg.study.problems import describe_exception

SOURCE = """import json

class Broken(ValueError):
    pass

def refuse():
    raise Broken("first\\n  second")

def parse():
    return json.loads("{")

def check():
    assert False
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a package with the code above in its module ``code`` and return the module's name."""
    package = tmp_path / "described_plugin"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "code.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "described_plugin.code"


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("refuse", "described_plugin.code.Broken: first second ({file}:7)"),
        ("parse", "json.decoder.JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2"),
        ("check", "AssertionError ({file}:13)"),
    ],
)
def test_type_text_and_the_last_line_of_the_plugin(plugin: str, function: str, expected: str) -> None:
    code = importlib.import_module(plugin)
    with pytest.raises(Exception) as raised:
        getattr(code, function)()
    own_line = SOURCE.splitlines().index('    return json.loads("{")') + 1
    message = describe_exception(raised.value, plugin)
    assert message.startswith(expected.format(file=code.__file__))
    if function == "parse":
        assert message.endswith(f"({code.__file__}:{own_line})")
    for name in (plugin, plugin.partition(".")[0]):
        del sys.modules[name]


def test_without_a_line_of_the_plugin_the_last_line_outside_of_the_project() -> None:
    with pytest.raises(ValueError) as raised:
        json.loads("{")
    assert "decoder.py:" in describe_exception(raised.value, "another.plugin")


def test_without_any_line_type_and_text() -> None:
    assert describe_exception(KeyError("x"), "another.plugin") == "KeyError: 'x'"
