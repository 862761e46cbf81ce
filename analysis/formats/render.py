"""Tables as Markdown, CSV, JSON and terminal text. Computes nothing."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from analysis.tables.cells import Cell, Probability, Table

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


def to_csv(tables: Iterable[Table]) -> str:
    """Return one line per cell: table, row, column, text, and unrounded NUMBERS or nothing."""
    cells = [
        {"table": table.title, "row": row[0], "column": column, "text": str(cell)} | numbers(cell)
        for table in tables
        for row in table.rows
        for column, cell in zip(table.columns[1:], row[1:], strict=True)
    ]
    columns = ["table", "row", "column", "text", *NUMBERS]
    return pd.DataFrame(cells, columns=columns, dtype=object).to_csv(index=False, lineterminator="\n")


def to_json(table: Table) -> dict[str, Any]:
    """Return {title, columns, rows, notes}. A row is a list of cells, each {text} and, if measured, NUMBERS."""
    rows = [[{"text": str(cell)} | numbers(cell) for cell in row] for row in table.rows]
    return {"title": table.title, "columns": table.columns, "rows": rows, "notes": table.notes}


def to_frame(table: Table) -> pd.DataFrame:
    """Return a table's printed cells as a frame, with the names of its rows as index."""
    cells = [[str(cell) for cell in row] for row in table.rows]
    return pd.DataFrame(cells, columns=list(table.columns)).set_index(table.columns[0])


def to_rich(table: Table, width: int) -> Group:
    """Return a table for a terminal of ``width`` columns: title, cells, notes.

    A table that is too wide continues below with the rows' names repeated.
    """
    parts: list[RichTable | Text] = [Text(table.title, style="bold")]
    widths = [_natural_width(table, place) for place in range(len(table.columns))]
    for places in _blocks(widths, width):
        if len(parts) > 1:
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
    """Return the NUMBERS of a measured cell, None for those it has not; nothing for a text."""
    if isinstance(cell, str):
        return {}
    if isinstance(cell, Probability) or cell.interval is None:
        return dict.fromkeys(NUMBERS) | {"p": cell.p if isinstance(cell, Probability) else None}
    low, high = cell.interval.ends or (None, None)
    values = (cell.interval.mean, cell.interval.half_width, low, high, cell.interval.n, None)
    return dict(zip(NUMBERS, values, strict=True))


def dump(content: dict[str, object]) -> str:
    """Return JSON as the text of a file."""
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def escape(text: str) -> str:
    """Return text that GitHub Markdown shows as it is, on one line."""
    entities = " ".join(text.splitlines()).replace("&", "&amp;").replace("<", "&lt;")
    return MARKUP.sub(r"\\\g<0>", entities)


def _natural_width(table: Table, place: int) -> int:
    """Return the width of a column: numbers stay on one line, long texts wrap between words."""
    widths = []
    for cell in (table.columns[place], *(row[place] for row in table.rows)):
        width = len(str(cell))
        if isinstance(cell, str):
            width = min(width, max([WRAP if place else WRAP_NAME, *map(len, cell.split())]))
        widths.append(width)
    return min(max(widths), 2 * WRAP_NAME)


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
