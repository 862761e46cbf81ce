"""Fills the page: the answer first, then tables, figures, honesty, settings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import yaml

from analysis.figures import Drawn
from analysis.page import svg, tables
from analysis.page.provenance import provenance
from analysis.results.results import Results
from analysis.tables.cells import Table
from tune_interpreg.store.store import Store

if TYPE_CHECKING:
    from analysis.report import Report

#: First word of a table's title → the section it stands in; every other one stands among the results.
SECTIONS = {"Answer": "answer", "Comparisons": "comparisons", "Honesty": "honesty", "Settings": "settings"}
EMPTY = {
    "answer": "",
    "results": "<p>No arm has a result yet.</p>",
    "comparisons": "<p>There are no two arms to compare.</p>",
    "honesty": "<p>No model was checked: the ledger holds no honesty checks.</p>",
    "settings": "<p>No arm is searched.</p>",
}


def write(report: Report, results: Results, store: Store, figures: Sequence[Drawn]) -> Path:
    """Writes report/index.html, one file without any reference to another, and returns its path."""
    page = store.report_dir / "index.html"
    store.write_text(page, to_html(report, results, figures))
    return page


def to_html(report: Report, results: Results, figures: Sequence[Drawn]) -> str:
    """The page as text; the same for the same ledger."""
    parts = {name: (files(__package__) / f"page.{name}").read_text(encoding="utf-8") for name in ("css", "js")}
    template = (files(__package__) / "template.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        css=parts["css"],
        js=parts["js"],
        title=escape(report.study.name),
        facts=_facts(results),
        status=_status(report.status),
        sentences=_list(report.answer, "answer"),
        figures="".join(map(_figure, figures)),
        study=escape(yaml.safe_dump(_study(results), sort_keys=False, allow_unicode=True)),
        made=_made(results),
        data=_embedded(provenance(results)),
        **_by_section(report.tables, results),
    )


def _by_section(shown: Iterable[Table], results: Results) -> dict[str, str]:
    made: dict[str, str] = {}
    for table in shown:
        section = SECTIONS.get(table.title.split()[0].rstrip("."), "results")
        made[section] = made.get(section, "") + tables.to_html(table, results)
    return EMPTY | made


def _facts(results: Results) -> str:
    study, attack = results.study, results.study.evaluation_attack
    facts = (
        f"{study.data.name}, {study.model.name}",
        f"{len(study.arms)} arms × {results.asked} seeds",
        f"{study.training.epochs} epochs",
        f"attack {attack.norm}, ε = {attack.eps:g}, {attack.steps} steps",
    )
    return "".join(f"<li>{escape(fact)}</li>" for fact in facts)


def _status(lines: Sequence[str]) -> str:
    done, *troubles = lines
    told = f"<p>{escape(done)}</p>"
    return told + (_list(troubles, "troubles") if troubles else "")


def _list(lines: Iterable[str], kind: str) -> str:
    return f'<ul class="{kind}">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>'


def _figure(one: Drawn) -> str:
    drawn = next((path for path in one.paths if path.suffix == ".svg"), None)
    if drawn is None:
        return f'<p class="left-out"><b>{escape(one.title)}.</b> {escape(one.caption)}</p>'
    picture = svg.inline(drawn.read_text(encoding="utf-8"), one.name, one.title, one.caption)
    caption = f"<figcaption><b>{escape(one.title)}.</b> {escape(one.caption)}</figcaption>"
    return f'<figure id="{escape(one.name)}">{picture}{caption}</figure>'


def _study(results: Results) -> dict[str, Any]:
    """The study without where its data lie, which decides no result."""
    study = results.study.model_dump(mode="json", exclude_defaults=True)
    study.get("data", {}).pop("root", None)
    return study


def _made(results: Results) -> str:
    last = max((record["finished"] for record in results.records), default=None)
    told = f"{len(results.records)} records in the ledger" + (f", the last of {last}" if last else "")
    return escape(f"Made from {told}. The same ledger makes the same page.")


def _embedded(content: Any) -> str:
    """JSON that may stand within a script element: no markup in it is read as such."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
