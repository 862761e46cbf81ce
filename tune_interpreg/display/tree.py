"""A tree of arms that fits a terminal: a line that is too wide is cut, and a tree that is too high is folded.

Finished arms are folded first, then the lines below the running arms, then the arms that have not started.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import RenderableType
from rich.text import Text
from rich.tree import Tree

from tune_interpreg.schedule.stages import STAGE_NAMES, Stage

#: Cells of the widest bar, of the widest column of names, and of a tree's guides per level.
BAR, NAME, INDENT = 16, 40, 4


@dataclass(frozen=True)
class Branch:
    """An arm in the tree: its own line below its ``parent``, and the lines below it."""

    name: str
    parent: str | None
    line: RenderableType
    leaves: Sequence[RenderableType]
    finished: bool
    begun: bool

    @classmethod
    def from_stages(
        cls,
        name: str,
        parent: str | None,
        line: RenderableType,
        stages: Sequence[Stage],
        leaves: Sequence[RenderableType],
    ) -> Branch:
        """Return a branch that is finished or begun as its stages are."""
        finished = all(stage.settled >= stage.total for stage in stages)
        begun = any(stage.settled or stage.running for stage in stages)
        return cls(name, parent, line, leaves, finished, begun)


def one_line(text: str = "") -> Text:
    """Return a text that is cut instead of wrapped."""
    return Text(text, no_wrap=True, overflow="ellipsis")


def bar(done: float, total: float, width: int) -> Text:
    """Return a bar of ``width`` cells that shows ``done`` of ``total``."""
    full = min(width, int(width * done / total)) if total else width
    return Text.assemble(("━" * full, "green" if full == width else "cyan"), ("─" * (width - full), "bright_black"))


def arm_lines(parents: Mapping[str, str | None], arms: Mapping[str, Sequence[Stage]], width: int) -> dict[str, Text]:
    """Return each arm's line: its name, a bar of all its parts if ``width`` has room, and the counts of its stages.

    Args:
        parents: as from ``stages.parents``, top down.
    """
    indents: dict[str | None, int] = {None: 0}
    for name, parent in parents.items():
        indents[name] = indents[parent] + INDENT
    counts = {
        name: "".join(f"  {STAGE_NAMES[stage.role]} {stage.settled}/{stage.total}" for stage in stages)
        for name, stages in arms.items()
    }
    column = min(NAME, max(indents[name] + len(name) for name in arms))
    bar_width = max(0, min(BAR, width - column - 1 - max(map(len, counts.values()))))
    lines = {}
    for name, stages in arms.items():
        settled, total = sum(stage.settled for stage in stages), sum(stage.total for stage in stages)
        line = one_line(name.ljust(column - indents[name]) + " ")
        lines[name] = line.append_text(bar(settled, total, bar_width)).append(counts[name])
    return lines


def draw_tree(title: RenderableType, branches: Sequence[Branch], height: int | None = None) -> Tree:
    """Return the tree, in at most ``height`` lines if that is given."""
    shown, notes = _fold(branches, height)
    room = None if height is None else height - 1 - len(shown) - len(notes)
    leaves = _share({branch.name: branch.leaves for branch in shown}, room)
    tree = Tree(title, guide_style="bright_black")
    nodes: dict[str | None, Tree] = {None: tree}
    parents = {branch.name: branch.parent for branch in branches}
    for branch in shown:
        parent = branch.parent
        while parent not in nodes:  # folded
            parent = parents[parent] if parent else None
        nodes[branch.name] = nodes[parent].add(branch.line)
        for leaf in leaves[branch.name]:
            nodes[branch.name].add(leaf)
    for note in notes:
        tree.add(one_line(note))
    return tree


def _fold(branches: Sequence[Branch], height: int | None) -> tuple[list[Branch], list[str]]:
    """Return the branches with a line of their own, and notes about the others."""
    shown, notes = list(branches), list[str]()
    if height is None or 1 + len(shown) + sum(len(branch.leaves) for branch in shown) <= height:
        return shown, notes
    finished = [branch for branch in shown if branch.finished]
    if finished:
        shown = [branch for branch in shown if not branch.finished]
        notes.append(f"{_name_arms(finished)} done")
    later = [branch for branch in shown if not branch.begun]
    if later and 1 + len(shown) + len(notes) > height:
        shown = [branch for branch in shown if branch.begun]
        notes.append(f"{_name_arms(later)} to come")
    excess = 2 + len(shown) + len(notes) - height
    if excess > 1:
        notes.append(f"… and {_name_arms(shown[-excess:])} running")
        shown = shown[:-excess]
    return shown, notes


def _name_arms(branches: Sequence[Branch]) -> str:
    return branches[0].name if len(branches) == 1 else f"{len(branches)} arms"


def _share(leaves: Mapping[str, Sequence[RenderableType]], room: int | None) -> dict[str, Sequence[RenderableType]]:
    """Return as many leaves of each branch as fit in ``room`` lines in all, and a count of the others."""
    if room is None:
        return dict(leaves)
    shown: dict[str, Sequence[RenderableType]] = {}
    names = sorted(leaves, key=lambda name: len(leaves[name]))
    for index, name in enumerate(names):
        share, lines = max(0, room) // (len(names) - index), leaves[name]
        if len(lines) > share:
            lines = [*lines[: share - 1], one_line(f"… and {len(lines) - share + 1} more")][:share]
        shown[name] = lines
        room -= len(lines)
    return shown
