"""Problems of a study: each names place, rule, value and remedy, and all are reported at once."""

import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

#: Keys and list indices that lead to a value of a study file; and a place with the message about it.
Place = tuple[str | int, ...]
Finding = tuple[Place, str]


@dataclass(frozen=True)
class Problem:
    """A problem: file and line or ``--set`` option; dotted key; broken rule, value and remedy."""

    where: str
    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.place}: {self.message}" if self.place else f"{self.where}: {self.message}"


def name_place(place: Place) -> str:
    """Return a place with dots between its keys; a key that is no word is quoted."""
    return ".".join(part if re.fullmatch(r"[\w-]+", part) else repr(part) for part in map(str, place))


class StudyError(ValueError):
    """A study that cannot run; ``problems`` lists everything that is wrong with it."""

    def __init__(self, problems: Sequence[Problem]):
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


#: Packages of this project. A plugin's exception is not blamed on their lines.
OURS = ("tune_interpreg", "trainables", "analysis")


def describe_exception(error: BaseException, *modules: str) -> str:
    """Return the type and text of an exception of a plugin's code, in one line, and the last line of the plugin.

    Raise the message ``from error``: ``--debug`` then shows the whole traceback.

    Args:
        error: caught where this project calls the plugin.
        modules: full names of the plugins' modules. All modules of their packages count as the plugins'. If none of
            them raised, the place is the last line outside of this project.
    """
    kind, text = type(error), " ".join(str(error).split())
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    lines = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    packages = [str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame, _ in lines]
    plugins = {module.partition(".")[0] for module in modules} - {*OURS}
    plugin = [row for row, package in enumerate(packages) if package in plugins]
    foreign = [row for row, package in enumerate(packages) if package not in OURS]
    message = f"{name}: {text}" if text else name
    if not (plugin or foreign):
        return message
    frame, line = lines[(plugin or foreign)[-1]]
    return f"{message} ({frame.f_code.co_filename}:{line})"
