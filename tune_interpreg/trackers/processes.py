"""Processes next to a run that send its results to trackers.

Each is a process of its own, so that no tracker can slow the driver, print into its display, or end it.
"""

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import IO

from tune_interpreg.schedule.listener import Listener
from tune_interpreg.store.store import Record, Store
from tune_interpreg.study.items import Job

#: Seconds that the end of a run waits for the trackers, all together.
PATIENCE = 60.0


class TrackerProcesses(Listener):
    """One process per tracker, from the start to the end of a block.

    At the end its input is closed, as if the driver died. It then ends by itself, once it has sent the rest.

    say: receives one line about each tracker that fails.
    """

    def __init__(self, names: Sequence[str], store: Store, say: Callable[[str], object]):
        self._names, self._store, self._say = dict.fromkeys(names), store, say
        self._running: dict[str, tuple[subprocess.Popen[bytes], IO[bytes]]] = {}  # process and output, by tracker

    def start(self, job: Job) -> None:
        self._report_failures()

    def finish(self, job: Job, records: Sequence[Record], settled: int, total: int) -> None:
        self._report_failures()

    def __enter__(self) -> None:
        """Start the processes. They leave out what the store holds now."""
        for name in self._names:
            try:
                self._running[name] = self._start(name)
            except OSError as error:
                self._say(f"warning: the process for {name} cannot be started ({error}); {self._remedy(name)}")

    def _start(self, name: str) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        with ExitStack() as stack, tempfile.TemporaryFile() as before:
            output = stack.enter_context(tempfile.TemporaryFile())
            before.write("\n".join(map(os.fspath, self._store.record_files())).encode())
            before.seek(0)
            process = subprocess.Popen(
                [sys.executable, "-m", "tune_interpreg.trackers", name, self._store.path, str(before.fileno())],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=[before.fileno()],
                start_new_session=True,  # Ctrl-C in the terminal is for the driver
            )
            stack.pop_all()  # the output stays open
        return process, output

    def __exit__(self, *exception: object) -> None:
        """Let the processes send the rest and end."""
        for process, _ in self._running.values():
            _close_input(process)

    def wait(self) -> list[str]:
        """Return a line about each tracker that has received everything; a line about any other goes to ``say``."""
        end, lines = time.monotonic() + PATIENCE, []
        for name, (process, output) in list(self._running.items()):
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                del self._running[name]
                output.close()
                self._say(f"warning: {name} still receives results, in process {process.pid}; {self._remedy(name)}")
                continue
            if process.returncode == 0:
                del self._running[name]
                lines.append(_last_line(output))
        self._report_failures()
        return lines

    def _report_failures(self) -> None:
        for name, (process, output) in list(self._running.items()):
            if process.poll():
                del self._running[name]
                _close_input(process)
                reason = _last_line(output).removeprefix("error: ") or f"{name} ended with {process.returncode}"
                self._say(f"warning: tracking stopped, the study continues: {reason}; {self._remedy(name)}")

    def _remedy(self, name: str) -> str:
        return f"tune-interpreg export {name} {shlex.quote(str(self._store.path))} sends what it lacks"


def _close_input(process: subprocess.Popen[bytes]) -> None:
    if process.stdin:
        process.stdin.close()


def _last_line(output: IO[bytes]) -> str:
    """Return the last line of a file, and close it."""
    with output:
        output.seek(0)
        return output.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
