"""Folders of images: what becomes of each file, and what is refused."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tune_interpreg.data import dataset as data
from tune_interpreg.data import image_folder
from tune_interpreg.data.dataset import DataError, Dataset, Split
from tune_interpreg.data.image_folder import IMAGES_A_TASK
from tune_interpreg.study import config

CLASSES = ("ant", "bee", "cat")


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty home folder; and the data set itself stands for its entry point."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(data.registry, "resolve", lambda group, name: image_folder.image_folder)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve training and six test images of 6×4 pixels, of noise, four and two a class."""
    random = np.random.default_rng(0)
    for split, images in (("train", 4), ("test", 2)):
        for name in CLASSES:
            for number in range(images):
                noise_HWC = random.integers(0, 256, (4, 6, 3), dtype=np.uint8)
                save(tmp_path / "images" / split / name / f"{number}.png", noise_HWC)
    return tmp_path / "images"


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def load(root: Path, **keys: object) -> Dataset:
    return data.load(config.Data.model_validate({"name": "image_folder", "root": str(root), **keys}))


def load_test(root: Path, **keys: object) -> Split:
    return data.load_test(config.Data.model_validate({"name": "image_folder", "root": str(root), **keys}))


def train_of(root: Path, size: int | None = None) -> torch.Tensor:
    return image_folder.image_folder(root, size=size).train().x_NCHW


def message(call: Callable[[], object]) -> str:
    with pytest.raises(DataError) as raised:
        call()
    assert "\n" not in str(raised.value)
    return str(raised.value)


# -------------------------------------------------------------------- images


def test_folders_are_classes_and_images_are_kept_as_they_are(root: Path) -> None:
    source = image_folder.image_folder(root)
    assert (source.classes, source.shape, source.validation, source.tests) == (3, (3, 4, 6), 1, 6)
    for split, folder, images in ((source.train(), "train", 4), (source.test(), "test", 2)):
        assert split.y_N.tolist() == sorted(list(range(3)) * images)
        files = [root / folder / name / f"{number}.png" for name in CLASSES for number in range(images)]
        expected_NHWC = np.stack([np.asarray(Image.open(file)) for file in files])
        assert torch.equal(split.x_NCHW, torch.from_numpy(expected_NHWC).permute(0, 3, 1, 2))
        assert split.x_NCHW.dtype == torch.uint8


def test_it_is_split_as_every_data_set(root: Path) -> None:
    dataset = load(root, validation=3, train_limit=6)
    assert (len(dataset.train), len(dataset.validation), len(load_test(root, test_limit=3))) == (6, 3, 3)
    assert dataset.validation.y_N.tolist() == [0, 1, 2]


def test_a_tenth_of_the_training_images_is_validation(root: Path) -> None:
    for number in range(4, 20):
        for name in CLASSES:
            save(root / "train" / name / f"{number}.png", np.zeros((4, 6, 3), np.uint8))
    dataset = load(root)
    assert (len(dataset.train), len(dataset.validation)) == (54, 6)


def test_images_of_many_tasks_stay_in_order(root: Path) -> None:
    """Image n of the one class is of brightness n mod 251."""
    images = 2 * IMAGES_A_TASK + 7
    for number in range(images):
        save(root / "train" / "ant" / f"n{number:04}.png", np.full((4, 6, 3), number % 251, np.uint8))
    x_NCHW = train_of(root)[4 : 4 + images]
    assert x_NCHW[:, 0, 0, 0].tolist() == [number % 251 for number in range(images)]


def test_images_of_fewer_or_more_channels_become_rgb(root: Path) -> None:
    """Grey fills all three; a palette is looked up; opacity is dropped."""
    random = np.random.default_rng(0)
    grey_HW, rgba_HWC = (random.integers(0, 256, shape, dtype=np.uint8) for shape in ((4, 6), (4, 6, 4)))
    save(root / "train" / "ant" / "0.png", grey_HW)
    save(root / "train" / "ant" / "1.png", rgba_HWC)
    Image.fromarray(rgba_HWC[..., :3]).quantize(24).save(root / "train" / "ant" / "2.png")
    x_NCHW = train_of(root)
    assert torch.equal(x_NCHW[0], torch.from_numpy(grey_HW).expand(3, 4, 6))
    assert torch.equal(x_NCHW[1], torch.from_numpy(rgba_HWC[..., :3]).permute(2, 0, 1))
    assert torch.equal(x_NCHW[2], torch.from_numpy(rgba_HWC[..., :3]).permute(2, 0, 1))


@pytest.mark.parametrize(("height", "width"), [(4, 10), (10, 4)])
def test_an_image_whose_shorter_side_is_right_is_only_cropped(root: Path, height: int, width: int) -> None:
    noise_HWC = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    save(root / "train" / "ant" / "0.png", noise_HWC)
    top, left = (height - 4) // 2, (width - 4) // 2
    centre_HWC = torch.from_numpy(noise_HWC[top : top + 4, left : left + 4])
    assert torch.equal(train_of(root, 4)[0], centre_HWC.permute(2, 0, 1))


def test_resizing_keeps_proportions_and_the_centre(root: Path) -> None:
    """An image of 24×48 with a white right half, at size 8, is 8×16 first: its centre is half black, half white."""
    half_HWC = np.zeros((24, 48, 3), np.uint8)
    half_HWC[:, 24:] = 255
    save(root / "train" / "ant" / "0.png", half_HWC)
    x_CHW = train_of(root, 8)[0]
    assert x_CHW.shape == (3, 8, 8)
    assert (x_CHW[:, :, :3] == 0).all()
    assert (x_CHW[:, :, 5:] == 255).all()


def test_resizing_is_antialiased(root: Path) -> None:
    """Stripes of one pixel at a third of their size: the pixels' centres would show stripes, their areas are grey."""
    stripes_HWC = np.zeros((36, 36, 3), np.uint8)
    stripes_HWC[:, ::2] = 255
    save(root / "train" / "ant" / "0.png", stripes_HWC)
    inside_CHW = train_of(root, 12)[0][:, :, 1:-1].float()
    assert (inside_CHW - 127.5).abs().max() < 30


# -------------------------------------------------------------------- errors


def test_no_root_asks_for_one() -> None:
    said = message(lambda: data.load(config.Data(name="image_folder")))
    assert said.startswith("data.root: ")
    assert "train/CLASS" in said
    assert "--data-root" in said


def test_a_missing_split_is_named(root: Path) -> None:
    (root / "test").rename(root / "validation")
    assert f"{root} lacks test" in message(lambda: load(root))
    (root / "train").rename(root / "images")
    assert f"{root} lacks train and test" in message(lambda: load(root))


def test_classes_must_be_the_same_in_both_splits(root: Path) -> None:
    (root / "test" / "bee").rename(root / "test" / "wasp")
    said = message(lambda: load(root))
    assert f"{root / 'test'} lacks bee; {root / 'train'} lacks wasp" in said


def test_a_folder_without_images_is_no_class(root: Path) -> None:
    (root / "train" / "dog").mkdir()
    said = message(lambda: load(root))
    assert said.startswith(f"{root / 'train'}: ")
    assert "classes dog" in said
    assert "add images, or remove" in said


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    for split in ("train", "test"):
        save(tmp_path / split / "ant" / "0.png", np.zeros((4, 6, 3), np.uint8))
    assert "two classes or more, got ant alone" in message(lambda: load(tmp_path))


@pytest.mark.parametrize("size", [0, -32])
def test_a_size_is_at_least_one(root: Path, size: int) -> None:
    assert message(lambda: load(root, size=size)).startswith(
        f"data.size: takes a whole number of at least 1, got {size}"
    )


def test_the_first_image_of_another_size_is_named_with_the_remedy(root: Path) -> None:
    for name in ("bee", "cat"):
        save(root / "train" / name / "1.png", np.zeros((8, 5, 3), np.uint8))
    said = message(lambda: load(root))
    assert f"{root / 'train' / 'bee' / '1.png'}: " in said
    assert "this is 5×8 pixels" in said
    assert f"{root / 'train' / 'ant' / '0.png'} is 6×4" in said
    assert "data.size: 4" in said
    assert load(root, size=4).shape == (3, 4, 4)


def jpeg() -> bytes:
    written = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)).save(written, "JPEG")
    return written.getvalue()


@pytest.mark.parametrize("content", [b"", b"no image", jpeg()[:-40], b"\x89PNG\r\n\x1a\n" + bytes(30)])
@pytest.mark.parametrize("number", [0, 3])
def test_an_image_that_cannot_be_read_is_named(root: Path, content: bytes, number: int) -> None:
    bad = root / "train" / "ant" / f"{number}.png"
    bad.write_bytes(content)
    said = message(lambda: load(root))
    assert said.startswith(f"{bad}: must be an image that can be read (")
    assert "fetch it again, or delete it" in said


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_deep_images_are_refused_rather_than_clipped(root: Path, kind: type) -> None:
    deep = root / "train" / "cat" / "deep.tif"
    save(deep, np.full((4, 6), 1000, kind))
    said = message(lambda: load(root))
    assert said.startswith(f"{deep}: must have 8 bits a channel")


def test_loading_never_reads_the_test_images(root: Path) -> None:
    """With rubbish in the test images training loads, to the same fingerprint, and only the final evaluation fails."""
    base = load(root).fingerprint
    for file in (root / "test").glob("*/*.png"):
        file.write_bytes(b"rubbish")
    assert load(root).fingerprint == base
    assert str(root / "test" / "ant" / "0.png") in message(lambda: load_test(root))
