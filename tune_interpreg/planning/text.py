"""A plan as text: the tree of arms with their stages, then time, memory, disk and money."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from rich.filesize import decimal
from rich.text import Text
from rich.tree import Tree

from tune_interpreg.display.account import format_duration
from tune_interpreg.display.tree import draw_tree, one_line
from tune_interpreg.planning.forecast import Plan
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.graph import Stage, parents, stages_of
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import StageName
from tune_interpreg.study.metric_names import TRAIN_LOSS

#: Name of a part by stage.
PARTS: dict[StageName, str] = {"search": "trial", "repeats": "seed", "maps": "set", "judgments": "model"}

#: A load from which the output warns: half a core of other processes.
BUSY = 0.5


def draw_plan(plan: Plan) -> Tree:
    """Return the tree of arms, each with what is done and what is left."""
    seconds: defaultdict[tuple[str, StageName], list[float]] = defaultdict(list)
    for task, length in plan.schedule.tasks:
        seconds[task.arm, task.stage].append(length)
    lines = {name: one_line(_arm_line(plan.study, name)) for name in plan.study.arms}
    leaves = {
        name: [_stage_line(stage, seconds[name, stage.name]) for stage in stages_of(plan.study, plan.state, name)]
        for name in plan.study.arms
    }
    settled, total = plan.state.settled, graph.count_parts(plan.study, plan.state)
    title = one_line(f"{plan.study.name}: {settled} of {total} parts settled")
    return draw_tree(title, parents(plan.study), lines, leaves)


def _arm_line(study: Study, name: str) -> str:
    """Return the arm's name, its method, what it waits for, and what its trials do not share with its repeats."""
    arm = study.arms[name]
    edges = [f"{'maps of' if arm.targets else 'teacher'} {arm.teacher}"] if arm.teacher else []
    matching = arm.search.matching if arm.search else None
    edges += [f"{'loss' if matching.metric == TRAIN_LOSS else matching.metric} of {matching.arm}"] if matching else []
    fidelity = arm.search.fidelity if arm.search else {}
    edges += [f"trials with {key} {value}" for key, value in fidelity.items()]
    return f"{name}: {', '.join([arm.method, *edges])}"


def _stage_line(stage: Stage, seconds: Sequence[float]) -> Text:
    """Return a line such as ``search   10 trials, 4 done; 6 × 1.8 s = 10.8 s``."""
    line = one_line(f"{stage.name:9} {_count(stage.total, PARTS[stage.name])}")
    for count, state in ((stage.done, "done"), (stage.lost, "lost")):
        line.append(f", {count} {state}" if count else "")
    if seconds:
        total = sum(seconds)
        line.append(f"; {len(seconds)} × {format_duration(total / len(seconds))} = {format_duration(total)}")
    return line


def summarize(plan: Plan, gpu_hour: float | None = None, cpu_hour: float | None = None) -> Iterator[str]:
    """Yield the lines below the tree. Prices are in dollars per hour of a GPU or of a core."""
    if not plan.schedule.tasks:
        yield "nothing is left to run"
        return
    resources, measurement, hours = plan.study.resources, plan.measurement, plan.seconds / 3600
    gpus, cpus = plan.workers * resources.gpus, plan.workers * resources.cpus
    yield f"workers      {plan.workers}, {plan.workers_from}"
    yield (
        f"time         {'at most ' if _may_end_early(plan) else ''}{format_duration(plan.seconds)} on "
        f"{_count(plan.workers, 'worker')}: {format_duration(plan.schedule.work)} of work in "
        f"{_count(len(plan.schedule.tasks), 'job')}, longest chain {format_duration(plan.chain)}, "
        f"start and end {format_duration(plan.overhead)}"
    )
    if gpus:
        yield f"GPU-hours    {gpus * hours:.3g}, with {gpus:g} GPUs for the whole time"
    if measurement:
        on_gpus = f" and {decimal(plan.workers * measurement.gpu_memory)} on GPUs" if gpus else ""
        yield f"memory       {decimal(plan.workers * measurement.memory)} of the workers{on_gpus}, plus Ray's own"
    yield f"disk         {decimal(plan.disk)} more"
    for price, count, unit in ((gpu_hour, gpus, "GPU"), (cpu_hour, cpus, "core")):
        if price is not None:
            cost = count * hours * price
            dollars = f"{cost:,.2f}" if cost >= 1 else f"{cost:.2g}"
            yield f"money        ${dollars} for {count:g} {unit}s at ${price:g} per hour"
    if not measurement:
        yield "source       records of the store"
        return
    processes, load = _count(measurement.workers, "process"), f"{measurement.load:.1f}"
    text = f"measured here in {format_duration(measurement.took)}, {processes} at once, load of other processes {load}"
    if measurement.load >= BUSY:
        text += ": measured under load; the time is that of an idle machine, a run under the same load takes longer"
    yield f"source       {text}"


def _may_end_early(plan: Plan) -> bool:
    """Return whether the run may end earlier: a match ends once it is found, and a pruner ends trials."""
    arms = {task.arm for task, _ in plan.schedule.tasks if task.stage == "search"}
    searches = [search for name in arms if (search := plan.study.arms[name].search)]
    return any(search.matching or search.pruner != "none" for search in searches)


def _count(count: int, noun: str) -> str:
    plural = "es" if noun.endswith("s") else "s"
    return f"{count} {noun}{'' if count == 1 else plural}"
