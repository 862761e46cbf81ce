"""Every path of a store.

<store>/study.yaml                         the study with all defaults
<store>/driver.json                        the process that runs the study, or ran it last
<store>/driver.lock                        locked by this process
<store>/mirror.jsonl                       with a mirror: its URL, and which files are there
<store>/run.log                            log of all runs
<store>/ledger/<arm>/<key>.json            one record per finished item
<store>/ledger/<arm>/<key>-<number>.json   record of a later trial with the same parameters
<store>/choices/<arm>.json                 the choice of the arm's search
<store>/models/<key>.safetensors           weights of a training
<store>/targets/<key>.npy                  raw maps of all training images
<store>/targets/<key>.preview.safetensors  a few validation images with labels, maps and simple gradients
<store>/checkpoints/<key>/                 for jobs in progress: job.json, place.json and the last epoch
<store>/optuna.journal                     a view of the searches, for optuna-dashboard
<store>/tensorboard/<arm>/<label>/
<store>/report/
<store>/damaged/                           damaged files under their paths in the store; nothing reads them
<store>/.tune/                             Tune's own files during a run; nothing reads them later
"""

import os
from collections.abc import Iterator
from pathlib import Path

from tune_interpreg.study.items import Job


class Layout:
    """The paths of a store."""

    def __init__(self, path: str | Path):
        self.path = Path(path).absolute()
        self.study_file = self.path / "study.yaml"
        self.driver_file = self.path / "driver.json"
        self.lock_file = self.path / "driver.lock"
        self.mirror_file = self.path / "mirror.jsonl"
        self.log_file = self.path / "run.log"
        self.journal = self.path / "optuna.journal"
        self.tune_dir = self.path / ".tune"
        self.report_dir = self.path / "report"
        self.tensorboard_dir = self.path / "tensorboard"

    def record_file(self, arm: str, key: str) -> Path:
        return self.path / "ledger" / arm / f"{key}.json"

    def choice_file(self, arm: str) -> Path:
        return self.path / "choices" / f"{arm}.json"

    def model_file(self, key: str) -> Path:
        """Return the file of the weights of a training."""
        return self.path / "models" / f"{key}.safetensors"

    def maps_file(self, key: str) -> Path:
        """Return the file of the raw maps of all training images, N·C·H·W."""
        return self.path / "targets" / f"{key}.npy"

    def compared_maps_file(self, key: str) -> Path:
        """Return the file of maps of judged images that judgments compare with. It can be made again at any time."""
        return self.path / "targets" / "judged" / f"{key}.safetensors"

    def preview_file(self, key: str) -> Path:
        """Return the file of a few validation images for TensorBoard and figures, with the teacher's maps of them.

        images_NCHW: float32, pixels in [0, 1]. labels_N: int64. smoothgrad_NCHW: raw maps, float32.
        gradient_NCHW: the teacher's simple gradient, signed, float32.
        """
        return self.path / "targets" / f"{key}.preview.safetensors"

    def trial_log(self, job: Job) -> Path:
        """Return the folder of a job's TensorBoard events."""
        return self.tensorboard_dir / job.arm / job.label

    def checkpoint_dir(self, key: str) -> Path:
        return self.path / "checkpoints" / key

    def note_file(self, key: str) -> Path:
        """Return the file that describes a job in progress."""
        return self.checkpoint_dir(key) / "job.json"

    def worker_file(self, key: str) -> Path:
        """Return the file that names the worker of a job in progress."""
        return self.checkpoint_dir(key) / "place.json"

    def record_files(self) -> Iterator[Path]:
        """Yield the files of all records, in no order. Raises ``PermissionError`` for a folder that cannot be read."""
        ledger = self.path / "ledger"  # not by glob, which skips a folder that cannot be read
        for folder in ledger.iterdir() if ledger.exists() else ():
            if folder.is_dir():
                yield from (folder / name for name in os.listdir(folder) if name.endswith(".json"))

    def checkpoint_keys(self) -> set[str]:
        """Return the keys of all jobs with a checkpoint folder, complete or not."""
        return {folder.name for folder in (self.path / "checkpoints").glob("*/")}

    def key_of(self, path: Path) -> str:
        """Return the key of the item that a record file belongs to, or of the job of a note."""
        is_note = path == self.note_file(path.parent.name)
        return path.parent.name if is_note else path.stem.partition("-")[0]
