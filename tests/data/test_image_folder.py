"""Folders of images: how each file is decoded, and which folders and files are refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.data_files import data_error, save_image, write_images
from PIL import Image

from tune_interpreg.data.dataset import Dataset, load_dataset
from tune_interpreg.data.image_folder import image_folder
from tune_interpreg.study.config import Data

CLASSES = ("ant", "bee", "cat")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", CLASSES, "png")


def load(root: Path, **keys: object) -> Dataset:
    return load_dataset(Data.model_validate({"name": "image_folder", "root": str(root), **keys}))


def train_images(root: Path, size: int | None = None) -> torch.Tensor:
    return image_folder(root, size=size).train().x_NCHW


# -------------------------------------------------------------------- images
def test_folders_are_classes_and_pixels_are_unchanged(root: Path) -> None:
    source = image_folder(root)
    assert (source.classes, source.shape, source.validation, source.tests) == (3, (3, 4, 6), 1, 6)
    for split, folder, images in ((source.train(), "train", 4), (source.test(), "test", 2)):
        assert split.y_N.tolist() == sorted(list(range(3)) * images)
        files = [root / folder / name / f"{number}.png" for name in CLASSES for number in range(images)]
        expected_NHWC = np.stack([np.asarray(Image.open(file)) for file in files])
        assert torch.equal(split.x_NCHW, torch.from_numpy(expected_NHWC).permute(0, 3, 1, 2))
        assert split.x_NCHW.dtype == torch.uint8


def test_other_numbers_of_channels_become_rgb(root: Path) -> None:
    """Grey fills all channels, a palette is looked up, opacity is dropped."""
    random = np.random.default_rng(0)
    grey_HW, rgba_HWC = (random.integers(0, 256, shape, dtype=np.uint8) for shape in ((4, 6), (4, 6, 4)))
    save_image(root / "train" / "ant" / "0.png", grey_HW)
    save_image(root / "train" / "ant" / "1.png", rgba_HWC)
    Image.fromarray(rgba_HWC[..., :3]).quantize(24).save(root / "train" / "ant" / "2.png")
    x_NCHW = train_images(root)
    assert torch.equal(x_NCHW[0], torch.from_numpy(grey_HW).expand(3, 4, 6))
    for row in (1, 2):
        assert torch.equal(x_NCHW[row], torch.from_numpy(rgba_HWC[..., :3]).permute(2, 0, 1))


def test_an_image_with_the_right_shorter_side_is_only_cropped(root: Path) -> None:
    noise_HWC = np.random.default_rng(0).integers(0, 256, (4, 10, 3), dtype=np.uint8)
    save_image(root / "train" / "ant" / "0.png", noise_HWC)
    assert torch.equal(train_images(root, 4)[0], torch.from_numpy(noise_HWC[:, 3:7]).permute(2, 0, 1))


def test_resizing_is_antialiased(root: Path) -> None:
    """Stripes one pixel wide become grey at a third of their size. Sampling pixel centres would keep stripes."""
    stripes_HWC = np.zeros((36, 36, 3), np.uint8)
    stripes_HWC[:, ::2] = 255
    save_image(root / "train" / "ant" / "0.png", stripes_HWC)
    inside_CHW = train_images(root, 12)[0][:, :, 1:-1].float()
    assert (inside_CHW - 127.5).abs().max() < 30


# -------------------------------------------------------------------- errors
def test_a_missing_root_or_split_is_named(root: Path) -> None:
    message = data_error(lambda: load_dataset(Data(name="image_folder")))
    assert message.startswith("data.root: ")
    assert "--data-root" in message
    (root / "test").rename(root / "validation")
    assert f"{root} lacks test" in data_error(lambda: load(root))
    (root / "train").rename(root / "images")
    assert f"{root} lacks train and test" in data_error(lambda: load(root))


def test_wrong_classes_are_named(root: Path, tmp_path: Path) -> None:
    """Different classes in the splits, a class without images, a single class."""
    (root / "test" / "bee").rename(root / "test" / "wasp")
    message = data_error(lambda: load(root))
    assert message.startswith(f"{root}: ")
    assert "bee, wasp" in message
    (root / "train" / "dog").mkdir()
    message = data_error(lambda: load(root))
    assert message.startswith(f"{root / 'train'}: ")
    assert "classes dog" in message
    alone = write_images(tmp_path / "one", ("ant",), "png")
    assert "two classes or more, got ant alone" in data_error(lambda: load(alone))


def test_a_size_below_one_is_refused(root: Path) -> None:
    assert data_error(lambda: load(root, size=0)).startswith("data.size: ")


def test_the_first_image_of_another_size_is_named_with_the_remedy(root: Path) -> None:
    for name in ("bee", "cat"):
        save_image(root / "train" / name / "1.png", np.zeros((8, 5, 3), np.uint8))
    message = data_error(lambda: load(root))
    assert message.startswith(f"{root / 'train' / 'bee' / '1.png'}: ")
    assert all(part in message for part in ("5×8", f"{root / 'train' / 'ant' / '0.png'} is 6×4", "data.size: 4"))
    assert load(root, size=4).shape == (3, 4, 4)


@pytest.mark.parametrize(("number", "keep"), [(0, 0), (3, 0), (0, 40), (3, 100)])
def test_an_unreadable_image_is_named(root: Path, number: int, keep: int) -> None:
    """Only the first bytes of the file are left."""
    bad = root / "train" / "ant" / f"{number}.png"
    bad.write_bytes(bad.read_bytes()[:keep])
    message = data_error(lambda: load(root))
    assert message.startswith(f"{bad}: must be a readable image (")
    assert message.endswith("fetch it again, or delete it")


@pytest.mark.parametrize("gone", ["train/cat/2.png", "train/ant", "."])
def test_images_that_disappear_before_they_are_read_are_named(root: Path, gone: str) -> None:
    """The message names the first missing image."""
    source, path = image_folder(root), root / gone
    path.unlink() if path.is_file() else shutil.rmtree(path)
    first = path if path.suffix else root / "train" / "ant" / "0.png"
    assert data_error(source.train).startswith(f"{first}: cannot be read (No such file")


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_images_of_more_than_8_bits_are_refused(root: Path, kind: type) -> None:
    """Pillow would clip them."""
    deep = root / "train" / "cat" / "deep.tif"
    save_image(deep, np.full((4, 6), 1000, kind))
    assert data_error(lambda: load(root)).startswith(f"{deep}: must have 8 bits per channel")
