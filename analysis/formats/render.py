"""Tables as Markdown, as plain records for CSV and JSON, and for the terminal; nothing is computed here."""

from __future__ import annotations

import re
from typing import Any

import rich.table
from rich.text import Text

from analysis.tables.cells import Cell, Estimate, Probability, Table

#: What Markdown would read: emphasis, code, cells, formulas, links, and a heading or list where a line begins so. An
#: underscore within a word is none of them.
MARKUP = re.compile(r"[\\|*`~$]|(?<![^\W_])_|_(?![^\W_])|(?<=\])\(|^[#+>-]")

#: What a measured cell holds unrounded, beside its text.
NUMBERS = ("mean", "half_width", "low", "high", "n", "p")


def to_markdown(table: Table) -> str:
    """A table as GitHub Markdown: heading, pipe table, notes."""
    heading, *rows = ([escape(str(cell)) for cell in line] for line in (table.columns, *table.rows))
    aligned = ["---", *["---:"] * (len(table.columns) - 1)]
    body = ["| " + " | ".join(line) + " |" for line in (heading, aligned, *rows)]
    notes = [f"- {escape(note)}" for note in table.notes]
    return "\n".join([f"## {escape(table.title)}", "", *body, "", *notes]) + "\n"


def to_csv(table: Table) -> list[dict[str, object]]:
    """One record a cell: table, row, column, text and NUMBERS, unrounded, None where a cell has none of them."""
    return [
        {"table": table.title, "row": str(row[0]), "column": column, "text": str(cell)} | numbers(cell)
        for row in table.rows
        for column, cell in zip(table.columns[1:], row[1:], strict=True)
    ]


def to_json(table: Table) -> dict[str, Any]:
    """{title, columns, rows, notes}; a row is a list of cells, each {text} and, where measured, NUMBERS, unrounded."""
    rows = [[{"text": str(cell)} | (numbers(cell) if _measured(cell) else {}) for cell in row] for row in table.rows]
    return {"title": table.title, "columns": list(table.columns), "rows": rows, "notes": list(table.notes)}


def to_rich(table: Table) -> rich.table.Table:
    """A table for the terminal, its notes beneath."""
    caption = Text("\n".join(table.notes))
    drawn = rich.table.Table(title=Text(table.title), caption=caption, title_justify="left", caption_justify="left")
    for place, column in enumerate(table.columns):
        drawn.add_column(Text(column), justify="right" if place else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(str(cell)) for cell in row))
    return drawn


def numbers(cell: Cell) -> dict[str, object]:
    """NUMBERS of a cell."""
    nothing: dict[str, object] = dict.fromkeys(NUMBERS)
    if isinstance(cell, Probability):
        return nothing | {"p": cell.p}
    interval = cell.interval if isinstance(cell, Estimate) else None
    return nothing | {name: getattr(interval, name) for name in NUMBERS[:-1]} if interval else nothing


def escape(text: str) -> str:
    """Text that GitHub Markdown shows as it is, on one line."""
    entities = " ".join(text.splitlines()).replace("&", "&amp;").replace("<", "&lt;")
    return MARKUP.sub(r"\\\g<0>", entities)


def _measured(cell: Cell) -> bool:
    return isinstance(cell, (Estimate, Probability))
