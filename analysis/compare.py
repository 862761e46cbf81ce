"""Arms of several stores in one table and one figure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.text import Text

from analysis.formats import latex
from analysis.formats.render import dump, escape, to_csv, to_json, to_markdown, to_rich
from analysis.results import frame
from analysis.results.results import Results
from analysis.results.stores import read_stores
from analysis.tables.by_store import accuracy_table, difference_table
from analysis.tables.cells import Table
from tune_interpreg.store.files import StoreError
from tune_interpreg.store.store import Store

#: Name of the files of a comparison, before their suffixes.
NAME = "comparison"


@dataclass(frozen=True)
class StoreComparison:
    """The comparison of several stores.

    tables: accuracies of all arms, and differences between stores. frame: the columns of ``tune_interpreg.results``
    behind a column ``store``. paths: the files that were written.
    """

    tables: tuple[Table, ...]
    frame: pd.DataFrame
    paths: tuple[Path, ...] = ()


def compare(*stores: str | Path, output: str | Path | None = None) -> StoreComparison:
    """Compare the arms of two or more stores on their test images.

    Args:
        stores: their folders; nothing is written to them.
        output: the folder for comparison.md, .tex, .csv, .json, .png and .svg. None: no files.

    Raises:
        StoreError: the stores cannot be compared, or the files cannot be written; see ``read_stores``.
    """
    by_name = read_stores(stores)
    tables = (accuracy_table(by_name), difference_table(by_name))
    frames = [frame.tabulate(results).assign(store=name) for name, results in by_name.items()]
    joined = pd.concat(frames, ignore_index=True)[["store", *frame.COLUMNS]]
    paths = _write(Path(output).absolute(), by_name, tables) if output is not None else ()
    return StoreComparison(tables, joined, paths)


def print_comparison(
    stores: Sequence[str | Path], console: Console, output: str | Path | None = None
) -> StoreComparison:
    """Compare stores and print the tables and the paths of the files; arguments and errors as in ``compare``."""
    comparison = compare(*stores, output=output)
    for table in comparison.tables:
        console.print(to_rich(table, console.width))
        console.print()
    for path in comparison.paths:
        console.print(Text(shlex.quote(str(path))), soft_wrap=True)
    return comparison


def _write(folder: Path, stores: Mapping[str, Results], tables: Sequence[Table]) -> tuple[Path, ...]:
    from analysis.figures import draw_comparison  # matplotlib takes a second to import

    writer = Store(folder)
    content = {"stores": {name: results.study.name for name, results in stores.items()}}
    texts = {
        "md": "\n".join(map(to_markdown, tables)),
        "tex": "\n\n".join([latex.PREAMBLE, *map(latex.to_latex, tables)]) + "\n",
        "csv": to_csv(tables),
        "json": dump(content | {"tables": list(map(to_json, tables))}),
    }
    paths = [folder / f"{NAME}.{suffix}" for suffix in texts]
    try:
        figure = draw_comparison(stores, folder / NAME, writer)
        texts["md"] += f"\n**{figure.title}.** {escape(figure.caption)}\n"
        texts["md"] += f"\n![{figure.title}]({NAME}.png)\n" if figure.paths else ""
        for path, text in zip(paths, texts.values(), strict=True):
            writer.write_text(path, text)
        return (*paths, *figure.paths)
    except OSError as error:
        reason = f"cannot be written ({error.strerror})"
        raise StoreError(f"{folder}: {reason}; make it writable, or name another folder with --output") from None
