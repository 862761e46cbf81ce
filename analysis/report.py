"""The report of a study, from its store alone: tables, sentences and, if asked for, figures and a page."""

import shlex
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from analysis import paper
from analysis.formats import latex
from analysis.formats.render import dump, escape, to_csv, to_json, to_markdown, to_rich
from analysis.results import rows
from analysis.results.results import Results
from analysis.tables.accuracy import CLEAN, COMPAT, STRICT, accuracy_table, gradient_table, list_attacks
from analysis.tables.answer import attack_table, gain_table, match_table
from analysis.tables.cells import Report, Table
from analysis.tables.comparisons import comparison_tables
from analysis.tables.honesty import honesty_table, summarize_warnings
from analysis.tables.importances import importance_table, list_shares
from analysis.tables.interpretability import maps_tables
from analysis.tables.sentences import write_sentences
from analysis.tables.settings import settings_table
from tune_interpreg.store.files import StoreError
from tune_interpreg.store.store import Record, Store

#: Short headings of the summary, so that it fits 80 columns.
SUMMARY_ACCURACIES = {"Arm": "Arm", CLEAN: "clean", COMPAT: "compat", STRICT: "strict"}
SUMMARY_SETTINGS = {"Arm": "Arm", "Chosen": "Setting", "Residual": "Residual", "Match": "Loss match"}


def build(store: str | Path, *, pictures: bool = False, output: str | Path | None = None) -> Report:
    """Compute a study's tables from its store and write them to a folder.

    tables.md, tables.tex (booktabs, for \\input), tables.csv (one line per cell) and tables.json hold the same cells;
    rows.json holds the values of every seed, what is missing, and the importances of searched parameters.

    store: the folder; it may be in use, empty, or read-only. pictures: also write figures/ and index.html. output: the
    folder to write to; None for the store's folder report/. Raises ``StoreError`` if the folder is no store or the
    report cannot be written.
    """
    report, _, problem = _build(store, pictures, output)
    if problem:
        raise problem
    return report


def print_tables(
    store: str | Path, console: Console | None = None, *, pictures: bool = False, output: str | Path | None = None
) -> Report:
    """Build the report of a store and print all but its long tables; arguments and errors as in ``build``.

    A report that cannot be written is printed before the error is raised.
    """
    report, _, problem = _build(store, pictures, output)
    long = [table.title for table in report.tables if table.long]
    last = [f"In the files only: {'; '.join(long)}."] if long else []
    paths = [shlex.quote(str(path)) for path in report.paths]
    _print(report, console, [table for table in report.tables if not table.long], [*last, *paths])
    if problem:
        raise problem
    return report


def print_summary(store: str | Path, console: Console | None = None, records: Sequence[Record] | None = None) -> Report:
    """Build the report of a store and print what fits on one screen; arguments and errors as in ``print_tables``.

    records: those of the store, if they are read already.

    Prints the accuracies, the chosen settings with their match, the answer in sentences, and one line per warning.
    """
    report, results, problem = _build(store, pictures=False, output=None, records=records)
    settings, warnings = settings_table(results), summarize_warnings(results)
    tables = [_short_accuracies(results)]
    if settings.rows:
        tables.append(settings.select("Chosen settings", SUMMARY_SETTINGS))
    _print(report, console, tables, [*warnings, ""] if warnings else [])
    if problem:
        raise problem
    return report


def _build(
    folder: str | Path, pictures: bool, output: str | Path | None, records: Sequence[Record] | None = None
) -> tuple[Report, Results, StoreError | None]:
    """Return the report, its results, and why it could not be written."""
    store, problem = Store(folder), None
    if output is not None:
        store.report_dir = Path(output).absolute()
    results = Results.from_store(store, records=records)
    report = Report(results.study, _status(results), _tables(results), write_sentences(results))
    content = {"study": report.study.name, "status": report.status, "answer": report.answer}
    texts = {
        "tables.md": _markdown(report),
        "tables.tex": _latex(report),
        "tables.csv": to_csv(report.tables),
        "tables.json": dump(content | {"tables": list(map(to_json, report.tables))}),
        "rows.json": dump(_values(results)),
    }
    paths = [store.report_dir / name for name in texts]
    try:
        for path, text in zip(paths, texts.values(), strict=True):
            store.write_text(path, text)
        if pictures:
            from analysis import figures, page  # matplotlib takes a second to import

            paths.append(page.write(report, results, store, figures.draw(results, store)))
    except OSError as error:
        remedy = "make it writable, or name another folder with `tune-interpreg report --output`"
        problem, paths = StoreError(f"{store.report_dir}: cannot be written ({error.strerror}); {remedy}"), []
    return replace(report, paths=tuple(paths)), results, problem


def _tables(results: Results) -> tuple[Table, ...]:
    first = (accuracy_table, gradient_table, settings_table, importance_table, gain_table, attack_table, match_table)
    tables = [*(make(results) for make in first), *maps_tables(results)]
    tables += [*comparison_tables(results), honesty_table(results)]
    return tuple(table for table in tables if table.rows)


def _status(results: Results) -> tuple[str, ...]:
    """Return how many repeats are done, then what is left out or went wrong, one line each."""
    total = len(results.study.arms) * results.seed_count
    states = Counter(gap.state for gap in results.missing)
    counts = [f"{total - len(results.missing)} of {total} repeats done"]
    counts += [f"{count} {state}" for state, count in states.items()]
    empty = [] if results.records else ["The ledger is empty: nothing has finished yet."]
    damaged = [f"Left out: {line}." for lines in results.damaged.values() for line in lines]
    choices = results.current.choices.items()
    unbounded = [
        f"{name}: {choice['reason']}." for name, choice in choices if choice.get("least") and not choice["feasible"]
    ]
    return (", ".join(counts) + ".", *empty, *damaged, *unbounded, *rows.list_troubles(results.current))


def _short_accuracies(results: Results) -> Table:
    """Return Table 1 without the paper's columns, under short headings that its notes explain."""
    table, attack = accuracy_table(results), results.study.evaluation_attack
    note = (
        f"Mean ± 95% t interval, n = {results.seed_count} seeds. compat, strict: PGD {attack.norm}, ε = {attack.eps:g},"
        f" {attack.steps} steps."
    )
    if results.study.data.name in paper.ACCURACIES:
        note += " The paper's numbers: in the full tables."
    brackets = [other for other in table.notes if "Wilson" in other]  # a cell of one seed has no t interval
    further = {attack.heading: attack.heading for attack in list_attacks(results.study)}
    return replace(table.select(table.title, SUMMARY_ACCURACIES | further), notes=(note, *brackets))


def _print(report: Report, console: Console | None, tables: Iterable[Table], last: Iterable[str]) -> None:
    console = console or Console()
    _print_lines(console, report.status)
    for table in tables:
        console.print()
        console.print(to_rich(table, console.width))
    console.print()
    # A dash per sentence; long ones wrap behind it, but not around ±.
    wrapper = textwrap.TextWrapper(console.width, initial_indent="- ", subsequent_indent="  ", break_long_words=False)
    unbroken = (line.replace(" ± ", "\0±\0") for line in report.answer)
    _print_lines(console, (wrapper.fill(line).replace("\0", " ") for line in unbroken))
    console.print()
    _print_lines(console, last)


def _print_lines(console: Console, lines: Iterable[str]) -> None:
    """Print lines as they are, so that paths in them can be copied."""
    for line in lines:
        console.print(Text(line), soft_wrap=True)


# ------------------------------------------------------------------------------- files
def _markdown(report: Report) -> str:
    status, answer = ("\n".join(f"- {escape(line)}" for line in lines) for lines in (report.status, report.answer))
    head = f"# {escape(report.study.name)}\n\n{status}\n\n## Answer\n\n{answer}\n"
    return "\n".join([head, *map(to_markdown, report.tables)])


def _latex(report: Report) -> str:
    lines = "".join(f"% {' '.join(line.split())}\n" for line in (*report.status, *report.answer))
    return "\n\n".join([latex.PREAMBLE + lines, *map(latex.to_latex, report.tables)]) + "\n"


def _values(results: Results) -> dict[str, object]:
    frame = results.frame.astype(object).where(results.frame.notna(), None)
    missing = [asdict(gap) for gap in results.missing]
    return {
        "study": results.study.model_dump(mode="json"),
        "rows": frame.to_dict(orient="records"),
        "missing": missing,
        "importances": list_shares(results),
    }
