"""Tables as Markdown, CSV and for the terminal; nothing is computed here."""

from __future__ import annotations

import rich.table
from rich.text import Text

from analysis.cells import Cell, Estimate, Table


def to_markdown(table: Table) -> str:
    """A table as GitHub Markdown: heading, pipe table, notes."""
    lines = [table.columns, ["---"] + ["---:"] * (len(table.columns) - 1), *table.rows]
    body = ["| " + " | ".join(escape(str(cell)) for cell in line) + " |" for line in lines]
    notes = [f"- {escape(note)}" for note in table.notes]
    return "\n".join([f"## {table.title}", "", *body, "", *notes]) + "\n"


def to_csv(table: Table) -> list[dict[str, object]]:
    """One record a cell: table, row, column, text and, where measured, mean, half_width and n, unrounded."""
    return [
        {"table": table.title, "row": str(row[0]), "column": column, "text": str(cell)} | _numbers(cell)
        for row in table.rows
        for column, cell in zip(table.columns[1:], row[1:], strict=True)
    ]


def to_rich(table: Table) -> rich.table.Table:
    """A table for the terminal, its notes beneath."""
    caption = Text("\n".join(table.notes))
    drawn = rich.table.Table(title=Text(table.title), caption=caption, title_justify="left", caption_justify="left")
    for column in table.columns:
        drawn.add_column(Text(column), justify="left" if column == "Arm" else "right", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(str(cell)) for cell in row))
    return drawn


def _numbers(cell: Cell) -> dict[str, object]:
    interval = cell.interval if isinstance(cell, Estimate) else None
    return vars(interval) if interval else {"mean": None, "half_width": None, "n": None}


def escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
