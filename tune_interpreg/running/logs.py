"""The log of a run: loggers below ``tune_interpreg``, written to the store's ``run.log`` and, on request, to stderr."""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from tune_interpreg.display.console import summarize
from tune_interpreg.schedule.listener import Listener
from tune_interpreg.store.store import Record
from tune_interpreg.study.items import Job

logger, ROOT = logging.getLogger(__name__), logging.getLogger("tune_interpreg")


class _LogFile(logging.FileHandler):
    """A log file that a full disk does not disturb: the store itself reports what the disk refuses."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore the error."""


def log_to_file(path: Path) -> AbstractContextManager[None]:
    """Append what the project logs in this block to a file: INFO and above."""
    return _log_to(_LogFile(path, encoding="utf-8", errors="replace", delay=True), logging.INFO)


def log_to_stderr(verbosity: int) -> AbstractContextManager[None]:
    """Print what the project logs in this block to standard error: nothing (0), INFO and above (1), also DEBUG (2)."""
    if not verbosity:
        return nullcontext()
    return _log_to(logging.StreamHandler(sys.stderr), logging.INFO if verbosity == 1 else logging.DEBUG)


@contextmanager
def _log_to(handler: logging.Handler, threshold: int) -> Iterator[None]:
    level = ROOT.level
    handler.setLevel(threshold)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    ROOT.addHandler(handler)
    ROOT.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        ROOT.setLevel(level)
        ROOT.removeHandler(handler)
        handler.close()


class JobLog(Listener):
    """Logs when jobs start and what they result in."""

    def start(self, job: Job) -> None:
        logger.info("start %s (%s)", job.title, job.key)

    def epoch(self, job: Job, metrics: Mapping[str, float]) -> None:
        logger.debug("epoch %s: %s", job.title, dict(metrics))

    def finish(self, job: Job, records: Sequence[Record], settled: int, total: int) -> None:
        bad = [record for record in records if record["state"] in ("failed", "diverged")]
        level = logging.WARNING if bad else logging.INFO
        logger.log(level, "finish %s, %d of %d; %s", summarize(job, records), settled, total, job.key)
        for record in bad:
            logger.warning("%s %s: %s", record["kind"], record["state"], record["error"])
