"""YAML files with the line of each key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from tune_interpreg.study.fields import format_value
from tune_interpreg.study.problems import Finding, Place, Problem, StudyError

_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-3 is a number and a date is text."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError):
            problem = f"{format_value(node.value)} is not a valid {node.tag.rpartition(':')[2]}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


class YamlFile:
    """The content of a study file.

    raw: the values; all keys are text. lines: place → line. duplicates: keys that appear twice.
    """

    def __init__(self, where: str, text: str, *, one_line: bool = False):
        self.where, self.one_line = where, one_line
        self.lines: dict[Place, int] = {}
        self.duplicates: list[Finding] = []
        self.raw: dict[str, Any] = self._read(text)

    def _read(self, text: str) -> dict[str, Any]:
        try:
            raw = self._values(text)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            reason = ", ".join(filter(None, (error.context, error.problem)))
            hint = "; indent by spaces" if "'\\t'" in reason else ""
            raise self._unreadable(f"{reason}{hint}", mark.line + 1 if mark else None) from None
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise self._unreadable(f"control character {format_value(chr(error.character))}", line) from None
        except RecursionError:
            raise self._unreadable("nested too deeply; does an alias (*name) contain itself?") from None
        if not isinstance(raw, dict):
            message = f"a study is a mapping with keys such as data, model, arms; got {format_value(raw)}"
            raise StudyError([Problem(self.where, "", message)])
        return raw

    def _unreadable(self, message: str, line: int | None = None) -> StudyError:
        at = self.where if line is None or self.one_line else f"{self.where}:{line}"
        return StudyError([Problem(at, "", f"not valid YAML: {message}")])

    def _values(self, text: str) -> Any:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            self._record(node, ())
            return loader.construct_document(node) if node else None
        finally:
            loader.dispose()

    def _record(self, node: yaml.Node | None, place: Place) -> None:
        """Record the line of each key and list item, and the keys that appear twice; make all keys text."""
        if isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self.lines[(*place, index)] = value.start_mark.line + 1
                self._record(value, (*place, index))
        elif isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key, value in sorted(node.value, key=lambda pair: pair[0].tag != _MERGE):
                self._record_key(key, value, place, keys)

    def _record_key(self, key: yaml.Node, value: yaml.Node, place: Place, keys: set[str]) -> None:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem="a key must be plain text", problem_mark=key.start_mark)
        if key.tag == _MERGE:
            for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                self._record(merged, place)
            return
        key.tag = "tag:yaml.org,2002:str"
        below = (*place, key.value)
        self.lines[below] = key.start_mark.line + 1
        if key.value in keys:
            self.duplicates.append((below, "appears twice; drop one"))
        keys.add(key.value)
        self._record(value, below)

    def locate(self, place: Place, message: str, changed: Mapping[Place, str]) -> tuple[int, Problem]:
        """Return the line, to sort by, and the problem with its file and line, or its override.

        changed: place → the override that changed it, such as ``--set a.b=value``.
        """
        dotted = ".".join(part if re.fullmatch(r"[\w-]+", part) else repr(part) for part in map(str, place))
        prefixes = [place[:depth] for depth in range(len(place), 0, -1)]
        if override := next((changed[above] for above in prefixes if above in changed), None):
            return 0, Problem(override, dotted, message)
        for above in prefixes:
            if line := self.lines.get(above):
                return line, Problem(f"{self.where}:{line}", dotted, message)
            if override := next((changed[key] for key in changed if key[: len(above)] == above), None):
                return 0, Problem(override, dotted, message)
        return 0, Problem(self.where, dotted, message)
