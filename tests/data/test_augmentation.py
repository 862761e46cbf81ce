"""Augmentation: image and target are flipped and shifted together, and the border fills with 0.

Shapes: B batch, C·H·W image.
"""

import pytest
import torch
import torchvision
from torch import Tensor

from tune_interpreg.data.augmentation import augment
from tune_interpreg.seeding import generator
from tune_interpreg.study.config import Augment

BOTH = Augment(flip=True, crop=4)


def images(batch: int = 6, size: int = 9) -> Tensor:
    """Return images with distinct pixels, none of them 0."""
    return torch.arange(1.0, batch * 3 * size * size + 1).view(batch, 3, size, size)


def windows(x_CHW: Tensor, settings: Augment) -> list[Tensor]:
    """Return every possible result: each crop of the padded image, and with ``flip`` its mirror image."""
    padded = torchvision.transforms.functional.pad(x_CHW, settings.crop)
    height, width = x_CHW.shape[1:]
    places = range(2 * settings.crop + 1)
    crops = [padded[:, i : i + height, j : j + width] for i in places for j in places]
    return crops + [crop.flip(2) for crop in crops] * settings.flip


@pytest.mark.parametrize("settings", [BOTH, Augment(flip=True), Augment(crop=2), Augment()])
def test_each_result_is_a_window_of_the_padded_image(settings: Augment) -> None:
    x_BCHW = images()
    indices = set()
    for seed in range(20):
        moved, _ = augment(x_BCHW, None, settings, generator=generator(seed, "t"))
        for before, after in zip(x_BCHW, moved, strict=True):
            matches = [n for n, window in enumerate(windows(before, settings)) if torch.equal(window, after)]
            assert len(matches) == 1
            indices |= set(matches)
    possible = len(windows(x_BCHW[0], settings))
    assert len(indices) > 0.4 * possible
    assert settings.crop or len(indices) == possible


def test_the_target_moves_with_its_image() -> None:
    x_BCHW = images()
    moved, target = augment(x_BCHW, -2 * x_BCHW, BOTH, generator=generator(0, "t"))
    assert target is not None
    assert torch.equal(target, -2 * moved)
    assert torch.equal(augment(x_BCHW, None, BOTH, generator=generator(0, "t"))[0], moved)
    assert torch.equal(x_BCHW, images())


def test_half_of_the_images_are_flipped_and_all_shifts_are_equally_likely() -> None:
    x_BCHW = images(4000, 3)
    flipped, _ = augment(x_BCHW, None, Augment(flip=True), generator=generator(0, "t"))
    share = (flipped[:, 0, 0, 0] != x_BCHW[:, 0, 0, 0]).float().mean()
    assert share == pytest.approx(0.5, abs=4 * (0.25 / 4000) ** 0.5)
    ones = torch.ones(9000, 1, 5, 5)
    shifted, _ = augment(ones, None, Augment(crop=1), generator=generator(0, "t"))
    rows_inside = shifted.amax(dim=(1, 3)).sum(1)
    assert (rows_inside == 5).float().mean() == pytest.approx(1 / 3, abs=0.02)
