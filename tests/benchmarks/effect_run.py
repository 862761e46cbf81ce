"""Shared by the effect benchmarks: their options, their run, and the description of the machine."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tune_interpreg.cluster.connection import ClusterError
from tune_interpreg.running.run import run
from tune_interpreg.store.files import StoreError
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Study
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


def run_study(path: Path, store: Path, options: argparse.Namespace, overrides: Sequence[str] = ()) -> Study:
    """Run the open items of a study and return it. Exit with the code of `run`, or 2, if it does not finish."""
    try:
        file = read_study_file(str(path), [*overrides, *options.overrides], options.data_root)
        code = run(file, Store(store), where=options.cluster, retry_failed=True, console=Console(stderr=True))
    except (StudyError, StoreError, ClusterError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if code:
        sys.exit(code if code > 128 else 2)
    return file.study


def describe_machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    cpu = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    return f"{cpu}, {os.cpu_count()} cores"
