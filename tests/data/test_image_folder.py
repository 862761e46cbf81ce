"""Folders of images: which pixels they give, and which folders are refused with all of their problems."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.data_files import data_error, save_image, write_images
from PIL import Image
from torchvision.datasets import ImageFolder

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


def test_classes_and_files_are_in_torchvisions_order(tmp_path: Path) -> None:
    """Numbers are sorted as text. Images of nested folders belong to the class."""
    root = write_images(tmp_path, ("2", "10", "1"), "png")
    for nested in ("b/0.png", "0/9.png", "b-/0.png"):
        save_image(root / "train" / "10" / nested, np.zeros((4, 6, 3), np.uint8))
    source, expected = image_folder(root), ImageFolder(str(root / "train"))
    x_NCHW = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image, _ in expected])
    split = source.train()
    assert split.y_N.tolist() == expected.targets
    assert torch.equal(split.x_NCHW, x_NCHW)
    assert "classes in the order of text: 1, 10, 2" in source.description


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
    assert f"{root} lacks test and holds train, validation; " in data_error(lambda: load(root))
    (root / "train").rename(root / "Train")
    assert f"{root} lacks train and test and holds Train, validation; " in data_error(lambda: load(root))


@pytest.mark.parametrize(
    ("place", "reason"), [("file", "a file"), ("nowhere", "No such file"), ("n" * 300, "name too long")]
)
def test_a_root_that_is_no_folder_is_refused_with_the_reason(tmp_path: Path, place: str, reason: str) -> None:
    (tmp_path / "file").touch()
    message = data_error(lambda: load(tmp_path / place))
    assert message.startswith("data.root: must be an existing folder, got ")
    assert reason in message


def test_wrong_classes_are_named(root: Path, tmp_path: Path) -> None:
    """Different classes in the splits, classes without images in each split, a single class, none."""
    (root / "test" / "bee").rename(root / "test" / "wasp")
    (root / "train" / "dog").mkdir()
    (root / "test" / "elk").mkdir()
    message = data_error(lambda: load(root))
    assert message.startswith(f"{root}: ")
    parts = ("only in train: bee, dog; only in test: elk, wasp", "train: classes without images: dog", "images: elk; ")
    assert all(part in message for part in parts), message
    alone = write_images(tmp_path / "alone", ("ant",), "png")
    assert "two classes or more are needed, got ant alone" in data_error(lambda: load(alone))
    for split in ("train", "test"):
        save_image(tmp_path / "loose" / split / "0.png", np.zeros((4, 6, 3), np.uint8))
    assert "train has no class folders and test has no class folders; " in data_error(lambda: load(tmp_path / "loose"))


@pytest.mark.parametrize(
    ("first", "second"), [("Cat", "cat"), ("z\u00fcrich", "zu\u0308rich"), ("stra\u00dfe", "STRASSE")]
)
def test_classes_that_look_alike_are_refused(root: Path, first: str, second: str) -> None:
    """In one split, and as the only difference of the splits."""
    (root / "train" / "cat").rename(root / "train" / first)
    (root / "test" / "cat").rename(root / "test" / second)
    reason = f"{first!a} and {second!a} differ only in case or Unicode normalization"
    assert reason in data_error(lambda: load(root))
    (root / "train" / "bee").rename(root / "train" / second)
    (root / "test" / "bee").rename(root / "test" / first)
    message = data_error(lambda: load(root))
    low, high = sorted((first, second))
    for split in ("train", "test"):
        assert f"{split}: {low!a} and {high!a} differ only in case" in message


def test_a_size_below_one_is_refused(root: Path) -> None:
    assert data_error(lambda: load(root, size=0)).startswith("data.size: ")


def test_images_of_several_sizes_are_refused_with_the_remedy(root: Path) -> None:
    for name in ("bee", "cat"):
        save_image(root / "train" / name / "1.png", np.zeros((8, 5, 3), np.uint8))
    message = data_error(lambda: load(root))
    parts = ("6×4 (16, such as train/ant/0.png)", "5×8 (2, such as train/bee/1.png)", "data.size: 4")
    assert all(part in message for part in parts), message
    assert load(root, size=4).shape == (3, 4, 4)
    assert "5×8 to 6×4" not in image_folder(root, size=4).description
    assert "6×4 to 5×8 pixels (2 sizes)" in image_folder(root, size=4).description


def test_all_unreadable_files_of_both_splits_are_named_at_once(root: Path) -> None:
    """Empty, truncated before and behind the header, text in place of an image, a broken link, a link to itself."""
    for name, keep in {"train/ant/0": 0, "train/bee/2": 100, "train/cat/1": 12, "test/ant/1": 100}.items():
        file = root / f"{name}.png"
        file.write_bytes(file.read_bytes()[:keep])
    (root / "train" / "ant" / "web.jpg").write_text("<!DOCTYPE html>")
    (root / "train" / "bee" / "gone.png").symlink_to("nowhere.png")
    (root / "test" / "cat" / "loop").symlink_to("loop")
    message = data_error(lambda: load(root))
    assert message.startswith(f"{root}: 7 files or folders cannot be read: test/ant/1.png, train/bee/2.png (")
    reasons = (
        "train/ant/0.png (0 bytes)",
        "train/cat/1.png (damaged",
        "web.jpg (no PNG, JPEG, GIF, WebP, BMP, TIFF, PNM or AVIF, begins with '<!DOCTYPE html>')",
        "gone.png (broken link)",
        "test/cat/loop (Too many levels of symbolic links)",
    )
    assert all(reason in message for reason in reasons), message


def test_the_first_ten_unreadable_files_and_their_number(root: Path) -> None:
    for number in range(25):
        (root / "train" / "ant" / f"bad-{number:02}.png").touch()
    message = data_error(lambda: load(root))
    assert "25 files or folders" in message
    assert message.endswith("bad-09.png (0 bytes), … and 15 more; fetch, convert or delete them")
    assert "bad-10" not in message


def test_damage_inside_of_images_is_found_in_both_splits(root: Path) -> None:
    """Each header is sound, so that only decoding finds the damage. The message does not depend on the first split."""
    bad = [root / "train" / "ant" / "3.png", root / "test" / "bee" / "0.png"]
    for file in bad:
        file.write_bytes(file.read_bytes()[:60])
    message = data_error(image_folder(root).train)
    assert message.startswith(f"{root}: 2 files or folders cannot be read: test/bee/0.png, train/ant/3.png (")
    assert message == data_error(image_folder(root).test)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_named(root: Path) -> None:
    (root / "train" / "bee").chmod(0)
    message = data_error(lambda: load(root))
    (root / "train" / "bee").chmod(0o755)
    assert "train/bee (Permission denied)" in message


@pytest.mark.parametrize("gone", ["train/cat/2.png", "train/ant", "."])
def test_images_that_disappear_before_they_are_read_are_named(root: Path, gone: str) -> None:
    """The message names the first missing image of all splits."""
    source, path = image_folder(root), root / gone
    path.unlink() if path.is_file() else shutil.rmtree(path)
    first = {"train/cat/2.png": gone, "train/ant": "train/ant/0.png", ".": "test/ant/0.png"}[gone]
    message = data_error(source.train)
    assert message.startswith(f"{root}: ")
    assert f"cannot be read: {first}" in message
    assert "(No such file or directory)" in message


def test_images_that_change_between_inspection_and_decoding_are_noticed(root: Path) -> None:
    source = image_folder(root)
    save_image(root / "train" / "cat" / "2.png", np.zeros((4, 6, 3), np.uint8))
    assert data_error(source.train) == f"{root / 'train'}: images changed while they were read; run again"
