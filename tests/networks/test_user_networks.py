"""The contract of users' networks: each kind trains as its builder made it, and is saved and repeated without loss."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
import torch
from helpers.engines import PLAIN, assert_same_bits, cross_entropy, images
from helpers.user_networks import CLASSES, KINDS, SHAPE, Mask, Net, OutsideOfTheStateDict
from safetensors.torch import load_model
from torch import nn

from trainables.base import checkpoint
from tune_interpreg import registry, seeding
from tune_interpreg.networks import weights
from tune_interpreg.networks.build import build
from tune_interpreg.networks.layers import Dropout
from tune_interpreg.networks.linearize import linearize
from tune_interpreg.study.config import Model
from tune_interpreg.training.trainer import Trainer

Train = Callable[..., Trainer]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Register the kind's builder under its name."""
    register(request.param, monkeypatch)
    name: str = request.param
    return name


def register(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "resolve", lambda group, name: lambda shape, classes: KINDS[name]())


def make(name: str, seed: int = 0, device: str = "cpu") -> nn.Module:
    return build(Model(name=name), SHAPE, CLASSES, seed, device)


def trainer(name: str, *seeds: int) -> Trainer:
    model = Model(name=name)
    return Trainer(model=model, training=PLAIN, data=images("cpu"), terms=cross_entropy, seeds=seeds or (0,))


def test_the_initial_tensors_are_those_of_the_builder(kind: str) -> None:
    """As if the user had called it with the global generators seeded. Dropout and conversion change no tensor."""
    with seeding.seeded(3, "init"):
        reference = KINDS[kind]()
        if kind == "lazy":
            with torch.no_grad():
                reference.eval()(torch.rand(2, *SHAPE))
    net = make(kind, 3)
    tensors, expected = list(weights.named_tensors(net)), list(weights.named_tensors(reference))
    assert len(tensors) == len(expected)
    for (_, tensor), (name, other) in zip(tensors, expected, strict=True):
        assert torch.equal(tensor, other), name
        assert (tensor.dtype, tensor.stride(), tensor.requires_grad) == (
            other.dtype,
            other.stride(),
            other.requires_grad,
        )


def test_a_training_repeats_bit_for_bit_interrupted_or_not(kind: str, tmp_path: Path) -> None:
    """A training that ended after one epoch resumes from its checkpoint's file. None changes the images."""
    whole, first, resumed = (trainer(kind) for _ in range(3))
    whole.run_epoch()
    first.run_epoch()
    assert_same_bits(first.state(), whole.state())
    checkpoint.save(tmp_path / "epoch", first.state(), {})
    del first
    resumed.load_state(checkpoint.load(tmp_path / "epoch", "cpu")[0], 1)
    losses = [engine.run_epoch()[0]["loss"] for engine in (whole, resumed)]
    assert losses[0] == losses[1]
    assert_same_bits(resumed.state(), whole.state())
    assert not whole.diverged
    assert torch.equal(whole.data.train.x_NCHW, images("cpu").train.x_NCHW)


def test_seeds_are_independent(kind: str) -> None:
    """Two seeds that train together share nothing, and end differently."""
    together, alone = trainer(kind, 0, 1), trainer(kind, 0)
    together.run_epoch()
    alone.run_epoch()
    state = together.state()
    for name, tensor in alone.state().items():
        assert torch.equal(state[name], tensor), name
    momenta = [name for name in state if name.startswith("0/momentum/")]
    assert any(not torch.equal(state[name], state[f"1{name[1:]}"]) for name in momenta)


def test_a_saved_model_is_loaded_without_loss(kind: str, tmp_path: Path) -> None:
    """Into a new network of the same seed: equal bits, types and strides, the same ties, the same logits.

    The file has the names of the builder's own module, so that a user can load it there.
    """
    engine = trainer(kind)
    engine.run_epoch()
    net, loaded, users = engine.replicas[0].model, make(kind), KINDS[kind]()
    weights.save(net, tmp_path / "model.safetensors")
    weights.load(loaded, tmp_path / "model.safetensors")
    for (name, tensor), (_, other) in zip(weights.named_tensors(loaded), weights.named_tensors(net), strict=True):
        assert torch.equal(tensor, other), name
        assert (tensor.dtype, tensor.stride()) == (other.dtype, other.stride())
    x_BCHW = images("cpu").validation.x_NCHW
    with torch.no_grad():
        assert torch.equal(loaded.eval()(x_BCHW), net.eval()(x_BCHW))
    if kind == "lazy":
        users(x_BCHW)
    load_model(users, tmp_path / "model.safetensors")
    if kind not in ("OutsideOfTheStateDict", "DropoutWithAttributes"):
        with torch.no_grad():
            torch.testing.assert_close(users.eval()(x_BCHW), net(x_BCHW))


def test_penalties_on_its_gradients_train_it(kind: str) -> None:
    """The square of Jᵀe has a gradient at the weights. With a head of zeros, this gradient is zero."""
    net = make(kind).eval()
    x_BCHW, e_BK = images("cpu").train.x_NCHW[:5], torch.randn(5, CLASSES, generator=seeding.generator(0, "e"))
    trained = [weight for weight in net.parameters() if weight.requires_grad]
    penalty = linearize(net, x_BCHW)[1](e_BK).square().sum()
    gradients = torch.autograd.grad(penalty, trained, materialize_grads=True)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert kind == "own_init" or any(gradient.any() for gradient in gradients)


def ties(net: nn.Module) -> list[tuple[str, str]]:
    """Return the pairs of names of one parameter."""
    named = list(net.named_parameters(remove_duplicate=False))
    return [(name, other) for (name, first), (other, second) in combinations(named, 2) if first is second]


@pytest.mark.parametrize(
    "name", ["TiedParameters", "TiedModules", "HeadsWithOneEmbedding", "tied_layers_of_a_sequential"]
)
def test_ties_last(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the network, after training, and after loading; the file holds a tied tensor once."""
    register(name, monkeypatch)
    engine = trainer(name)
    net, expected = engine.replicas[0].model, len(ties(KINDS[name]()))
    assert len(ties(net)) == expected > 0
    engine.run_epoch()
    assert len(ties(net)) == expected
    weights.save(net, tmp_path / "model")
    values = sum(tensor.numel() * 4 for _, tensor in weights.named_tensors(net))
    assert values <= (tmp_path / "model").stat().st_size < values + 4096
    loaded = make(name)
    weights.load(loaded, tmp_path / "model")
    assert len(ties(loaded)) == expected


def test_frozen_parameters_stay_and_the_others_move(monkeypatch: pytest.MonkeyPatch) -> None:
    register("frozen", monkeypatch)
    engine = trainer("frozen")
    (replica,) = engine.replicas
    before = {name: tensor.clone() for name, tensor in replica.model.named_parameters()}
    engine.run_epoch()
    for name, tensor in replica.model.named_parameters():
        assert torch.equal(tensor, before[name]) == name.startswith("stem"), name
    momenta = {name.removeprefix("0/momentum/") for name in engine.state() if "/momentum/" in name}
    assert momenta == {name for name in before if not name.startswith("stem")}


def test_an_update_of_a_transposed_weight_is_that_of_a_contiguous_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fused optimizer walks through memory in its order."""
    monkeypatch.setitem(KINDS, "contiguous", Net)
    register("transposed", monkeypatch)
    trained = []
    for name in ("transposed", "contiguous"):
        engine = trainer(name)
        engine.run_epoch()
        trained.append(list(engine.replicas[0].model.parameters()))
    for first, second in zip(*trained, strict=True):
        torch.testing.assert_close(first, second)


def test_plain_tensors_move_with_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attributes, alone or in a list; ``meta`` stands for a GPU."""
    register("OutsideOfTheStateDict", monkeypatch)
    net = make("OutsideOfTheStateDict", device="meta")
    assert isinstance(net, OutsideOfTheStateDict)
    assert all(tensor.is_meta for tensor in (net.mean, *net.scales, net.projection, net.head.weight))


def test_dropout_stays_the_users_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its attribute and its hook stay, and a list refers to the layer that draws from its own generator."""
    register("DropoutWithAttributes", monkeypatch)
    net = make("DropoutWithAttributes")
    assert type(net.drop) is Dropout
    assert net.drops[0] is net.drop
    assert net.drop.label == "main"
    net.drop.p = 0.0
    assert torch.equal(net.drop.eval()(torch.ones(3)), torch.full((3,), 2.0))


def test_buffers_of_a_mask_are_the_builders(monkeypatch: pytest.MonkeyPatch) -> None:
    register("Mask", monkeypatch)
    engine = trainer("Mask")
    engine.run_epoch()
    net = engine.replicas[0].model
    assert isinstance(net, Mask)
    assert torch.equal(net.mask, torch.ones(1, 1, 8, 8).tril())


def test_a_value_that_becomes_infinite_is_a_divergence_and_a_mask_of_infinities_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register("MaskOfInfinities", monkeypatch)
    engine = trainer("MaskOfInfinities")
    engine.run_epoch()
    assert not engine.diverged
    (replica,) = engine.replicas
    assert replica.infinite == {"mask"}


def test_another_seed_gives_other_weights_and_global_generators_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    register("drawn_by_numpy_and_random", monkeypatch)
    before = seeding.read_global_state()
    first, again, other = (make("drawn_by_numpy_and_random", seed).head.bias for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert seeding.read_global_state() == before


def test_a_mean_over_seeds_takes_any_type_of_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finiteness is checked for booleans, integers and complex numbers as well."""
    for name in ("MaskOfBooleans", "ComplexBuffer", "OwnBatchNorm"):
        register(name, monkeypatch)
        engine = trainer(name, 0, 1)
        engine.run_epoch()
        assert not engine.diverged


def test_running_values_are_in_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of batch normalization, and of a user's own layer: T steps were counted."""
    for name, counter in (("batch_norm", "num_batches_tracked"), ("OwnBatchNorm", "steps")):
        register(name, monkeypatch)
        engine = trainer(name)
        engine.run_epoch()
        counts = [int(tensor) for key, tensor in engine.state().items() if key.endswith(counter)]
        assert counts == [engine.steps]
