"""What an engine does when a seed diverges or its steps cannot be captured; and what it tells GPUs. See ``engines``."""

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.contract import Make, making
from helpers.engines import DEVICE, TRAINING, T, assert_same_bits, drawing, on_a_gpu, trained, trainer, without_a_gpu
from torch import Tensor, nn

from tune_interpreg.training import device as gpu
from tune_interpreg.training.capture import Engine
from tune_interpreg.training.trainer import Batch, Diverged, Terms, Trainer


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    yield from making(tmp_path, monkeypatch)


# ------------------------------------------------------------------ a seed that diverges
def test_a_seed_without_a_number_changes_no_bit_of_the_others() -> None:
    """It is named with its step, and counts no more; the others' weights and means are those that they have alone."""
    kept: list[Trainer] = []
    broken = torch.ones((), device=DEVICE)

    def terms(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        own = dict(drawing(model, batch))
        return own | {"ce": own["ce"] / broken} if model is kept[0].replicas[1].model else own

    together = trainer(3, 5, 7, terms=terms)
    kept.append(together)
    alone = [trainer(seed) for seed in (3, 7)]
    found = [together.run_epoch()]
    broken.zero_()
    found += trained(together, 2)
    assert [one.keys() for one in found] == [{3, 5, 7}, {3, 7}, {3, 7}]
    assert together.diverged == {5: f"the term ce was inf in epoch 2 (seed 5), step 1 of {T}"}
    assert [replica.seed for replica in together.sound] == [3, 7]
    for one in alone:
        (seed,) = (replica.seed for replica in one.replicas)
        assert [means[seed] for means in trained(one, 3)] == [means[seed] for means in found]
        state = together.state()
        assert_same_bits(one.state(), {name: state[name] for name in one.state()})


def test_a_training_ends_where_no_seed_is_left() -> None:
    """Each is told, also those that diverged before."""
    broken = torch.ones(2, device=DEVICE)
    kept: list[Trainer] = []

    def terms(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        own = dict(drawing(model, batch))
        return own | {"ce": own["ce"] / broken[int(model is kept[0].replicas[1].model)]}

    kept.append(trainer(3, 5, terms=terms))
    broken[1] = 0
    assert kept[0].run_epoch().keys() == {3}
    broken[0] = 0
    with pytest.raises(Diverged, match=r"ce was inf in epoch 1 \(seed 5\), step 1 of 5; .* in epoch 2 \(seed 3\)"):
        kept[0].run_epoch()


# --------------------------------------------------------- steps that cannot be captured
@without_a_gpu
def test_where_no_capture_is_possible_steps_run_one_by_one(make: Make) -> None:
    """The training has the bits that it has anyway, and the user is told the method and the reason, once."""
    plain, tried = make("adversarial"), make("adversarial")
    tried.trainer.engine = Engine(tried.trainer.engine.lanes, torch.device("cuda"), capture=True)
    streams = tried.trainer.replicas[0].streams
    with pytest.warns(UserWarning, match="method AdversarialTrainable: its steps run one by one, because a GPU"):
        tried.step()
    assert "capture.py:" in tried.trainer.engine.reason
    assert tried.warning.count("\n") == 0
    assert tried.trainer.replicas[0].streams is not streams
    plain.step()
    tried.step()
    plain.step()
    assert_same_bits(tried.trainer.state(), plain.trainer.state())


def reading(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    """Reads a number back."""
    own = drawing(model, batch)
    return own if own["ce"].item() > 0 else {}


def waiting(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    """Waits for the GPU in a way that a rehearsal may not see."""
    torch.cuda.synchronize()
    return drawing(model, batch)


@on_a_gpu
@pytest.mark.parametrize("terms", [reading, waiting])
def test_a_method_that_waits_for_the_gpu_trains_uncaptured(terms: Terms) -> None:
    """With the same bits; the reason names the line; dropout and later captures of the process work as ever."""
    engine, plain = trainer(1, 2, terms=terms), trainer(1, 2, capture=False)
    assert trained(engine, 2) == trained(plain, 2)
    assert_same_bits(engine.state(), plain.state())
    assert not engine.engine.captured
    assert "test_capture_failures.py:" in engine.engine.reason
    later = trainer(1, 2)
    assert trained(later, 2) == trained(trainer(1, 2, capture=False), 2)
    assert later.engine.captured


@on_a_gpu
def test_a_replayed_epoch_never_waits() -> None:
    """Replays, and nothing else, between the first step and the last."""
    engine = trainer(1, 2)
    engine.run_epoch()
    engine._begin()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("error")
    try:
        engine.engine.run(T)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_a_gpu
def test_a_gpus_memory_is_told_for_each_seed(make: Make) -> None:
    """A plain trial's record holds it."""
    trainable = make("standard", device=DEVICE, seed=[0, 1], epochs=1)
    assert json.loads(trainable.step()["record"])["gpu_bytes_a_seed"] > 0


# ------------------------------------------------------------------------- precision
def test_a_study_says_how_gpus_multiply_and_evaluation_does_not_change() -> None:
    """Training in TF32 sets it for its epochs; before and after it is float32."""
    seen: list[str] = []

    def terms(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        conv: Any = torch.backends.cudnn
        seen.append(f"{torch.backends.cuda.matmul.fp32_precision} {conv.conv.fp32_precision}")
        return drawing(model, batch)

    gpu.exact()
    for matmul, expected in (("tf32", "tf32 tf32"), ("float32", "ieee ieee")):
        trained(trainer(1, terms=terms, training=TRAINING.model_copy(update={"matmul": matmul})), 1)
        assert set(seen) == {expected}
        seen.clear()
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
