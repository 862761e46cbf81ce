"""YAML files with the origin of each value: its line, or the override that set it."""

import re
from typing import Any

import yaml

from tune_interpreg.study.fields import format_value
from tune_interpreg.study.problems import Finding, Place, Problem, StudyError

_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-3 is a number and a date is text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


class YamlFile:
    """The content of a study file. raw: the values, with text as keys. duplicates: keys that appear twice."""

    def __init__(self, where: str, text: str):
        self.where = where
        self.duplicates: list[Finding] = []
        self._origins: dict[Place, tuple[int, str]] = {}
        self.raw: dict[str, Any] = self._read(text)

    def _read(self, text: str) -> dict[str, Any]:
        try:
            loader = _Loader(text)
            node = loader.get_single_node()
            self._record(node, ())
            raw = loader.construct_document(node) if node else None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            reason = ", ".join(filter(None, (error.context, error.problem)))
            raise self._error(f"not valid YAML: {reason}", f":{mark.line + 1}" if mark else "") from None
        except RecursionError:
            raise self._error("not valid YAML: nested too deeply; does an alias (*name) contain itself?") from None
        except (yaml.YAMLError, ValueError, LookupError) as error:  # a control character, or a value unfit for its tag
            raise self._error(f"not valid YAML: {str(error).splitlines()[0]}") from None
        if not isinstance(raw, dict):
            raise self._error(f"a study is a mapping with keys such as data, model, arms; got {format_value(raw)}")
        return raw

    def _error(self, message: str, line: str = "") -> StudyError:
        return StudyError([Problem(f"{self.where}{line}", "", message)])

    def _record(self, node: yaml.Node | None, place: Place) -> None:
        """Record the line of each key and list item, and the keys that appear twice; make all keys text."""
        if isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self._record_value(value, value, (*place, index))
        elif isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key, value in sorted(node.value, key=lambda pair: pair[0].tag != _MERGE):
                if not isinstance(key, yaml.ScalarNode):
                    raise yaml.MarkedYAMLError(problem="a key must be plain text", problem_mark=key.start_mark)
                if key.tag == _MERGE:
                    for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                        self._record(merged, place)
                    continue
                key.tag = "tag:yaml.org,2002:str"
                self._record_value(key, value, (*place, key.value))
                if key.value in keys:
                    self.duplicates.append(((*place, key.value), "appears twice; drop one"))
                keys.add(key.value)

    def _record_value(self, key: yaml.Node, value: yaml.Node, place: Place) -> None:
        line = key.start_mark.line + 1
        self._origins[place] = line, f"{self.where}:{line}"
        self._record(value, place)

    def override(self, place: tuple[str, ...], value: Any, where: str) -> None:
        """Set the value at ``place``. Problems there name ``where``, such as ``--set a.b=value``.

        Sections on the way are copied, because an alias may share them.
        """
        section = self.raw
        for depth, key in enumerate(place[:-1], start=1):
            inner = section.get(key)
            if place[:depth] in (("data",), ("model",)) and isinstance(inner, str):
                inner = {"name": inner}
            if inner is not None and not isinstance(inner, dict):
                above = ".".join(place[:depth])
                message = f"takes no key {key}.{place[depth]}: it is {format_value(inner)}; replace it: {above}=VALUE"
                raise StudyError([Problem(where, above, message)])
            section[key] = dict(inner or {})
            section = section[key]
            self._origins.setdefault(place[:depth], (0, where))
        section[place[-1]] = value
        self._origins = {other: origin for other, origin in self._origins.items() if other[: len(place)] != place}
        self._origins[place] = 0, where

    def locate(self, place: Place, message: str) -> Problem:
        """Return the problem with its file and line, or its override."""
        dotted = ".".join(part if re.fullmatch(r"[\w-]+", part) else repr(part) for part in map(str, place))
        return Problem(self.origin(place)[1], dotted, message)

    def origin(self, place: Place) -> tuple[int, str]:
        """Return the line of ``place``, or 0 for an override, and the file with this line or the override."""
        for depth in range(len(place), 0, -1):
            if place[:depth] in self._origins:
                return self._origins[place[:depth]]
        return 0, self.where
