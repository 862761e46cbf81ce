"""The engine against closed forms: orders, rates, means, streams, checkpoints. The methods are tested in test_methods.

Shapes: B batch, N training images, C·H·W image.
"""

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tune_interpreg import seeding
from tune_interpreg.data.augmentation import augment
from tune_interpreg.data.dataset import Dataset, Split
from tune_interpreg.gradients import saliency
from tune_interpreg.study.config import Augment, Model, Training
from tune_interpreg.training.trainer import STREAMS, Batch, Diverged, Guidance, Terms, Trainer

N, B = 103, 20
SHAPE = (1, 8, 8)
TRAINING = Training(epochs=3, batch_size=B, lr=0.05, momentum=0.9)


def images() -> Dataset:
    """Image n has the pixel n/(N − 1) in its corner, and the label n mod 10."""
    x_NCHW = torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(0))
    x_NCHW[:, 0, 0, 0] = torch.arange(N) / (N - 1)
    split = Split(x_NCHW, torch.arange(N) % 10)
    return Dataset(split, split, classes=10, shape=SHAPE, fingerprint="")


def cross_entropy(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    return {"ce": F.cross_entropy(model(batch.x_BCHW), batch.y_B)}


def trainer(
    terms: Terms = cross_entropy,
    *,
    seeds: tuple[int, ...] = (0,),
    training: Training = TRAINING,
    model: str = "digits_cnn",
    data: Dataset | None = None,
    guidance: Guidance | None = None,
) -> Trainer:
    return Trainer(
        model=Model(name=model),
        training=training,
        data=data or images(),
        terms=terms,
        seeds=seeds,
        guidance=guidance,
    )


class Seen:
    """Cross-entropy that notes its batches."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def __call__(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        self.batches.append(batch)
        return cross_entropy(model, batch)

    def rows(self) -> list[int]:
        """Which images were seen, in order; forgets them."""
        x_NCHW = torch.cat([batch.x_BCHW for batch in self.batches])
        self.batches.clear()
        return [round(n) for n in (x_NCHW[:, 0, 0, 0] * (N - 1)).tolist()]


def copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


def assert_same_bits(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_an_epoch_is_whole_batches_of_distinct_images() -> None:
    """⌊N/B⌋ batches of B images, each image at most once; which are left out changes from epoch to epoch."""
    seen = Seen()
    engine = trainer(seen)
    assert (engine.steps, engine.images) == (5, 100)
    epochs = []
    for _ in range(6):
        engine.run_epoch()
        assert [len(batch.y_B) for batch in seen.batches] == [B] * 5
        epochs.append(seen.rows())
        assert len(set(epochs[-1])) == 100
    assert len({tuple(rows) for rows in epochs}) == 6
    assert set().union(*epochs) == set(range(N))


def test_labels_and_maps_follow_their_images() -> None:
    """Image n comes with the label n mod 10 and with what the method makes of its seed's map n, or with no map."""
    seen = Seen()
    maps = {seed: torch.arange(N).view(N, 1, 1, 1).expand(N, *SHAPE) + 1000.0 * seed for seed in (1, 2)}
    trainer(seen, seeds=(1, 2), guidance=Guidance(maps, lambda raw: raw + 0.5)).run_epoch()
    labels = torch.cat([batch.y_B for batch in seen.batches]).tolist()
    mapped = [map_CHW[0, 0, 0].item() for batch in seen.batches for map_CHW in batch.target_BCHW]
    rows = seen.rows()
    assert labels == [n % 10 for n in rows]
    assert mapped == [n + 0.5 + 1000 * seed for seed, n in zip([1] * 100 + [2] * 100, rows, strict=True)]
    trainer(seen).run_epoch()
    assert all(batch.target_BCHW is None for batch in seen.batches)


def test_redrawn_maps_are_permuted_anew_in_every_epoch_before_the_threshold_of_the_method() -> None:
    """Each map keeps its values; its order is another one each time, the same for the same seed and epoch."""
    seen = Seen()
    raw = torch.arange(N * 64.0).view(N, *SHAPE).half()
    guidance = Guidance({0: raw}, lambda raw_BCHW: raw_BCHW.clamp(min=5.0), redraw=True)
    drawn = []
    for engine in (trainer(seen, guidance=guidance), trainer(seen, guidance=guidance)):
        for _ in range(2):
            engine.run_epoch()
            maps = torch.cat([batch.target_BCHW for batch in seen.batches])
            drawn.append(maps[torch.tensor(seen.rows()).argsort()])
    assert drawn[0].dtype == torch.float32
    assert torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[1], drawn[3])
    assert drawn[0].flatten(1).sort(1).values[0].tolist() == raw[0].flatten().clamp(min=5.0).tolist()
    assert not torch.equal(drawn[0], drawn[1])


def test_augmentation_moves_images_and_what_the_method_made_of_their_maps_alike() -> None:
    """The target is made first and then moved: a threshold's mean and std are those of the whole map."""
    seen, settings = Seen(), Augment(flip=True, crop=2)
    data = images()
    guidance = Guidance({0: data.train.x_NCHW}, lambda raw_BCHW: saliency.threshold(raw_BCHW, 0.5))
    engine = trainer(seen, data=data, guidance=guidance, training=TRAINING.model_copy(update={"augment": settings}))
    engine.run_epoch()
    stream = torch.Generator().manual_seed(seeding.number(0, "augmentation", 0))
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seeding.number(0, "order", 0)))
    for step, batch in enumerate(seen.batches):
        x_BCHW = data.train.x_NCHW[order[step * B : (step + 1) * B]]
        moved = augment(x_BCHW, saliency.threshold(x_BCHW, 0.5), settings, generator=stream)
        assert torch.equal(batch.x_BCHW, moved[0])
        assert torch.equal(batch.target_BCHW, moved[1])


def test_a_batch_is_linearized_once() -> None:
    """All terms of a loss share one forward, and with it one dropout mask."""
    model = trainer(model="mnist_cnn").replicas[0].model
    batch = Batch(images().train.x_NCHW[:B], torch.zeros(B, dtype=torch.long), None, torch.Generator())
    (z_BK, adjoint), again = batch.linearize(model), batch.linearize(model)
    assert z_BK is again[0]
    assert adjoint is again[1]


def test_bytes_are_trained_on_as_pixels() -> None:
    """uint8 images reach the method as float32 in [0, 1]."""
    seen, float_images = Seen(), images()
    split = Split((255 * float_images.train.x_NCHW).to(torch.uint8), float_images.train.y_N)
    trainer(seen, data=Dataset(split, split, 10, SHAPE, "")).run_epoch()
    x_NCHW = torch.cat([batch.x_BCHW for batch in seen.batches])
    assert x_NCHW.dtype == torch.float32
    assert 0.9 < x_NCHW.max() <= 1


def test_the_rate_falls_along_half_a_cosine() -> None:
    """In epoch e (from 0) of E the rate is lr·(1 + cos(πe/E))/2."""
    engine = trainer(training=TRAINING.model_copy(update={"lr": 0.08, "schedule": "cosine", "epochs": 4}))
    for expected in (0.08, 0.04 * (1 + 0.5**0.5), 0.04, 0.04 * (1 - 0.5**0.5)):
        assert engine.lr == pytest.approx(expected)
        engine.run_epoch()
        assert engine.replicas[0].optimizer.param_groups[0]["lr"] == pytest.approx(expected)


def test_the_rate_falls_by_steps() -> None:
    """In epoch e (from 0) the rate is lr · decay^⌊e/every⌋."""
    engine = trainer(training=TRAINING.model_copy(update={"lr": 0.08, "lr_decay": 0.5, "decay_every": 2}))
    for expected in (0.08, 0.08, 0.04, 0.04, 0.02):
        assert engine.lr == pytest.approx(expected)
        engine.run_epoch()
        assert engine.replicas[0].optimizer.param_groups[0]["lr"] == pytest.approx(expected)


def test_weights_move_as_momentum_says() -> None:
    """A loss Σw has the gradient 1: v ← μv + 1, w ← w − lr_e·v, five steps an epoch, v kept between epochs."""
    training = TRAINING.model_copy(update={"lr": 0.1, "lr_decay": 0.1, "decay_every": 1})
    engine = trainer(lambda model, _: {"sum": sum(w.sum() for w in model.parameters())}, training=training)
    before = torch.cat([w.detach().flatten().clone() for w in engine.replicas[0].model.parameters()])
    velocity = moved = 0.0
    for lr in (0.1, 0.01):
        for _ in range(5):
            velocity = 0.9 * velocity + 1
            moved += lr * velocity
        engine.run_epoch()
    after = torch.cat([w.detach().flatten() for w in engine.replicas[0].model.parameters()])
    torch.testing.assert_close(after, before - moved)


def test_an_epoch_reports_the_means_of_its_terms() -> None:
    """Each term's mean over the steps, and their sum as the loss."""
    said: dict[str, list[float]] = {"ce": [], "half": []}

    def terms(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        ce = cross_entropy(model, batch)["ce"]
        said["ce"].append(ce.item())
        said["half"].append(ce.item() / 2)
        return {"ce": ce, "half": ce / 2}

    means = trainer(terms, seeds=(4,)).run_epoch()[4]
    expected = {name: sum(values) / 5 for name, values in said.items()}
    assert means == pytest.approx(expected | {"loss": sum(expected.values())})


def test_training_learns() -> None:
    """Ten epochs on labels that the corner pixel does not give away still lower the loss."""
    engine = trainer()
    losses = [engine.run_epoch()[0]["loss"] for _ in range(10)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("term", ["ce", "penalty"])
def test_divergence_is_told_with_epoch_term_and_seed(term: str) -> None:
    """A term that is no finite number ends the training, whatever the others are."""

    def terms(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        ce = cross_entropy(model, batch)["ce"]
        return {"ce": ce} if term == "ce" else {"ce": torch.zeros(()), "penalty": ce}

    engine = trainer(terms, seeds=(7,), training=TRAINING.model_copy(update={"lr": 1e6}))
    with pytest.raises(Diverged, match=rf"the term {term} was (nan|inf) in epoch 1 \(seed 7\)"):
        engine.run_epoch()
    assert engine.epoch == 0


def test_divergence_in_a_later_epoch_names_it() -> None:
    """Epochs count from 1, as TensorBoard shows them."""
    scale = torch.ones(())
    engine = trainer(lambda model, batch: {"ce": cross_entropy(model, batch)["ce"] / scale})
    engine.run_epoch()
    scale.zero_()
    with pytest.raises(Diverged, match=r"the term ce was (nan|inf) in epoch 2 \(seed 0\)"):
        engine.run_epoch()


def test_too_few_images_for_a_batch_are_refused() -> None:
    """Nothing would be trained, and every loss would be zero."""
    with pytest.raises(ValueError, match="a batch takes 104 images, but there are 103 to train on; lower it"):
        trainer(training=TRAINING.model_copy(update={"batch_size": N + 1}))


def noisy(draws: int) -> Terms:
    """Cross-entropy after ``draws`` unused draws of the method's own generator."""

    def terms(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        torch.rand(draws, generator=batch.noise)
        return cross_entropy(model, batch)

    return terms


def test_a_methods_draws_move_neither_order_nor_dropout() -> None:
    """Each purpose has its own generator: however much a method draws, the weights are the same bits."""
    few, many = trainer(noisy(0), model="mnist_cnn"), trainer(noisy(1000), model="mnist_cnn")
    for _ in range(2):
        assert few.run_epoch() == many.run_epoch()
    assert_same_bits(few.state(), many.state())


@pytest.mark.parametrize("purpose", STREAMS)
def test_streams_differ_by_purpose_epoch_and_seed(purpose: str) -> None:
    """Each (seed, purpose, epoch) has a stream of its own, which begins anew with its epoch."""
    first, second = trainer(seeds=(0, 1)).replicas
    draws = []
    for replica, epoch in ((first, 0), (first, 1), (second, 0), (first, 0)):
        replica.begin(epoch, lr=0.1)
        draws.append(torch.rand(4, generator=replica.streams[purpose]).tolist())
    others = [torch.rand(4, generator=first.streams[other]).tolist() for other in STREAMS]
    assert draws[0] == draws[3]
    assert len({tuple(draw) for draw in draws}) == 3
    assert len({tuple(draw) for draw in others}) == len(STREAMS)


def test_seeds_train_together_as_they_train_alone() -> None:
    """Neither the weights nor the metrics of a seed depend on the seeds beside it."""
    together = trainer(seeds=(3, 5), model="mnist_cnn")
    alone = {seed: trainer(seeds=(seed,), model="mnist_cnn") for seed in (3, 5)}
    for _ in range(2):
        assert together.run_epoch() == {seed: one.run_epoch()[seed] for seed, one in alone.items()}
    assert_same_bits(together.state(), alone[3].state() | alone[5].state())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_an_interrupted_training_has_the_bits_of_an_uninterrupted_one(momentum: float) -> None:
    """State after 1 epoch → another engine → 2 more epochs = 3 epochs."""
    training = TRAINING.model_copy(update={"momentum": momentum})
    whole, first, rest = (trainer(seeds=(0, 1), training=training, model="mnist_cnn") for _ in range(3))
    first.run_epoch()
    whole.run_epoch()
    rest.load_state(copied(first.state()), first.epoch)
    for _ in range(2):
        assert rest.run_epoch() == whole.run_epoch()
    assert_same_bits(rest.state(), whole.state())


def test_a_foreign_state_is_refused() -> None:
    """The weights of another seed are not this seed's."""
    with pytest.raises(KeyError, match="0/model"):
        trainer(seeds=(0,)).load_state(trainer(seeds=(1,)).state(), 1)
