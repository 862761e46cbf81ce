"""Shared by the effect benchmarks: their options and their run."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from analysis.results.results import Results
from tune_interpreg.cluster.connection import ClusterError
from tune_interpreg.running.run import run
from tune_interpreg.store.files import StoreError
from tune_interpreg.store.store import Store
from tune_interpreg.study.file.read import read_study_file
from tune_interpreg.study.problems import StudyError


def parse_options(study: Path, description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    root = os.environ.get("TUNE_INTERPREG_DATA") or None
    folder = "folder that holds MNIST/raw; default: $TUNE_INTERPREG_DATA, else a download"
    parser.add_argument("--data-root", type=Path, default=root, help=folder)
    parser.add_argument("--store", type=Path, default=Path("runs", study.stem), help="folder for all results")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="as in `run`")
    parser.add_argument("--cluster", default="local", help="local, in-process, auto or HOST:PORT, as in `run`")
    return parser.parse_args()


def run_study(path: Path, store: Path, options: argparse.Namespace, overrides: Sequence[str] = ()) -> Results:
    """Run the open items of a study and return its results. Exit with `run`'s code, or 2, if it does not finish."""
    try:
        file = read_study_file(str(path), [*overrides, *options.overrides], options.data_root)
        code = run(file, Store(store), where=options.cluster, retry_failed=True, console=Console(stderr=True))
    except (StudyError, StoreError, ClusterError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    results = Results.from_store(Store(store), file.study)
    if code or results.missing:
        sys.exit(code if code > 128 else 2)
    return results
