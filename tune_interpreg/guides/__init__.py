"""Short guides that run as they are written: `tune-interpreg guide` lists and prints them, a test executes each."""

from __future__ import annotations

from importlib import resources

#: In the order in which one would read them.
NAMES = ("first-study", "own-data", "own-method", "cluster", "tables", "resuming", "paper")


def text(name: str) -> str:
    """A guide's Markdown; ``name`` is one of ``NAMES``."""
    return resources.files(__name__).joinpath(f"{name}.md").read_text(encoding="utf-8")


def title(name: str) -> str:
    """What a guide is about: its first line."""
    return text(name).partition("\n")[0].removeprefix("# ")
