"""Every path of a store; the docstring of ``store`` shows them all."""

from __future__ import annotations

from pathlib import Path

from tune_interpreg.study.items import Item, Role
from tune_interpreg.study.recipe import CheckedModel, Maps

FOLDERS = ("ledger", "choices", "models", "targets", "checkpoints", "tensorboard", "report", "damaged")


class Layout:
    """Where each thing of a store lies."""

    def __init__(self, path: str | Path):
        self.path = Path(path).absolute()

    @property
    def study_file(self) -> Path:
        return self.path / "study.yaml"

    @property
    def driver_file(self) -> Path:
        """Who runs the study, or ran it last."""
        return self.path / "driver.json"

    @property
    def journal(self) -> Path:
        return self.path / "optuna.journal"

    @property
    def tune_dir(self) -> Path:
        """What Tune keeps for itself during one run; nothing reads it later."""
        return self.path / ".tune"

    @property
    def report_dir(self) -> Path:
        return self.path / "report"

    @property
    def tensorboard_dir(self) -> Path:
        return self.path / "tensorboard"

    def trial_log(self, item: Item) -> Path:
        """The folder of an item's TensorBoard events."""
        return self.tensorboard_dir / item.arm / item.label

    def record_file(self, arm: str, key: str) -> Path:
        return self.path / "ledger" / arm / f"{key}.json"

    def choice_file(self, arm: str) -> Path:
        return self.path / "choices" / f"{arm}.json"

    def model_file(self, key: str, seed: int) -> Path:
        return self.path / "models" / key / f"seed-{seed}.safetensors"

    def maps_file(self, key: str) -> Path:
        """Raw maps of all training images, N·C·H·W."""
        return self.path / "targets" / f"{key}.npy"

    def preview_file(self, key: str) -> Path:
        """The few validation images that TensorBoard and figures show, and the teacher's maps of them.

        images_NCHW: float32, pixels in [0, 1]. labels_N: int64. smoothgrad_NCHW: raw maps, float32.
        gradient_NCHW: the teacher's simple gradient, signed, float32.
        """
        return self.path / "targets" / f"{key}.preview.safetensors"

    def inputs(self, role: Role, of: Maps | CheckedModel | None) -> tuple[Path, ...]:
        """The files of other items that an item reads: a teacher's model to make maps, the maps, or checked models."""
        if isinstance(of, CheckedModel):
            return tuple(self.model_file(key, of.seed) for key in of.models)
        if (maps := of) is None:
            return ()
        teacher = self.model_file(maps.teacher, maps.teacher_seed)
        return (teacher,) if role == "targets" else (self.maps_file(maps.key), self.preview_file(maps.key))

    def checkpoint_dir(self, key: str) -> Path:
        return self.path / "checkpoints" / key

    def worker_file(self, key: str) -> Path:
        """Where an item under way is worked on (see ``workers``)."""
        return self.checkpoint_dir(key) / "place.json"
