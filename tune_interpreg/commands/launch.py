"""`tune-interpreg launch`: files that start a study on a cluster."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tune_interpreg.commands.shared import CHECKED, SetOption, StudyArgument, report_errors
from tune_interpreg.study.file.read import list_shipped_studies, read_study_file

if TYPE_CHECKING:
    from tune_interpreg.study.config import Resources

launch = typer.Typer(
    name="launch",
    help="Print a file that starts a study on a cluster: `slurm`, `kuberay`, or `ray-cluster` for `ray up`.\n\n"
    "The study is checked first. The file's comments say what the cluster needs, and how to submit it.\n\n"
    "Example:  tune-interpreg launch slurm mnist --nodes 4 > job.sh",
    no_args_is_help=True,
    epilog=CHECKED,
)

#: EC2 instance types by number of GPUs, used if no type is named.
INSTANCES = {0: "m6i.2xlarge", 1: "g5.2xlarge", 4: "g5.12xlarge", 8: "g5.48xlarge"}

#: Ray's file for the cluster's token.
TOKEN = "~/.ray/auth_token"


def _matching(pattern: str, rule: str) -> Callable[[str | None], str | None]:
    """Return an option's callback that refuses values that do not match the whole pattern."""

    def check(value: str | None) -> str | None:
        if value is not None and not re.fullmatch(pattern, value):
            raise typer.BadParameter(f"{rule}, got {value!r}")
        return value

    return check


FOLDER = r"/(?!\.{1,2}(?:/|$))[^\n:/]+"
_path = _matching(f"(?:{FOLDER})+", "takes an absolute path without .., as the cluster has it")
_word = _matching(r"[\w.,@:/-]+", "takes letters, digits and . , @ : / _ -")
_time = _matching(r"\d+|\d+(:\d\d){1,2}|\d+-\d+(:\d\d){0,2}", "takes a time as Slurm writes it, such as 8:00:00 or 1-0")


def _store(path: str | None) -> str | None:
    """Check the path of a store: its parent folder is what the nodes share, so it must not be the root folder."""
    if _path(path) is not None and PurePosixPath(str(path)).parent == PurePosixPath("/"):
        raise typer.BadParameter(f"takes a folder in a shared one, such as /shared{path}, got {path!r}")
    return path


NodesOption = Annotated[int, typer.Option("--nodes", min=1, metavar="N", help="Number of nodes that run trials.")]
CpusOption = Annotated[int, typer.Option("--cpus-per-node", min=1, metavar="N", help="CPU cores per node.")]
GpusOption = Annotated[int, typer.Option("--gpus-per-node", min=0, metavar="N", help="GPUs per node.")]
RootOption = Annotated[
    str | None,
    typer.Option(
        "--data-root",
        metavar="PATH",
        callback=_path,
        help="Folder with the data set's files, on every node (kuberay: below --mount, or in the image).",
    ),
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="PATH",
        callback=_store,
        help="Folder for all results, shared by all nodes. Default: NAME in ./runs (slurm), --mount (kuberay) or "
        "/shared (ray-cluster).",
    ),
]


@launch.command(epilog=CHECKED)
def slurm(
    study: StudyArgument,
    overrides: SetOption = None,
    nodes: NodesOption = 2,
    cpus: CpusOption = 8,
    gpus: GpusOption = 0,
    store: StoreOption = None,
    data_root: RootOption = None,
    image: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE",
            callback=_word,
            help="Apptainer image, docker://… or a .sif file. Default: the environment of this Python.",
        ),
    ] = None,
    time: Annotated[
        str,
        typer.Option(metavar="TIME", callback=_time, help="Time limit of one job; the next job resumes the study."),
    ] = "8:00:00",
    partition: Annotated[str | None, typer.Option(metavar="NAME", callback=_word, help="Slurm partition.")] = None,
) -> None:
    """Print an sbatch script. Its nodes form a Ray cluster with its own token, and the study runs on it.

    Example:  tune-interpreg launch slurm mnist --nodes 4 --gpus-per-node 1 --set resources.gpus=1 > job.sh
    """
    with report_errors():
        context = _context(study, overrides, store, str(Path("runs").absolute()), data_root, nodes, cpus, gpus)
        file = context["file"]
        binds = [*context["binds"], *([str(file.parent)] if file else [])]
        _print("slurm.sh", context, image=image, binds=binds, time=time, partition=partition)


@launch.command(epilog=CHECKED)
def kuberay(
    study: StudyArgument,
    image: Annotated[
        str,
        typer.Option(
            metavar="IMAGE", callback=_word, help="Image with this package; the printed file says how to build it."
        ),
    ],
    overrides: SetOption = None,
    nodes: NodesOption = 2,
    cpus: CpusOption = 8,
    gpus: GpusOption = 0,
    memory: Annotated[
        str,
        typer.Option("--memory-per-node", metavar="SIZE", callback=_word, help="Memory per node, as in Kubernetes."),
    ] = "16Gi",
    claim: Annotated[
        str, typer.Option(metavar="NAME", callback=_word, help="PersistentVolumeClaim that all nodes can write to.")
    ] = "tune-interpreg",
    mount: Annotated[
        str, typer.Option(metavar="PATH", callback=_path, help="Path where the nodes mount the claim.")
    ] = "/shared",
    store: StoreOption = None,
    data_root: RootOption = None,
) -> None:
    """Print a RayJob for KubeRay: a cluster that asks for a token, and the study on it.

    Example:  tune-interpreg launch kuberay mnist --image me/study:1 --gpus-per-node 1 --set resources.gpus=1 > job.yaml
    """
    if store and PurePosixPath(mount) not in PurePosixPath(store).parents:
        raise typer.BadParameter(f"takes a path below --mount, {mount}, got {store!r}", param_hint="--store")
    with report_errors():
        context = _context(study, overrides, store, mount, data_root, nodes, cpus, gpus, study_folder="/study")
        file = context["file"]
        context["file"] = file and file.read_text(encoding="utf-8-sig")
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        versions = {"ray": version("ray"), "python": python}
        _print("rayjob.yaml", context, image=image, memory=memory, claim=claim, mount=mount, **versions)


@launch.command(epilog=CHECKED)
def ray_cluster(
    study: StudyArgument,
    overrides: SetOption = None,
    hosts: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,…", callback=_word, help="Machines that ssh reaches, the head first. Default: EC2 instances."
        ),
    ] = None,
    nodes: Annotated[
        int | None, typer.Option("--nodes", min=1, metavar="N", help="EC2: number of machines. Default: 2.")
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option(
            "--gpus-per-node", min=0, metavar="N", help="EC2: GPUs per machine, which select its type. Default: 0."
        ),
    ] = None,
    instance: Annotated[
        str | None,
        typer.Option("--instance-type", metavar="TYPE", callback=_word, help="EC2: type. Default: by its GPUs."),
    ] = None,
    region: Annotated[
        str | None, typer.Option(metavar="NAME", callback=_word, help="EC2: region. Default: us-west-2.")
    ] = None,
    user: Annotated[str, typer.Option(metavar="NAME", callback=_word, help="User of ssh.")] = "ubuntu",
    image: Annotated[
        str | None,
        typer.Option(metavar="IMAGE", callback=_word, help="Docker image with this package; needed on EC2."),
    ] = None,
    store: StoreOption = None,
    nfs: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:/PATH", callback=_word, help="Share to mount as the store's parent folder; needed on EC2."
        ),
    ] = None,
    data_root: RootOption = None,
) -> None:
    """Print a cluster file for `ray up`: your own machines by ssh, or EC2 instances, with a token.

    Example:  tune-interpreg launch ray-cluster mnist --hosts node1,node2 --user me --store /nfs/mnist > cluster.yaml
    """
    machines = hosts.split(",") if hosts else []
    if machines:
        _refuse_for_hosts({"nodes": nodes, "gpus-per-node": gpus, "instance-type": instance, "region": region})
    else:
        _require_for_ec2({"image": image, "nfs": nfs})
        gpus = gpus if instance else gpus or 0
        instance = instance or _instance(gpus or 0)
    with report_errors():
        context = _context(study, overrides, store, "/shared", data_root, len(machines) or nodes or 2, None, gpus)
        _print(
            "cluster.yaml",
            context,
            hosts=machines,
            user=user,
            instance=instance,
            region=region or "us-west-2",
            image=image,
            nfs=nfs,
            shared=context["binds"][0],
            files=[TOKEN, *([str(context["file"])] if context["file"] else [])],
        )


def _refuse_for_hosts(options: Mapping[str, object]) -> None:
    named = [f"--{name}" for name, value in options.items() if value is not None]
    if named:
        raise typer.BadParameter(f"{' and '.join(named)} describe EC2 instances; drop them, or drop --hosts")


def _require_for_ec2(options: Mapping[str, object]) -> None:
    missing = [f"--{name}" for name, value in options.items() if not value]
    if missing:
        raise typer.BadParameter(f"EC2 instances share nothing: give {' and '.join(missing)}, or --hosts")


def _instance(gpus: int) -> str:
    """Return the EC2 type of a machine with this many GPUs."""
    if gpus not in INSTANCES:
        raise typer.BadParameter(f"no EC2 type with {gpus} GPUs is known; name one", param_hint="--instance-type")
    return INSTANCES[gpus]


def _context(
    source: str,
    overrides: list[str] | None,
    store: str | None,
    parent: str,
    data_root: str | None,
    nodes: int,
    cpus: int | None,
    gpus: int | None,
    study_folder: str | None = None,
) -> dict[str, Any]:
    """Return the parameters that all templates share, after checking the study and that its trials fit a node.

    parent: folder of the store if none is named. cpus, gpus: per node; None if unknown. study_folder: folder of the
    study's file on the cluster, if it is not the same as here. ``file`` is the study's own file; None for a shipped
    study. ``binds`` are the folders of the cluster that an image has to see, the store's parent first.
    """
    study = read_study_file(source, overrides or ()).study
    if problems := list(_misfits(study.resources, cpus, gpus)):
        raise typer.BadParameter("; ".join(problems))
    label = re.sub(r"[^a-z0-9]+", "-", study.name.lower()).strip("-")[:40].strip("-") or "study"
    file = None if source in list_shipped_studies() else Path(source).absolute()
    path = str(file or source)
    if file and study_folder:
        path = f"{study_folder}/{label}.yaml"
    store = store or f"{parent}/{study.name}"
    command = ["tune-interpreg", "run", path, "--cluster", "auto", "--store", store]
    command += ["--data-root", data_root] if data_root else []
    for override in overrides or ():
        command += ["--set", override]
    folders = [str(PurePosixPath(store).parent), *([data_root] if data_root else [])]
    return {
        "study": study.name,
        "label": label,
        "file": file,
        "command": command,
        "store": store,
        "nodes": nodes,
        "cpus": cpus,
        "gpus": gpus,
        "binds": list(dict.fromkeys(folders)),
        "programs": str(Path(sys.executable).parent),
    }


def _misfits(needed: Resources, cpus: int | None, gpus: int | None) -> Iterator[str]:
    """Yield the reasons why trials cannot run on a node of this size, or leave its GPUs idle."""
    if cpus is not None and needed.cpus > cpus:
        yield f"a trial needs {needed.cpus:g} CPUs, a node has {cpus}: raise --cpus-per-node, or lower resources.cpus"
    if gpus is not None and needed.gpus > gpus:
        yield f"a trial needs {needed.gpus:g} GPUs, a node has {gpus}: raise --gpus-per-node, or lower resources.gpus"
    if gpus and not needed.gpus:
        yield f"a node has {gpus} GPUs, but trials use none: add --set resources.gpus=1, or drop --gpus-per-node"


def _print(template: str, context: Mapping[str, Any], **parameters: Any) -> None:
    from tune_interpreg.launching.render import render

    typer.echo(render(template, **{**context, **parameters}), nl=False)
