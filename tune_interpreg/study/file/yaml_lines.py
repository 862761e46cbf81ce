"""Study files in YAML with the origin of each value: its line, or the override that set it."""

from typing import Any

from tune_interpreg.study.fields import format_value
from tune_interpreg.study.file.yaml_text import UnreadableText, YamlText
from tune_interpreg.study.problems import Place, Problem, StudyError, name_place


class YamlFile:
    """The content of a study file. raw: the values, with text as keys. duplicates: keys that appear twice.

    Raises ``StudyError`` if the text is not YAML, or no mapping.
    """

    def __init__(self, where: str, text: str):
        self.where = where
        try:
            content = YamlText(text)
        except UnreadableText as error:
            place = where if error.line is None else f"{where}:{error.line}"
            raise StudyError([Problem(place, "", str(error))]) from None
        if not isinstance(content.value, dict):
            rule = f"a study is a mapping with keys such as data, model, arms; got {format_value(content.value)}"
            raise StudyError([Problem(where, "", rule)])
        self.raw: dict[str, Any] = content.value
        self.duplicates = content.duplicates
        self._origins = {place: (line, f"{where}:{line}") for place, line in content.lines.items()}

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
        return Problem(self.origin(place)[1], name_place(place), message)

    def origin(self, place: Place) -> tuple[int, str]:
        """Return the line of ``place``, or 0 for an override, and the file with this line or the override."""
        for depth in range(len(place), 0, -1):
            if place[:depth] in self._origins:
                return self._origins[place[:depth]]
        return 0, self.where
