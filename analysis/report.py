"""A study's report, from the ledger alone: tables, the answer in words, and, where asked for, figures and a page."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from analysis.formats import latex
from analysis.formats.render import NUMBERS, escape, to_csv, to_json, to_markdown, to_rich
from analysis.results import rows
from analysis.results.results import Results
from analysis.tables import words
from analysis.tables.accuracy import accuracy_table, gradient_table
from analysis.tables.answer import gain_table, match_table
from analysis.tables.cells import Table
from analysis.tables.comparisons import comparison_tables
from analysis.tables.honesty import honesty_table
from analysis.tables.settings import settings_table
from tune_interpreg.store.store import Store, StoreError
from tune_interpreg.study.config import Study

CSV_FIELDS = ("table", "row", "column", "text", *NUMBERS)


@dataclass(frozen=True)
class Report:
    """What was found and where it was written.

    status: what the store holds of what the study asks, then what went wrong, one line each.
    tables: those that have rows, in the order of the files: accuracy, gradient norms, settings, gains, matches,
    comparisons, honesty checks. answer: the paper's question answered, one sentence each.
    paths: the files written, without figures, which lie in figures/ beside them.
    """

    study: Study
    status: tuple[str, ...]
    tables: tuple[Table, ...]
    answer: tuple[str, ...]
    paths: tuple[Path, ...]


def build(store_path: str | Path, study: Study | None = None, *, pictures: bool = False) -> Report:
    """Compute a study's tables from its store and write them to its folder report/.

    tables.md, tables.tex (booktabs, to be \\input), tables.csv (a line a cell) and tables.json hold the same cells;
    rows.json holds the values of every seed that they are computed from, and what is missing.

    store_path: the store's folder; it may be in use, or empty. study: what is reported; None: the store's own.
    pictures: figures/ and index.html are made too.
    Raises ``StoreError`` where study is None and the folder is no store, or where the report cannot be written.
    """
    store = Store(store_path)
    results = Results.from_store(store, study)
    report = Report(results.study, _status(results), _tables(results), words.sentences(results), ())
    texts = {
        "tables.md": _markdown(report),
        "tables.tex": _latex(report),
        "tables.csv": _csv(report.tables),
        "tables.json": _dumped(_content(report)),
        "rows.json": _json(results),
    }
    try:
        for name, text in texts.items():
            store.write_text(store.report_dir / name, text)
        drawn = (_page(report, results, store),) if pictures else ()
    except OSError as error:
        raise StoreError(f"{store.report_dir}: cannot be written ({error.strerror}); make it writable") from None
    return replace(report, paths=(*(store.report_dir / name for name in texts), *drawn))


def print_report(report: Report, console: Console | None = None) -> None:
    """Print status, tables but the long ones, the answer in words and the files' paths."""
    console = console or Console()
    for line in report.status:
        console.print(Text(line))
    for table in report.tables:
        if not table.long:
            console.print()
            console.print(to_rich(table))
    console.print()
    for line in (*report.answer, *_unprinted(report), *map(str, report.paths)):
        console.print(Text(line), soft_wrap=True)


def print_tables(
    store_path: str | Path, study: Study | None = None, console: Console | None = None, *, pictures: bool = False
) -> Report:
    """Build the report of a store and print it; arguments and errors as in ``build``."""
    report = build(store_path, study, pictures=pictures)
    print_report(report, console)
    return report


def _unprinted(report: Report) -> list[str]:
    titles = "; ".join(table.title for table in report.tables if table.long)
    return [f"In the files only: {titles}."] if titles else []


def _page(report: Report, results: Results, store: Store) -> Path:
    """Draw the figures to figures/ and write index.html with all; matplotlib takes its time, and only here."""
    from analysis import figures, page

    return page.write(report, results, store, figures.draw(results, store))


def _tables(results: Results) -> tuple[Table, ...]:
    tables = (
        *(accuracy_table(results), gradient_table(results), settings_table(results)),
        *(gain_table(results), match_table(results), *comparison_tables(results), honesty_table(results)),
    )
    return tuple(table for table in tables if table.rows)


def _status(results: Results) -> tuple[str, ...]:
    asked = len(results.study.arms) * results.asked
    done = asked - len(results.missing)
    states = Counter(gap.state for gap in results.missing)
    counts = [f"{done} of {asked} repeats done", *(f"{count} {state}" for state, count in states.items())]
    empty = [] if results.records else ["The ledger is empty: nothing has finished yet."]
    damaged = [f"Left out: {said}." for lines in results.damaged.values() for said in lines]
    foreign = [f"Left out: {arm}: {said}." for arm, said in rows.describe_foreign(results.current).items()]
    return (", ".join(counts) + ".", *empty, *damaged, *foreign, *rows.list_troubles(results.current))


# ------------------------------------------------------------------------------- files
def _markdown(report: Report) -> str:
    status = "\n".join(f"- {escape(line)}" for line in report.status)
    answer = "\n".join(f"- {escape(line)}" for line in report.answer)
    tables = map(to_markdown, report.tables)
    return "\n".join([f"# {escape(report.study.name)}\n\n{status}\n", f"## In words\n\n{answer}\n", *tables])


def _latex(report: Report) -> str:
    lines = "".join(f"% {' '.join(line.split())}\n" for line in (*report.status, *report.answer))
    return "\n\n".join([latex.PREAMBLE + lines, *map(latex.to_latex, report.tables)]) + "\n"


def _csv(tables: tuple[Table, ...]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(line for table in tables for line in to_csv(table))
    return text.getvalue()


def _content(report: Report) -> dict[str, object]:
    tables = list(map(to_json, report.tables))
    return {"study": report.study.name, "status": report.status, "answer": report.answer, "tables": tables}


def _json(results: Results) -> str:
    frame = results.frame.astype(object).where(results.frame.notna(), None)
    return _dumped(
        {
            "study": results.study.model_dump(mode="json"),
            "rows": frame.to_dict(orient="records"),
            "missing": [asdict(gap) for gap in results.missing],
        }
    )


def _dumped(content: dict[str, object]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
