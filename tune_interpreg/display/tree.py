"""Arms drawn as a tree that fits a terminal's height: what is finished folds up first, then what runs beneath the arms.

A line is one line: whatever is wider than the terminal is cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import RenderableType
from rich.text import Text
from rich.tree import Tree

from tune_interpreg.schedule.stages import STAGE_NAMES, Stage

#: Cells of the widest bar, of the widest column of names, and of a tree's guides at each level.
BAR, NAME, INDENT = 16, 40, 4


@dataclass(frozen=True)
class Branch:
    """An arm: its own line, and the lines beneath it.

    parent: the branch it hangs on. finished, begun: whether all, or anything, of it has run or runs.
    """

    name: str
    parent: str | None
    line: RenderableType
    leaves: Sequence[RenderableType]
    finished: bool
    begun: bool

    @classmethod
    def from_stages(
        cls, name: str, parent: str | None, line: RenderableType, own: Sequence[Stage], leaves: Sequence[RenderableType]
    ) -> Branch:
        """The branch of an arm with its ``own`` stages."""
        finished = all(stage.settled >= stage.total for stage in own)
        begun = any(stage.settled or stage.running for stage in own)
        return cls(name, parent, line, leaves, finished, begun)


def one_line(text: str = "") -> Text:
    """A text that stays on one line."""
    return Text(text, no_wrap=True, overflow="ellipsis")


def bar(done: float, total: float, width: int) -> Text:
    """``done`` of ``total`` in ``width`` cells."""
    full = min(width, int(width * done / total)) if total else width
    return Text.assemble(("━" * full, "green" if full == width else "cyan"), ("─" * (width - full), "bright_black"))


def arm_lines(parents: Mapping[str, str | None], arms: Mapping[str, Sequence[Stage]], width: int) -> dict[str, Text]:
    """Each arm's line in a tree: its name, a bar of all its parts where ``width`` has room, and how far each stage is.

    parents: of ``stages.parents``, top down.
    """
    insets: dict[str | None, int] = {None: 0}
    for name, parent in parents.items():
        insets[name] = insets[parent] + INDENT
    told = {
        name: "".join(f"  {STAGE_NAMES[one.role]} {one.settled}/{one.total}" for one in own) for name, own in arms.items()
    }
    cells = min(NAME, max(insets[name] + len(name) for name in arms))
    room = max(0, min(BAR, width - cells - 1 - max(map(len, told.values()))))
    made = {}
    for name, own in arms.items():
        settled, total = (sum(numbers) for numbers in zip(*((one.settled, one.total) for one in own), strict=True))
        text = one_line(name.ljust(cells - insets[name]) + " ").append_text(bar(settled, total, room))
        made[name] = text.append(told[name])
    return made


def draw_tree(title: RenderableType, branches: Sequence[Branch], height: int | None = None) -> Tree:
    """The tree, in no more than ``height`` lines where that is given."""
    kept, notes = _kept(branches, height)
    room = None if height is None else height - 1 - len(kept) - len(notes)
    shown = _shared({one.name: one.leaves for one in kept}, room)
    tree = Tree(title, guide_style="bright_black")
    nodes: dict[str | None, Tree] = {None: tree}
    above = {one.name: one.parent for one in branches}
    for one in kept:
        parent = one.parent
        while parent not in nodes:
            parent = above[parent] if parent else None
        nodes[one.name] = nodes[parent].add(one.line)
        for leaf in shown[one.name]:
            nodes[one.name].add(leaf)
    for note in notes:
        tree.add(one_line(note))
    return tree


def _kept(branches: Sequence[Branch], height: int | None) -> tuple[list[Branch], list[str]]:
    """The branches that have a line of their own, and what is said of the others."""
    kept, notes = list(branches), list[str]()
    needed = 1 + len(kept) + sum(len(one.leaves) for one in kept)
    if height is None or needed <= height:
        return kept, notes
    if finished := [one for one in kept if one.finished]:
        kept = [one for one in kept if not one.finished]
        notes.append(f"{_arms(finished)} done")
    if 1 + len(kept) + len(notes) > height and (later := [one for one in kept if not one.begun]):
        kept = [one for one in kept if one.begun]
        notes.append(f"{_arms(later)} to come")
    if (over := 2 + len(kept) + len(notes) - height) > 1:
        notes.append(f"… and {_arms(kept[-over:])} under way")
        kept = kept[:-over]
    return kept, notes


def _arms(branches: Sequence[Branch]) -> str:
    return branches[0].name if len(branches) == 1 else f"{len(branches)} arms"


def _shared(leaves: Mapping[str, Sequence[RenderableType]], room: int | None) -> dict[str, Sequence[RenderableType]]:
    """As many lines of each as fit in ``room`` lines in all, those with the fewest first; the rest are counted."""
    if room is None:
        return dict(leaves)
    shown: dict[str, Sequence[RenderableType]] = {}
    waiting = sorted(leaves, key=lambda name: len(leaves[name]))
    for count, name in enumerate(waiting):
        share, own = max(0, room) // (len(waiting) - count), leaves[name]
        if len(own) > share:
            own = [*own[: share - 1], one_line(f"… and {len(own) - share + 1} more")][:share]
        shown[name] = own
        room -= len(own)
    return shown
