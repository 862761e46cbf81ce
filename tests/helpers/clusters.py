"""Ray clusters of several nodes on this one machine, for tests: process groups that can be killed as machines are."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

TOKEN = "0123456789abcdef" * 4


class Node:
    """A node of a cluster: ``ray start`` and all that it starts, which share its session."""

    def __init__(self, python: str, arguments: list[str], environment: dict[str, str], log: Path):
        command = [python, "-m", "ray.scripts.scripts", "start", "--block", *arguments]
        ports = [f"--{name}={free_port()}" for name in ("dashboard-agent-listen-port", "metrics-export-port")]
        self.log = log
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [*command, "--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=100000000", *ports],
                cwd=log.parent,
                env=environment,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Until it is part of the cluster."""
        deadline = time.monotonic() + 90
        while "Ray runtime started" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def pids(self) -> set[int]:
        """Of all its processes that are alive, workers included."""
        found = set()
        for entry in Path("/proc").iterdir():
            with suppress(ValueError, OSError):
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if os.getsid(int(entry.name)) == self.process.pid and state != "Z":
                    found.add(int(entry.name))
        return found

    def kill(self) -> None:
        """As when a machine is switched off: nobody hears of it."""
        while pids := self.pids():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        self.process.wait()


class Cluster:
    """Its first node is the head. It asks for ``TOKEN``; its nodes see nothing of this process's environment.

    python: the interpreter that the nodes run, in a folder of their own.
    """

    def __init__(self, python: str = sys.executable):
        self.python, self.nodes = python, []
        self.folder = Path(tempfile.mkdtemp(prefix="nodes-"))  # paths of sockets must be short
        (self.folder / "token").write_text(TOKEN)
        self.address = f"127.0.0.1:{free_port()}"
        self.access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.folder / "token")}

    def add(self, *, cpus: int = 1, gpus: int = 0) -> Node:
        """Start one more node, which joins in a few seconds; the head must be there before others are added."""
        port, number = self.address.rpartition(":")[2], len(self.nodes)
        head = ["--head", f"--port={port}", f"--temp-dir={self.folder}", f"--ray-client-server-port={free_port()}"]
        where = (
            [f"--address={self.address}"]
            if self.nodes
            else [*head, "--include-dashboard=false", f"--dashboard-port={free_port()}"]
        )
        environment = self.access | {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        arguments = [*where, f"--num-cpus={cpus}", f"--num-gpus={gpus}"]
        self.nodes.append(Node(self.python, arguments, environment, self.folder / f"node-{number}.log"))
        return self.nodes[-1]

    def stop(self) -> None:
        for node in reversed(self.nodes):
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def bare_python(folder: Path, site: Path) -> str:
    """The interpreter of a new virtual environment that sees all packages in ``site`` but this project."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "bare")], check=True)
    packages = folder / "packages"
    packages.mkdir()
    own = ("tune_interpreg", "__editable__", "trainables", "analysis", "search_spaces")
    for entry in site.iterdir():
        if not entry.name.startswith(own):
            (packages / entry.name).symlink_to(entry)
    (seen,) = (folder / "bare").glob("lib/python*/site-packages")
    (seen / "packages.pth").write_text(f"{packages}\n")
    return str(folder / "bare" / "bin" / "python")
