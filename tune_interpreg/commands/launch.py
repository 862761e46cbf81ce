"""`tune-interpreg launch`: files that start a study on a cluster.

Each template of the folder launching is a command: its head declares the options. Nothing here depends on a target.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from tune_interpreg.commands.shared import CHECKED, SetOption, StudyArgument, TrackOption, report_errors
from tune_interpreg.launching.render import Template, read_templates
from tune_interpreg.study.file.read import list_shipped_studies, read_study_file
from tune_interpreg.trackers.tracker import check_trackers

if TYPE_CHECKING:
    from tune_interpreg.study.config import Resources

launch = typer.Typer(
    name="launch",
    help="Print a file that starts a study on a cluster: `slurm`, `kuberay`, `skypilot` for a spot machine, or "
    "`ray-cluster` for `ray up`.\n\n"
    "The study is checked first. The file's comments say what the cluster needs, and how to submit it.\n\n"
    "Example:  tune-interpreg launch slurm mnist --nodes 4 > job.sh",
    no_args_is_help=True,
    epilog=CHECKED,
)

_FOLDER = r"/(?!\.{1,2}(?:/|$))[^\n:/]+"
_WORD = r"[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?"
_LABEL = rf"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?{_WORD}=({_WORD})?"
_PATH = (f"({_FOLDER})+", "takes an absolute path without .., as the cluster has it")

#: The rules of options: patterns of the whole text, each with the message for a text that does not match.
RULES = {
    "path": [_PATH],
    "store": [_PATH, (f"({_FOLDER}){{2,}}", "takes a folder in a shared one, such as /shared{}")],
    "word": [(r"[\w.,@:/-]+", "takes letters, digits and . , @ : / _ -")],
    "name": [(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", "takes lower-case letters, digits and hyphens")],
    "labels": [(f"{_LABEL}(,{_LABEL})*", "takes KEY=VALUE,KEY=VALUE as Kubernetes does, such as team=vision")],
    "bucket": [(r"(s3|gs|az|abfs)://[\w.-]+(/[\w.=-]+)+", "takes s3://BUCKET/FOLDER, or gs://, az:// or abfs://")],
    "time": [(r"\d+|\d+(:\d\d){1,2}|\d+-\d+(:\d\d){0,2}", "takes a time as Slurm writes it, such as 8:00:00 or 1-0")],
}


def _add_command(template: Template) -> None:
    """Add the command of a template, with the options of its head."""

    def command(study: str, overrides: list[str] | None = None, track: list[str] | None = None, **options: Any) -> None:
        with report_errors():
            text = template.render(**_variables(template.head, study, overrides or [], track or [], options))
            # A script holds paths: its bytes do not depend on the terminal's encoding.
            typer.echo(text.encode("utf-8", "surrogateescape"), nl=False)

    parameters = {
        "study": (StudyArgument, inspect.Parameter.empty),
        "overrides": (SetOption, None),
        "track": (TrackOption, None),
        **{name.replace("-", "_"): _option(name, **option) for name, option in template.head["options"].items()},
    }
    command.__annotations__ = {name: annotation for name, (annotation, _) in parameters.items()}
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
            for name, (annotation, default) in parameters.items()
        ]
    )
    launch.command(template.head["name"], help=template.head["help"], epilog=CHECKED)(command)


def _option(
    name: str, *, default: Any = None, required: bool = False, rule: str | None = None, **declaration: Any
) -> tuple[Any, Any]:
    """Return the annotation and the default of an option. Options without a rule are numbers."""
    option = typer.Option(f"--{name}", callback=_matching(rule) if rule else None, **declaration)
    kind = str if rule else int
    return Annotated[kind | None, option], inspect.Parameter.empty if required else default


def _matching(rule: str) -> Callable[[str | None], str | None]:
    """Return an option's callback that refuses texts against the rule."""

    def check(value: str | None) -> str | None:
        for pattern, message in RULES[rule]:
            if value is not None and not re.fullmatch(pattern, value):
                raise typer.BadParameter(f"{message.format(value)}, got {value!r}")
        return value

    return check


def _variables(
    head: Mapping[str, Any], source: str, overrides: list[str], track: list[str], options: dict[str, Any]
) -> dict[str, Any]:
    """Return the variables of a template: its options and those that all templates share. Checks the study.

    study, label: name of the study; the same in lower case, digits and hyphens. file: path of its file, None for a
    shipped study. command: words that run it. store: absolute path. folders: that an image has to see, the store's
    parent first. programs: folder of this environment's programs. ray, python: versions. given: the options that have
    a value. ``refuse(message, option)`` and ``check_nodes(cpus, gpus)`` end the command with a message.
    """
    study = read_study_file(source, overrides).study
    label = re.sub(r"[^a-z0-9]+", "-", study.name.lower()).strip("-")[:40].strip("-") or "study"
    file = None if source in list_shipped_studies() else Path(source).absolute()
    path = str(file or source)
    if file and "study_folder" in head:
        path = f"{head['study_folder']}/{label}.yaml"
    store = options["store"] or str(Path(head["store"].format(study=study.name, **options)).absolute())
    data_root = options["data_root"]
    command = ["tune-interpreg", "run", path, "--cluster", head.get("cluster", "auto"), "--store", store]
    for option in ("mirror", "data_root"):
        if value := options.get(option):
            command += [f"--{option.replace('_', '-')}", value]
    check_trackers(track, run_here=not options.get("image"))
    for name in track:
        command += ["--track", name]
    for override in overrides:
        command += ["--set", override]
    folders = [str(PurePosixPath(store).parent), *([data_root] if data_root else [])]
    return options | {
        "study": study.name,
        "label": label,
        "file": file,
        "command": command,
        "store": store,
        "folders": list(dict.fromkeys(folders)),
        "programs": str(Path(sys.executable).parent),
        "ray": version("ray"),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "given": [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None],
        "refuse": _refuse,
        "check_nodes": partial(_check_nodes, study.resources),
    }


def _refuse(message: str, option: str | None = None) -> NoReturn:
    raise typer.BadParameter(message, param_hint=option)


def _check_nodes(resources: Resources, cpus: int | None, gpus: int | None) -> str:
    """Refuse nodes that are too small for a job, or with GPUs that no trial uses. None is an unknown number."""
    problems = []
    needs = {"a trial": ("resources", resources)}
    for stage in ("judge", "maps"):
        if (needed := resources.of(stage)) != resources.of("train"):
            needs[f"a job of stage {stage}"] = (f"resources.{stage}", needed)
    for who, (place, needed) in needs.items():
        if cpus is not None and needed.cpus > cpus:
            remedy = f"raise --cpus-per-node, or lower {place}.cpus"
            problems.append(f"{who} needs {needed.cpus:g} CPUs, a node has {cpus}: {remedy}")
        if gpus is not None and needed.gpus > gpus:
            remedy = f"raise --gpus-per-node, or lower {place}.gpus"
            problems.append(f"{who} needs {needed.gpus:g} GPUs, a node has {gpus}: {remedy}")
    if gpus and not resources.gpus:
        remedy = "add --set resources.gpus=1, or drop --gpus-per-node"
        problems.append(f"a node has {gpus} GPUs, but trials use none: {remedy}")
    if problems:
        raise typer.BadParameter("; ".join(problems))
    return ""


for _template in read_templates():
    _add_command(_template)
