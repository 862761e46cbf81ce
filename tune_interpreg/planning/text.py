"""A plan as text: the tree of arms with their stages, and what all of it takes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.text import Text
from rich.tree import Tree

from tune_interpreg.display import tree as branches
from tune_interpreg.display.account import duration
from tune_interpreg.display.tree import Branch
from tune_interpreg.planning.costs import like
from tune_interpreg.planning.forecast import Plan
from tune_interpreg.schedule import graph, stages
from tune_interpreg.schedule.stages import NAMES, Stage
from tune_interpreg.study.config import Study
from tune_interpreg.study.items import Role

#: What a part of each role is called.
PARTS: dict[Role, str] = {"search": "trial", "repeat": "seed", "targets": "set", "checks": "model"}


def tree(plan: Plan, store: Path) -> Tree:
    """The arms, each beneath the one that it waits for last, with what is done of them and what is left."""
    taken: defaultdict[tuple[str, Role], list[float]] = defaultdict(list)
    for task, seconds in plan.schedule.tasks:
        arm, role, _ = like(plan.study, task)
        taken[arm, role].append(seconds)
    drawn = []
    for name, parent in stages.parents(plan.study).items():
        own = stages.stages(plan.study, plan.state, name)
        leaves = [_stage(stage, taken[name, stage.role]) for stage in own]
        drawn.append(Branch(name, parent, branches.line(_arm(plan.study, name)), leaves, finished=False, begun=True))
    settled, total = plan.state.settled, graph.total(plan.study, plan.state)
    return branches.drawn(branches.line(f"{plan.study.name}: {settled} of {total} parts are in {store}"), drawn)


def _arm(study: Study, name: str) -> str:
    """The arm's name, its method, and what it waits for."""
    arm = study.arms[name]
    edges = [f"maps of {arm.targets.teacher}"] if arm.targets else []
    edges += [f"loss of {arm.search.match_loss_of}"] if arm.search and arm.search.match_loss_of else []
    return f"{name}: {', '.join([arm.method, *edges])}"


def _stage(stage: Stage, taken: Sequence[float]) -> Text:
    """A line such as ``search   10 trials, 4 done; 6 × 1.8 s = 10.8 s``."""
    line = branches.line(f"{NAMES[stage.role]:8} {_counted(stage.total, PARTS[stage.role])}")
    for count, what in ((stage.done, "done"), (stage.lost, "lost")):
        line.append(f", {count} {what}" if count else "")
    if taken:
        line.append(f"; {len(taken)} × {duration(sum(taken) / len(taken))} = {duration(sum(taken))}")
    return line


def summary(plan: Plan, gpu_hour: float | None = None, cpu_hour: float | None = None) -> Iterator[str]:
    """What is left takes: time, GPUs, memory, disk and money; prices are dollars an hour of one GPU, of one core."""
    if not plan.schedule.tasks:
        yield "nothing is left to run"
        return
    yield f"workers      {plan.workers}, {plan.whence}"
    yield f"time         {_at_most(plan)}{duration(plan.seconds)} on {_counted(plan.workers, 'worker')}: {_parts(plan)}"
    gpus, cpus = plan.study.resources.gpus, plan.study.resources.cpus
    if gpus:
        yield f"GPU-hours    {plan.gpu_hours:.3g}, as long as {plan.workers * gpus:g} GPUs are held"
    if (memory := plan.memory()) is not None:
        yield f"memory       {_bytes(memory)}{_of_gpu(plan)}, beside Ray's own"
    yield f"disk         {_bytes(plan.disk)} more"
    for price, hours, unit, held in ((gpu_hour, plan.gpu_hours, "GPU", gpus), (cpu_hour, plan.cpu_hours, "core", cpus)):
        if price is not None:
            yield f"money        ${_money(hours * price)} for {plan.workers * held:g} {unit}s at ${price:g} an hour"
    yield f"known from   {_source(plan)}"


def _at_most(plan: Plan) -> str:
    """Whether it may end sooner: matches end when they are found, and pruners end trials."""
    left = {task.arm for task, _ in plan.schedule.tasks if task.role == "search"}
    searches = [search for name in left if (search := plan.study.arms[name].search)]
    return "at most " if any(one.match_loss_of or one.pruner != "none" for one in searches) else ""


def _parts(plan: Plan) -> str:
    return (
        f"{duration(plan.schedule.work)} of work in {len(plan.schedule.tasks)} items, whose longest chain takes "
        f"{duration(plan.chain)}, and {duration(plan.around)} around it"
    )


def _money(dollars: float) -> str:
    """In cents; what is less than a dollar, to two digits."""
    return f"{dollars:,.2f}" if dollars >= 1 else f"{dollars:.2g}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _of_gpu(plan: Plan) -> str:
    return f", and {_bytes(plan.memory('gpu_memory') or 0)} of GPUs" if plan.study.resources.gpus else ""


def _source(plan: Plan) -> str:
    known = plan.costs
    if known is None:
        return "the store's own records"
    how = f"{known.device} of {known.host}, {_counted(known.workers, 'worker')} at once, {known.measured}"
    return f"a measurement of {duration(known.seconds)}: {how}"


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
