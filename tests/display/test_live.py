"""The displays of a run: the tree of a real study, trees that fit any terminal, and the line of a finished job."""

import io
import re
import time
from pathlib import Path

import pytest
from helpers.closed_form import steps, study, worker
from helpers.jobs import training_job
from helpers.studies import parse_study
from rich.console import Console
from rich.text import Text

from tune_interpreg.display import console
from tune_interpreg.display.console import Live, summarize
from tune_interpreg.display.tree import draw_arms
from tune_interpreg.schedule import graph
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.schedule.graph import Stage
from tune_interpreg.store.store import Store
from tune_interpreg.study.items import Job, Train
from tune_interpreg.study.recipe import Recipe

TINY = """
data: {name: digits, train_limit: 100, validation: 40, test_limit: 40}
training: {epochs: 3, batch_size: 32, lr: 0.05}
attack: {eps: 0.5, steps: 2}
seeds: [0, 1]
checks: null
arms:
  teacher: {method: standard}
  pupil: {method: interpretation, lambda: 0.1, targets: {teacher: teacher, samples: 2}}
"""


def terminal(height: int = 20) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=100, height=height, legacy_windows=False)


def printed(shown: Console) -> str:
    """All that was written, without the codes for colours and the cursor."""
    assert isinstance(shown.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.file.getvalue())


def drawn(tree: object, height: int = 20) -> list[str]:
    """The lines of one drawing."""
    shown = terminal(height)
    shown.print(tree)
    return printed(shown).splitlines()


# ------------------------------------------------------------------ a study
@pytest.mark.ray
def test_a_real_study_is_a_tree_of_bars_below_its_finished_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tune_interpreg.cluster.drain import drain

    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "logs"))
    monkeypatch.setattr(console, "INTERVAL", 0.01)
    dispatcher = Dispatcher(parse_study(TINY), Store(tmp_path / "store"), "")
    shown = terminal()
    live = Live(shown, dispatcher.study, lambda: dispatcher.state)
    dispatcher.listeners = [live]
    with live:
        drain(dispatcher, "in-process")
    frames = printed(shown)
    assert [frames.count(f"{arm}: seed {seed}:") for arm in ("teacher", "pupil") for seed in (0, 1)] == [1] * 4
    assert re.search(r"── seed 0 +━+─* [12]/3  loss [\d.]+  0:0\d", frames)
    last = frames[frames.rindex("study  ━") :]
    assert re.search(r"study  ━+ 9/9  0:\d\d", last)
    assert re.search(
        r"teacher +━+  repeats 2/2  maps 1/1  judgments 2/2\s+└── pupil +━+  repeats 2/2  judgments 2/2", last
    )
    assert "── seed" not in last


def test_the_tree_and_its_stages_count_as_the_dispatcher_does(tmp_path: Path) -> None:
    of = study("adversarial", "robust", "jacobian", checks="{images: 10}")
    dispatcher = Dispatcher(of, Store(tmp_path / "store"), "f")
    live = Live(terminal(), of, lambda: dispatcher.state)
    dispatcher.listeners = [live]
    for _ in steps(dispatcher, workers=4):
        lines = drawn(live, 60)
        assert f" {dispatcher.settled()}/{dispatcher.total()}  " in lines[0]
        running = [line for line in lines if re.search(r"── (trial|seed|target maps|judgments,)", line)]
        assert len(running) == dispatcher.state.running
    assert all(stage.settled == stage.total for name in of.arms for stage in graph.stages_of(of, live.state(), name))


def test_an_arm_hangs_on_the_deepest_arm_that_it_needs() -> None:
    assert list(graph.parents(study()).items()) == [
        ("standard", None),
        ("adversarial", None),
        ("robust", "adversarial"),
        ("permuted", "robust"),
        ("jacobian", "robust"),
    ]


def test_the_number_of_drawings_depends_on_the_time_and_not_on_the_jobs(tmp_path: Path) -> None:
    of = study("standard")
    dispatcher = Dispatcher(of, Store(tmp_path / "store"), "f")
    job = dispatcher.next()
    assert isinstance(job, Job)
    records, shown, started = [worker(job, item) for item in job.items], terminal(), time.monotonic()
    with Live(shown, of, lambda: dispatcher.state) as live:
        for _ in range(5000):
            live.start(job)
            live.epoch(job, {"epoch": 1, "train/loss": 0.5})
            live.finish(job, records, 1, 2)
    seconds = time.monotonic() - started
    text = printed(shown)
    assert text.count("standard: seed 0:") == 5000
    assert text.count("study  ") <= 3 + seconds / console.INTERVAL


# ---------------------------------------------------------------------- lines
def test_the_line_of_a_job_has_lost_seeds_gpu_memory_and_the_first_line_of_an_error() -> None:
    recipe = Recipe(method="standard")
    job = training_job(recipe, "a", models=[Train(recipe=recipe, seed=seed) for seed in (0, 1)])
    first, second = (worker(job, model) | {"seconds": 3.5} for model in job.models)
    assert summarize(job, [first, second]).endswith("(7.0 s)")
    lost = second | {"state": "diverged", "metrics": {}, "error": "seed 1"}
    line = summarize(job, [first | {"gpu_bytes_a_seed": 300 * 2**20}, lost])
    assert re.search(r"train/loss 1 \(7\.0 s, 300 MiB .*\); DIVERGED: seed 1$", line)
    failed = [record | {"state": "failed", "error": "boom\ntrace"} for record in (first, second)]
    assert summarize(job, failed) == "a: seed 0, 1: FAILED: boom; FAILED: boom"


# -------------------------------------------------------------------- heights
def draw(finished: int, running: int, later: int, leaves: int, height: int | None = None) -> list[str]:
    """Draw arms in chains of three, the running ones with leaves."""
    kinds = ["done"] * finished + ["runs"] * running + ["waits"] * later
    names = [f"{kind} {number}" for number, kind in enumerate(kinds)]
    stages = {
        "done": Stage("repeats", 2, 0, 0, 2),
        "runs": Stage("repeats", 0, 0, 1, 2),
        "waits": Stage("repeats", 0, 0, 0, 2),
    }
    parents = {name: names[number - 1] if number % 3 else None for number, name in enumerate(names)}
    lines = {name: [Text(f"leaf {leaf}") for leaf in range(leaves)] if "runs" in name else [] for name in names}
    arms = {name: [stages[kind]] for name, kind in zip(names, kinds, strict=True)}
    return drawn(draw_arms("study", parents, arms, lines, 100, height), 200)


@pytest.mark.parametrize("height", [4, 6, 10, 24, 50])
@pytest.mark.parametrize("leaves", [0, 1, 40])
def test_a_tree_is_never_higher_than_the_terminal(leaves: int, height: int) -> None:
    for finished, running, later in ((0, 1, 0), (3, 2, 1), (20, 3, 5), (0, 30, 0), (1, 1, 30)):
        lines = draw(finished, running, later, leaves, height)
        assert len(lines) <= height
        assert len(lines) == (whole := 1 + finished + running + later + leaves * running) or whole > height


def test_a_crowded_tree_has_the_running_arms_and_counts_what_it_leaves_out() -> None:
    lines = draw(2, 2, 1, 40, 12)
    text = "\n".join(lines)
    assert "done 0" not in text
    assert "2 done, 1 to come" in lines[-1]
    counted = [int(number) for number in re.findall(r"… and (\d+) more", text)]
    assert len(counted) == 2
    assert text.count("leaf") + sum(counted) == 80
    assert len(lines) == 12
    assert len(draw(20, 3, 5, 40)) == 1 + 28 + 120, "without a limit all is drawn"


@pytest.mark.parametrize("width", [20, 60, 80, 140])
def test_lines_stay_within_the_width_and_lose_their_bars_first(width: int) -> None:
    arms = {name: [Stage("repeats", 2, 0, 1, 5), Stage("judgments", 0, 0, 0, 5)] for name in ("a", "b" * 200)}
    shown = Console(file=io.StringIO(), force_terminal=True, width=width, legacy_windows=False)
    shown.print(draw_arms("x", {"a": None, "b" * 200: "a"}, arms, dict.fromkeys(arms, ()), width))
    lines = printed(shown).splitlines()
    assert all(len(line) <= width for line in lines)
    assert "━" in lines[1] or width < 80
    assert "repeats 2/5  judgments 0/5" in lines[1] or width < 80
