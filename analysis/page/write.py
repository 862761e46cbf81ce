"""Render the page: accuracies and the answer first, then gradients, figures, all pairs, honesty, settings."""

import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from analysis.figures import DrawnFigure
from analysis.figures.canvas import FAINT, INK, MUTED
from analysis.formats.render import numbers
from analysis.page.provenance import provenance
from analysis.results.results import Results
from analysis.tables import symbols
from analysis.tables.cells import Cell, Estimate, Report
from tune_interpreg.store.store import Store
from tune_interpreg.study.file.yaml_text import dump

#: First word of a cell → its CSS class; NOT is that of NOT SHOWN.
VERDICTS = {"PASS": "pass", "WARN": "warn", "MISSED": "warn", "NOT": "warn"}

#: Colours of a figure that follow the page from light to dark.
COLOURS = {INK: "currentColor", MUTED: "var(--muted)", FAINT: "var(--line)"}


def write(report: Report, results: Results, store: Store, figures: Sequence[DrawnFigure]) -> Path:
    """Write report/index.html, one file without references to others, and return its path."""
    page = store.report_dir / "index.html"
    store.write_text(page, to_html(report, results, figures))
    return page


def to_html(report: Report, results: Results, figures: Sequence[DrawnFigure]) -> str:
    """Return the page; the same ledger gives the same page."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters["typeset"] = lambda text: Markup(symbols.to_html(str(escape(text))))
    environment.globals |= {"sort_value": _sort_value, "sources": _sources, "verdict": _verdict}
    names = ("page.css", "page.js", "template.html")
    css, js, template = ((files(__package__) / name).read_text(encoding="utf-8") for name in names)
    study, attack = results.study, results.study.evaluation_attack
    last = max((record["finished"] for record in results.records), default=None)
    resolved = study.model_dump(mode="json", exclude_defaults=True, exclude={"data": {"root"}})
    return environment.from_string(template).render(
        css=Markup(css),
        js=Markup(js),
        report=report,
        facts=[
            f"{study.data.name}, {study.model.name}",
            f"{len(study.arms)} arms × {results.seed_count} seeds",
            f"{study.training.epochs} epochs",
            f"attack {attack.norm}, ε = {attack.eps:g}, {attack.steps} steps",
        ],
        arms={results.title(arm): arm for arm in study.arms},
        figures={figure.name: figure for figure in figures},
        pictures={figure.name: Markup(inline_svg(figure)) for figure in figures if figure.paths},
        study=dump(resolved),
        records=f"{len(results.records)} records in the ledger" + (f", the last from {last}" if last else ""),
        data=Markup(_to_json(provenance(results))),
    )


def inline_svg(figure: DrawnFigure) -> str:
    """Return a figure as an HTML element in the page's colours and width, with ids that start with its name."""
    svg, name = figure.paths[-1].read_text(encoding="utf-8"), figure.name
    body = svg[svg.index("<svg") :]
    for unused in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<!--.*?-->"):
        body = re.sub(unused, "", body, flags=re.DOTALL)
    body = re.sub(r'(<image\b[^>]*?) id="[^"]*"', r"\1", body)  # equal images have equal ids that nothing refers to
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)
    for colour, variable in COLOURS.items():
        body = re.sub(colour, variable, body, flags=re.IGNORECASE)
    size = re.search(r'viewBox="[^"]*"', body)
    assert size
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {size[0]} role="img"'
    names = f'<title id="{name}-title">{escape(figure.title)}</title>'
    names += f'<desc id="{name}-desc">{escape(figure.caption)}</desc>'
    return f'{head} aria-labelledby="{name}-title" aria-describedby="{name}-desc">{names}{body[body.index(">") + 1 :]}'


def _sort_value(cell: Cell) -> str | None:
    """Return the unrounded number that a cell is sorted by."""
    values = numbers(cell)
    value = values.get("mean") if values.get("p") is None else values["p"]
    return None if value is None else repr(value)


def _sources(cell: Cell) -> str | None:
    """Return the metrics behind a measured cell as JSON, for the page's script."""
    if not isinstance(cell, Estimate) or not cell.interval or not cell.sources:
        return None
    return json.dumps([[source.arm, source.metric, source.scale] for source in cell.sources])


def _verdict(cell: Cell) -> str | None:
    return VERDICTS.get(str(cell).split(" ")[0])


def _to_json(content: Any) -> str:
    """Return JSON that can stand in a script element: the browser finds no markup in it."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
