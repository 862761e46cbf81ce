"""Running statistics of normalization layers change once per training step, for every method.

Shapes: B batch, C·H·W image.
"""

from copy import deepcopy
from typing import Any

import pytest
import torch
from helpers.contract import METHODS, Make, first_batch
from torch import Tensor, nn

from trainables import MethodTrainable
from tune_interpreg.networks.chain import Chain, Residual

NETWORKS = ["chain", "own layers"]
OPTIONS = [
    ("adversarial", {"mode": "eval"}),
    ("fast_adversarial", {"mode": "eval"}),
    ("jacobian", {"dropout": "independent"}),
    ("jacobian", {"dropout": "independent", "output": "probabilities"}),
]


class OwnBatchNorm(nn.BatchNorm2d):
    """A user's subclass."""


def normalized(kind: str) -> nn.Module:
    """Return a network with an exact adjoint, or with layers that have none."""
    own = kind == "own layers"
    norm = OwnBatchNorm(4) if own else nn.BatchNorm2d(4)
    inner = nn.InstanceNorm2d(4, affine=True, track_running_stats=True) if own else nn.BatchNorm2d(4)
    block = Residual(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), inner, nn.GELU()))
    layers = [nn.Conv2d(1, 4, 3, stride=2), norm, nn.ReLU(), block, nn.Flatten(), nn.Linear(36, 10), nn.BatchNorm1d(10)]
    return nn.Sequential(*layers) if own else Chain(layers)


def training_images(trainable: MethodTrainable, model: nn.Module) -> Tensor:
    """Return x_BCHW of the cross-entropy in the method's first step on a copy of the model."""
    batch = first_batch(trainable)
    if not trainable.attacks_images:
        return batch.x_BCHW
    if hasattr(trainable, "attacked_images"):
        return trainable.attacked_images(deepcopy(model), batch)
    noise_BCHW = torch.empty_like(batch.x_BCHW).normal_(generator=batch.noise)
    return batch.x_BCHW + trainable.params["sigma"] * noise_BCHW


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in METHODS), *OPTIONS])
def test_a_step_changes_running_statistics_like_one_forward_of_its_training_images(
    name: str, options: dict[str, Any], kind: str, make: Make
) -> None:
    """At x_adv for methods that attack, wherever else the step runs the network. The backward changes nothing."""
    trainable, model = make(name, net="digits_cnn", **options), normalized(kind).train()
    plain = deepcopy(model)
    plain(training_images(trainable, model))
    torch.stack(list(trainable.terms(model, first_batch(trainable)).values())).sum().backward()
    for (place, buffer), expected in zip(model.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, rtol=1e-5, atol=1e-6, msg=place)
    layers = model.layers if kind == "chain" else model
    assert layers[1].num_batches_tracked.item() == 1


def test_a_study_trains_a_network_with_batch_normalization(make: Make) -> None:
    """Through the engine: num_batches_tracked counts the steps, and the checkpoint holds the running statistics."""
    trainable = make("adversarial", net={"name": "resnet18", "width": 2}, training={"epochs": 1, "batch_size": 32})
    trainable.trainer.run_epoch()
    state = trainable.trainer.state()
    counts = [tensor.item() for name, tensor in state.items() if name.endswith("num_batches_tracked")]
    assert counts == [trainable.trainer.steps] * 20
    assert sum(name.endswith("running_mean") for name in state) == 20
