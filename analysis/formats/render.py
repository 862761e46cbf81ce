"""Tables as Markdown, as records for CSV and JSON, and as terminal text. Computes nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from analysis.tables.cells import Cell, Estimate, Probability, Table

#: Characters that Markdown would interpret: emphasis, code, cells, formulas, links, and headings or lists at the start
#: of a line. An underscore within a word is safe.
MARKUP = re.compile(r"[\\|*`~$]|(?<![^\W_])_|_(?![^\W_])|(?<=\])\(|^[#+>-]")

#: The unrounded numbers of a measured cell.
NUMBERS = ("mean", "half_width", "low", "high", "n", "p")

#: Terminal columns: spaces between them, and the width from which text wraps.
GAP, WRAP, WRAP_NAME = 2, 16, 26


def to_markdown(table: Table) -> str:
    """Return a table as GitHub Markdown: heading, pipe table, notes."""
    heading, *rows = ([escape(str(cell)) for cell in line] for line in (table.columns, *table.rows))
    alignment = ["---", *["---:"] * (len(table.columns) - 1)]
    body = ["| " + " | ".join(line) + " |" for line in (heading, alignment, *rows)]
    notes = [f"- {escape(note)}" for note in table.notes]
    return "\n".join([f"## {escape(table.title)}", "", *body, "", *notes]) + "\n"


def to_csv(table: Table) -> list[dict[str, object]]:
    """Return one record per cell: table, row, column, text, and unrounded NUMBERS or None."""
    return [
        {"table": table.title, "row": str(row[0]), "column": column, "text": str(cell)} | numbers(cell)
        for row in table.rows
        for column, cell in zip(table.columns[1:], row[1:], strict=True)
    ]


def to_json(table: Table) -> dict[str, Any]:
    """Return {title, columns, rows, notes}. A row is a list of cells, each {text} and, if measured, NUMBERS."""
    rows = [
        [{"text": str(cell)} | ({} if isinstance(cell, str) else numbers(cell)) for cell in row] for row in table.rows
    ]
    return {"title": table.title, "columns": list(table.columns), "rows": rows, "notes": list(table.notes)}


def to_rich(table: Table, width: int) -> Group:
    """Return a table for a terminal of ``width`` columns: title, cells, notes.

    A table that is too wide continues below with the rows' names repeated.
    """
    parts: list[RichTable | Text] = [Text(table.title, style="bold")]
    widths = [_natural_width(table, place) for place in range(len(table.columns))]
    for number, places in enumerate(_blocks(widths, width)):
        if number:
            parts.append(Text())
        part = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
        for place in places:
            column = Text(table.columns[place])
            part.add_column(column, justify="right" if place else "left", overflow="fold", width=widths[place])
        for row in table.rows:
            part.add_row(*(Text(str(row[place])) for place in places))
        parts.append(part)
    parts += [Text(note, style="dim") for note in table.notes]
    return Group(*parts)


def numbers(cell: Cell) -> dict[str, object]:
    """Return the NUMBERS of a cell, None for those it has not."""
    empty: dict[str, object] = dict.fromkeys(NUMBERS)
    if isinstance(cell, Probability):
        return empty | {"p": cell.p}
    if isinstance(cell, Estimate) and cell.interval:
        return empty | {name: getattr(cell.interval, name) for name in NUMBERS[:-1]}
    return empty


def escape(text: str) -> str:
    """Return text that GitHub Markdown shows as it is, on one line."""
    entities = " ".join(text.splitlines()).replace("&", "&amp;").replace("<", "&lt;")
    return MARKUP.sub(r"\\\g<0>", entities)


def _natural_width(table: Table, place: int) -> int:
    """Return the width of a column: numbers stay on one line, long texts wrap between words."""
    limit = WRAP if place else WRAP_NAME
    cells = [row[place] for row in table.rows]
    texts = [table.columns[place], *(cell for cell in cells if isinstance(cell, str))]
    widths = [len(str(cell)) for cell in cells if not isinstance(cell, str)]
    for text in texts:
        longest_word = max(map(len, text.split()), default=0)
        widths.append(min(len(text), max(longest_word, limit)))
    return min(max(widths, default=0), 2 * WRAP_NAME)


def _blocks(widths: Sequence[int], width: int) -> list[list[int]]:
    """Return the columns of each block, the first column in all of them, each block at most ``width`` wide."""
    blocks = [[0]]
    used = widths[0]
    for place in range(1, len(widths)):
        if used + GAP + widths[place] > width and len(blocks[-1]) > 1:
            blocks.append([0])
            used = widths[0]
        blocks[-1].append(place)
        used += GAP + widths[place]
    return blocks
