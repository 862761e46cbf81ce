"""PyTorch's SGD and AdamW as functions of tensors, which all exist before the first step.

One fused kernel changes all parameters. It reads the learning rate from a tensor, so that a captured step follows it.
The first optimizer that is made from a class of ``torch.optim`` loads PyTorch's compiler, which takes each process one
to three seconds. The functions that these classes call do not.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from tune_interpreg.study.config import Training

#: By optimizer: name of a parameter's tensor → argument of PyTorch's function that takes those of all parameters.
STATE = {
    "sgd": {"momentum": "momentum_buffer_list"},
    "adamw": {"exp_avg": "exp_avgs", "exp_avg_sq": "exp_avg_sqs", "step": "state_steps"},
}


class Optimizer:
    """The optimizer of all parameters of a model that require a gradient.

    Attributes:
        lr: the learning rate, a scalar on the parameters' device.
        state: parameter → its tensors by name, see ``STATE``. Zeros at first.
    """

    def __init__(self, model: nn.Module, training: Training) -> None:
        weights: list[Tensor] = [weight for weight in model.parameters() if weight.requires_grad]
        self.lr = torch.tensor(training.lr, dtype=torch.float32, device=weights[0].device)
        self._kinds = STATE[training.optimizer]
        self.state = {weight: {kind: self._zeros(weight, kind) for kind in self._kinds} for weight in weights}
        settings: dict[str, Any] = {"lr": self.lr, "weight_decay": training.weight_decay, "maximize": False}
        self._update: Callable[..., None]
        if training.optimizer == "adamw":
            settings |= {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "amsgrad": False, "max_exp_avg_sqs": []}
            self._update = partial(adamw, fused=True, capturable=self.lr.is_cuda, **settings)
        else:
            settings |= {"momentum": training.momentum or 0.0, "dampening": 0.0, "nesterov": training.nesterov}
            self._update = partial(sgd, fused=True, **settings)

    def _zeros(self, weight: Tensor, kind: str) -> Tensor:
        return torch.zeros_like(self.lr if kind == "step" else weight)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for weight in self.state:
            weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Change the parameters that have a gradient."""
        weights = [weight for weight in self.state if weight.grad is not None]
        state = {argument: [self.state[w][kind] for w in weights] for kind, argument in self._kinds.items()}
        self._update(weights, [weight.grad for weight in weights], **state)
