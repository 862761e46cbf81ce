"""The balls that an attack stays in, the directions it moves in, and the starts it draws there.

Shapes: B batch, C·H·W image, D = C·H·W, E = D + 2. All lengths are in pixels, and pixels are in [0, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tune_interpreg.study.config import Attack


def l2_project(d_BCHW: Tensor, eps: float) -> Tensor:
    """d · min(1, eps / ‖d‖₂), sample by sample: the point of the l2 ball of radius eps nearest to d."""
    return d_BCHW * (eps / _length(d_BCHW).clamp(min=torch.finfo(d_BCHW.dtype).tiny)).clamp(max=1.0)


def linf_project(d_BCHW: Tensor, eps: float) -> Tensor:
    """Each component of d clamped to [−eps, eps]: the point of the linf ball of radius eps nearest to d."""
    return d_BCHW.clamp(-eps, eps)


def l2_direction(g_BCHW: Tensor, floor: float) -> Tensor:
    """g / max(‖g‖₂, floor), sample by sample: of l2 length one, or shorter where ‖g‖₂ is below the floor."""
    return g_BCHW / _length(g_BCHW).clamp(min=floor)


def sign_direction(g_BCHW: Tensor, floor: float) -> Tensor:
    """sign(g); a sign has no length to divide by, so the floor plays no part."""
    return g_BCHW.sign()


PROJECTIONS: dict[str, Callable[[Tensor, float], Tensor]] = {"l2": l2_project, "linf": linf_project}
DIRECTIONS: dict[str, Callable[[Tensor, float], Tensor]] = {"l2": l2_direction, "sign": sign_direction}

#: The direction that climbs most within a norm's unit ball, taken where an attack names none.
STEEPEST = {"l2": "l2", "linf": "sign"}


def project(d_BCHW: Tensor, attack: Attack) -> Tensor:
    """The point of the attack's ball, ‖·‖ ≤ eps, nearest to each d."""
    return PROJECTIONS[attack.norm](d_BCHW, attack.eps)


def direction(g_BCHW: Tensor, floor: float, attack: Attack) -> Tensor:
    """The attack's step of length one along g: g / max(‖g‖₂, floor) or sign(g)."""
    return DIRECTIONS[attack.direction or STEEPEST[attack.norm]](g_BCHW, floor)


@dataclass(frozen=True)
class Start:
    """Where PGD begins, in two halves, so that noise can be drawn in other portions than it is used in.

    draw(shape, generator, device): noise for shape[0] images of shape[1:], one row an image.
    place(x_BCHW, noise, attack): the start that noise means: pixels in [0, 1], within eps of x.
    """

    draw: Callable[[torch.Size, torch.Generator, torch.device], Tensor]
    place: Callable[[Tensor, Tensor, Attack], Tensor]


def uniform(shape: torch.Size, generator: torch.Generator, device: torch.device) -> Tensor:
    """u_BCHW, each component uniform in [0, 1)."""
    return torch.rand(shape, generator=generator, device=device)


def normal(shape: torch.Size, generator: torch.Generator, device: torch.device) -> Tensor:
    """n_BE, standard normal, two components more than an image has pixels; see `within_l2`."""
    return torch.randn(shape[0], shape[1:].numel() + 2, generator=generator, device=device)


def near_sphere(x_BCHW: Tensor, u_BCHW: Tensor, attack: Attack) -> Tensor:
    """x + Π(u − x), Π the projection to the attack's ball.

    Uniform pixels u lie far from x, so the start mostly lies on the sphere of radius eps.
    """
    return x_BCHW + project(u_BCHW - x_BCHW, attack)


def within_l2(x_BCHW: Tensor, n_BE: Tensor, attack: Attack) -> Tensor:
    """x + d clamped to [0, 1], d uniform in the l2 ball of radius eps: (‖d‖₂/eps)^D is uniform in [0, 1].

    d = eps · (n_1, …, n_D)/‖n‖₂: D coordinates of a uniform point of the sphere in D + 2 dimensions are
    uniform in the ball (Voelker et al., 2017). The clamp moves no pixel away from x.
    """
    d_BE = attack.eps * n_BE / torch.linalg.vector_norm(n_BE, dim=-1, keepdim=True)
    return (x_BCHW + d_BE[:, :-2].view_as(x_BCHW)).clamp(0.0, 1.0)


def within_linf(x_BCHW: Tensor, u_BCHW: Tensor, attack: Attack) -> Tensor:
    """x + d clamped to [0, 1], each component of d uniform in [−eps, eps]."""
    return (x_BCHW + attack.eps * (2 * u_BCHW - 1)).clamp(0.0, 1.0)


STARTS: dict[tuple[str, str], Start] = {
    ("sphere", "l2"): Start(draw=uniform, place=near_sphere),
    ("sphere", "linf"): Start(draw=uniform, place=near_sphere),
    ("ball", "l2"): Start(draw=normal, place=within_l2),
    ("ball", "linf"): Start(draw=uniform, place=within_linf),
}


def start_of(attack: Attack) -> Start:
    """The start that the attack names, in its norm."""
    return STARTS[attack.start, attack.norm]


def random_start(x_BCHW: Tensor, attack: Attack, generator: torch.Generator) -> Tensor:
    """One start for each image: noise drawn from the generator, and placed."""
    start = start_of(attack)
    return start.place(x_BCHW, start.draw(x_BCHW.shape, generator, x_BCHW.device), attack)


def _length(d_BCHW: Tensor) -> Tensor:
    return torch.linalg.vector_norm(d_BCHW, dim=(-3, -2, -1), keepdim=True)
