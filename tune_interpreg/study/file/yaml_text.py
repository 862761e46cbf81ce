"""YAML as study files use it: values in the notation of ``study.notation``, no tags, the line of each value."""

from typing import Any

import yaml

from tune_interpreg.study.notation import read_plain
from tune_interpreg.study.problems import Finding, Place

#: Limits that only aliases of aliases exceed.
MAX_DEPTH, MAX_VALUES = 50, 100_000

_MERGE, _TEXT, _PLAIN = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:str", "plain"


class UnreadableText(ValueError):
    """A text that is not YAML, or that no study file needs. line: counted from 1, or None."""

    def __init__(self, message: str, line: int | None = None):
        super().__init__(message)
        self.line = line


class YamlText:
    """The content of a text in YAML. Raises ``UnreadableText``.

    value: the content; all keys are text. lines: place → line. duplicates: keys that appear twice. rest: what follows
    the value, such as a comment.
    """

    def __init__(self, text: str):
        self.lines: dict[Place, int] = {}
        self.duplicates: list[Finding] = []
        self._values = 0
        try:
            loader = _Loader(text)
            node = loader.get_single_node()
            self._record(node, (), 0)
            self.value: Any = loader.construct_document(node) if node else None
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise UnreadableText(f"not valid YAML: unacceptable character #x{error.character:04x}", line) from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            reason = ", ".join(filter(None, (error.context, error.problem)))
            reason += "; indent with spaces" if "'\\t'" in reason else ""
            raise UnreadableText(f"not valid YAML: {reason}", mark.line + 1 if mark else None) from None
        except RecursionError:
            raise UnreadableText("nested too deeply", loader.line + 1) from None
        self.rest = text[node.end_mark.index :] if node else ""

    def _record(self, node: yaml.Node | None, place: Place, depth: int) -> None:
        """Record the line of each key and list item, and the keys that appear twice; make all keys text."""
        self._values += 1
        if node and (depth > MAX_DEPTH or self._values > MAX_VALUES):
            message = "nested too deeply, or too many values; does an alias (*name) contain itself?"
            raise UnreadableText(message, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self._record_value(value, value, (*place, index), depth)
        elif isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key, value in sorted(node.value, key=lambda pair: pair[0].tag != _MERGE):
                if not isinstance(key, yaml.ScalarNode):
                    raise UnreadableText("a key must be plain text", key.start_mark.line + 1)
                if key.tag == _MERGE:
                    merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
                    for section in reversed(merged):  # the first one has precedence
                        self._record(section, place, depth + 1)
                    continue
                key.tag = _TEXT
                self._record_value(key, value, (*place, key.value), depth)
                if key.value in keys:
                    self.duplicates.append(((*place, key.value), "appears twice; drop one"))
                keys.add(key.value)

    def _record_value(self, key: yaml.Node, value: yaml.Node, place: Place, depth: int) -> None:
        if place in self.lines:  # it replaces a merged value
            self.lines = {other: line for other, line in self.lines.items() if other[: len(place)] != place}
        self.lines[place] = key.start_mark.line + 1
        self._record(value, place, depth + 1)


def dump(content: Any, **layout: Any) -> str:
    """Return ``content`` in YAML, with quotes around each text that a study file or YAML 1.1 reads as another value."""
    return str(yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **layout))


class _Loader(yaml.SafeLoader):
    """Safe YAML without tags, in which ``read_plain`` reads each text without quotes."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        tag = getattr(event, "tag", None)
        if tag is not None:
            name = tag.replace("tag:yaml.org,2002:", "!!")
            raise UnreadableText(f"the tag {name} is not allowed; drop it", event.start_mark.line + 1)
        return super().compose_node(parent, index)

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        if kind is not yaml.ScalarNode:
            return str(super().resolve(kind, value, implicit))
        if not implicit[0]:  # in quotes
            return _TEXT
        return _MERGE if value == "<<" else _PLAIN


_Loader.add_constructor(_PLAIN, lambda loader, node: read_plain(node.value))


#: Ends of lines in YAML other than line feeds. Readers turn them into spaces or line feeds.
_LINE_ENDS = {"\r", "\x85", "\u2028", "\u2029"}


class _Dumper(yaml.SafeDumper):
    """Safe YAML in which texts that ``read_plain`` changes have quotes."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    if _LINE_ENDS & set(text):  # only double quotes keep these characters
        return dumper.represent_scalar(_TEXT, text, style='"')
    return dumper.represent_scalar(_TEXT, text, style=None if type(read_plain(text)) is str else "'")


_Dumper.add_representer(str, _represent_text)
