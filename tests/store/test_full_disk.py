"""A disk without room or rights: the run ends with folder, reason and remedy, and resumes later."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.closed_form import outcome
from helpers.in_process import TEACHER, run_study
from safetensors import SafetensorError
from safetensors.torch import save_file

from tune_interpreg.display.trial_log import TrialLog
from tune_interpreg.store.files import StoreError, as_refused, preallocate
from tune_interpreg.store.store import Store

pytestmark = pytest.mark.ray  # runs import it

STUDY = f"""{TEACHER}
  robust:
    method: interpretation
    targets: {{teacher: adversarial, samples: 2}}
    search: {{maximize: val/accuracy, trials: 2, space: {{lambda: {{log_uniform: [0.05, 0.2]}}}}}}
"""


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


def fill(disk: Path, room: int) -> None:
    """Fill the disk except for ``room`` bytes."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    status = os.statvfs(disk)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(status.f_bavail * status.f_frsize - room, 1))


# -------------------------------------------------------------------- a full disk
def test_a_full_disk_ends_the_run_at_any_write_and_nothing_is_lost(disk: Path, tmp_path: Path) -> None:
    """Each run has 24 KiB more room. It ends at the next write that fails, and no item counts as failed."""
    store, messages, finished = Store(disk / "store"), list[str](), False
    for room in range(0, 16 * 2**20, 24 * 1024):
        fill(disk, room)
        try:
            run_study(store, STUDY)
            finished = True
            break
        except StoreError as error:
            messages.append(str(error))
        assert {record["state"] for record in store.records()} <= {"done"}
    assert finished
    assert len(messages) > 4
    assert all("no space left on device" in message.lower() for message in messages)
    assert messages[-1].startswith(f"{store.path}: no space left on device: make room")
    assert not list(store.path.rglob("*.part"))
    whole = Store(tmp_path / "elsewhere" / "store")
    run_study(whole, STUDY)
    assert outcome(store) == outcome(whole)


def test_mapped_files_get_their_blocks_before_they_are_written(disk: Path) -> None:
    """Writing into a hole without a free block kills the process."""
    file = disk / "maps.npy"
    fill(disk, 2**20)
    np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(2**19,))
    with pytest.raises(OSError, match="No space left") as error:
        preallocate(file)
    assert as_refused(error.value, disk)


def test_a_full_disk_is_recognized_in_the_error_of_safetensors(disk: Path) -> None:
    fill(disk, 4096)
    with pytest.raises(SafetensorError) as error:
        save_file({"weights": torch.zeros(2**16)}, disk / "model.safetensors")
    assert "no space left on device" in str(as_refused(error.value, disk))


def test_a_trial_log_reports_a_full_disk_and_survives_any_other_error(disk: Path, tmp_path: Path) -> None:
    log = TrialLog(disk / "full")
    fill(disk, 0)
    with pytest.raises(OSError, match="No space left"):
        log.scalars(1, {f"curve {number}": 0.0 for number in range(1000)})
    folder = tmp_path / "gone"
    log = TrialLog(folder)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.touch()
    with pytest.warns(UserWarning, match="without this log"):
        log.scalars(1, {"loss": 1.0})


# --------------------------------------------------------- folders without rights
def test_a_read_only_store_or_folder_in_it_is_named_before_anything_runs(disk: Path) -> None:
    store = Store(disk / "store")
    run_study(store, TEACHER)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k,ro", "tmpfs", store.path / "models"], check=True)
    try:
        with pytest.raises(StoreError, match=f"^{store.path}/models: cannot be read and written"):
            run_study(store, STUDY)
    finally:
        subprocess.run(["umount", store.path / "models"], check=True)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(StoreError, match=f"^{store.path}: .*(?i:read-only file system)"):
        run_study(store, STUDY)
    with pytest.raises(StoreError, match=f"^{disk}/new: cannot be written"):
        run_study(Store(disk / "new"), STUDY)
