"""Data that disappears between the driver's check and a worker's start: the place and the remedy are named."""

import shutil
from pathlib import Path

import pytest
from helpers.data_files import data_error, write_images, write_mnist
from helpers.jobs import training_job

from trainables.base.assignment import Assignment
from tune_interpreg.cluster import worker
from tune_interpreg.data.dataset import load_dataset
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Data
from tune_interpreg.study.items import Job
from tune_interpreg.study.recipe import Recipe

pytestmark = pytest.mark.ray


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder that is a root of MNIST and of ``image_folder``."""
    write_mnist(tmp_path / "data")
    return write_images(tmp_path / "data", ("ant", "bee"), "png")


def job(name: str, root: Path) -> Job:
    """Return a job as the driver makes it after it has checked the data."""
    data = Data(name=name, root=str(root), validation=2)
    recipe = Recipe(method="standard", data=data, data_fingerprint=load_dataset(data).fingerprint)
    return training_job(recipe, number=0)


@pytest.mark.parametrize(
    ("name", "gone", "rule"),
    [
        ("mnist", ".", "data.root: must be an existing folder, got {root} (No such file or directory); "),
        ("mnist", "MNIST", "{root}/MNIST/raw: must hold the unpacked files of MNIST, lacks train-images"),
        ("image_folder", "train/ant", "{root}: train and test must hold the same classes"),
    ],
)
def test_a_worker_that_lacks_the_drivers_data_ends_the_run(
    name: str, gone: str, rule: str, root: Path, tmp_path: Path
) -> None:
    """The driver has read the same data, so the trial itself is not at fault."""
    configuration = worker.worker_config(job(name, root), Store(tmp_path / "store"), "cpu")
    shutil.rmtree(root / gone)
    expected = rule.format(root=root)
    assert expected in data_error(lambda: Assignment.from_study(configuration).load_data())
    result = worker.StudyTrainable(configuration).step()
    assert result["done"]
    assert expected in result["refused"]


def test_images_that_changed_since_the_drivers_check_are_refused(root: Path, tmp_path: Path) -> None:
    changed = job("image_folder", root)
    (root / "train" / "ant" / "0.png").unlink()
    assignment = Assignment.from_study(worker.worker_config(changed, Store(tmp_path / "store"), "cpu"))
    assert "give every machine the same files" in data_error(assignment.load_data)
