"""The versions of the libraries that the tests were run with, and a line about each other version at the start."""

import re
from importlib.metadata import version

#: Library → the oldest and the newest version that were tested, without patch numbers.
TESTED = {"torch": ("2.11", "2.15"), "ray": ("2.60", "2.60"), "optuna": ("5.0", "5.0")}


def list_untested() -> list[str]:
    """Return a line for each of these libraries with an installed version outside the tested ones."""
    lines = []
    for name, (oldest, newest) in TESTED.items():
        installed = version(name)
        if not _number(oldest) <= _number(installed) <= _number(newest):
            tested = newest if oldest == newest else f"{oldest} to {newest}"
            remedy = f'should anything fail, pip install "{name}=={newest}.*"'
            lines.append(f"warning: {name} {installed} is not among the versions tested ({tested}); {remedy}")
    return lines


def _number(text: str) -> tuple[int, ...]:
    """Return major and minor version."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])
