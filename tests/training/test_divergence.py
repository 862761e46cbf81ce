"""Diverged trainings report the epoch, the step, the seed, and the term, gradient or weight.

A marked image spoils the step that draws it, so a closed form of the order predicts this step.
Shapes: B batch, T steps of an epoch, N training images, C·H·W image.
"""

import math
import re
from collections.abc import Mapping

import pytest
import torch
from helpers.engines import B, N, T, plain_trainer, train, weights_of
from torch import Tensor, nn
from torch.nn import functional

from tune_interpreg import seeding
from tune_interpreg.training.trainer import Batch, Diverged, Trainer

MARKED = N - 1


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(batch.x_BCHW), batch.y_B)


def is_marked(batch: Batch) -> Tensor:
    """Return whether the batch holds the marked image, the only one with a white corner."""
    return (batch.x_BCHW[:, 0, 0, 0] == 1).any()


def marked_step(seed: int, epoch: int) -> int | None:
    """Return the step of the epoch, from 1, that draws the marked image; None if none does."""
    stream = torch.Generator().manual_seed(seeding.number(seed, "order", epoch))
    position = torch.randperm(N, generator=stream).tolist().index(MARKED)
    return position // B + 1 if position < T * B else None


def first_marked_place(seed: int) -> str:
    epoch = next(epoch for epoch in range(9) if marked_step(seed, epoch))
    return f"in epoch {epoch + 1} (seed {seed}), step {marked_step(seed, epoch)} of {T}"


def divergence_of(engine: Trainer) -> str:
    """Return the message of the first epoch that diverges."""
    with pytest.raises(Diverged) as raised:
        train(engine, epochs=9)
    return str(raised.value)


@pytest.mark.parametrize(("seed", "value"), [(0, "nan"), (1, "inf"), (0, "-inf")])
def test_the_step_and_the_term_of_a_non_finite_loss_are_named(seed: int, value: str) -> None:
    """The cross-entropy of the next step suffers too, but later."""

    def terms(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        spoilt = torch.where(is_marked(batch), float(value), 0.0)
        return {"ce": cross_entropy(model, batch), "penalty": weights_of(model).square().sum() + spoilt}

    engine = plain_trainer(terms, seeds=(seed,))
    assert divergence_of(engine) == f"the term penalty was {value} {first_marked_place(seed)}"


def test_the_term_of_a_non_finite_gradient_is_named_with_its_value() -> None:
    """At √0 the value is 0 and the gradient is nan."""

    def terms(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        norm = (weights_of(model).square().sum() * torch.where(is_marked(batch), 0.0, 1.0)).sqrt()
        return {"ce": cross_entropy(model, batch), "constant": torch.ones(()), "norm": 0.1 * norm}

    expected = f"the gradient of the term norm = 0 was nan {first_marked_place(1)}"
    assert divergence_of(plain_trainer(terms, seeds=(1,))) == expected


def test_gradients_that_only_overflow_in_sum_are_attributed_to_the_loss() -> None:
    """float32 holds 2·10³⁸, but not twice that."""

    def terms(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        steep = 2e38 * (weights_of(model)[0] - weights_of(model)[0].detach())
        return {"one": steep, "other": steep}

    expected = f"the gradient of the loss, but of no single term, was inf in epoch 1 (seed 0), step 1 of {T}"
    assert divergence_of(plain_trainer(terms)) == expected


def test_an_update_that_overflows_in_the_last_step_ends_the_epoch() -> None:
    """No later term shows it, so the weights are checked, too."""
    seed = next(seed for seed in range(99) if marked_step(seed, 0) == T)

    def terms(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        change = weights_of(model)[0] - weights_of(model)[0].detach()
        return {"ce": cross_entropy(model, batch), "steep": change * torch.where(is_marked(batch), 1e38, 0.0)}

    engine = plain_trainer(terms, seeds=(seed,), lr=1e3)
    (first, *_) = dict(engine.replicas[0].model.named_parameters())
    assert divergence_of(engine) == f"{first} was -inf after the update in epoch 1 (seed {seed}), step 5 of 5"
    assert engine.epoch == 0


def test_the_repeated_epoch_takes_the_same_course() -> None:
    """With dropout, too. The reported step is the first faulty one of the original epoch."""
    values: list[float] = []

    def terms(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        ce = cross_entropy(model, batch)
        values.append(ce.item())
        return {"ce": ce}

    message = divergence_of(plain_trainer(terms, lr=1e6, model="mnist_cnn"))
    wrong = next(index for index, value in enumerate(values) if not math.isfinite(value))
    repeated = values[(wrong // T + 1) * T :]
    step = int(re.findall(r"step (\d) of 5", message)[0])
    assert str(repeated) == str(values[wrong // T * T :][: len(repeated)])
    assert len(repeated) == step
    assert f"in epoch {wrong // T + 1} (seed 0)" in message
    assert step == wrong % T + 1 if "the term" in message else step <= wrong % T + 1


def test_a_fault_that_does_not_recur_is_reported_without_a_step() -> None:
    """A method with its own counter is not deterministic. Its epoch still ends as diverged."""
    calls: list[None] = []

    def terms(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        calls.append(None)
        return {"ce": cross_entropy(model, batch) + (math.nan if len(calls) == 3 else 0.0)}

    message = divergence_of(plain_trainer(terms))
    assert message.startswith("the mean of the term ce was nan in epoch 1 (seed 0); no step showed it")
