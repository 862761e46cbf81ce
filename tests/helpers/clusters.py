"""Ray clusters of several nodes on this machine. Each node is a process group that can be killed like a machine."""

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
    """A node of a cluster: ``ray start`` and all processes that it starts, which share its session."""

    def __init__(self, python: str, arguments: list[str], environment: dict[str, str], log: Path):
        ports = [f"--{name}={free_port()}" for name in ("dashboard-agent-listen-port", "metrics-export-port")]
        ports += ["--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=100000000"]
        words, self.log = [python, "-m", "ray.scripts.scripts", "start", "--block", *arguments, *ports], log
        with log.open("w") as out:
            self.process = subprocess.Popen(
                words, cwd=log.parent, env=environment, stdout=out, stderr=out, start_new_session=True
            )

    def wait(self) -> None:
        """Wait until the node has joined the cluster."""
        deadline = time.monotonic() + 90
        while "Ray runtime started" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def pids(self) -> set[int]:
        return session_processes(self.process.pid)

    def kill(self) -> None:
        """Kill the node without notice, like a machine that is switched off."""
        while pids := self.pids():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        self.process.wait()


class Cluster:
    """A cluster that requires ``TOKEN``. The first node is the head. Nodes do not see this process's environment."""

    def __init__(self, python: str):
        self.python, self.nodes = python, []
        self.folder = Path(tempfile.mkdtemp(prefix="nodes-"))  # paths of sockets must be short
        (self.folder / "token").write_text(TOKEN)
        self.address = f"127.0.0.1:{free_port()}"
        self.access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.folder / "token")}

    def add(self, *, cpus: int = 1, gpus: int = 0) -> Node:
        """Start a node, which joins within seconds. The head must have started before other nodes."""
        arguments = [f"--num-cpus={cpus}", f"--num-gpus={gpus}"]
        if self.nodes:
            arguments += [f"--address={self.address}"]
        else:
            port = self.address.rpartition(":")[2]
            arguments += ["--head", f"--port={port}", f"--temp-dir={self.folder}", "--include-dashboard=false"]
            arguments += [f"--ray-client-server-port={free_port()}", f"--dashboard-port={free_port()}"]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "RAY_USAGE_STATS_ENABLED": "0"}
        log = self.folder / f"node-{len(self.nodes)}.log"
        self.nodes.append(Node(self.python, arguments, environment | self.access, log))
        return self.nodes[-1]

    def stop(self) -> None:
        for node in reversed(self.nodes):
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def session_processes(leader: int) -> set[int]:
    """Return the pids of all living processes that a leader and its children have started."""
    pids = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            if os.getsid(int(entry.name)) == leader and state != "Z":
                pids.add(int(entry.name))
    return pids


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def bare_python(folder: Path, site: Path) -> str:
    """Return the interpreter of a new virtual environment with all packages in ``site`` except this project."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "bare")], check=True)
    packages = folder / "packages"
    packages.mkdir()
    project = ("tune_interpreg", "__editable__", "trainables", "analysis", "search_spaces")
    for entry in site.iterdir():
        if not entry.name.startswith(project):
            (packages / entry.name).symlink_to(entry)
    (site_packages,) = (folder / "bare").glob("lib/python*/site-packages")
    (site_packages / "packages.pth").write_text(f"{packages}\n")
    return str(folder / "bare" / "bin" / "python")
