"""The rivals of the step benchmark: textbook PyTorch and common libraries.

Models are plain ``nn.Sequential`` in eval or train mode. Each loss is a method's loss by double backpropagation, each
attack is PGD under l2 from a given start, each map is SmoothGrad of |g|.
Shapes: B batch, C·H·W image, K classes, N noisy copies.
"""

import math
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from tune_interpreg.study.config import Attack


# -------------------------------------------------------------------- losses
def standard(model: nn.Module, x_BCHW: Tensor, y_B: Tensor) -> Tensor:
    return F.cross_entropy(model(x_BCHW), y_B)


def input_gradient(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, *, strength: float) -> Tensor:
    x_BCHW = x_BCHW.clone().requires_grad_()
    ce = F.cross_entropy(model(x_BCHW), y_B, reduction="sum")
    (d_BCHW,) = torch.autograd.grad(ce, x_BCHW, create_graph=True)
    return ce / len(y_B) + strength * d_BCHW.norm()


def interpretation(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, *, target: Tensor, strength: float) -> Tensor:
    z_BK, g_BCHW = _label_gradient(model, x_BCHW, y_B)
    return F.cross_entropy(z_BK, y_B) + strength * (target - g_BCHW.abs()).norm()


def cosine(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, *, target: Tensor, strength: float) -> Tensor:
    z_BK, g_BCHW = _label_gradient(model, x_BCHW, y_B)
    alike_B = F.cosine_similarity(target.flatten(1), g_BCHW.flatten(1))
    return F.cross_entropy(z_BK, y_B) + strength * (1 - alike_B.mean()) + strength * g_BCHW.norm()


def _label_gradient(model: nn.Module, x_BCHW: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
    x_BCHW = x_BCHW.clone().requires_grad_()
    z_BK = model(x_BCHW)
    (g_BCHW,) = torch.autograd.grad(z_BK.gather(1, y_B[:, None]).sum(), x_BCHW, create_graph=True)
    return z_BK, g_BCHW


def repeated_jacobian(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, *, strength: float) -> Tensor:
    """Repeat each image K times in one batch and differentiate logit k at repeat k."""
    z_BK = model(x_BCHW)
    classes = z_BK.shape[1]
    x_RCHW = x_BCHW.repeat_interleave(classes, 0).requires_grad_()
    rows_R1 = torch.arange(classes).repeat(len(y_B))[:, None]
    (j_RCHW,) = torch.autograd.grad(model(x_RCHW).gather(1, rows_R1).sum(), x_RCHW, create_graph=True)
    return F.cross_entropy(z_BK, y_B) + strength * j_RCHW.norm()


def batched_jacobian(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, *, strength: float) -> Tensor:
    """Backpropagate twice through one forward, for all K rows at once."""
    x_BCHW = x_BCHW.clone().requires_grad_()
    z_BK = model(x_BCHW)
    e_KBK = torch.eye(z_BK.shape[1])[:, None].expand(-1, *z_BK.shape)
    (j_KBCHW,) = torch.autograd.grad(z_BK, x_BCHW, e_KBK, create_graph=True, is_grads_batched=True)
    return F.cross_entropy(z_BK, y_B) + strength * j_KBCHW.norm()


def projected_jacobian(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, *, v_BK: Tensor, strength: float) -> Tensor:
    x_BCHW = x_BCHW.clone().requires_grad_()
    z_BK = model(x_BCHW)
    (j_BCHW,) = torch.autograd.grad((z_BK * v_BK).sum(), x_BCHW, create_graph=True)
    return F.cross_entropy(z_BK, y_B) + strength * math.sqrt(z_BK.shape[1]) * j_BCHW.norm()


# ------------------------------------------------------------------- attacks
def pgd(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, start_BCHW: Tensor, attack: Attack) -> Tensor:
    """Use ``loss.backward()``, which computes the weights' gradients, too."""
    adv_BCHW = start_BCHW
    for _ in range(attack.steps):
        adv_BCHW = adv_BCHW.detach().requires_grad_()
        F.cross_entropy(model(adv_BCHW), y_B, reduction="sum").backward()
        assert adv_BCHW.grad is not None
        moved = (adv_BCHW.detach() + attack.step_length * _unit(adv_BCHW.grad)).clamp(0, 1)
        delta = moved - x_BCHW
        adv_BCHW = (x_BCHW + _unit(delta) * _length(delta).clamp(max=attack.eps)).clamp(0, 1)
    return adv_BCHW


def foolbox_pgd(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, start_BCHW: Tensor, attack: Attack) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its imports
        import eagerpy
        import foolbox
    theirs = foolbox.attacks.L2ProjectedGradientDescentAttack(abs_stepsize=attack.step_length, steps=attack.steps)
    theirs.get_random_start = lambda x0, epsilon: eagerpy.astensor(start_BCHW)
    model = foolbox.PyTorchModel(model.eval(), bounds=(0, 1), device="cpu")
    adv_BCHW: Tensor = theirs.run(model, x_BCHW, y_B, epsilon=attack.eps)
    return adv_BCHW


def torchattacks_pgd(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, start_BCHW: Tensor, attack: Attack) -> Tensor:
    """Use torchattacks' own random start, because it accepts no other."""
    import torchattacks

    perturb = torchattacks.PGDL2(model, eps=attack.eps, alpha=attack.step_length, steps=attack.steps)
    return torch.as_tensor(perturb(x_BCHW, y_B))


def has_torchattacks(folder: Path | None) -> bool:
    """Return whether torchattacks is installed, also in ``folder``."""
    if folder is not None and str(folder) not in sys.path:
        sys.path.append(str(folder))
    return find_spec("torchattacks") is not None


def _length(d_BCHW: Tensor) -> Tensor:
    return d_BCHW.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]


def _unit(d_BCHW: Tensor) -> Tensor:
    return d_BCHW / _length(d_BCHW)


# ---------------------------------------------------------------------- maps
def smoothgrad(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, *, sigma: float, samples: int) -> Tensor:
    """Use ``backward()`` for each copy and noise of the global generator."""
    total_BCHW = torch.zeros_like(x_BCHW)
    for _ in range(samples):
        noisy_BCHW = (x_BCHW + sigma * torch.randn_like(x_BCHW)).requires_grad_()
        model(noisy_BCHW).gather(1, y_B[:, None]).sum().backward()
        assert noisy_BCHW.grad is not None
        total_BCHW += noisy_BCHW.grad.abs()
    return total_BCHW / samples


def captum_smoothgrad(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, *, sigma: float, samples: int) -> Tensor:
    """Use NoiseTunnel over Saliency, one copy of the batch at a time, with noise of the global generator."""
    from captum.attr import NoiseTunnel, Saliency

    maps_BCHW: Tensor = NoiseTunnel(Saliency(model)).attribute(
        x_BCHW, target=y_B, nt_type="smoothgrad", nt_samples=samples, nt_samples_batch_size=1, stdevs=sigma
    )
    return maps_BCHW


# --------------------------------------------------------------------- epoch
class Images(datasets.VisionDataset):
    """Images in memory, converted like torchvision's MNIST and CIFAR10: to PIL, then by a transform."""

    def __init__(self, x_NHWC: Any, y_N: list[int]) -> None:
        super().__init__(None, transform=transforms.ToTensor())
        self.x_NHWC, self.y_N = x_NHWC, y_N

    def __len__(self) -> int:
        return len(self.y_N)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        assert self.transform is not None
        return self.transform(Image.fromarray(self.x_NHWC[row])), self.y_N[row]


def epoch(model: nn.Module, optimizer: torch.optim.Optimizer, images: Images, batch: int) -> float:
    """Train for one epoch over a DataLoader, as in tutorials, and return the mean loss."""
    losses = [_step(model, optimizer, *pair) for pair in DataLoader(images, batch, shuffle=True, drop_last=True)]
    return sum(losses) / len(losses)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, x_BCHW: Tensor, y_B: Tensor) -> float:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x_BCHW), y_B)
    loss.backward()
    optimizer.step()
    return loss.item()
