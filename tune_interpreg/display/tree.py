"""A tree of arms that fits a terminal: a line that is too wide is cut, and a tree that is too high shows less.

Such a tree shows the running arms only, each with as many lines below it as fit.
"""

from collections.abc import Mapping, Sequence

from rich.console import RenderableType
from rich.text import Text
from rich.tree import Tree

from tune_interpreg.schedule.graph import Stage

#: Cells of the widest bar, of the widest column of names, and of a tree's guides per level.
BAR, NAME, INDENT = 16, 40, 4


def one_line(text: str = "") -> Text:
    """Return a text that is cut instead of wrapped."""
    return Text(text, no_wrap=True, overflow="ellipsis")


def bar(done: float, total: float, width: int) -> Text:
    """Return a bar of ``width`` cells that shows ``done`` of ``total``."""
    full = min(width, int(width * done / total)) if total else width
    return Text.assemble(("━" * full, "green" if full == width else "cyan"), ("─" * (width - full), "bright_black"))


def draw_tree(
    title: RenderableType,
    parents: Mapping[str, str | None],
    lines: Mapping[str, RenderableType],
    leaves: Mapping[str, Sequence[RenderableType]],
) -> Tree:
    """Return the tree of the arms in ``lines``, each with its line and the ``leaves`` below it.

    parents: as from ``graph.parents``. An arm without a line is left out, but not those below it.
    """
    tree = Tree(title, guide_style="bright_black")
    nodes: dict[str | None, Tree] = {None: tree}
    for name, parent in parents.items():
        nodes[name] = nodes[parent].add(lines[name]) if name in lines else nodes[parent]
        for leaf in leaves[name] if name in lines else ():
            nodes[name].add(leaf)
    return tree


def draw_arms(
    title: RenderableType,
    parents: Mapping[str, str | None],
    arms: Mapping[str, Sequence[Stage]],
    leaves: Mapping[str, Sequence[RenderableType]],
    width: int,
    height: int | None = None,
) -> Tree:
    """Return the tree of all arms with bars and counts of their stages, in at most ``height`` ≥ 3 lines if given."""
    lines = _arm_lines(parents, arms, width)
    if height is None or 1 + len(arms) + sum(map(len, leaves.values())) <= height:
        return draw_tree(title, parents, lines, leaves)
    done = {name for name, stages in arms.items() if all(stage.settled >= stage.total for stage in stages)}
    waiting = {name for name, stages in arms.items() if not any(stage.settled or stage.running for stage in stages)}
    running = [name for name in parents if name not in done | waiting]
    shown = running[: height - 2]
    share = (height - 2 - len(shown)) // max(1, len(shown))
    tree = draw_tree(
        title, parents, {name: lines[name] for name in shown}, {name: _cut(leaves[name], share) for name in shown}
    )
    counts = {"done": len(done), "running": len(running) - len(shown), "to come": len(waiting - done)}
    tree.add(one_line("… and arms: " + ", ".join(f"{count} {state}" for state, count in counts.items() if count)))
    return tree


def _arm_lines(parents: Mapping[str, str | None], arms: Mapping[str, Sequence[Stage]], width: int) -> dict[str, Text]:
    """Return each arm's line: its name, a bar of all its parts if ``width`` has room, and the counts of its stages."""
    indents: dict[str | None, int] = {None: 0}
    for name, parent in parents.items():
        indents[name] = indents[parent] + INDENT
    counts = {
        name: "".join(f"  {stage.name} {stage.settled}/{stage.total}" for stage in stages)
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


def _cut(leaves: Sequence[RenderableType], count: int) -> Sequence[RenderableType]:
    """Return at most ``count`` leaves; the last one counts those that are left out."""
    if len(leaves) <= count:
        return leaves
    return [*leaves[: count - 1], one_line(f"… and {len(leaves) - count + 1} more")][:count]
