"""A study's report, from the ledger alone: tables as Markdown and CSV, rows as JSON, and a print for the terminal."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from analysis import rows
from analysis.cells import Table
from analysis.render import escape, to_csv, to_markdown, to_rich
from analysis.settings import settings_table
from analysis.tables import Results, accuracy_table, gradient_table
from tune_interpreg.config import Study
from tune_interpreg.store import Store

CSV_FIELDS = ("table", "row", "column", "text", "mean", "half_width", "n")


@dataclass(frozen=True)
class Report:
    """What was found and where it was written.

    status: what the store holds of what the study asks, then what went wrong, one line each.
    tables: accuracy, gradient norms and, where an arm is searched, settings. paths: the files written.
    """

    study: Study
    status: tuple[str, ...]
    tables: tuple[Table, ...]
    paths: tuple[Path, ...]


def build(store_path: str | Path, study: Study | None = None) -> Report:
    """Compute a study's tables from its store and write report/tables.md, tables.csv and rows.json.

    store_path: the store's folder; it may be in use, or empty. study: what is reported; None: the store's own.
    Raises ``StoreError`` where study is None and the folder is no store, or a record cannot be read.
    """
    store = Store(store_path)
    study = store.study() if study is None else study
    choices = {name: choice for name in study.arms if (choice := store.choice(name))}
    results = Results(study, tuple(store.records()), choices)
    status, tables = _status(results), _tables(results)
    texts = {"tables.md": _markdown(study, status, tables), "tables.csv": _csv(tables), "rows.json": _json(results)}
    for name, text in texts.items():
        store.write_text(store.report_dir / name, text)
    return Report(study, status, tables, tuple(store.report_dir / name for name in texts))


def print_report(report: Report, console: Console | None = None) -> None:
    """Print status, tables and the files' paths."""
    console = console or Console()
    for line in report.status:
        console.print(Text(line))
    for table in report.tables:
        console.print()
        console.print(to_rich(table))
    console.print()
    for path in report.paths:
        console.print(Text(str(path)), soft_wrap=True)


def print_tables(store_path: str | Path, study: Study | None = None, console: Console | None = None) -> Report:
    """Build the report of a store and print it; arguments and errors as in ``build``."""
    report = build(store_path, study)
    print_report(report, console)
    return report


def _tables(results: Results) -> tuple[Table, ...]:
    tables = (accuracy_table(results), gradient_table(results), settings_table(results))
    return tuple(table for table in tables if table.rows)


def _status(results: Results) -> tuple[str, ...]:
    asked = len(results.study.arms) * len(results.study.seeds)
    done = asked - len(results.missing)
    states = Counter(gap.state for gap in results.missing)
    counts = [f"{done} of {asked} repeats done", *(f"{count} {state}" for state, count in states.items())]
    empty = [] if results.records else ["The ledger is empty: nothing has finished yet."]
    return (", ".join(counts) + ".", *empty, *rows.troubles(results.records, results.study))


def _markdown(study: Study, status: tuple[str, ...], tables: tuple[Table, ...]) -> str:
    lines = "\n".join(f"- {escape(line)}" for line in status)
    return "\n".join([f"# {study.name}\n\n{lines}\n", *map(to_markdown, tables)])


def _csv(tables: tuple[Table, ...]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(line for table in tables for line in to_csv(table))
    return text.getvalue()


def _json(results: Results) -> str:
    frame = results.frame.astype(object).where(results.frame.notna(), None)
    content = {
        "study": results.study.model_dump(mode="json"),
        "rows": frame.to_dict(orient="records"),
        "missing": [asdict(gap) for gap in results.missing],
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
