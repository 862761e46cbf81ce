"""Shared by the tests of the training engine: images, two kinds of engines, and comparisons.

``trainer`` draws from every random stream; on a machine with a GPU it replays captured steps there. ``plain_trainer``
draws only orders, on the CPU. Shapes: B batch, T steps of an epoch, N training images, C·H·W image.
"""

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tune_interpreg import seeding
from tune_interpreg.data.dataset import Dataset, Split
from tune_interpreg.gradients import saliency
from tune_interpreg.networks.build import build
from tune_interpreg.study.config import Augment, Model, Training
from tune_interpreg.training.trainer import STREAMS, Batch, Guidance, Terms, Trainer

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
on_a_gpu = pytest.mark.skipif(not CUDA, reason="captures steps, which takes a GPU")
without_a_gpu = pytest.mark.skipif(CUDA, reason="a capture fails only without a GPU")

N, B, T = 103, 20, 5
SHAPE = (1, 8, 8)
PLAIN = Training(epochs=9, batch_size=B, lr=0.05, momentum=0.9)
TRAINING = Training(epochs=4, batch_size=B, lr=0.05, lr_decay=0.5, decay_every=1, augment=Augment(flip=True, crop=1))
MODEL = Model(name="mnist_cnn")  # it has dropout


def images(device: str = DEVICE) -> Dataset:
    """Return images with the pixel n/(N − 1) in the corner of image n, and the label n mod 10."""
    x_NCHW = 0.9 * torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(0))
    x_NCHW[:, 0, 0, 0] = torch.arange(N) / (N - 1)
    split = Split(x_NCHW, torch.arange(N) % 10).to(device)
    return Dataset(split, split, classes=10, shape=SHAPE, fingerprint="")


def guidance(*seeds: int) -> Guidance:
    """Return the images themselves as maps, permuted again for each batch."""
    return Guidance(dict.fromkeys(seeds, images().train.x_NCHW), lambda raw: saliency.threshold(raw, 0.5), redraw=True)


def drawing(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    """Two terms that depend on all draws of a step: dropout, noise, augmentation and permutation."""
    noise_BCHW = torch.randn(batch.x_BCHW.shape, generator=batch.noise, device=batch.x_BCHW.device)
    assert batch.target_BCHW is not None
    x_BCHW = batch.x_BCHW + 0.1 * noise_BCHW + 0.1 * batch.target_BCHW
    return {"ce": F.cross_entropy(model(x_BCHW), batch.y_B), "noise": noise_BCHW.mean()}


def trainer(*seeds: int, terms: Terms = drawing, capture: bool = True, training: Training = TRAINING) -> Trainer:
    options = {"guidance": guidance(*seeds), "device": DEVICE, "capture": capture}
    return Trainer(model=MODEL, training=training, data=images(), terms=terms, seeds=seeds, **options)


def textbook(seed: int, epochs: int) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train one seed in a plain loop: SGD, one permutation per epoch, one seeded generator per purpose."""
    model = build(MODEL, SHAPE, 10, seed, DEVICE)
    batches = trainer(seed, capture=False)
    (replica,) = batches.replicas
    settings = {"momentum": TRAINING.momentum, "weight_decay": TRAINING.weight_decay, "nesterov": TRAINING.nesterov}
    sgd, means = torch.optim.SGD(model.parameters(), lr=0.1, fused=True, **settings), []
    for epoch in range(epochs):
        streams = {name: seeding.generator(seed, name, DEVICE) for name in STREAMS}
        for name, stream in streams.items():
            stream.manual_seed(seeding.number(seed, name, epoch))
        for layer in model.modules():
            if hasattr(layer, "generator"):
                layer.generator = streams["dropout"]
        replica.streams = streams
        lr = TRAINING.learning_rate(epoch)
        for group in sgd.param_groups:
            group["lr"] = torch.tensor(lr, device=DEVICE) if CUDA else lr
        order_N, totals = torch.randperm(N, generator=streams["order"], device=DEVICE), {"ce": 0.0, "noise": 0.0}
        for step in range(T):
            terms = drawing(model, batches.make_batch(replica, order_N[step * B : (step + 1) * B]))
            sgd.zero_grad()
            (terms["ce"] + terms["noise"]).backward()
            sgd.step()
            totals = {name: totals[name] + term.detach() for name, term in terms.items()}
        means.append({name: float(total) / T for name, total in totals.items()})
    return model, means


def cross_entropy(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    return {"ce": F.cross_entropy(model(batch.x_BCHW), batch.y_B)}


def plain_trainer(
    terms: Terms = cross_entropy,
    *,
    seeds: tuple[int, ...] = (0,),
    model: str = "digits_cnn",
    guidance: Guidance | None = None,
    **training: object,
) -> Trainer:
    options = {"terms": terms, "seeds": seeds, "guidance": guidance}
    return Trainer(model=Model(name=model), training=PLAIN.model_copy(update=training), data=images("cpu"), **options)


def train(engine: Trainer, epochs: int) -> list[dict[int, dict[str, float]]]:
    return [engine.run_epoch() for _ in range(epochs)]


def copy_state(engine: Trainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in engine.state().items()}


def weights_of(model: nn.Module) -> Tensor:
    return torch.cat([weight.flatten() for weight in model.parameters()])


def assert_same_bits(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in actual.items():
        assert torch.equal(tensor, expected[name]), name
