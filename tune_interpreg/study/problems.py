"""Problems of a study: each names place, rule, value and remedy, and all are reported at once."""

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


class StudyError(ValueError):
    """A study that cannot run; ``problems`` lists everything that is wrong with it."""

    def __init__(self, problems: Sequence[Problem]):
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))
