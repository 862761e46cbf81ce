"""The log of a run: loggers below ``tune_interpreg``, written to the store's ``run.log`` and, on request, to stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tune_interpreg.display.console import summarize
from tune_interpreg.schedule.listener import Listener
from tune_interpreg.store.store import Record
from tune_interpreg.study.items import Item

logger = logging.getLogger(__name__)

ROOT = logging.getLogger("tune_interpreg")
FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class _LogFile(logging.FileHandler):
    """A log file that a full disk does not disturb: the store itself reports what the disk refuses."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore the error."""


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Append what the project logs in this block to a file: INFO and above."""
    handler = _LogFile(path, encoding="utf-8", errors="replace", delay=True)
    handler.setLevel(logging.INFO)
    with _handled_by(handler):
        yield


@contextmanager
def log_to_stderr(verbosity: int) -> Iterator[None]:
    """Print what the project logs in this block to standard error.

    verbosity: 0 prints nothing, 1 INFO and above, 2 also DEBUG.
    """
    if not verbosity:
        yield
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.INFO if verbosity == 1 else logging.DEBUG)
    with _handled_by(handler):
        yield


@contextmanager
def _handled_by(handler: logging.Handler) -> Iterator[None]:
    level = ROOT.level
    handler.setFormatter(logging.Formatter(FORMAT))
    ROOT.addHandler(handler)
    ROOT.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        ROOT.setLevel(level)
        ROOT.removeHandler(handler)
        handler.close()


class ItemLog(Listener):
    """Logs when items start and what they result in."""

    def start(self, item: Item) -> None:
        logger.info("start %s (%s)", item.title, item.key)

    def epoch(self, item: Item, metrics: Mapping[str, float]) -> None:
        logger.debug("epoch %s: %s", item.title, dict(metrics))

    def settle(self, item: Item, record: Record, settled: int, total: int) -> None:
        level = logging.WARNING if record["state"] in ("failed", "diverged") else logging.INFO
        logger.log(level, "finish %s, %d of %d; %s", summarize(item, record), settled, total, item.key)
        if record["state"] == "failed":
            logger.warning("reason: %s", record["error"])
