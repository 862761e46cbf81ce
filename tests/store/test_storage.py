"""A disk that takes no more: the run ends with folder, reason and remedy, and goes on once there is room."""

import errno
import os
import subprocess
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import save_file

from tune_interpreg.display.trial_log import TrialLog
from tune_interpreg.running import run as running
from tune_interpreg.store.files import StoreError, as_refused, preallocate
from tune_interpreg.store.store import Store
from tune_interpreg.study.file.read import read_study_file

STUDY = """
data: {name: digits, train_limit: 64, validation: 20, test_limit: 20}
training: {epochs: 2, batch_size: 32, lr: 0.05}
attack: {norm: l2, eps: 0.5, steps: 1}
seeds: [0]
checks: null
arms:
  adversarial: {method: adversarial}
  robust:
    method: interpretation
    targets: {teacher: adversarial, samples: 2}
    search: {maximize: val/accuracy, trials: 2, space: {lambda: {log_uniform: [0.05, 0.2]}}}
"""
STEP = 8 * 1024  # bytes of room more with every run


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"needs to mount a small file system: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def leave(disk: Path, room: int) -> None:
    """Fill the disk but for ``room`` bytes."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    left = os.statvfs(disk)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(left.f_bavail * left.f_frsize - room, 1))


def run(store: Store, text: str = STUDY) -> tuple[int, str]:
    console = Console(file=StringIO(), width=200)
    file = store.path.parent.parent / "tiny.yaml"
    file.write_text(text)
    code = running.run(read_study_file(str(file)), store, where="in-process", retry_failed=False, console=console)
    return code, console.file.getvalue()


def until_refused(store: Store) -> tuple[int | None, str]:
    """Exit code and what was printed; without a code, what the run ended with."""
    try:
        return run(store)
    except StoreError as error:
        return None, str(error)


def outcome(store: Store) -> list[tuple]:
    names = ("arm", "role", "number", "seeds", "key", "state", "metrics", "files")
    return [tuple(str(record[name]) for name in names) for record in store.records()]


# -------------------------------------------------------------------- a full disk
def test_a_full_disk_ends_the_run_wherever_it_is_met_and_nothing_is_lost(disk: Path, tmp_path: Path) -> None:
    """A little more room with each run: each ends where the next write fails, and none counts as the item's failure."""
    store, met, code = Store(disk / "store"), list[str](), None
    for room in range(0, 16 * 2**20, STEP):
        leave(disk, room)
        code, said = until_refused(store)
        if code is not None:
            break
        met.append(said)
        assert {record["state"] for record in store.records()} <= {"done"}
    assert code == 0
    assert len(met) > 4
    assert met[-1] == f"{store.path}: no space left on device: make room, then run the same command again"
    assert all("no space left on device" in one.lower() for one in met)
    assert "repeats done" in said
    assert not list(store.path.rglob("*.part"))
    whole = Store(tmp_path / "elsewhere" / "store")
    run(whole)
    assert outcome(store) == outcome(whole)


def test_mapped_files_get_their_blocks_before_they_are_written(disk: Path) -> None:
    """A hole that finds no block when it is written kills the process."""
    file = disk / "maps.npy"
    leave(disk, 2**20)
    np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(2**19,))
    with pytest.raises(OSError, match="No space left") as refused:
        preallocate(file)
    assert as_refused(refused.value, disk)


def test_safetensors_says_so_in_its_own_error(disk: Path) -> None:
    leave(disk, 4096)
    with pytest.raises(SafetensorError) as refused:
        save_file({"weights": torch.zeros(2**16)}, disk / "model.safetensors")
    assert "no space left on device" in str(as_refused(refused.value, disk))


def test_a_log_tells_a_full_disk_at_once_and_survives_anything_else(disk: Path, tmp_path: Path) -> None:
    log = TrialLog(disk / "full")
    leave(disk, 0)
    with pytest.raises(OSError, match="No space left"):
        log.scalars(1, {f"curve {n}": 0.0 for n in range(1000)})
    log = TrialLog(tmp_path / "gone")
    (tmp_path / "gone" / next(os.walk(tmp_path / "gone"))[2][0]).unlink()
    (tmp_path / "gone").rmdir()
    (tmp_path / "gone").touch()
    with pytest.warns(UserWarning, match="the trial goes on without this log"):
        log.scalars(1, {"loss": 1.0})


# --------------------------------------------------------- folders without rights
def test_a_read_only_store_is_told_before_anything_runs(disk: Path) -> None:
    store = Store(disk / "store")
    run(store, STUDY.partition("  robust")[0])
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(StoreError, match=f"^{store.path}: cannot be read and written \\(Read-only file system\\)"):
        run(store)
    with pytest.raises(StoreError, match=f"^{disk}/new: cannot be written"):
        run(Store(disk / "new"))


def test_a_folder_within_that_takes_nothing_is_named(disk: Path) -> None:
    """Such as one that another user made."""
    store = Store(disk / "store")
    run(store, STUDY.partition("  robust")[0])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k,ro", "tmpfs", store.path / "models"], check=True)
    try:
        with pytest.raises(StoreError, match=f"^{store.path}/models: cannot be read and written"):
            run(store)
    finally:
        subprocess.run(["umount", store.path / "models"], check=True)


# ------------------------------------------------------------------ what is what
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_what_only_writing_meets_is_told_with_its_own_folder(number: int) -> None:
    elsewhere = as_refused(OSError(number, "as told", "/tmp/ray/session"), Path("/store"))
    assert str(elsewhere).startswith(f"/tmp/ray/session: {os.strerror(number).lower()}: ma")
    here = as_refused(OSError(number, "as told"), Path("/store"))
    assert str(here).startswith("/store: ")
    assert str(here).endswith(", then run the same command again")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_what_reading_data_meets_too_counts_within_the_store_alone(number: int) -> None:
    assert as_refused(OSError(number, "", "/data/images"), Path("/store")) is None
    assert as_refused(OSError(number, "", "/store/models"), Path("/store")) is not None


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, ""), ValueError("[Errno 2]"), RuntimeError("CUDA")])
def test_other_errors_are_the_items_own(error: Exception) -> None:
    assert as_refused(error, Path("/store")) is None
