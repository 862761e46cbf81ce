"""What a trial costs beside its training, in a sweep of thousands: this system's, and plain Ray Tune's.

Runs a study of 1,000 and one of 5,000 trials as a user would (``tune-interpreg run``, local Ray), and between them the
same numbers through ``tune.Tuner`` with ``OptunaSearch``, each in a process of its own; then ``run`` on the finished
study, and ``report``. A trial trains nothing: it is ``sweep_trials.Parabola``. Progress goes to standard error, so the
dated result beside this file is made by

    python tests/benchmarks/bench_sweep.py > tests/benchmarks/sweep.md

Linux only: it reads processor time and memory from /proc. Exit codes: 0 all goals are met, 1 one is not.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path

from tune_interpreg.store.store import Store

STUDY = """\
training: {{epochs: 1}}
seeds: [0]
checks: null
arms:
  sweep:
    method: parabola
    search: {{space: {{x: {{uniform: [-1, 1]}}, y: {{uniform: [-1, 1]}}}}, maximize: val/accuracy, trials: {trials}}}
"""

# ------------------------------------------------------------------- measuring
TICKS = os.sysconf("SC_CLK_TCK")
HERE = Path(__file__).resolve().parent


EXPLAINED = """
Each command is a process of its own, one after another, and its wall time is the user's: from the shell's start of it
to its end, with imports, Ray's start and the printed tables. Processor time is that of the command and of all processes
that came of it, read ten times a second: other work on the machine stretches it less than wall time. Of the last two
commands it is the fastest of three. Workers are Ray's, each of which takes about 3 s to start, and plain Tune replaces
some on the way; services are its raylet, GCS and agents. TPE's own thinking counts in both; it grows with the number of
trials that it knows.

**A trial** trains nothing, so that what is measured is what surrounds a training. Of a study: TPE proposes two
parameters; the driver notes the item in the store, starts a reused worker, takes its record, tells Optuna and its
journal, prints a line and drops the note; the worker opens and closes TensorBoard's events, with two curves and the
hyperparameters, and writes the record. Two files a trial reach the disk before the driver goes on, the note and the
record: without the first a crash of the machine would orphan a trial's checkpoint, without the second it would lose the
trial. Of plain Tune: OptunaSearch in memory with the same TPE, a class that returns one result, Tune's own CSV, JSON
and TensorBoard loggers, its snapshots and its printed status; two files fewer are waited for, and none is sealed by a
checksum.

**Not measured**: training, evaluation, checkpoints of epochs, TensorBoard's images, teachers and maps, matches of a
loss, pruning, several arms, a GPU, a cluster of several machines, a network file system, the memory of workers.
"""


@dataclass
class Cost:
    """What a command cost: wall time and processor time in s, and the driver's peak memory in bytes.

    cpu: by process, of the driver and of all that came of it; Ray's workers are those of a trial, and its services.
    """

    driver: int
    wall: float = 0.0
    memory: int = 0
    cpu: dict[int, float] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return sum(self.cpu.values())

    @property
    def workers(self) -> float:
        return sum(seconds for pid, seconds in self.cpu.items() if self.names[pid].startswith("ray::"))

    def look(self) -> None:
        """Note the processor time of the driver and its descendants so far, and the driver's peak memory."""
        parents, cpu, names = processes()
        own = {self.driver}
        while more := {pid for pid, parent in parents.items() if parent in own} - own:
            own |= more
        self.cpu |= {pid: cpu[pid] for pid in own & cpu.keys()}
        self.names |= {pid: names[pid] for pid in own & cpu.keys()}
        self.memory = max(self.memory, peak(self.driver))


def processes() -> tuple[dict[int, int], dict[int, float], dict[int, str]]:
    """Parent, processor time in s and name of every process there is."""
    parents, cpu, names = {}, {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, _, told = (folder / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:  # it has ended meanwhile
            continue
        fields, pid = told.split(), int(folder.name)
        parents[pid], names[pid] = int(fields[1]), name
        cpu[pid] = (int(fields[11]) + int(fields[12])) / TICKS
    return parents, cpu, names


def peak(pid: int) -> int:
    """The most memory that a process has held, in bytes; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def measured(command: Sequence[str], folder: Path) -> Cost:
    """Run a command to its end in ``folder``, with the plugin in reach, and look at its processes while it runs."""
    path = filter(None, (str(folder / "site"), str(HERE), os.environ.get("PYTHONPATH")))
    started = time.perf_counter()
    with (folder / "log.txt").open("a") as log:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path), "COLUMNS": "120"}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
        cost = Cost(process.pid)
        while process.poll() is None:
            cost.look()
            time.sleep(0.1)
    cost.wall = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}; see {log.name}")
    return cost


def prepared(trials: int, folder: Path) -> Path:
    """A folder with the study file, and with ``sweep_trials`` as a package that registers ``parabola``."""
    installed = folder / "site" / "sweep_trial-1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: sweep-trial\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[tune_interpreg.methods]\nparabola = sweep_trials:Parabola\n")
    (folder / "sweep.yaml").write_text(STUDY.format(trials=trials))
    return folder


# --------------------------------------------------------------------- results
@dataclass(frozen=True)
class Sweep:
    """What a number of trials cost: through a study, and through plain Tune."""

    trials: int
    ours: Cost
    plain: Cost
    again: Cost
    report: Cost

    @classmethod
    def of(cls, trials: int, folder: Path) -> Sweep:
        """Run it all, one after another, in new folders below ``folder``."""
        ours, others = prepared(trials, folder / f"{trials}-ours"), prepared(trials, folder / f"{trials}-plain")
        program = (sys.executable, "-m", "tune_interpreg")
        run, rival = (*program, "run", "sweep.yaml", "--store", "store"), (sys.executable, str(HERE / "sweep_rival.py"))
        return cls(
            trials,
            ours=told(f"{trials} trials, run", run, ours),
            plain=told(f"{trials} trials, plain Tune", (*rival, str(trials)), others),
            again=fastest(f"{trials} trials, run again", run, ours),
            report=fastest(f"{trials} trials, report", (*program, "report", "store"), ours),
        )


def told(name: str, command: Sequence[str], folder: Path) -> Cost:
    """``measured``, with a line on standard error."""
    cost = measured(command, folder)
    print(f"{name}: {cost.wall:.1f} s wall, {cost.total:.1f} s of processors", file=sys.stderr, flush=True)
    return cost


def fastest(name: str, command: Sequence[str], folder: Path) -> Cost:
    """The fastest of three, as a machine without other work would have it."""
    return min((told(name, command, folder) for _ in range(3)), key=lambda cost: cost.wall)


def goals(sweeps: Sequence[Sweep]) -> Iterator[tuple[bool, str]]:
    """Each goal, whether it is met, and by what."""
    first, last = sweeps[0], sweeps[-1]
    for one in sweeps:
        for what, kind in (("processor time", "total"), ("wall time", "wall")):
            ratio = getattr(one.ours, kind) / getattr(one.plain, kind)
            yield ratio <= 1.1, f"{one.trials:,} trials: {what} at most 1.1 times plain Tune's: {ratio:.2f} times"
    own = [one.ours.total / one.trials for one in (first, last)]
    grown = f"{1000 * own[0]:.1f} → {1000 * own[1]:.1f} ms of processor time a trial"
    yield own[1] <= own[0], f"the cost grows no faster than linearly, TPE's thinking included: {grown}"
    yield last.ours.memory < 2e9, f"driver's peak memory under 2 GB: {last.ours.memory / 1e9:.2f} GB"
    for name, cost, limit in (("`run` on the finished study", last.again, 5), ("`report`", last.report, 10)):
        yield cost.wall < limit, f"{name} under {limit} s: {cost.wall:.1f} s ({cost.total:.1f} s of processor time)"
    yield last.report.memory < 1e9, f"`report` under 1 GB: {last.report.memory / 1e9:.2f} GB"


def table(sweeps: Sequence[Sweep]) -> Iterator[str]:
    """Lines of Markdown: what each command cost."""
    yield "| trials | command | wall, s | driver, s | workers, s | Ray's services, s | driver's peak, GB |"
    yield "|---:|---|---:|---:|---:|---:|---:|"
    names = {
        "ours": "`tune-interpreg run`",
        "plain": "plain Tune",
        "again": "`run` again, finished",
        "report": "`tune-interpreg report`",
    }
    for one in sweeps:
        for field_name, name in names.items():
            cost: Cost = getattr(one, field_name)
            driver = cost.cpu[cost.driver]
            figures = (cost.wall, driver, cost.workers, cost.total - driver - cost.workers)
            seconds = " | ".join(f"{figure:.1f}" for figure in figures)
            yield f"| {one.trials:,} | {name} | {seconds} | {cost.memory / 1e9:.2f} |"


def fsync_seconds(folder: Path) -> float:
    """The median time that a record of 2 kB takes to reach the disk."""
    taken = []
    for number in range(50):
        started = time.perf_counter()
        Store.write_bytes(Store(folder), folder / f"{number}.json", b"x" * 2048)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[1000, 5000])
    given = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        disk = fsync_seconds(Path(folder))
        sweeps = [Sweep.of(trials, Path(folder)) for trials in given.trials]
    verdicts = list(goals(sweeps))
    packages = ", ".join(f"{name} {version(name)}" for name in ("ray", "optuna", "torch"))
    print(f"# A sweep of thousands\n\n{date.today()}, Python {platform.python_version()}, {packages}, ", end="")
    print(f"{os.cpu_count()} cores; load average {load:.1f} before and {os.getloadavg()[0]:.1f} after; ", end="")
    print(f"a file of 2 kB takes {1000 * disk:.1f} ms to reach the disk.\n")
    print("\n".join(f"- **{'PASS' if met else 'MISSED'}** {goal}" for met, goal in verdicts), end="\n\n")
    print("\n".join(table(sweeps)))
    print(EXPLAINED, end="")
    return 0 if all(met for met, _ in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
