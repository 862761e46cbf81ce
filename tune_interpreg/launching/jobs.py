"""The templates filled: a study, the machines it runs on, where its store lies → the text of a file to submit."""

from __future__ import annotations

import json
import re
import shlex
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path, PurePosixPath
from string import Template
from typing import Any

import yaml

#: Where Ray looks for its token.
TOKEN = "~/.ray/auth_token"

#: What `ray up` needs to reach hosts of one's own; the head starts Ray on the others.
BY_SSH = (
    "ssh without a password from here to all machines, and from the head to the others: by keys that lie there,\n"
    "#   or by one from here, which `ray up` takes along, as ssh_private_key: PATH beside ssh_user"
)

#: Where a Kubernetes node finds a study's file.
STUDY = "/study"


class _Template(Template):
    """Shells and YAML give each of the usual delimiters a meaning of their own."""

    delimiter = "@@"


@dataclass(frozen=True)
class Job:
    """A study that is to run on a cluster.

    study: a shipped study's name, or the absolute path of a file. name: the study's own. overrides: as ``--set`` takes
    them. store, data_root: absolute paths on the cluster; all nodes share the store's folder. nodes: how many machines
    run trials, each with so many cpus and gpus. image: what they run in; null: this environment, which all of them see.
    """

    study: str
    name: str
    store: PurePosixPath
    nodes: int
    cpus: int
    gpus: int
    image: str | None = None
    data_root: PurePosixPath | None = None
    overrides: tuple[str, ...] = ()

    @property
    def file(self) -> Path | None:
        """The study's own file, where it is not a shipped one."""
        return Path(self.study) if self.study.startswith("/") else None

    @property
    def label(self) -> str:
        """The name as Slurm, Kubernetes and `ray up` take it."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")[:40].strip("-") or "study"

    @property
    def folders(self) -> list[str]:
        """Those on the cluster that an image has to see."""
        return [str(one) for one in dict.fromkeys((self.store.parent, self.data_root)) if one]

    def command(self, study: str | None = None) -> str:
        """What runs on the cluster, quoted for a shell. study: where its file lies there, if elsewhere."""
        words = ["tune-interpreg", "run", study or self.study, "--cluster", "auto", "--store", str(self.store)]
        words += ["--data-root", str(self.data_root)] if self.data_root else []
        return shlex.join([*words, *(word for one in self.overrides for word in ("--set", one))])


# -------------------------------------------------------------------------- slurm
def slurm(job: Job, *, time: str, partition: str | None) -> str:
    """An sbatch script. time: as Slurm writes it, such as 8:00:00."""
    more = {"gpus-per-node": job.gpus or None, "partition": partition}
    seen = [*job.folders, *([str(job.file.parent)] if job.file else [])]
    apptainer = ["apptainer", "exec", *(["--nv"] if job.gpus else []), "--bind", ",".join(seen), str(job.image)]
    return _filled(
        "slurm.sh",
        job,
        time=time,
        more="\n".join(f"#SBATCH --{key}={value}" for key, value in more.items() if value),
        needs="Apptainer and the image" if job.image else f"the environment in {_programs()}",
        environment="" if job.image else _environment(),
        within=f"{shlex.join(apptainer)} " if job.image else "",
        store=shlex.quote(str(job.store)),
        command=job.command(),
    )


# --------------------------------------------------------------------- Kubernetes
def rayjob(job: Job, *, claim: str, mount: PurePosixPath, memory: str) -> str:
    """A RayJob, and a ConfigMap with the study's file where it is not a shipped one.

    claim: a PersistentVolumeClaim, which all nodes mount at ``mount``. memory: of a node, as Kubernetes writes it.
    """
    mounts: list[dict[str, str]] = [{"name": "shared", "mountPath": str(mount)}]
    volumes: list[dict[str, Any]] = [{"name": "shared", "persistentVolumeClaim": {"claimName": claim}}]
    if job.file:
        mounts.append({"name": "study", "mountPath": STUDY})
        volumes.append({"name": "study", "configMap": {"name": job.label}})
    manifest = _filled(
        "rayjob.yaml",
        job,
        image=json.dumps(job.image),
        command=json.dumps(job.command(f"{STUDY}/{job.label}.yaml" if job.file else None)),
        ray=version("ray"),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        base=f"{version('ray')}-py{sys.version_info.major}{sys.version_info.minor}{'-gpu' if job.gpus else ''}",
        claim=claim,
        head=_asked(cpu="2", memory=memory),
        worker=_asked(cpu=str(job.cpus), memory=memory, **({"nvidia.com/gpu": str(job.gpus)} if job.gpus else {})),
        mounts=json.dumps(mounts),
        volumes=json.dumps(volumes),
    )
    return f"{manifest}---\n{_config_map(job.label, job.file)}" if job.file else manifest


def _asked(**resources: str) -> str:
    return json.dumps({"limits": resources, "requests": resources})


def _config_map(label: str, file: Path) -> str:
    text = textwrap.indent(file.read_text(encoding="utf-8-sig"), "    ")
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {label}\ndata:\n  {label}.yaml: |2\n{text}"


# ------------------------------------------------------------------------- ray up
def ray_cluster(job: Job, *, hosts: Sequence[str], user: str, instance: str, region: str, nfs: str | None) -> str:
    """A cluster of `ray up`: of ``hosts`` by ssh, the first of which is the head, else of EC2 instances.

    nfs: HOST:/PATH, which the machines mount as the store's parent folder; null: they share that already.
    """
    settings = _by_ssh(hosts) if hosts else _instances(job.nodes, instance, region)
    settings["auth"] = {"ssh_user": user}
    if job.image:
        binds = [f"-v {shlex.quote(f'{folder}:{folder}')}" for folder in job.folders]
        settings["docker"] = {"image": job.image, "container_name": "tune_interpreg", "run_options": binds}
    before = f"{'' if job.image else f'{_environment()}; '}export RAY_AUTH_MODE=token; "
    start = f"ulimit -n 65536; {before}ray start"
    head = "--head --port=6379 --include-dashboard=false --autoscaling-config=~/ray_bootstrap_config.yaml"
    return _filled(
        "cluster.yaml",
        job,
        run=shlex.quote(before + job.command()),
        needs=f"docker and the image {job.image}" if job.image else f"the environment in {_programs()}",
        access=BY_SSH if hosts else "AWS's credentials here; Ray itself makes the key for ssh",
        shared=f"{job.store.parent}, {f'which they mount from {nfs}' if nfs else 'which is to be there already'}",
        workers=job.nodes - 1,
        settings=yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=1000).rstrip(),
        files=json.dumps({one: one for one in (TOKEN, job.file and str(job.file)) if one}),
        preparations=json.dumps(_mounting(str(job.store.parent), nfs) if nfs else []),
        stop=json.dumps(f"{before}ray stop"),
        start_head=json.dumps(f"{start} {head}"),
        start_worker=json.dumps(f"{start} --address=$RAY_HEAD_IP:6379"),
    )


def _by_ssh(hosts: Sequence[str]) -> dict[str, Any]:
    head, *workers = hosts
    return {"provider": {"type": "local", "head_ip": head, "worker_ips": workers}}


def _instances(nodes: int, instance: str, region: str) -> dict[str, Any]:
    """On EC2; Ray reads off the type what an instance has."""
    head, worker = ({"resources": {}, "node_config": {"InstanceType": instance}} for _ in range(2))
    workers = {"min_workers": nodes - 1, "max_workers": nodes - 1}
    return {
        "provider": {"type": "aws", "region": region},
        "available_node_types": {"head": head, "worker": workers | worker},
        "head_node_type": "head",
    }


def _mounting(folder: str, nfs: str) -> list[str]:
    """What each machine does before anything else."""
    place = shlex.quote(folder)
    mount = f"mountpoint -q {place} || sudo mount -t nfs {shlex.quote(nfs)} {place}"
    return ["command -v mount.nfs || sudo apt-get install -y nfs-common", f"sudo mkdir -p {place}; {mount}"]


# ------------------------------------------------------------------- what they share
def _programs() -> str:
    """The folder of this environment's programs."""
    return str(Path(sys.executable).parent)


def _environment() -> str:
    return f"export PATH={shlex.quote(_programs())}:$PATH"


def _filled(template: str, job: Job, **values: object) -> str:
    """A template with these values, and the job's own; each value is as the file's language quotes it."""
    own = {"study": job.name, "name": job.label, "nodes": job.nodes, "cpus": job.cpus, "gpus": job.gpus}
    text = _Template((files(__package__) / template).read_text(encoding="utf-8")).substitute(own | values)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
