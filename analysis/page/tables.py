"""Tables as HTML: sortable by the unrounded number, each measured cell leading to the trials behind it."""

from __future__ import annotations

import json
from html import escape

from analysis.results.results import Results
from analysis.tables.cells import Cell, Estimate, Probability, Table

#: First word of a cell → its look, beside what it says; NOT is that of NOT SHOWN.
VERDICTS = {"PASS": ' class="pass"', "WARN": ' class="warn"', "MISSED": ' class="warn"', "NOT": ' class="warn"'}


def to_html(table: Table, results: Results) -> str:
    """A table with its caption and notes; a long one to be unfolded."""
    arms = {results.title(arm): arm for arm in results.study.arms}
    head = "".join(_heading(column, place) for place, column in enumerate(table.columns))
    body = "".join(
        f"<tr>{_name(str(row[0]), arms)}{''.join(_cell(cell) for cell in row[1:])}</tr>" for row in table.rows
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    made = (
        f'<div class="wide"><table class="sortable"><caption>{escape(table.title)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f'<ul class="notes">{notes}</ul>'
    )
    return f"<details><summary>{escape(table.title)}</summary>{made}</details>" if table.long else made


def _heading(column: str, place: int) -> str:
    kind = ' class="name"' if place == 0 else ""
    return f'<th scope="col" aria-sort="none"{kind}><button type="button">{escape(column)}</button></th>'


def _name(text: str, arms: dict[str, str]) -> str:
    """A row's name; that of an arm leads to its recipe."""
    shown = escape(text)
    if text in arms:
        shown = f'<button type="button" class="from" data-arm="{escape(arms[text])}">{shown}</button>'
    return f'<th scope="row">{shown}</th>'


def _cell(cell: Cell) -> str:
    value = _sorted_by(cell)
    order = "" if value is None else f' data-value="{value!r}"'
    text = escape(str(cell))
    if isinstance(cell, Estimate) and cell.interval and cell.sources:
        sources = [[source.arm, source.metric, source.scale] for source in cell.sources]
        text = f'<button type="button" class="from" data-from="{escape(json.dumps(sources))}">{text}</button>'
    kind = VERDICTS.get(text.split(" ")[0], "")
    return f"<td{order}{kind}>{text}</td>"


def _sorted_by(cell: Cell) -> float | None:
    if isinstance(cell, Probability):
        return cell.p
    return cell.interval.mean if isinstance(cell, Estimate) and cell.interval else None
