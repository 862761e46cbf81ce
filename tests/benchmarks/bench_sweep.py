"""Measure the cost of a trial around its training, in a sweep of thousands: this system against plain Ray Tune.

Runs studies of 1,000 and 5,000 trials (``tune-interpreg run``, local Ray), and as many trials through ``tune.Tuner``
with ``OptunaSearch``. Then runs ``run`` on the finished study, and ``report``. Each command is a process of its own. A
trial trains nothing: it is ``sweep_trials.Parabola``. The result next to this file is made by

    python tests/benchmarks/bench_sweep.py > tests/benchmarks/sweep.md

Linux only: it reads processor time and memory from /proc. Exit codes: 0 all goals are met, 1 one is not.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path

STUDY = """\
training: {{epochs: 1}}
seeds: [0]
checks: null
arms:
  sweep:
    method: parabola
    search: {{space: {{x: {{uniform: [-1, 1]}}, y: {{uniform: [-1, 1]}}}}, maximize: val/accuracy, trials: {trials}}}
"""

TICKS = os.sysconf("SC_CLK_TCK")
HERE = Path(__file__).resolve().parent
RUN, PLAIN, AGAIN, REPORT = "`tune-interpreg run`", "plain Tune", "`run` again, finished", "`tune-interpreg report`"

EXPLANATION = """
Commands run one after another, each as a process of its own. Wall time is the user's, with imports, Ray's start and
the printed tables. Processor time covers the command and all of its descendants, read ten times per second. Other
work on the machine stretches it less than wall time. The last two commands are the fastest of three runs. Workers are
Ray's: each takes about 3 s to start, and plain Tune replaces some on the way. Services are Ray's raylet, GCS and
agents. Both sides propose with Optuna's TPE. Its time per proposal grows with the number of finished trials.

**A trial** trains nothing, so that only the work around a training is measured. In a study, the driver notes the item
in the store, starts a reused worker, reads its record, tells Optuna and its journal, prints a line and drops the note.
The worker writes TensorBoard's events with two curves and the hyperparameters, an untrained network of digits as the
model, and three records: of the training and of two judgments. The note and the records reach the disk before the
driver continues: without them, a crash of the machine would lose a trial or its checkpoint. The journal is a view of
the records and does not wait for the disk. Plain Tune uses OptunaSearch in memory, a class that returns one result,
Tune's own CSV, JSON and TensorBoard loggers, its snapshots and its printed status. It waits for none of these files and
writes no checksums.

**Not measured**: training, evaluation, checkpoints of epochs, TensorBoard's images, teachers and maps, matches of a
loss, pruning, several arms, a GPU, a cluster of several machines, a network file system, the memory of workers.
"""


@dataclass
class Cost:
    """The cost of a command."""

    driver: int  # its process id
    wall: float = 0.0  # s
    memory: int = 0  # peak of the driver, bytes
    cpu: dict[int, float] = field(default_factory=dict)  # s, by process, of the driver and its descendants
    names: dict[int, str] = field(default_factory=dict)  # of these processes

    @property
    def total(self) -> float:
        return sum(self.cpu.values())

    @property
    def workers(self) -> float:
        return sum(seconds for pid, seconds in self.cpu.items() if self.names[pid].startswith("ray::"))

    def update(self) -> None:
        """Read the processor time of the driver and its descendants, and the driver's peak memory."""
        parents, cpu, names = list_processes()
        family = {self.driver}
        while more := {pid for pid, parent in parents.items() if parent in family} - family:
            family |= more
        self.cpu |= {pid: cpu[pid] for pid in family & cpu.keys()}
        self.names |= {pid: names[pid] for pid in family & cpu.keys()}
        with suppress(OSError):  # the driver has ended
            peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.driver}/status").read_text())
            self.memory = max(self.memory, int(peak[1]) * 1024 if peak else 0)


def list_processes() -> tuple[dict[int, int], dict[int, float], dict[int, str]]:
    """Return parent, processor time in s and name of every process, by process id."""
    parents, cpu, names = {}, {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:  # the process has ended
            continue
        fields, pid = rest.split(), int(folder.name)
        parents[pid], names[pid] = int(fields[1]), name
        cpu[pid] = (int(fields[11]) + int(fields[12])) / TICKS
    return parents, cpu, names


def measure(name: str, command: Sequence[str], folder: Path, runs: int = 1) -> Cost:
    """Run a command in ``folder``, with the plugin on its path. Return the cost of the fastest of ``runs``."""
    if runs > 1:  # other work on the machine disturbs the fastest run least
        return min((measure(name, command, folder) for _ in range(runs)), key=lambda cost: cost.wall)
    path = filter(None, (str(folder / "site"), str(HERE), os.environ.get("PYTHONPATH")))
    started = time.perf_counter()
    with (folder / "log.txt").open("a") as log:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path), "COLUMNS": "120"}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
        cost = Cost(process.pid)
        while process.poll() is None:
            cost.update()
            time.sleep(0.1)
    cost.wall = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}; see {log.name}")
    print(f"{name}: {cost.wall:.1f} s wall, {cost.total:.1f} s of processors", file=sys.stderr, flush=True)
    return cost


def prepare(trials: int, folder: Path) -> Path:
    """Write the study file, and ``sweep_trials`` as a package that registers ``parabola``. Returns the folder."""
    installed = folder / "site" / "sweep_trial-1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: sweep-trial\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[tune_interpreg.methods]\nparabola = sweep_trials:Parabola\n")
    (folder / "sweep.yaml").write_text(STUDY.format(trials=trials))
    return folder


# --------------------------------------------------------------------- results
def run_all(trials: int, folder: Path) -> dict[str, Cost]:
    """Run all commands, one after another, in new folders below ``folder``. Return cost by command."""
    ours, others = prepare(trials, folder / f"{trials}-ours"), prepare(trials, folder / f"{trials}-plain")
    program = (sys.executable, "-m", "tune_interpreg")
    run, rival = (*program, "run", "sweep.yaml", "--store", "store"), (sys.executable, str(HERE / "sweep_rival.py"))
    return {
        RUN: measure(f"{trials} trials, run", run, ours),
        PLAIN: measure(f"{trials} trials, plain Tune", (*rival, str(trials)), others),
        AGAIN: measure(f"{trials} trials, run again", run, ours, runs=3),
        REPORT: measure(f"{trials} trials, report", (*program, "report", "store"), ours, runs=3),
    }


def goals(sweeps: Mapping[int, Mapping[str, Cost]]) -> Iterator[tuple[bool, str]]:
    """Yield each goal: True if it is met, and a line with the figure. The largest sweep comes last."""
    for trials, costs in sweeps.items():
        ours, plain = costs[RUN], costs[PLAIN]
        for name, ratio in {"processor time": ours.total / plain.total, "wall time": ours.wall / plain.wall}.items():
            yield ratio <= 1.1, f"{trials:,} trials: {name} at most 1.1 times plain Tune's: {ratio:.2f} times"
    last = list(sweeps.values())[-1]
    yield last[RUN].memory < 2e9, f"driver's peak memory under 2 GB: {last[RUN].memory / 1e9:.2f} GB"
    for name, cost, limit in (("`run` on the finished study", last[AGAIN], 5), ("`report`", last[REPORT], 10)):
        yield cost.wall < limit, f"{name} under {limit} s: {cost.wall:.1f} s ({cost.total:.1f} s of processor time)"
    yield last[REPORT].memory < 1e9, f"`report` under 1 GB: {last[REPORT].memory / 1e9:.2f} GB"


def table(sweeps: Mapping[int, Mapping[str, Cost]]) -> Iterator[str]:
    """Yield the lines of a Markdown table of costs."""
    yield "| trials | command | wall, s | driver, s | workers, s | Ray's services, s | driver's peak, GB |"
    yield "|---:|---|---:|---:|---:|---:|---:|"
    for trials, costs in sweeps.items():
        for name, cost in costs.items():
            driver = cost.cpu[cost.driver]
            figures = (cost.wall, driver, cost.workers, cost.total - driver - cost.workers)
            seconds = " | ".join(f"{figure:.1f}" for figure in figures)
            yield f"| {trials:,} | {name} | {seconds} | {cost.memory / 1e9:.2f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[1000, 5000])
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        sweeps = {trials: run_all(trials, Path(folder)) for trials in options.trials}
    verdicts = list(goals(sweeps))
    packages = ", ".join(f"{name} {version(name)}" for name in ("ray", "optuna", "torch"))
    print(f"# A sweep of thousands\n\n{date.today()}, Python {platform.python_version()}, {packages}, ", end="")
    print(f"{os.cpu_count()} cores; load average {load:.1f} before and {os.getloadavg()[0]:.1f} after.\n")
    print("\n".join(f"- **{'PASS' if met else 'MISSED'}** {goal}" for met, goal in verdicts), end="\n\n")
    print("\n".join(table(sweeps)))
    print(EXPLANATION, end="")
    return 0 if all(met for met, _ in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
