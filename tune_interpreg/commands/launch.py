"""`tune-interpreg launch`: files that start a study on clusters that people have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from tune_interpreg.commands.shared import CHECKED, SetOption, StudyArgument, report_errors
from tune_interpreg.study.file import read as study_file

if TYPE_CHECKING:
    from tune_interpreg.launching.jobs import Job
    from tune_interpreg.study.config import Resources

launch = typer.Typer(
    name="launch",
    help="Print a file that starts a study on a cluster: `slurm`, `kuberay`, or `ray-cluster` for `ray up`.",
    no_args_is_help=True,
    epilog=CHECKED,
)

#: EC2's types of one host's GPUs, for those who name none.
INSTANCES = {0: "m6i.2xlarge", 1: "g5.2xlarge", 4: "g5.12xlarge", 8: "g5.48xlarge"}


def _path(given: str | None) -> str | None:
    """Paths are the cluster's own: they need not exist here."""
    if given is not None and (not re.fullmatch(r"(/[^\n:/]+)+", given) or {".", ".."} & {*given.split("/")}):
        raise typer.BadParameter(f"takes an absolute path without .., as the cluster has it, got {given!r}")
    return given


def _store(given: str | None) -> str | None:
    """Nodes share the folder above it, which must not be all that they have."""
    path = _path(given)
    if path is not None and PurePosixPath(path).parent == PurePosixPath("/"):
        raise typer.BadParameter(f"takes a folder in one that nodes share, such as /shared{path}, got {path!r}")
    return path


def _time(given: str) -> str:
    if not re.fullmatch(r"\d+|\d+(:\d\d){1,2}|\d+-\d+(:\d\d){0,2}", given):
        raise typer.BadParameter(f"takes a time as Slurm writes it, 8:00:00 or 1-0, got {given!r}")
    return given


def _word(given: str | None) -> str | None:
    if given is not None and not re.fullmatch(r"[\w.,@:/-]+", given):
        raise typer.BadParameter(f"takes letters, digits and . , @ : / _ -, got {given!r}")
    return given


NodesOption = Annotated[int, typer.Option("--nodes", min=1, metavar="N", help="Machines that run trials.")]
CpusOption = Annotated[int, typer.Option("--cpus-per-node", min=1, metavar="N", help="Cores of each.")]
GpusOption = Annotated[int, typer.Option("--gpus-per-node", min=0, metavar="N", help="GPUs of each.")]
RootOption = Annotated[
    str | None,
    typer.Option(
        "--data-root",
        metavar="PATH",
        callback=_path,
        help="Folder of the data set's files, on every node (kuberay: below --mount, or in the image).",
    ),
]
STORE = "Folder for all results, which all nodes share"


@launch.command(epilog=CHECKED)
def slurm(
    study: StudyArgument,
    overrides: SetOption = None,
    nodes: NodesOption = 2,
    cpus: CpusOption = 8,
    gpus: GpusOption = 0,
    store: Annotated[
        str | None, typer.Option(metavar="PATH", callback=_store, help=f"{STORE}; default runs/NAME, here.")
    ] = None,
    data_root: RootOption = None,
    image: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE", callback=_word, help="For Apptainer: docker://… or a .sif; default this environment."
        ),
    ] = None,
    time: Annotated[
        str, typer.Option(metavar="TIME", callback=_time, help="Limit of one job; the study goes on in the next.")
    ] = "8:00:00",
    partition: Annotated[str | None, typer.Option(metavar="NAME", callback=_word, help="Of Slurm.")] = None,
) -> None:
    """Print an sbatch script: its nodes form a Ray cluster with a token of its own, and the study runs on it.

    Example:  tune-interpreg launch slurm mnist --nodes 4 --gpus-per-node 1 --set resources.gpus=1 > job.sh
    """
    from tune_interpreg.launching import jobs

    with report_errors():
        job = _job(study, overrides, store, Path("runs").absolute(), data_root, nodes, cpus, gpus, image)
        typer.echo(jobs.slurm(job, time=time, partition=partition), nl=False)


@launch.command(epilog=CHECKED)
def kuberay(
    study: StudyArgument,
    image: Annotated[
        str, typer.Option(metavar="IMAGE", callback=_word, help="Holds this package; the file says how to make it.")
    ],
    overrides: SetOption = None,
    nodes: NodesOption = 2,
    cpus: CpusOption = 8,
    gpus: GpusOption = 0,
    memory: Annotated[
        str, typer.Option("--memory-per-node", metavar="SIZE", callback=_word, help="As Kubernetes writes it.")
    ] = "16Gi",
    claim: Annotated[
        str, typer.Option(metavar="NAME", callback=_word, help="A PersistentVolumeClaim that all nodes write to.")
    ] = "tune-interpreg",
    mount: Annotated[str, typer.Option(metavar="PATH", callback=_path, help="Where nodes mount it.")] = "/shared",
    store: Annotated[
        str | None, typer.Option(metavar="PATH", callback=_store, help=f"{STORE}; default MOUNT/NAME.")
    ] = None,
    data_root: RootOption = None,
) -> None:
    """Print a RayJob for KubeRay: a cluster that asks for a token, and the study on it.

    Example:  tune-interpreg launch kuberay mnist --image me/study:1 --gpus-per-node 1 --set resources.gpus=1 > job.yaml
    """
    from tune_interpreg.launching import jobs

    if store and PurePosixPath(mount) not in PurePosixPath(store).parents:
        raise typer.BadParameter(f"takes a path below --mount, {mount}, got {store!r}", param_hint="--store")
    with report_errors():
        job = _job(study, overrides, store, mount, data_root, nodes, cpus, gpus, image)
        typer.echo(jobs.rayjob(job, claim=claim, mount=PurePosixPath(mount), memory=memory), nl=False)


@launch.command(epilog=CHECKED)
def ray_cluster(
    study: StudyArgument,
    overrides: SetOption = None,
    hosts: Annotated[
        str | None,
        typer.Option(metavar="A,B,…", callback=_word, help="Machines that ssh reaches, the head first; else EC2's."),
    ] = None,
    nodes: Annotated[
        int | None, typer.Option("--nodes", min=1, metavar="N", help="Machines that run trials, of EC2; default 2.")
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option("--gpus-per-node", min=0, metavar="N", help="GPUs of each, which choose EC2's type; default 0."),
    ] = None,
    instance: Annotated[
        str | None, typer.Option("--instance-type", metavar="TYPE", callback=_word, help="Of EC2; default by its GPUs.")
    ] = None,
    region: Annotated[
        str | None, typer.Option(metavar="NAME", callback=_word, help="Of EC2; default us-west-2.")
    ] = None,
    user: Annotated[str, typer.Option(metavar="NAME", callback=_word, help="Of ssh.")] = "ubuntu",
    image: Annotated[
        str | None,
        typer.Option(metavar="IMAGE", callback=_word, help="For docker, with this package; EC2 needs one."),
    ] = None,
    store: Annotated[
        str | None, typer.Option(metavar="PATH", callback=_store, help=f"{STORE}; default /shared/NAME.")
    ] = None,
    nfs: Annotated[
        str | None,
        typer.Option(metavar="HOST:/PATH", callback=_word, help="Mounted as the store's parent folder; EC2 needs one."),
    ] = None,
    data_root: RootOption = None,
) -> None:
    """Print a cluster file for `ray up`: machines of yours by ssh, or EC2's, with a token.

    Example:  tune-interpreg launch ray-cluster mnist --hosts node1,node2 --user me --store /nfs/mnist > cluster.yaml
    """
    from tune_interpreg.launching import jobs

    if hosts:
        _refuse_beside_hosts({"nodes": nodes, "gpus-per-node": gpus, "instance-type": instance, "region": region})
        machines, there = hosts.split(","), None
    else:
        machines, there = [], gpus if instance else gpus or 0
        _require_of_ec2({"image": image, "nfs": nfs})
    kind = instance or _instance(there or 0)
    with report_errors():
        job = _job(study, overrides, store, "/shared", data_root, len(machines) or nodes or 2, None, there, image)
        text = jobs.ray_cluster(job, hosts=machines, user=user, instance=kind, region=region or "us-west-2", nfs=nfs)
        typer.echo(text, nl=False)


def _refuse_beside_hosts(options: Mapping[str, object]) -> None:
    given = [f"--{name}" for name, value in options.items() if value is not None]
    if given:
        raise typer.BadParameter(f"{' and '.join(given)} tell what to rent of EC2; drop them, or --hosts")


def _require_of_ec2(options: Mapping[str, object]) -> None:
    missing = [f"--{name}" for name, value in options.items() if not value]
    if missing:
        raise typer.BadParameter(f"EC2's machines share nothing: give {' and '.join(missing)}, or --hosts")


def _instance(gpus: int) -> str:
    """EC2's type of a host with so many GPUs."""
    if gpus not in INSTANCES:
        raise typer.BadParameter(f"no type with {gpus} GPUs is known; name one", param_hint="--instance-type")
    return INSTANCES[gpus]


def _job(
    source: str,
    overrides: list[str] | None,
    store: str | None,
    folder: Path | str,
    data_root: str | None,
    nodes: int,
    cpus: int | None,
    gpus: int | None,
    image: str | None,
) -> Job:
    """What is launched, once the study is known to be sound and its trials to fit the nodes.

    folder: where stores lie unless one is named. cpus, gpus: of a node; None where that is not known.
    """
    from tune_interpreg.launching.jobs import Job

    study = study_file.read(source, overrides or ()).study
    if problems := list(_misfits(study.resources, cpus, gpus)):
        raise typer.BadParameter("; ".join(problems))
    return Job(
        study=source if source in study_file.shipped() else str(Path(source).absolute()),
        name=study.name,
        store=PurePosixPath(store or f"{folder}/{study.name}"),
        nodes=nodes,
        cpus=cpus or 0,
        gpus=gpus or 0,
        image=image,
        data_root=PurePosixPath(data_root) if data_root else None,
        overrides=tuple(overrides or ()),
    )


def _misfits(asked: Resources, cpus: int | None, gpus: int | None) -> Iterator[str]:
    """Why trials cannot run on a node of so many, or leave its GPUs idle."""
    if cpus is not None and asked.cpus > cpus:
        yield f"a trial asks for {asked.cpus:g} CPUs, a node has {cpus}: raise --cpus-per-node, or lower resources.cpus"
    if gpus is not None and asked.gpus > gpus:
        yield f"a trial asks for {asked.gpus:g} GPUs, a node has {gpus}: raise --gpus-per-node, or lower resources.gpus"
    if gpus and not asked.gpus:
        yield f"a node has {gpus} GPUs, trials ask for none: add --set resources.gpus=1, or drop --gpus-per-node"
