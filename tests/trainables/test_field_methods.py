"""The field's methods beyond the paper's, each against its formula.

Shapes: B batch, C·H·W image, K classes.
"""

import pytest
import torch
import torch.nn.functional as F
from helpers.contract import B, Make, first_batch
from torch import nn


def test_gaussian_training_takes_the_cross_entropy_at_noisy_images(make: Make) -> None:
    """f(x) = (0, w·x), label 0: CE = mean log(1 + e^(w·(x + σ·n)))."""
    trainable, layer = make("gaussian", sigma=0.3), nn.Linear(64, 2, bias=False)
    nn.init.zeros_(layer.weight[0])
    batch = first_batch(trainable)
    noise_BCHW = torch.empty_like(batch.x_BCHW).normal_(generator=first_batch(trainable).noise)
    expected = F.softplus((batch.x_BCHW + 0.3 * noise_BCHW).flatten(1) @ layer.weight[1]).mean()
    batch = first_batch(trainable)
    batch.y_B.zero_()
    torch.testing.assert_close(trainable.terms(nn.Sequential(nn.Flatten(), layer), batch)["ce"], expected)
    assert noise_BCHW.std().item() == pytest.approx(1.0, abs=3 / (2 * B * 64) ** 0.5)


def test_gaussian_training_without_noise_is_standard_training(make: Make) -> None:
    assert make("gaussian", sigma=0.0).trainer.run_epoch() == make("standard").trainer.run_epoch()
