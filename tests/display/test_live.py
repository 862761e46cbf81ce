"""What `run` shows in a terminal: the tree of a real study, frame by frame, and trees that never outgrow a terminal."""

import io
import re
import time
from pathlib import Path

import pytest
from helpers.closed_form import steps, study, worker
from rich.console import Console
from rich.text import Text

from tune_interpreg.cluster import drain as cluster
from tune_interpreg.display import live
from tune_interpreg.display import tree as branches
from tune_interpreg.display.live import Live
from tune_interpreg.display.tree import Branch
from tune_interpreg.schedule import graph, stages
from tune_interpreg.schedule.dispatch import Dispatcher
from tune_interpreg.schedule.stages import Stage
from tune_interpreg.store.store import Store
from tune_interpreg.study.file.read import parse_study
from tune_interpreg.study.items import Item

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


def printed(console: Console) -> str:
    """All that was written, without the codes of colours and cursors."""
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


def drawn(shown: object, height: int = 20) -> list[str]:
    """The lines of one drawing."""
    console = terminal(height)
    console.print(shown)
    return printed(console).splitlines()


# ------------------------------------------------------------------ a study
def test_a_real_study_is_a_tree_of_bars_with_what_is_finished_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "logs"))
    monkeypatch.setattr(live, "EVERY", 0.01)
    dispatcher = Dispatcher(parse_study(TINY, where="t.yaml"), Store(tmp_path / "store"), "")
    console = terminal()
    shown = Live(console, dispatcher.study, dispatcher.state)
    dispatcher.listener = shown
    with shown:
        cluster.drain(dispatcher, "in-process")
    frames = printed(console)
    assert [frames.count(f"{arm}: repeat, seed {seed}:") for arm in ("teacher", "pupil") for seed in (0, 1)] == [1] * 4
    assert re.search(r"── repeat, seed 0 +━+─* [12]/3  loss [\d.]+  0:0\d", frames)
    last = frames[frames.rindex("study  ━") :]
    assert re.search(r"study  ━+ 5/5  0:\d\d", last)
    assert re.search(r"└── teacher +━+  repeats 2/2  maps 1/1\s+└── pupil +━+  repeats 2/2", last)
    assert "─── repeat" not in last


def test_the_tree_counts_what_the_dispatcher_does(tmp_path: Path) -> None:
    of = study(checks="{images: 10}")
    dispatcher = Dispatcher(of, Store(tmp_path / "store"), "f")
    dispatcher.listener = shown = Live(terminal(), of, dispatcher.state)
    for _ in steps(dispatcher, workers=4):
        lines = drawn(shown, 60)
        assert f" {dispatcher.settled()}/{dispatcher.total()}  " in lines[0]
        running = [line for line in lines if re.search(r"── (trial|repeat,|target maps|checks,)", line)]
        assert len(running) == dispatcher.state.running
    assert all(stage.settled == stage.total for name in of.arms for stage in stages.stages_of(of, dispatcher.state, name))


def test_stages_add_up_to_the_study(tmp_path: Path) -> None:
    of = study(checks="{images: 10}")
    dispatcher = Dispatcher(of, Store(tmp_path / "store"), "f")
    for _ in steps(dispatcher, workers=4):
        found = [stage for name in of.arms for stage in stages.stages_of(of, dispatcher.state, name)]
        assert sum(stage.total for stage in found) == graph.count_parts(of, dispatcher.state)
        assert sum(stage.settled for stage in found) == dispatcher.settled()
        assert sum(stage.running for stage in found) == dispatcher.state.running


def test_each_arm_hangs_on_the_last_one_that_it_needs() -> None:
    assert list(stages.parents(study()).items()) == [
        ("standard", None),
        ("adversarial", None),
        ("robust", "adversarial"),
        ("permuted", "robust"),
        ("jacobian", "robust"),
    ]


def test_thousands_of_items_cost_no_drawing_each(tmp_path: Path) -> None:
    """A sweep's trials, faster than any that trains: what is drawn depends on the time alone."""
    of = study("standard")
    dispatcher = Dispatcher(of, Store(tmp_path / "store"), "f")
    item = dispatcher.next()
    assert isinstance(item, Item)
    record = worker(item)
    console = terminal()
    begun = time.monotonic()
    with Live(console, of, dispatcher.state) as shown:
        for _ in range(5000):
            shown.start(item)
            shown.epoch(item, {"epoch": 1, "train/loss": 0.5})
            shown.settle(item, record, 1, 2)
    took = time.monotonic() - begun
    text = printed(console)
    assert text.count("standard: repeat, seed 0:") == 5000
    assert text.count("study  ") <= 3 + took / live.EVERY


# -------------------------------------------------------------------- heights
def arms(finished: int, running: int, later: int, leaves: int) -> list[Branch]:
    """A chain of arms, of which each hangs on the one before."""
    kinds = ["done"] * finished + ["runs"] * running + ["waits"] * later
    return [
        Branch(
            name=f"{kind} {number}",
            parent=f"{kinds[number - 1]} {number - 1}" if number % 3 else None,
            line=f"{kind} {number}",
            leaves=[Text(f"leaf {one}") for one in range(leaves)] if kind == "runs" else [],
            finished=kind == "done",
            begun=kind != "waits",
        )
        for number, kind in enumerate(kinds)
    ]


@pytest.mark.parametrize("height", [4, 6, 10, 24, 50])
@pytest.mark.parametrize("leaves", [0, 1, 40])
@pytest.mark.parametrize(("finished", "running", "later"), [(0, 1, 0), (3, 2, 1), (20, 3, 5), (0, 30, 0), (1, 1, 30)])
def test_a_tree_is_no_higher_than_it_may_be(finished: int, running: int, later: int, leaves: int, height: int) -> None:
    made = arms(finished, running, later, leaves)
    lines = drawn(branches.draw_tree("study", made, height), 100)
    assert len(lines) <= height
    assert len(lines) == (whole := 1 + len(made) + leaves * running) or whole > height


def test_a_crowded_tree_folds_finished_arms_and_counts_what_it_leaves_out() -> None:
    lines = drawn(branches.draw_tree("study", arms(2, 2, 1, 40), 12), 100)
    text = "\n".join(lines)
    assert "done 0" not in text
    assert "2 arms done" in text
    counted = [int(number) for number in re.findall(r"… and (\d+) more", text)]
    assert len(counted) == 2
    assert text.count("leaf") + sum(counted) == 80
    assert len(lines) == 12


def test_without_a_limit_all_is_drawn() -> None:
    assert len(drawn(branches.draw_tree("study", arms(20, 3, 5, 40)), 100)) == 1 + 28 + 120


@pytest.mark.parametrize("width", [20, 60, 80, 140])
def test_lines_keep_within_the_width_and_lose_their_bars_first(width: int) -> None:
    own = {name: [Stage("repeat", 2, 0, 1, 5), Stage("checks", 0, 0, 0, 5)] for name in ("a", "b" * 200)}
    made = branches.arm_lines({"a": None, "b" * 200: "a"}, own, width)
    assert "━" in made["a"].plain or width < 80
    assert all(len(line) <= width for line in drawn(branches.draw_tree("x", arms(0, 1, 0, 0)), 30))
    assert "repeats 2/5  checks 0/5" in made["a"].plain
