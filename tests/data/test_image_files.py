"""Which files of a folder count: hidden ones do not, links do, each real file once; one line says what was left out."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from helpers.data_files import data_error, save_image, write_images
from PIL import Image

from tune_interpreg.data.dataset import load_and_check
from tune_interpreg.data.image_folder import image_folder
from tune_interpreg.study.config import Data

CLASSES = ("ant", "bee")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", CLASSES, "png")


def count(root: Path) -> list[list[int]]:
    """Return the number of images per class, of both splits."""
    source = image_folder(root)
    return [split.y_N.bincount(minlength=source.classes).tolist() for split in (source.train(), source.test())]


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())


# -------------------------------------------------------------------- hidden
@pytest.mark.parametrize(
    "name",
    [
        "train/.ipynb_checkpoints/0.png",
        "train/ant/.ipynb_checkpoints/0-checkpoint.png",
        "train/ant/._0.png",
        "train/__MACOSX/ant/0.png",
        "train/ant/.DS_Store",
        "train/ant/Thumbs.db",
        "train/ant/@eaDir/0.png/thumb.jpg",
        "train/ant/.hidden.png",
    ],
)
def test_hidden_files_and_folders_are_left_out_and_that_is_said(root: Path, name: str) -> None:
    copy(root / "train" / "ant" / "0.png", root / name)
    assert count(root) == [[4, 4], [2, 2]]
    hidden = next(part for part in Path(name).parts[1:] if part not in CLASSES)
    assert f"left out: 1 hidden ({'._*' if hidden == '._0.png' else hidden})" in image_folder(root).description


def test_other_files_are_left_out_and_counted_by_suffix(root: Path) -> None:
    for name in ("train/ant/a.csv", "train/ant/b.CSV", "train/bee/x/labels.txt", "test/bee/README"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("name,label")
    (root / "train" / "classes.json").write_text("{}")
    copy(root / "train" / "ant" / "0.png", root / "test" / "loose.png")
    (root / "val").mkdir()
    assert count(root) == [[4, 4], [2, 2]]
    description = image_folder(root).description
    assert "left out: 4 not images (.csv 2, " in description
    assert "2 outside of class folders (" in description
    assert "not read: val" in description


def test_pipes_are_not_opened(root: Path) -> None:
    os.mkfifo(root / "train" / "ant" / "pipe.png")
    assert count(root) == [[4, 4], [2, 2]]
    assert "1 not images (pipe or device)" in image_folder(root).description


def test_images_of_any_suffix_count(root: Path) -> None:
    for number, suffix in enumerate((".jfif", ".gif", "", ".PNG")):
        file = root / "train" / "ant" / f"{number}.png"
        file.rename(file.with_suffix(suffix))
    assert count(root) == [[4, 4], [2, 2]]
    assert "left out" not in image_folder(root).description


# --------------------------------------------------------------------- links
@pytest.mark.parametrize("target", [".", "..", "../ant", "sub/.."])
def test_loops_are_cut(root: Path, target: str) -> None:
    (root / "train" / "ant" / "sub").mkdir()
    (root / "train" / "ant" / "all").symlink_to(target)
    if target == "..":  # the class would hold the images of the other class as well
        assert "train/ant/all/bee/0.png = train/bee/0.png" in data_error(lambda: image_folder(root))
    else:
        assert count(root) == [[4, 4], [2, 2]]
        assert "left out: 1 by a link to a folder that is read already" in image_folder(root).description


def test_links_to_images_elsewhere_are_followed(root: Path, tmp_path: Path) -> None:
    """To files, as git-annex makes them, and to folders."""
    (root / "train" / "ant").rename(tmp_path / "elsewhere")
    (root / "train" / "ant").symlink_to(tmp_path / "elsewhere")
    for file in (root / "test" / "bee").iterdir():
        moved = file.rename(tmp_path / file.name)
        file.symlink_to(moved)
    assert count(root) == [[4, 4], [2, 2]]
    assert "left out" not in image_folder(root).description


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_file_that_a_class_links_twice_counts_once(root: Path, link: object) -> None:
    file = root / "train" / "ant" / "1.png"
    link(file, file.with_name("0-again.png"))  # type: ignore[operator]
    assert count(root) == [[4, 4], [2, 2]]
    assert "left out: 1 by a second link to the same file" in image_folder(root).description


@pytest.mark.parametrize("place", ["train/bee/again.png", "test/ant/again.png", "test/bee/again.png"])
def test_a_file_in_two_classes_or_both_splits_is_refused(root: Path, place: str) -> None:
    (root / place).symlink_to(root / "train" / "ant" / "1.png")
    message = data_error(lambda: image_folder(root))
    assert f"for training and testing, got 1: train/ant/1.png = {place}; " in message


def test_testing_on_the_training_images_is_refused(tmp_path: Path) -> None:
    save_image(tmp_path / "train" / "ant" / "0.png", np.zeros((4, 6), np.uint8))
    save_image(tmp_path / "train" / "bee" / "0.png", np.zeros((4, 6), np.uint8))
    (tmp_path / "test").symlink_to("train")
    assert "for training and testing, got 2: " in data_error(lambda: image_folder(tmp_path))


def test_copies_in_other_classes_and_in_both_splits_are_said(root: Path) -> None:
    copy(root / "train" / "ant" / "1.png", root / "test" / "ant" / "9.png")
    copy(root / "train" / "ant" / "2.png", root / "train" / "bee" / "9.png")
    assert count(root) == [[4, 5], [3, 2]]
    description = image_folder(root).description
    assert "caution: copies of training images among the test images: 1" in description
    assert "caution: images with copies in other classes: 1" in description


# --------------------------------------------------------------------- names
def test_names_that_are_not_utf8(root: Path) -> None:
    folder = os.fsencode(root / "train" / "ant")
    os.rename(folder + b"/0.png", folder + b"/\xff.png")
    assert count(root) == [[4, 4], [2, 2]]
    with open(folder + b"/\xfe.png", "wb"):
        pass
    assert "train/ant/\\xfe.png (0 bytes)" in data_error(lambda: image_folder(root))


def test_a_line_break_in_a_name_stays_in_one_line(root: Path) -> None:
    (root / "train" / "ant" / "a\nb.png").touch()
    assert "a\\nb.png (0 bytes)" in data_error(lambda: image_folder(root))


def test_a_deep_folder(root: Path) -> None:
    """A path of more than 1,000 characters is read. One of more than the system takes is named."""
    folder = root / "train" / "ant" / "/".join(["n" * 100] * 10)
    copy(root / "train" / "ant" / "0.png", folder / "0.png")
    assert count(root) == [[5, 4], [2, 2]]
    deep = "/".join(["n" * 200] * 10)
    for _ in range(3):
        subprocess.run(["mkdir", "-p", deep], cwd=folder, check=True)
        folder = folder / deep if len(str(folder / deep)) < 4000 else folder
    script = f"cd {folder} && " + f"mkdir -p {deep} && cd -P {deep} && " * 2 + "touch 0.png"
    subprocess.run(["bash", "-c", script], check=True)
    assert "(File name too long)" in data_error(lambda: image_folder(root))


# --------------------------------------------------------------- description
def test_the_line_on_what_is_read(root: Path) -> None:
    """Counts, sizes, formats, colors, rotation, transparency, frames."""
    assert image_folder(root).description == (
        f"images in {root}: 2 classes; train 8 (4 per class); test 4 (2 per class); 6×4 pixels; PNG; RGB"
    )
    ant, exif = root / "train" / "ant", Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(ant / "turned.jpg", exif=exif)
    Image.new("LA", (20, 40)).save(ant / "clear.png")
    Image.new("L", (20, 40)).save(ant / "moving.gif", save_all=True, append_images=[Image.new("L", (20, 40), 255)])
    assert image_folder(root, size=5).description == (
        f"images in {root}: 2 classes; train 11 (4–7 per class); test 4 (2 per class); "
        "6×4 to 20×40 pixels (2 sizes), cut to their central square and resized to 5×5; "
        "12 smaller than 5 are enlarged; "
        "PNG 13, GIF 1, JPEG 1; RGB 13, grey 1, palette 1, read as RGB; 1 turned upright (EXIF); "
        "1 with transparency, laid on white; 1 of several frames, the first is read"
    )
    data = Data.model_validate({"name": "image_folder", "root": str(root), "size": 5})
    assert load_and_check(data).description == image_folder(root, size=5).description
