"""What the tests of the training engine share: a method that draws from every stream, and engines that train with it.

Where a GPU is at hand the engines replay captured steps there. Shapes: B batch, T steps of an epoch, N training images,
C·H·W image.
"""

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tune_interpreg.data.dataset import Dataset, Split
from tune_interpreg.gradients import saliency
from tune_interpreg.study.config import Augment, Model, Training
from tune_interpreg.training.trainer import Batch, Guidance, Terms, Trainer

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
on_a_gpu = pytest.mark.skipif(not CUDA, reason="captures steps, which takes a GPU")
without_a_gpu = pytest.mark.skipif(CUDA, reason="a capture that fails for want of a GPU")

N, B, T = 103, 20, 5
SHAPE = (1, 8, 8)
TRAINING = Training(epochs=4, batch_size=B, lr=0.05, lr_decay=0.5, decay_every=1, augment=Augment(flip=True, crop=1))
MODEL = Model(name="mnist_cnn")  # it has dropout


def images() -> Dataset:
    drawn = torch.Generator().manual_seed(0)
    split = Split(torch.rand(N, *SHAPE, generator=drawn), torch.arange(N) % 10).to(DEVICE)
    return Dataset(split, split, classes=10, shape=SHAPE, fingerprint="")


def guidance(*seeds: int) -> Guidance:
    """The images themselves as maps, permuted anew for each batch."""
    return Guidance(dict.fromkeys(seeds, images().train.x_NCHW), lambda raw: saliency.threshold(raw, 0.5), redraw=True)


def drawing(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    """Two terms that depend on all that a step draws: dropout, noise, augmentation and permutation."""
    noise_BCHW = torch.randn(batch.x_BCHW.shape, generator=batch.noise, device=batch.x_BCHW.device)
    assert batch.target_BCHW is not None
    x_BCHW = batch.x_BCHW + 0.1 * noise_BCHW + 0.1 * batch.target_BCHW
    return {"ce": F.cross_entropy(model(x_BCHW), batch.y_B), "noise": noise_BCHW.mean()}


def trainer(
    *seeds: int, terms: Terms = drawing, capture: bool = True, training: Training = TRAINING, model: Model = MODEL
) -> Trainer:
    return Trainer(
        model=model,
        training=training,
        data=images(),
        terms=terms,
        seeds=seeds,
        guidance=guidance(*seeds),
        device=DEVICE,
        capture=capture,
    )


def trained(engine: Trainer, epochs: int) -> list[dict[int, dict[str, float]]]:
    return [engine.run_epoch() for _ in range(epochs)]


def assert_same_bits(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name
