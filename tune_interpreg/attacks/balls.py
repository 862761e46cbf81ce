"""The balls that an attack stays in, its directions, and its random starts.

Shapes: B batch, C·H·W image, D = C·H·W, E = D + 2. All lengths are in pixels, and pixels are in [0, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tune_interpreg.study.config import Attack


def project_l2(d_BCHW: Tensor, eps: float) -> Tensor:
    """Return d · min(1, eps / ‖d‖₂) per sample: the point of the l2 ball of radius eps nearest to d."""
    return d_BCHW * (eps / _length(d_BCHW).clamp(min=torch.finfo(d_BCHW.dtype).tiny)).clamp(max=1.0)


def project_linf(d_BCHW: Tensor, eps: float) -> Tensor:
    """Return each component of d clamped to [−eps, eps]: the point of the l∞ ball of radius eps nearest to d."""
    return d_BCHW.clamp(-eps, eps)


def l2_direction(g_BCHW: Tensor, floor: float) -> Tensor:
    """Return g / max(‖g‖₂, floor) per sample: l2 length 1, or less if ‖g‖₂ is below the floor."""
    return g_BCHW / _length(g_BCHW).clamp(min=floor)


def sign_direction(g_BCHW: Tensor, floor: float) -> Tensor:
    """Return sign(g); the floor has no effect."""
    return g_BCHW.sign()


PROJECTIONS: dict[str, Callable[[Tensor, float], Tensor]] = {"l2": project_l2, "linf": project_linf}
DIRECTIONS: dict[str, Callable[[Tensor, float], Tensor]] = {"l2": l2_direction, "sign": sign_direction}


def project(d_BCHW: Tensor, attack: Attack) -> Tensor:
    """Return the point of the attack's ball, ‖·‖ ≤ eps, nearest to each d."""
    return PROJECTIONS[attack.norm](d_BCHW, attack.eps)


def direction(g_BCHW: Tensor, floor: float, attack: Attack) -> Tensor:
    """Return the attack's step of length 1 along g: g / max(‖g‖₂, floor) or sign(g)."""
    return DIRECTIONS[attack.direction_or_default](g_BCHW, floor)


@dataclass(frozen=True)
class Start:
    """The random start of PGD, in two steps, so that noise can be drawn for other batches than it is used in.

    draw(shape, generator, device): noise for shape[0] images of shape[1:], one row per image.
    place(x_BCHW, noise, attack): the start for this noise: pixels in [0, 1], within eps of x.
    """

    draw: Callable[[torch.Size, torch.Generator, torch.device], Tensor]
    place: Callable[[Tensor, Tensor, Attack], Tensor]


def draw_uniform(shape: torch.Size, generator: torch.Generator, device: torch.device) -> Tensor:
    """Draw u_BCHW, each component uniform in [0, 1)."""
    return torch.rand(shape, generator=generator, device=device)


def draw_normal(shape: torch.Size, generator: torch.Generator, device: torch.device) -> Tensor:
    """Draw n_BE, standard normal, for `place_within_l2`."""
    return torch.randn(shape[0], shape[1:].numel() + 2, generator=generator, device=device)


def place_near_sphere(x_BCHW: Tensor, u_BCHW: Tensor, attack: Attack) -> Tensor:
    """Return x + Π(u − x) with the projection Π to the attack's ball.

    Uniform pixels u are far from x, so most starts are on the sphere of radius eps.
    """
    return x_BCHW + project(u_BCHW - x_BCHW, attack)


def place_within_l2(x_BCHW: Tensor, n_BE: Tensor, attack: Attack) -> Tensor:
    """Return x + d clamped to [0, 1], with d uniform in the l2 ball of radius eps.

    d = eps · (n_1, …, n_D)/‖n‖₂: D coordinates of a uniform point on the sphere in D + 2 dimensions are uniform in the
    ball (Voelker et al., 2017). The clamp moves no pixel away from x.
    """
    d_BE = attack.eps * n_BE / torch.linalg.vector_norm(n_BE, dim=-1, keepdim=True)
    return (x_BCHW + d_BE[:, :-2].view_as(x_BCHW)).clamp(0.0, 1.0)


def place_within_linf(x_BCHW: Tensor, u_BCHW: Tensor, attack: Attack) -> Tensor:
    """Return x + d clamped to [0, 1], with each component of d uniform in [−eps, eps]."""
    return (x_BCHW + attack.eps * (2 * u_BCHW - 1)).clamp(0.0, 1.0)


STARTS: dict[tuple[str, str], Start] = {
    ("sphere", "l2"): Start(draw=draw_uniform, place=place_near_sphere),
    ("sphere", "linf"): Start(draw=draw_uniform, place=place_near_sphere),
    ("ball", "l2"): Start(draw=draw_normal, place=place_within_l2),
    ("ball", "linf"): Start(draw=draw_uniform, place=place_within_linf),
}


def choose_start(attack: Attack) -> Start:
    """Return the attack's start in its norm."""
    return STARTS[attack.start_or_default, attack.norm]


def draw_start(x_BCHW: Tensor, attack: Attack, generator: torch.Generator) -> Tensor:
    """Return one random start per image."""
    start = choose_start(attack)
    return start.place(x_BCHW, start.draw(x_BCHW.shape, generator, x_BCHW.device), attack)


def _length(d_BCHW: Tensor) -> Tensor:
    return torch.linalg.vector_norm(d_BCHW, dim=(-3, -2, -1), keepdim=True)
