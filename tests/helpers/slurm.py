"""A real Slurm of two nodes on this machine, and stand-ins for its programs where it is not installed.

The real one needs Debian's slurm-wlm and munge. Its files, ports and daemons are its own, and it changes nothing of the
system.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from helpers.clusters import free_port

DAEMONS = ("munged", "slurmctld", "slurmd")

#: cred_expire: seconds until a requeued job starts, 120 by default. The scheduler's intervals are 60 and 30 by default.
#: The first node is the head of the job: its name is an address, so that it resolves on any machine.
CONFIGURATION = """\
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SchedulerParameters=sched_interval=1,bf_interval=1
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
ReturnToService=2
MpiDefault=none
KillWait=10
NodeName=127.0.0.1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=1 RealMemory=100 State=UNKNOWN
NodeName=node-b NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=1 RealMemory=100 State=UNKNOWN
PartitionName=main Nodes=127.0.0.1,node-b Default=YES MaxTime=INFINITE State=UP
"""

#: Two hosts on this machine. Like Slurm, the stand-in starts a session per step and sends SIGTERM to all of it.
SRUN = """\
#!/bin/bash
while [[ $1 == --* ]]; do [[ $1 == --nodelist=* ]] && export SLURMD_NODENAME=${1#*=}; shift; done
setsid "$@" &
step=$!
trap 'kill -TERM -- -$step' TERM
wait $step; wait $step
"""
SCONTROL = """\
#!/bin/bash
echo "$*" >> "$(dirname "$0")/scontrol.log"
[ "$1 $2" = "show hostnames" ] && printf '%s\\n' localhost node-b
exit 0
"""


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a job's submission, without this process's Python and Ray."""
    return {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(folder), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def wait(condition: Callable[[], bool], seconds: float, describe: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, describe()
        time.sleep(0.05)


class StandIns:
    """A queue for one job, with scripts for ``srun`` and ``scontrol`` that a test may replace in ``bin``."""

    def __init__(self, folder: Path):
        self.folder, self.bin, self.log, self.job = folder, folder / "bin", folder / "job.log", str(os.getpid())
        self.bin.mkdir()
        self.replace("srun", SRUN)
        self.replace("scontrol", SCONTROL)

    def replace(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(timeout=60)

    def submit(self, script: Path, *options: str) -> None:
        assert not options
        variables = {"SLURM_JOB_ID": self.job, "SLURM_JOB_NODELIST": "node-[a-b]"}
        self._words, self._environment = ["bash", str(script)], environment(self.folder) | variables
        self._environment["PATH"] = f"{self.bin}:{self._environment['PATH']}"
        self._start()

    def _start(self) -> None:
        with self.log.open("a") as log:
            self._process = subprocess.Popen(self._words, env=self._environment, stdout=log, stderr=log)

    def is_over(self) -> bool:
        return self._process.poll() is not None

    def warn(self) -> None:
        """Send the signal that warns of the time limit, wait for the job's end, and start it again if it asks to."""
        self._process.send_signal(signal.SIGUSR1)
        assert self._process.wait(timeout=90) == 143, self.log.read_text()
        assert f"requeue {self.job}\n" in (self.bin / "scontrol.log").read_text()
        self._start()

    def wait(self, seconds: float) -> int:
        """Wait for the end of the job. Return its exit code."""
        wait(self.is_over, seconds, self.log.read_text)
        return self._process.returncode


class Slurm:
    """The daemons of a Slurm of two nodes with one core each, for one job at a time."""

    def __init__(self, folder: Path):
        self.submits, self.log, self.job = folder, folder / "job.log", ""
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # paths of sockets must be short
        self.folder.chmod(0o711)  # munged requires that all users reach its socket
        host = socket.gethostname().partition(".")[0]
        ports = {name: free_port() for name in ("controller", "first", "second")}
        configuration = self.folder / "slurm.conf"
        configuration.write_text(CONFIGURATION.format(host=host, folder=self.folder, **ports))
        (self.folder / "state").mkdir()
        (self.folder / "key").touch(mode=0o400)
        (self.folder / "key").write_bytes(os.urandom(1024))
        self._environment = environment(folder) | {"SLURM_CONF": str(configuration)}
        self._daemons: list[subprocess.Popen[bytes]] = []

    @staticmethod
    def explain_absence() -> str | None:
        """Return why no Slurm can be started here; None if it can."""
        missing = [name for name in (*DAEMONS, "sbatch") if not shutil.which(name, path=environment(Path())["PATH"])]
        if missing:
            return f"a real Slurm needs {', '.join(missing)}: Debian's slurm-wlm and munge"
        return None if os.geteuid() == 0 else "a real Slurm needs root, for slurmd"

    def start(self) -> None:
        files = {"socket": "munge.socket", "key-file": "key", "pid-file": "munged.pid", "seed-file": "seed"}
        self._start("munged", "--foreground", *(f"--{name}={self.folder / file}" for name, file in files.items()))
        wait((self.folder / "munge.socket").exists, 20, self.describe)
        self._start("slurmctld", "-D")
        for node in ("127.0.0.1", "node-b"):
            self._start("slurmd", "-D", "-N", node)
        wait(lambda: self.call("sinfo", "--noheader", "--format=%D %T") == "2 idle", 60, self.describe)

    def stop(self) -> None:
        """End the job and its steps, then the daemons."""
        try:
            if self.job:
                self.call("scancel", self.job)
                wait(lambda: not self.call("squeue", "--noheader"), 60, self.describe)
        finally:
            for daemon in reversed(self._daemons):
                daemon.terminate()
                daemon.wait(timeout=30)
            shutil.rmtree(self.folder, ignore_errors=True)

    def submit(self, script: Path, *options: str) -> None:
        self.job = self.call("sbatch", "--parsable", f"--output={self.log}", *options, str(script))
        assert self.job.isdecimal()

    def is_over(self) -> bool:
        return self._state()["JobState"] not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING")

    def warn(self) -> None:
        """Send the signal that warns of the time limit, and wait until Slurm has queued the job again."""
        self.call("scancel", "--signal=USR1", "--batch", self.job)
        wait(lambda: self._state()["Restarts"] == "1", 90, self.describe)

    def wait(self, seconds: float) -> int:
        """Wait for the end of the job. Return its exit code."""
        wait(self.is_over, seconds, self.describe)
        return int(self._state()["ExitCode"].partition(":")[0])

    def call(self, *words: str) -> str:
        """Return the output of a Slurm command; empty if it fails, as while the controller starts."""
        ran = subprocess.run(words, env=self._environment, cwd=self.submits, capture_output=True, text=True)
        return ran.stdout.strip()

    def describe(self) -> str:
        """Return the job's log, its state and the ends of the daemons' logs."""
        logs = [path for path in (self.log, *sorted(self.folder.glob("*.log"))) if path.exists()]
        ends = [f"{path.name}:\n{path.read_text()[-4000:]}" for path in logs]
        return "\n".join([self.call("scontrol", "show", "job"), *ends])

    def _state(self) -> dict[str, str]:
        """Return the fields of the job in Slurm's report, such as JobState, Restarts and ExitCode."""
        words = self.call("scontrol", "show", "job", self.job).split()
        return {name: value for name, _, value in (word.partition("=") for word in words)}

    def _start(self, name: str, *options: str) -> None:
        program = shutil.which(name, path=self._environment["PATH"])
        with (self.folder / f"{len(self._daemons)}-{name}.log").open("w") as log:
            daemon = subprocess.Popen(
                [str(program), *options], env=self._environment, cwd=self.folder, stdout=log, stderr=log
            )
        self._daemons.append(daemon)
