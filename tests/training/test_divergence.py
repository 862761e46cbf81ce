"""Trainings that diverge say where: the epoch, the step, the seed, and the term, gradient or weight.

A marked image spoils the step that draws it, so a closed form of the order tells which step that is.
Shapes: B batch, N training images, C·H·W image.
"""

import math
import re
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tune_interpreg import seeding
from tune_interpreg.data.dataset import Dataset, Split
from tune_interpreg.study.config import Model, Training
from tune_interpreg.training import divergence
from tune_interpreg.training.trainer import Batch, Diverged, Terms, Trainer

N, B, STEPS = 103, 20, 5
MARKED = 37


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch.x_BCHW), batch.y_B)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([weight.flatten() for weight in model.parameters()])


def is_marked(batch: Batch) -> Tensor:
    """Whether the batch holds the marked image, the only one with a white corner."""
    return (batch.x_BCHW[:, 0, 0, 0] == 1).any()


def trainer(terms: Terms, *, seeds: tuple[int, ...] = (0,), lr: float = 0.05, model: str = "digits_cnn") -> Trainer:
    x_NCHW = torch.rand(N, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.9
    x_NCHW[MARKED, 0, 0, 0] = 1
    split = Split(x_NCHW, torch.arange(N) % 10)
    return Trainer(
        model=Model(name=model),
        training=Training(epochs=9, batch_size=B, lr=lr, momentum=0.9),
        data=Dataset(split, split, classes=10, shape=(1, 8, 8), fingerprint=""),
        terms=terms,
        seeds=seeds,
    )


def marked_step(seed: int, epoch: int) -> int | None:
    """Which step of the epoch, from 1, draws the marked image; None where the epoch leaves it out."""
    stream = torch.Generator().manual_seed(seeding.number(seed, "order", epoch))
    order = torch.randperm(N, generator=stream).tolist()
    return order.index(MARKED) // B + 1 if order.index(MARKED) < STEPS * B else None


def trained(engine: Trainer, epochs: int) -> Trainer:
    for _ in range(epochs):
        engine.run_epoch()
    return engine


def told(engine: Trainer) -> str:
    """What the first epoch that diverges says."""
    with pytest.raises(Diverged) as caught:
        trained(engine, epochs=9)
    return str(caught.value)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_the_step_and_the_term_of_a_loss_that_is_not_finite_are_named(seed: int, value: str) -> None:
    """The penalty is spoilt by one image; the cross-entropy of the next step suffers too, but comes later."""

    def terms(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        spoilt = torch.where(is_marked(batch), float(value), 0.0)
        return {"ce": cross_entropy(model, batch), "penalty": weights(model).square().sum() + spoilt}

    epoch = next(epoch for epoch in range(9) if marked_step(seed, epoch))
    place = f"in epoch {epoch + 1} (seed {seed}), step {marked_step(seed, epoch)} of {STEPS}"
    assert told(trainer(terms, seeds=(seed,))) == f"the term penalty was {value} {place}"


@pytest.mark.parametrize("seed", [0, 1])
def test_the_term_whose_gradient_is_not_finite_is_named_with_its_value(seed: int) -> None:
    """At √0 the value is 0 and the gradient is not a number, whatever it is multiplied by."""

    def terms(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        norm = (weights(model).square().sum() * torch.where(is_marked(batch), 0.0, 1.0)).sqrt()
        return {"ce": cross_entropy(model, batch), "constant": torch.ones(()), "norm": 0.1 * norm}

    epoch = next(epoch for epoch in range(9) if marked_step(seed, epoch))
    place = f"in epoch {epoch + 1} (seed {seed}), step {marked_step(seed, epoch)} of {STEPS}"
    expected = f"the gradient of the term norm was nan {place}; its value was 0"
    assert told(trainer(terms, seeds=(seed,))) == expected


def test_gradients_that_overflow_together_are_the_losses() -> None:
    """2·10³⁸ twice is more than float32 holds, though each term's gradient is held."""

    def terms(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        steep = 2e38 * (weights(model)[0] - weights(model)[0].detach())
        return {"one": steep, "other": steep}

    place = re.escape(f"in epoch 1 (seed 0), step 1 of {STEPS}")
    assert re.fullmatch(f"the gradient of the loss was inf {place}; that of each term was finite", told(trainer(terms)))


def test_an_update_that_overflows_in_the_last_step_ends_the_epoch() -> None:
    """No term shows it, for none is computed after it: the weights are looked at too."""
    seed = next(seed for seed in range(99) if marked_step(seed, 0) == STEPS)

    def terms(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        change = weights(model)[0] - weights(model)[0].detach()
        return {"ce": cross_entropy(model, batch), "steep": change * torch.where(is_marked(batch), 1e38, 0.0)}

    engine = trainer(terms, seeds=(seed,), lr=1e3)
    (first, *_) = dict(engine.replicas[0].model.named_parameters())
    assert told(engine) == f"{first} was -inf after the update in epoch 1 (seed {seed}), step 5 of 5"
    assert engine.epoch == 0


@pytest.mark.parametrize("model", ["digits_cnn", "mnist_cnn"])
def test_the_step_named_is_the_first_that_the_training_itself_saw(model: str) -> None:
    """Trained again, with its dropout, the epoch takes the same course."""
    seen: list[float] = []

    def terms(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        ce = cross_entropy(model, batch)
        seen.append(ce.item())
        return {"ce": ce}

    said = told(trainer(terms, lr=1e6, model=model))
    wrong = next(index for index, value in enumerate(seen) if not math.isfinite(value))
    again = seen[(wrong // STEPS + 1) * STEPS :]
    step = int(re.findall(r"step (\d) of 5", said)[0])
    assert str(again) == str(seen[wrong // STEPS * STEPS :][: len(again)])
    assert len(again) == step
    assert f"in epoch {wrong // STEPS + 1} (seed 0)" in said
    assert step == wrong % STEPS + 1 if "the term" in said else step <= wrong % STEPS + 1


def test_only_the_seed_that_diverged_is_trained_again() -> None:
    """Of three seeds side by side the second has no number: it alone is named and looked at."""
    calls: list[int] = []
    engine: Trainer

    def terms(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        (seed,) = (replica.seed for replica in engine.replicas if replica.model is model)
        calls.append(seed)
        return {"ce": cross_entropy(model, batch) / (seed != 5)}

    engine = trainer(terms, seeds=(3, 5, 7))
    assert engine.run_epoch().keys() == {3, 7}
    assert engine.diverged == {5: f"the term ce was inf in epoch 1 (seed 5), step 1 of {STEPS}"}
    assert calls == [3] * STEPS + [5] * STEPS + [7] * STEPS + [5]


def test_an_interrupted_training_diverges_with_the_same_words() -> None:
    """Weights that grow tenfold a step overflow after epochs; the step is found wherever the training is taken up."""

    def terms(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return {"ce": 1e-30 * cross_entropy(model, batch), "reward": -100 * weights(model).square().sum()}

    whole, first, rest = (trainer(terms) for _ in range(3))
    said = told(whole)
    assert whole.epoch > 0
    before = trained(first, whole.epoch).state()
    rest.load_state({name: tensor.clone() for name, tensor in before.items()}, first.epoch)
    assert told(rest) == said


def test_what_does_not_come_again_is_told_all_the_same() -> None:
    """A method that keeps count beside its batch is not deterministic; the epoch still ends as diverged."""
    calls: list[None] = []

    def terms(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        calls.append(None)
        return {"ce": cross_entropy(model, batch) + (math.nan if len(calls) == 3 else 0.0)}

    expected = "the mean of the term ce was nan in epoch 1 (seed 0); no step showed it when trained again"
    assert told(trainer(terms)) == expected


def test_a_training_that_stays_finite_has_no_fault() -> None:
    model = nn.Linear(2, 1)
    losses = ({"one": model(torch.ones(1, 2)).sum().square()} for _ in range(3))
    assert divergence.first_fault(losses, model, torch.optim.SGD(model.parameters(), lr=0.01)) is None
    assert divergence.is_finite(model.parameters())
    assert not divergence.is_finite([torch.zeros(2), torch.tensor([0.0, math.nan])])
