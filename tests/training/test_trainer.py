"""The trainer against closed forms: orders, batches, rates, means and random streams.

Shapes: B batch, T steps of an epoch, N training images, C·H·W image.
"""

from collections.abc import Mapping

import pytest
import torch
from helpers.engines import SHAPE, B, N, T, cross_entropy, images, plain_trainer, weights_of
from torch import Tensor, nn

from tune_interpreg import seeding
from tune_interpreg.data.augmentation import augment
from tune_interpreg.gradients import saliency
from tune_interpreg.study.config import Augment
from tune_interpreg.training.trainer import STREAMS, Batch, Guidance


class Recorder:
    """Cross-entropy that records its batches."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def __call__(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        self.batches.append(batch)
        return cross_entropy(model, batch)

    def pop_rows(self) -> list[int]:
        """Return the recorded images' rows in order, read from their corners, and forget them."""
        x_NCHW = torch.cat([batch.x_BCHW for batch in self.batches])
        self.batches.clear()
        return [round(n) for n in (x_NCHW[:, 0, 0, 0] * (N - 1)).tolist()]


# ------------------------------------------------------------------- batches
def test_an_epoch_is_whole_batches_of_distinct_images() -> None:
    """⌊N/B⌋ batches of B images, each image at most once. The omitted images change from epoch to epoch."""
    recorder = Recorder()
    engine = plain_trainer(recorder)
    assert (engine.steps, engine.images_per_epoch) == (5, 100)
    epochs = []
    for _ in range(6):
        engine.run_epoch()
        assert [len(batch.y_B) for batch in recorder.batches] == [B] * 5
        epochs.append(recorder.pop_rows())
        assert len(set(epochs[-1])) == 100
    assert len({tuple(rows) for rows in epochs}) == 6
    assert set().union(*epochs) == set(range(N))


def test_labels_and_maps_follow_their_images() -> None:
    """Image n has the label n mod 10 and the method's target of its seed's map n, or no map."""
    recorder = Recorder()
    maps = {seed: torch.arange(N).view(N, 1, 1, 1).expand(N, *SHAPE) + 1000.0 * seed for seed in (1, 2)}
    plain_trainer(recorder, seeds=(1, 2), guidance=Guidance(maps, lambda raw: raw + 0.5)).run_epoch()
    labels = torch.cat([batch.y_B for batch in recorder.batches]).tolist()
    targets = [map_CHW[0, 0, 0].item() for batch in recorder.batches for map_CHW in batch.target_BCHW]
    rows = recorder.pop_rows()
    assert labels == [n % 10 for n in rows]
    assert targets == [n + 0.5 + 1000 * seed for seed, n in zip([1] * 100 + [2] * 100, rows, strict=True)]
    plain_trainer(recorder).run_epoch()
    assert all(batch.target_BCHW is None for batch in recorder.batches)


def test_redrawn_maps_are_permuted_in_every_epoch_before_the_methods_threshold() -> None:
    """Each map keeps its values. Their order depends on seed and epoch."""
    recorder = Recorder()
    raw = torch.arange(N * 64.0).view(N, *SHAPE).half()
    guidance = Guidance({0: raw}, lambda raw_BCHW: raw_BCHW.clamp(min=5.0), redraw=True)
    targets = []
    for engine in (plain_trainer(recorder, guidance=guidance), plain_trainer(recorder, guidance=guidance)):
        for _ in range(2):
            engine.run_epoch()
            maps = torch.cat([batch.target_BCHW for batch in recorder.batches])
            targets.append(maps[torch.tensor(recorder.pop_rows()).argsort()])
    assert targets[0].dtype == torch.float32
    assert torch.equal(targets[0], targets[2])
    assert torch.equal(targets[1], targets[3])
    assert targets[0].flatten(1).sort(1).values[0].tolist() == raw[0].flatten().clamp(min=5.0).tolist()
    assert not torch.equal(targets[0], targets[1])


def test_augmentation_moves_images_together_with_their_targets() -> None:
    """The target is computed before it moves, so a threshold sees the mean and std of the whole map."""
    recorder, settings, x_NCHW = Recorder(), Augment(flip=True, crop=2), images("cpu").train.x_NCHW
    guidance = Guidance({0: x_NCHW}, lambda raw_BCHW: saliency.threshold(raw_BCHW, 0.5))
    plain_trainer(recorder, guidance=guidance, augment=settings).run_epoch()
    stream = torch.Generator().manual_seed(seeding.number(0, "augmentation", 0))
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seeding.number(0, "order", 0)))
    for step, batch in enumerate(recorder.batches):
        x_BCHW = x_NCHW[order[step * B : (step + 1) * B]]
        moved = augment(x_BCHW, saliency.threshold(x_BCHW, 0.5), settings, generator=stream)
        assert torch.equal(batch.x_BCHW, moved[0])
        assert torch.equal(batch.target_BCHW, moved[1])


def test_a_batch_is_linearized_once() -> None:
    """All terms of a loss share one forward, and so one dropout mask."""
    model = plain_trainer(model="mnist_cnn").replicas[0].model
    batch = Batch(images("cpu").train.x_NCHW[:B], torch.zeros(B, dtype=torch.long), None, torch.Generator())
    (z_BK, adjoint), again = batch.linearize(model), batch.linearize(model)
    assert z_BK is again[0]
    assert adjoint is again[1]


def test_too_few_images_for_a_batch_are_refused() -> None:
    """Nothing would be trained, and every loss would be zero."""
    with pytest.raises(ValueError, match=r"^training\.batch_size: .*104 images, but there are 103"):
        plain_trainer(batch_size=N + 1)


# --------------------------------------------------------- updates and streams
def test_weights_move_by_the_momentum_formula() -> None:
    """A loss Σw has the gradient 1: v ← μv + 1, w ← w − lr_e·v, T steps per epoch; v persists between epochs."""
    engine = plain_trainer(lambda model, _: {"sum": weights_of(model).sum()}, lr=0.1, lr_decay=0.1, decay_every=1)
    before = weights_of(engine.replicas[0].model).detach().clone()
    velocity = moved = 0.0
    for lr in (0.1, 0.01):
        for _ in range(T):
            velocity = 0.9 * velocity + 1
            moved += lr * velocity
        engine.run_epoch()
    torch.testing.assert_close(weights_of(engine.replicas[0].model).detach(), before - moved)


@pytest.mark.parametrize("purpose", STREAMS)
def test_streams_differ_by_purpose_epoch_and_seed(purpose: str) -> None:
    """Each (seed, purpose, epoch) has its own stream, which restarts with its epoch."""
    first, second = plain_trainer(seeds=(0, 1)).replicas
    draws = []
    for replica, epoch in ((first, 0), (first, 1), (second, 0), (first, 0)):
        replica.begin_epoch(epoch, lr=0.1)
        draws.append(torch.rand(4, generator=replica.streams[purpose]).tolist())
    others = [torch.rand(4, generator=first.streams[other]).tolist() for other in STREAMS]
    assert draws[0] == draws[3]
    assert len({tuple(draw) for draw in draws}) == 3
    assert len({tuple(draw) for draw in others}) == len(STREAMS)


def test_a_foreign_state_is_refused() -> None:
    """The weights of another seed are not this seed's."""
    with pytest.raises(KeyError, match="0/model"):
        plain_trainer(seeds=(0,)).load_state(plain_trainer(seeds=(1,)).state(), 1)
