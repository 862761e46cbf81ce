"""kill -9 at random moments, of the driver, of workers and of the raylet; run again until the study is finished.

A finished store must equal the store of a run in which nothing was killed: the same records, models and maps, no
half-written file, no leftover. Also checked:

- how many epochs ran twice, from TensorBoard's events. Events are on disk before the epoch's checkpoint, so each whole
  epoch counts. The part of an epoch that a kill interrupts leaves no events;
- how long workers outlive their driver, and how long a driver outlives its raylet.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from helpers.kept import Kept, epochs, read_epochs

EPOCHS = 4
STUDY = f"""
name: kills
data: {{name: digits, train_limit: 224, validation: 60, test_limit: 60}}
training: {{epochs: {EPOCHS}, batch_size: 16, lr: 0.05}}
attack: {{eps: 0.5, steps: 3}}
evaluation: {{steps: 5}}
resources: {{cpus: CPUS}}
seeds: [0]
checks: null
arms:
  adversarial: {{method: adversarial}}
  robust:
    method: interpretation
    targets: {{teacher: adversarial, samples: 20}}
    search:
      space: {{lambda: {{log_uniform: [0.01, 1.0]}}, phi: {{choice: [0.0, 1.0]}}}}
      maximize: val/adv_accuracy
      trials: 2
  jacobian:
    method: jacobian
    search: {{space: {{lambda_j: {{log_uniform: [0.001, 1.0]}}}}, match_loss_of: robust, trials: 6, parallel: 2}}
"""
#: Each is killed at one of these moments.
VICTIMS = ("driver",) * 4 + ("worker",) * 4 + ("raylet",) * 2
MOMENTS = ("start-up", "targets", "epoch", "ending", "any")

#: Seconds that workers may outlive their driver, and a driver its raylet.
ORPHANED, HUNG = 30, 60
#: Seconds without progress, and to wait for a moment before any other will do.
STUCK, PATIENCE = 240, 12
#: Exit codes after a kill. If the raylet dies during Ray's start, Ray itself ends the process with 1.
CODES = {"driver": (-signal.SIGKILL,), "raylet": (2, 1), "worker": ()}

#: One thread per worker, so that results do not depend on how many run at once. A waiting thread leaves its core.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


# ------------------------------------------------------------------ processes
def ray_processes(driver: int) -> dict[int, str]:
    """Return the Ray processes of this driver only, pid → command. Their log files are in a folder with its pid."""
    session, commands = re.compile(rf"/session_[^/]*_{driver}/"), {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            logs = [os.readlink(entry / "fd" / number) for number in ("1", "2")]
            if any(session.search(log) for log in logs) and int(entry.name) != driver:
                commands[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ").strip()
    return commands


def find_processes(driver: int, kind: str) -> list[int]:
    """Return the driver's living processes of a kind: driver, worker or raylet."""
    if kind == "driver":
        return [driver]
    pattern = re.compile(r"ray::(?!\w*Agent)" if kind == "worker" else r"\S*/raylet/raylet ")
    return [pid for pid, command in ray_processes(driver).items() if pattern.match(command)]


def kill(pid: int) -> bool:
    """Kill a process. Returns whether it was alive."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


# ------------------------------------------------------------------------- a round
class Round:
    """One study from its first run to its end, and the kills in between, as (victim, moment)."""

    def __init__(self, folder: Path, cpus: float, rng: random.Random, study: str = STUDY, site: Path | None = None):
        """site: a folder of plugins that the study needs."""
        self.folder, self.store, self.rng = folder, folder / "store", rng
        paths = filter(None, [str(site or ""), os.environ.get("PYTHONPATH")])
        self.environment = ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(paths)}
        self.kills: list[tuple[str, str]] = []
        self.patience = PATIENCE
        self._ledger: dict[Path, tuple[int, int]] = {}
        folder.mkdir(parents=True)
        (folder / "study.yaml").write_text(study.replace("CPUS", str(cpus)))

    def finish(self, deck: list[tuple[str, str]], *options: str) -> None:
        """Run, kill and run again, until the study is finished. Takes the kills from the end of ``deck``."""
        while (code := self._run_once(deck, *options)) != 0:
            victim = self.kills[-1][0] if self.kills else "worker"
            assert code in CODES[victim], f"exit code {code}: {self._log()}"

    def _run_once(self, deck: list[tuple[str, str]], *options: str) -> int:
        """Run and kill. Returns the exit code."""
        words = ["run", str(self.folder / "study.yaml"), "--store", str(self.store), *options]
        with (self.folder / "log").open("a") as log:
            command = [sys.executable, "-m", "tune_interpreg", *words]
            driver = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=self.environment)
        try:
            while driver.poll() is None and deck:
                if self._try_to_kill(driver, *deck[-1]):
                    deck.pop()
            self._wait(lambda: False, driver)
        finally:
            driver.kill()  # if an assertion ends the test
            driver.wait()
            for session in Path("/tmp").glob(f"ray-*/session_*_{driver.pid}"):
                shutil.rmtree(session.parent, ignore_errors=True)
        return driver.returncode

    def _try_to_kill(self, driver: subprocess.Popen[bytes], victim: str, moment: str) -> bool:
        """Wait for a moment, then kill the victim. Returns whether it was alive."""
        if moment == "targets" and any(self.store.glob("targets/*.npy")):
            moment = "epoch"
        if moment != "start-up" and not self._wait(lambda: bool(find_processes(driver.pid, "worker")), driver):
            return False
        has_come, deadline = self._moment(moment), time.monotonic() + self.patience
        if not self._wait(lambda: has_come() or time.monotonic() > deadline, driver):
            return False
        pid, log_size = next(iter(find_processes(driver.pid, victim)), None), (self.folder / "log").stat().st_size
        if pid is None or not kill(pid):
            return False
        moment = moment if time.monotonic() < deadline else "any"
        self.kills.append((victim, moment))
        print(f"{self.folder.name}, {len(self.kills):2}: {victim} at {moment}; {len(self._ledger)} records")
        if victim == "driver":
            driver.wait()
            if self.rng.random() < 0.5:  # otherwise the next driver starts while the workers live
                self._wait_at_most(ORPHANED, lambda: not find_processes(driver.pid, "worker"))
        elif victim == "raylet":
            self._wait_at_most(HUNG, lambda: driver.poll() is not None)
            printed = (self.folder / "log").read_bytes()[log_size:].decode()
            assert moment == "start-up" or "run the same command again to continue" in printed, printed
        return True

    def _moment(self, name: str) -> Callable[[], bool]:
        """Return a condition that becomes true at a moment of this kind."""
        delayed = time.monotonic() + self.rng.uniform(0, 5)
        if name in ("start-up", "any"):
            return lambda: time.monotonic() > delayed
        ending = self.rng.choice(["ledger/*/*.json", "models/.*.part", "models/*.safetensors", "ledger/*/.*"])
        pattern = {"targets": "checkpoints/*/maps*", "epoch": "checkpoints/*/*.safetensors", "ending": ending}[name]
        before = self._newest(pattern)
        return lambda: self._newest(pattern) > before

    def _newest(self, pattern: str) -> float:
        """Return the time of the last change among files."""
        times = [0.0]
        for path in self.store.glob(pattern):
            with suppress(FileNotFoundError):  # deleted after it was listed
                times.append(path.stat().st_mtime)
        return max(times)

    def _wait(self, condition: Callable[[], bool], driver: subprocess.Popen[bytes]) -> bool:
        """Wait for a condition. Returns whether it became true before the run ended. No record is written twice."""
        deadline = time.monotonic() + STUCK
        while not condition():
            if driver.poll() is not None:
                return False
            stats = {path: path.stat() for path in self.store.glob("ledger/*/*.json")}
            ledger = {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}
            assert ledger.items() >= self._ledger.items(), dict(self._ledger.items() - ledger.items())
            self._ledger = ledger
            assert time.monotonic() < deadline, f"no progress for {STUCK} s: {self._log()}"
            time.sleep(0.02)
        return True

    def _wait_at_most(self, seconds: float, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not over after {seconds} s: {self._log()}"
            time.sleep(0.05)

    def _log(self) -> str:
        return (self.folder / "log").read_text()[-3000:]

    # ---------------------------------------------------------------------- results
    def count_repeated_epochs(self) -> int:
        """Return how many whole epochs ran twice: at most one per worker that died."""
        repeated, trained = 0, set()
        for trial in self.store.glob("tensorboard/*/*/"):
            if not (ran := epochs(trial)):  # judgments only
                continue
            trained.add(trial.name[-6:])
            for earlier, later in pairwise(ran):
                twice = earlier[-1] - later[0] + 1
                assert 0 <= twice <= 1, f"{trial.name}: epochs {earlier}, then {later}"
                repeated += twice
            steps = sorted({step for steps in ran for step in steps})
            assert steps == list(range(1, EPOCHS + 1)), f"{trial.name}: {ran}"
        assert trained == {record["key"][:6] for record in Kept(self.store).trainings()}
        return repeated

    def check(self, reference: Kept) -> None:
        """Check that the store equals the reference's, and that no worker started a training that had a record."""
        content = Kept(self.store)
        assert content.difference(reference) == []
        assert content.shape() == reference.shape()
        assert content.leftovers() == []
        for record in content.trainings():
            path = self.store / "ledger" / record["arm"] / f"{record['key']}.json"
            events = self.store.glob(f"tensorboard/{record['arm']}/*-{record['key'][:6]}/events.*")
            starts = [int(event.name.split(".")[3]) for event in events if read_epochs(event)]
            assert max(starts) <= path.stat().st_mtime + 1, path


def run_rounds(folder: Path, at_once: int, seed: int) -> list[Round]:
    """Finish studies until all ``VICTIMS`` were killed, and compare each with a run without kills in one process.

    at_once: number of trials that run at once.
    """
    rng, cores = random.Random(seed), os.cpu_count() or 1
    untouched = Round(folder / "reference", 1, rng)
    untouched.finish([], "--cluster", "in-process")
    reference, rounds = Kept(untouched.store), []
    moments = MOMENTS * (len(VICTIMS) // len(MOMENTS))
    deck = list(zip(rng.sample(VICTIMS, len(VICTIMS)), moments, strict=True))
    while deck:
        rounds.append(Round(folder / f"round-{len(rounds)}", max(1, cores // at_once), rng))
        rounds[-1].finish(deck)
        rounds[-1].check(reference)
    return rounds
