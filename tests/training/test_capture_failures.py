"""An engine with a diverged seed, or with steps that cannot be captured. See ``engines``."""

import warnings
from collections.abc import Mapping

import pytest
import torch
from helpers.contract import Make
from helpers.engines import DEVICE, T, assert_same_bits, drawing, on_a_gpu, plain_trainer, train, trainer, without_a_gpu
from helpers.user_networks import OwnBatchNorm
from torch import Tensor, nn
from torch.nn import functional

from tune_interpreg import registry
from tune_interpreg.training.capture import Engine
from tune_interpreg.training.trainer import Batch, Diverged, Terms


# ------------------------------------------------------------- diverged seeds
def test_a_diverged_seed_is_named_and_changes_no_bit_of_the_others() -> None:
    """The training ends when no seed is left."""
    divisor_S = torch.ones(3, device=DEVICE)

    def terms(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        (place,) = (place for place, replica in enumerate(together.replicas) if replica.model is model)
        losses = drawing(model, batch)
        return {**losses, "ce": losses["ce"] / divisor_S[place]}

    together = trainer(3, 5, 7, terms=terms)
    epochs = train(together, 1)
    divisor_S[1] = 0
    epochs += train(together, 2)
    assert [means.keys() for means in epochs] == [{3, 5, 7}, {3, 7}, {3, 7}]
    assert together.diverged == {5: f"the term ce was inf in epoch 2 (seed 5), step 1 of {T}"}
    assert [replica.seed for replica in together.finite_replicas] == [3, 7]
    for seed in (3, 7):
        alone = trainer(seed)
        assert [means[seed] for means in train(alone, 3)] == [means[seed] for means in epochs]
        assert_same_bits(alone.state(), {name: together.state()[name] for name in alone.state()})
    divisor_S.zero_()
    with pytest.raises(
        Diverged, match=r"in epoch 2 \(seed 5\).*; .* in epoch 4 \(seed 3\).*; .* in epoch 4 \(seed 7\)"
    ):
        together.run_epoch()


# ---------------------------------------------- steps that cannot be captured
@without_a_gpu
def test_without_a_capture_steps_run_one_by_one(make: Make) -> None:
    """The training has the same bits, and the user is warned once, with the method and the reason."""
    plain, tried = make("adversarial"), make("adversarial")
    tried.trainer.engine = Engine(tried.trainer.engine.lanes, torch.device("cuda"), capture=True)
    streams = tried.trainer.replicas[0].streams
    with pytest.warns(UserWarning, match="method AdversarialTrainable: "):
        tried.step()
    assert "capture.py:" in tried.trainer.engine.reason
    assert tried.warning.count("\n") == 0
    assert tried.trainer.replicas[0].streams is not streams
    plain.step()
    tried.step()
    plain.step()
    assert_same_bits(tried.trainer.state(), plain.trainer.state())


def test_steps_that_replace_a_buffer_run_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay would start from the same value of the buffer in each step. The training has the same bits."""
    monkeypatch.setattr(registry, "resolve", lambda group, name: lambda shape, classes: OwnBatchNorm())
    plain, tried = (plain_trainer(model="replaces a buffer") for _ in range(2))

    def rehearse() -> bool:
        tried.engine.lanes[0].advance()
        tried.engine._graph = object()
        return True

    with monkeypatch.context() as patch:
        patch.setattr(tried.engine, "prepare", rehearse)
        assert train(tried, 1) == train(plain, 1)
    assert not tried.engine.captured
    assert tried.engine.reason == "a step replaces the tensor 0/model/average instead of changing it in place"
    assert train(tried, 1) == train(plain, 1)
    assert_same_bits(tried.state(), plain.state())


def globally(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    """Draw from a global generator."""
    return {name: functional.dropout(term) for name, term in drawing(model, batch).items()}


@on_a_gpu
def test_steps_that_draw_from_a_global_generator_run_one_by_one() -> None:
    """In a graph, the seeds would share it. Each has the same bits together with others as alone."""
    together, alone = trainer(1, 2, terms=globally), trainer(2, terms=globally)
    assert [means[2] for means in train(together, 2)] == [means[2] for means in train(alone, 2)]
    assert not together.engine.captured
    assert "draws from a global random generator" in together.engine.reason


def reading(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    """Read a number back."""
    losses = drawing(model, batch)
    return losses if losses["ce"].item() > 0 else {}


def waiting(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    """Wait for the GPU in a way that a rehearsal may miss."""
    torch.cuda.synchronize()
    return drawing(model, batch)


@on_a_gpu
@pytest.mark.parametrize("terms", [reading, waiting])
def test_a_method_that_waits_for_the_gpu_trains_uncaptured(terms: Terms) -> None:
    """The bits are the same, the reason names the line, and later captures of the process work."""
    engine, plain = trainer(1, 2, terms=terms), trainer(1, 2, capture=False)
    assert train(engine, 2) == train(plain, 2)
    assert_same_bits(engine.state(), plain.state())
    assert not engine.engine.captured
    assert "test_capture_failures.py:" in engine.engine.reason
    later = trainer(1, 2)
    assert train(later, 2) == train(trainer(1, 2, capture=False), 2)
    assert later.engine.captured


@on_a_gpu
def test_a_replayed_epoch_never_waits() -> None:
    engine = trainer(1, 2)
    engine.run_epoch()
    engine._begin_epoch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("error")
    try:
        engine.engine.run(T)
    finally:
        torch.cuda.set_sync_debug_mode("default")
